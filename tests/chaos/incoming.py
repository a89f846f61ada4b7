"""Records that come in while faults go on."""

import json
import random
from collections.abc import Iterator

from tests.chaos.payloads import good, malformed
from tests.streams import feature_rows, series_rows

NAMES = ["a", "b", "c", *(f"new-{number}" for number in range(6))]
_POINTS = 400


class Records:
    """Records of both streams, without end: series with spikes in them, rows, and a few that are none."""

    def __init__(self, draw: random.Random) -> None:
        self._draw, self._row, self._point = draw, 0, 0
        self._series = self._all_series()
        self._rows = self._all_rows()

    def take(self, count: int) -> list[tuple[str, bytes | None, bytes | None]]:
        """Return the next records: the kind of topic, key and value."""
        taken: list[tuple[str, bytes | None, bytes | None]] = []
        for _ in range(count):
            chance = self._draw.random()
            if chance < 0.03:
                taken.append(("metrics", *malformed(self._draw, b"bad")))
            elif chance < 0.2:
                taken.append(("payments", None, next(self._rows)))
            else:
                taken.append(("metrics", *next(self._series)))
        return taken

    def _all_series(self) -> Iterator[tuple[bytes | None, bytes | None]]:
        while True:
            seed = self._draw.randrange(1 << 30)
            spikes = {name: self._draw.sample(range(10, _POINTS, 25), 8) for name in NAMES}
            values = series_rows(NAMES, _POINTS, seed, spikes)
            for point in range(_POINTS):
                for number, name in enumerate(NAMES):
                    yield good(name, self._point, values[number, point].tolist())
                self._point += 1

    def _all_rows(self) -> Iterator[bytes]:
        while True:
            strange = self._draw.sample(range(500), 25)
            for row in feature_rows(500, self._draw.randrange(1 << 30), strange).tolist():
                yield json.dumps(dict(zip("abc", row, strict=True))).encode()
