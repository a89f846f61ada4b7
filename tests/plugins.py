"""Distributions that add an architecture, as `pip install` would leave them."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

CHOOSY = """
from dataclasses import dataclass
from typing import Literal
from torch import nn
from models.architectures import vanilla

class Autoencoder(vanilla.Autoencoder):
    @dataclass(frozen=True)
    class Config(vanilla.Autoencoder.Config):
        residual: bool = False
        bend: str = "gelu"
        side: Literal["left", "right"] = "left"

    def __init__(self, shape, channels, config):
        super().__init__(shape, channels, config)
        self.residual = config.residual
        self.bend = {"gelu": nn.GELU, "tanh": nn.Tanh}[config.bend]()

    def decode(self, z_BL):
        x_BTC = super().decode(self.bend(z_BL))
        return x_BTC + 0.1 if self.residual else x_BTC
"""
"""An architecture with options that are no numbers."""


@contextmanager
def installed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, code: str, *, module: str = "added", version: str = "1.0"
) -> Iterator[None]:
    """Have a distribution `added` that adds the architecture `mine`, here and in child processes."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{module}.py").write_text(code)
    about = folder / f"added-{version}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: added\nVersion: {version}\n")
    (about / "entry_points.txt").write_text(f"[offkey.architectures]\nmine = {module}:Autoencoder\n")
    with monkeypatch.context() as patch:
        patch.syspath_prepend(str(folder))
        patch.setenv("PYTHONPATH", str(folder), prepend=":")
        yield
    sys.modules.pop(module, None)
