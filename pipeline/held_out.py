"""The span that champion and challenger are compared on: the newest part of a history, and anomalies put into it.

All series are cut at one moment, so that both models are asked about the same days. Of features, whose records have
no order in time, the last ones are held out. A model may run through what lies before the cut, as it did in its
worker.

Rows of excluded spans are scored, as a worker scores them, but nothing that happens there counts, and no anomaly is
put there. Anomalies are those of `models.injection`, each kind at sizes that are stated; where the span is too
short to hold enough of them at once, it is scored several times with others. Images have those of
`models.image_faults`.

Legend: T rows of a series, N held out rows of it, I injected anomalies, F features.
"""

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from models.arrays import BoolArray, FloatArray
from models.dataset import Columns
from models.image_faults import inject_images
from models.injection import Anomaly, Fault, Injected, faults_of, inject, spread_of
from models.scaling import fit_images
from models.spec import ImageShape, Kind
from pipeline.excluded import Span, excluded_rows

HELD_OUT = 0.2
"""Share of all rows."""
_MOST_ROWS = 200_000
"""Held out rows that are compared; of more, those of some series, drawn by a seed."""
SIZES = (2.0, 4.0, 8.0)
"""Of anomalies, in spreads."""
_MOVED = (0.5, 1.0, 1.5)
"""The same of correlations and periods, whose values stay among those of the series."""
_POINTS: Mapping[Fault, int] = {"spike": 2, "level": 32, "drift": 48, "flat": 48, "correlation": 48, "period": 48}
_EACH = 12
"""Of each kind and size so many are wanted."""
_MOST_ROUNDS = 24


@dataclass(frozen=True)
class HeldOut:
    """What models are compared on."""

    kind: Kind
    features: tuple[str, ...]
    columns: Columns
    """All rows of each series, those before the cut too; none is missing a value."""
    cut: Mapping[str, int]
    """Each series' first held out row."""
    counted: Mapping[str, BoolArray]
    """Which held out rows count."""
    image: ImageShape | None = None
    """The size of images."""

    @property
    def rows(self) -> int:
        """Held out rows that count, of all series."""
        return sum(int(counted_N.sum()) for counted_N in self.counted.values())

    def of_features(self, features: tuple[str, ...]) -> "HeldOut":
        """Return it as a model sees it that knows these of the features, in their order."""
        if features == self.features:
            return self
        places = [self.features.index(name) for name in features]
        columns = {name: (time_ms_T, x_TF[:, places]) for name, (time_ms_T, x_TF) in self.columns.items()}
        return replace(self, features=features, columns=columns)

    def interval_ms(self, name: str) -> float:
        """Return the usual time between two points of a series, or the mean one of records without order."""
        time_ms_T, _ = self.columns[name]
        if len(time_ms_T) < 2:
            return 1.0
        if self.kind != "series":
            return max(float(np.ptp(time_ms_T)) / (len(time_ms_T) - 1), 1e-3)
        return max(float(np.median(np.diff(time_ms_T))), 1.0)

    def spread_F(self, name: str) -> FloatArray:
        """Return how widely each feature of a series is spread; of images all pixels alike."""
        x_TF = self.columns[name][1]
        return spread_of(x_TF) if self.image is None else fit_images(x_TF, self.image).scale_F


@dataclass(frozen=True)
class Round:
    """The held out span once more, with anomalies."""

    values: Mapping[str, FloatArray]
    """Held out rows of the series that have some."""
    anomalies: Sequence[tuple[str, Injected]]
    """With the series; rows are numbered from the cut."""

    def of_features(self, held: HeldOut, seen: HeldOut) -> "Round":
        """Return it as a model sees it that knows the features of `seen` of those of `held`."""
        if seen is held:
            return self
        places = [held.features.index(name) for name in seen.features]
        return replace(self, values={name: x_NF[:, places] for name, x_NF in self.values.items()})


