"""A training that was interrupted goes on where it was, to the bit.

At the ends of epochs everything that the rest of a view's training depends on is written: weights, the best ones so
far, the optimiser, the states of both random generators, and the time used. One file a view, safetensors with the
plain numbers as JSON in one of its arrays, is replaced as a whole, so a kill at any moment leaves the one before.

It is taken up only by the same training: a hash over rows, plan, code of this package and libraries stands in it.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from models.dataset import Columns

_EVERY_S = 3.0
_NUMBERS = "numbers"


class Storage(Protocol):
    """Where files are kept; each write is seen complete or not at all."""

    def get(self, name: str) -> bytes | None: ...

    def put(self, name: str, content: bytes) -> None: ...

    def list(self, folder: str) -> Sequence[str]: ...

    def delete(self, name: str) -> None: ...


@dataclass
class Course:
    """How far the training of a network has come."""

    planned: int
    """Epochs that it will have."""
    epochs: int = 0
    lowest: float = math.inf
    """Held-out loss of the best weights."""
    best: dict[str, Tensor] = field(default_factory=dict)
    least: float = math.inf
    """Held-out loss that is to be gained on."""
    waited: int = 0
    """Batches since it was."""
    seconds: float = 0.0
    over: bool = False

    def gained(self, held_out: float, batches: int, least_gain: float) -> None:
        """Take note of the held-out loss after an epoch of so many batches."""
        gain = held_out < (1 - least_gain) * self.least
        self.least, self.waited = (held_out, 0) if gain else (self.least, self.waited + batches)


class Unfinished:
    """The files of an unfinished training in a folder of storage."""

    def __init__(
        self,
        storage: Storage,
        folder: str,
        say: Callable[[str], None] = lambda text: None,
        every_s: float = _EVERY_S,
    ) -> None:
        """`say` is told, in one line, that a training goes on or cannot; `every_s` lies between two writes."""
        self._storage, self._folder, self._say, self._every_s = storage, folder, say, every_s
        self._hash, self._written_s = "", 0.0

    def begin(self, training_hash: str) -> None:
        """Take up only files of this training; remove others.

        Args:
            training_hash: see `hash_of`.
        """
        self._hash = training_hash
        found = {name: self._read(name) for name in self._storage.list(self._folder)}
        if any(one is None for one in found.values()):
            self._say(
                "the training that was interrupted had other records, another configuration or other libraries: "
                "training starts anew"
            )
            self.clear()
        elif found:
            epochs = sum(numbers["epochs"] for numbers, _ in filter(None, found.values()))
            self._say(f"goes on with the training that was interrupted, after {epochs} epochs")

    def clear(self) -> None:
        """Remove the files: the model is saved, or they are of no use."""
        for name in self._storage.list(self._folder):
            self._storage.delete(name)

    def restore(
        self, part: str, network: nn.Module, optimizer: torch.optim.Optimizer, random: np.random.Generator
    ) -> Course | None:
        """Return how far a part of the training had come, and put all of its states back; None: nowhere."""
        found = self._read(f"{self._folder}/{part}")
        if found is None:
            return None
        return _put_back(*found, network, optimizer, random)

    def save(
        self,
        part: str,
        course: Course,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        random: np.random.Generator,
    ) -> None:
        """Write how far a part of the training has come, if it is over or the last time is a while ago."""
        if not course.over and course.seconds - self._written_s < self._every_s:
            return
        # A part that is over is followed by one whose seconds begin at zero.
        self._written_s = 0.0 if course.over else course.seconds
        self._storage.put(f"{self._folder}/{part}", packed(course, network, optimizer, random, self._hash))

    def _read(self, name: str) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        """Return (numbers, tensors) of a file; None where there is none, or none of this training."""
        content = self._storage.get(name)
        if content is None:
            return None
        try:
            numbers, tensors = _unpacked(content)
        except (safetensors.SafetensorError, KeyError, ValueError):
            # A file of something else: it is reported as such, and goes.
            return None
        return (numbers, tensors) if numbers.get("hash") == self._hash else None


def packed(
    course: Course,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    random: np.random.Generator,
    training_hash: str = "",
) -> bytes:
    """Return everything that the rest of a training depends on."""
    numbers = {**vars(course), "best": None, "hash": training_hash, "numpy": random.bit_generator.state}
    tensors = {_NUMBERS: torch.frombuffer(bytearray(json.dumps(numbers).encode()), dtype=torch.uint8)}
    tensors |= {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    tensors |= {f"best.{name}": tensor for name, tensor in course.best.items()}
    for number, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{key}": tensor for key, tensor in state.items()}
    tensors["random"] = torch.get_rng_state()
    if _device(network).type == "cuda":
        tensors["random.cuda"] = torch.cuda.get_rng_state(_device(network))
    return safetensors.torch.save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})


def put_back(
    content: bytes, network: nn.Module, optimizer: torch.optim.Optimizer, random: np.random.Generator
) -> Course:
    """Return how far a training had come whose state was `packed`, and put all of that back."""
    return _put_back(*_unpacked(content), network, optimizer, random)


def _unpacked(content: bytes) -> tuple[dict[str, Any], dict[str, Tensor]]:
    tensors = safetensors.torch.load(content)
    numbers: dict[str, Any] = json.loads(tensors.pop(_NUMBERS).numpy().tobytes())
    return numbers, tensors


def _put_back(
    numbers: Mapping[str, Any],
    tensors: dict[str, Tensor],
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    random: np.random.Generator,
) -> Course:
    network.load_state_dict(_below("network", tensors))
    states: dict[int, dict[str, Tensor]] = {}
    for name, tensor in _below("optimizer", tensors).items():
        number, _, key = name.partition(".")
        states.setdefault(int(number), {})[key] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": states})
    random.bit_generator.state = numbers["numpy"]
    torch.set_rng_state(tensors["random"])
    if "random.cuda" in tensors:
        torch.cuda.set_rng_state(tensors["random.cuda"], _device(network))
    best = {name: tensor.to(_device(network)) for name, tensor in _below("best", tensors).items()}
    return Course(**{each.name: numbers[each.name] for each in fields(Course)} | {"best": best})


def hash_of(about: Mapping[str, Any], columns: Columns) -> str:
    """Return a hash over what the weights depend on: rows, code, libraries, and what else it is `about`."""
    whole = {**about, "series": list(columns), "libraries": [torch.__version__, np.__version__]}
    found = hashlib.sha256(json.dumps(whole, sort_keys=True).encode())
    for time_ms_T, x_TF in columns.values():
        found.update(np.ascontiguousarray(time_ms_T).tobytes())
        found.update(np.ascontiguousarray(x_TF).tobytes())
    for source in sorted(Path(__file__).parent.rglob("*.py")):
        found.update(source.read_bytes())
    return found.hexdigest()


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    start = f"{prefix}."
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}


def _device(network: nn.Module) -> torch.device:
    return next(network.parameters()).device
