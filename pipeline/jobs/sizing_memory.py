"""What this process holds in memory, and what objects of it take. Linux only: it is read from /proc."""

import gc
import sys
from collections.abc import Iterable
from ctypes import CDLL
from pathlib import Path
from typing import Any

import numpy as np
import torch


def resident_bytes(*, trimmed: bool = True) -> int:
    """Return what this process holds; trimmed: once it has given back what is free."""
    gc.collect()
    libc = CDLL(None)
    if trimmed and hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)
    return _status("VmRSS")


def peak_bytes() -> int:
    """Return the most that this process has held since `forget_peak`."""
    return _status("VmHWM")


def forget_peak() -> None:
    """Begin anew to look for the most that this process holds."""
    Path("/proc/self/clear_refs").write_text("5")


def held_bytes(owner: object, seen: set[int]) -> dict[str, int]:
    """Return the bytes that the objects below `owner` take here, by kind; those in `seen` belong to others."""
    found: dict[str, int] = {}
    waiting: list[Any] = [owner]
    while waiting:
        each = waiting.pop()
        if id(each) in seen or isinstance(each, type) or callable(each):
            continue
        seen.add(id(each))
        kind, size = _own_bytes(each, seen)
        waiting += _inside(each)
        found[kind] = found.get(kind, 0) + size
    return found


def _own_bytes(each: Any, seen: set[int]) -> tuple[str, int]:
    """Return what kind of thing this is, and its bytes; an array that others look into too counts once."""
    if isinstance(each, torch.Tensor):
        storage = each.untyped_storage()
        known = storage.data_ptr() in seen or each.device.type != "cpu"
        seen.add(storage.data_ptr())
        return "tensors", 0 if known else storage.nbytes()
    if isinstance(each, np.ndarray):
        base = each
        while isinstance(base.base, np.ndarray):
            base = base.base
        known = base.ctypes.data in seen
        seen.add(base.ctypes.data)
        return "columns", 0 if known else base.nbytes
    return type(each).__name__, sys.getsizeof(each)


def _inside(each: Any) -> Iterable[Any]:
    if isinstance(each, torch.Tensor | np.ndarray):
        return ()
    if isinstance(each, dict):
        return [*each.keys(), *each.values()]
    if isinstance(each, list | tuple | set):
        return each
    return list(vars(each).values()) if hasattr(each, "__dict__") else ()


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))