def cut_of(kind: Kind, columns: Columns) -> dict[str, int]:
    """Return each series' first held out row, so that about `HELD_OUT` of all rows is held out."""
    if kind != "series":
        return {name: len(time_ms_T) - int(HELD_OUT * len(time_ms_T)) for name, (time_ms_T, _) in columns.items()}
    if not columns:
        return {}
    from_ms = np.quantile(np.concatenate([time_ms_T for time_ms_T, _ in columns.values()]), 1 - HELD_OUT)
    return {name: int(np.searchsorted(time_ms_T, from_ms)) for name, (time_ms_T, _) in columns.items()}


def held_out_of(
    kind: Kind,
    features: Sequence[str],
    columns: Columns,
    cut: Mapping[str, int],
    spans: Sequence[Span],
    margin: int,
    seed: int,
    image: ImageShape | None = None,
) -> HeldOut:
    """Return the held out part of a history, of some of its series where it is very long."""
    longest = {name: len(time_ms_T) - cut[name] for name, (time_ms_T, _) in columns.items()}
    names = np.random.default_rng(seed).permutation([name for name, rows in longest.items() if rows])
    chosen, rows = set[str](), 0
    for name in names.tolist():
        if rows < _MOST_ROWS:
            chosen.add(name)
            rows += longest[name]
    kept = {name: column for name, column in columns.items() if name in chosen}
    counted = {
        name: ~excluded_rows(name, time_ms_T, spans, margin)[cut[name] :] for name, (time_ms_T, _) in kept.items()
    }
    return HeldOut(kind, tuple(features), kept, {name: cut[name] for name in kept}, counted, image)


def rounds_of(held: HeldOut, gap: int, late: int, seed: int) -> list[Round]:
    """Return the held out span with anomalies, as often as it takes to have enough of each.

    Args:
        held: where they are put.
        gap: rows between two of them, so that each begins in what is usual; a series that is new there has to be as
            old. What comes before the cut is taken to be usual.
        late: rows behind each that show what becomes of it.
        seed: of all that is drawn.
    """
    wanted = _wanted(held.kind, len(held.features))
    random = np.random.default_rng(seed)
    missing = deque(wanted[place] for place in random.permutation(len(wanted)))
    rounds = list[Round]()
    while missing and len(rounds) < _MOST_ROUNDS:
        values, anomalies = dict[str, FloatArray](), list[tuple[str, Injected]]()
        for name in random.permutation(list(held.columns)).tolist():
            x_NF = held.columns[name][1][held.cut[name] :]
            free_N = held.counted[name].copy()
            free_N[len(free_N) - late :] = False
            free_N[: max(gap - held.cut[name], 0)] = False
            most = max(_POINTS.values()) + gap if held.kind == "series" else 50
            asked = [missing.popleft() for _ in range(min((len(x_NF) + gap) // most, len(missing)))]
            of_place = int(random.integers(2**32))
            if held.image is None:
                changed_NF, found = inject(x_NF, free_N, asked, gap, held.spread_F(name), of_place)
            else:
                changed_NF, found = inject_images(x_NF, free_N, asked, held.image, held.spread_F(name), of_place)
            values[name] = changed_NF
            anomalies += [(name, injected) for injected in found]
            placed = Counter(injected.anomaly for injected in found)
            missing += list((Counter(asked) - placed).elements())
        if not anomalies:
            break
        rounds.append(Round({name: values[name] for name, _ in anomalies}, anomalies))
    return rounds


def _wanted(kind: Kind, features: int) -> list[Anomaly]:
    wanted = []
    for fault in faults_of(kind, features):
        points = _POINTS[fault] if kind == "series" else 1
        sizes = {"flat": (0.0,), "correlation": _MOVED, "period": _MOVED}.get(fault, SIZES)
        wanted += [Anomaly(fault, size, points) for size in sizes] * (_EACH * len(SIZES) // len(sizes))
    return wanted
