"""How people write times and budgets: `5 min`, `1 per week`, `1 per 1000 records`."""

import math
import re
from dataclasses import dataclass
from typing import Any

_UNITS_S = {"ms": 0.001, "s": 1, "second": 1, "m": 60, "min": 60, "minute": 60, "h": 3600, "hour": 3600}
_UNITS_S |= {"d": 86400, "day": 86400, "w": 604800, "week": 604800}
_NUMBER = r"(\d+(?:\.\d+)?)"


@dataclass(frozen=True)
class Budget:
    """False incidents that may be raised: so many in a time, or in a number of records."""

    incidents: float
    per_s: float | None = None
    per_records: float | None = None

    def points_per_incident(self, interval_ms: Any) -> Any:
        """Return how many points, `interval_ms` apart, stand for one incident; arrays are fine."""
        if self.per_records is not None:
            return self.per_records / self.incidents + 0 * interval_ms
        assert self.per_s is not None
        return self.per_s * 1000 / interval_ms / self.incidents


def parse_duration(text: str | float) -> float:
    """Return seconds, a finite number of 0 or more: `90`, `90s`, `5 min`, `2h`, `1 day`.

    Raises:
        ValueError: it is none of these.
    """
    match = re.fullmatch(rf"{_NUMBER}\s*([a-z]*)", str(text).strip(), re.ASCII)
    unit = match[2] if match else ""
    unit_s = _UNITS_S.get(unit or "s") or _UNITS_S.get(unit.removesuffix("s"))
    if match is None or unit_s is None or math.isinf(seconds := float(match[1]) * unit_s):
        raise ValueError(f"{text!r:.60} is no duration; write for example 30s, 5 min, 2h or 1 day")
    return seconds


def parse_budget(text: str) -> Budget:
    """Return a budget: `1 per day`, `3 per week`, `1 per 6 hours`, `1 per 1000 records`.

    Raises:
        ValueError: it is none of these.
    """
    match = re.fullmatch(rf"{_NUMBER}\s*(?:per|in|/)\s*(.+)", str(text).strip(), re.ASCII)
    if match is not None and 0 < float(match[1]) < math.inf:
        incidents, rest = float(match[1]), match[2]
        records = re.fullmatch(rf"{_NUMBER}\s*(?:records|points)", rest.replace("_", ""), re.ASCII)
        if records is not None and 0 < float(records[1]) < math.inf:
            return Budget(incidents, per_records=float(records[1]))
        try:
            per_s = parse_duration(rest if rest[0].isdigit() else f"1 {rest}")
        except ValueError:
            per_s = 0.0
        if per_s > 0:
            return Budget(incidents, per_s=per_s)
    raise ValueError(f"{text!r:.60} is no budget; write for example '1 per week' or '1 per 1000 records'")
