"""The series that the demo ships, as they were recorded.

Rule of choice: of the series that development was done with, every Server Machine Dataset machine, every NAB
series, and the first ADBench table by name; never by how well a model does on them. Origin and licences stand
in `data/ATTRIBUTION.md`.

A file holds one stream: for each series its values as 32-bit floats [F, N], the steps of its clock in ms (the
first counts from 1970) and how many rows are for training. Labels lie in a file of their own that only
`load_labels` opens: counting and the report read them, nothing that trains, calibrates or scores does.

Legend: N rows, F features.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files

import numpy as np
import numpy.typing as npt

from models.arrays import FloatArray, IntArray

Span = tuple[int, int]
"""First and last row of a labelled incident."""

STREAMS = ("machines", "metrics", "requests")
_FEATURES = {
    "machines": tuple(f"f{i:02d}" for i in range(38)),
    "metrics": ("value",),
    "requests": ("duration", "src_bytes", "dst_bytes"),
}
_DATA = files("pipeline.demo") / "data"


@dataclass(frozen=True, slots=True)
class Recorded:
    """One series, or one table of independent records."""

    stream: str
    name: str
    features: tuple[str, ...]
    values_NF: FloatArray
    time_ms_N: IntArray | None
    """Event times as recorded, with repeats and steps backward; None for a table."""
    train_rows: int
    """The rows before this one are history to train on, the rest is replayed."""

    def __len__(self) -> int:
        return len(self.values_NF)


@dataclass(frozen=True, slots=True)
class Shipment:
    """What a demo runs on."""

    streams: Mapping[str, Sequence[Recorded]]
    labels_of: Callable[[str], Mapping[str, Sequence[Span]]]
    """A stream's labels, asked for when everything has been scored."""


def shipped() -> Shipment:
    """Return everything that is in the package."""
    return Shipment({stream: load(stream) for stream in STREAMS}, load_labels)


def load(stream: str) -> list[Recorded]:
    """Return the series of a stream by name."""
    with (_DATA / f"{stream}.npz").open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        names = sorted(key.removesuffix("/values") for key in arrays.files if key.endswith("/values"))
        return [
            Recorded(
                stream,
                name,
                _FEATURES[stream],
                _shortest(arrays[f"{name}/values"].T),
                np.cumsum(arrays[f"{name}/time_step_ms"]) if f"{name}/time_step_ms" in arrays else None,
                int(arrays[f"{name}/train_rows"]),
            )
            for name in names
        ]


def load_labels(stream: str) -> Mapping[str, Sequence[Span]]:
    """Return the labelled spans of each series of a stream, in rows of `Recorded`."""
    labels = json.loads((_DATA / "labels.json").read_text())[stream]
    return {name: [(first, last) for first, last in spans] for name, spans in labels.items()}


def _shortest(x_NF: npt.NDArray[np.float32]) -> FloatArray:
    """Return doubles that are the same 32-bit floats but print with six decimals where those suffice."""
    exact_NF = x_NF.astype(np.float64)
    rounded_NF = np.round(exact_NF, 6)
    return np.where(rounded_NF.astype(np.float32) == x_NF, rounded_NF, exact_NF)
