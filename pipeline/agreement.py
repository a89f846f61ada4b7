"""Champion's and shadow's alerts on the same records -> how far the two agree.

They agree on an incident if each had one open in the same series at some time. What counts is what the stages
found, told or muted: a storm hides the champion's alerts from people, not from the comparison. Silence is left out,
for no model has a say in it. Records of kind `features` have no course: the two agree on a record that both find.

An incident that was open when the comparison began is followed, not counted: the shadow has it from the champion.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from pipeline.protocols import TopicPartition
from pipeline.shadows import MOST_EXAMPLES, SIDES, Example, Side, Tally
from pipeline.stages.alerts import Alert
from pipeline.stages.incidents import ENDS, STARTS
from pipeline.stream import Outcome


@dataclass(slots=True)
class _Open:
    """An incident of one side."""

    begun: Alert
    counted: bool
    """Whether it began where incidents count."""
    shared: bool = False
    score: float = 0.0
    """The highest that was told."""


@dataclass
class Agreement:
    """Follows the incidents of two sides, and counts them in a tally."""

    tally: Tally
    _open: dict[tuple[TopicPartition, str], dict[Side, _Open]] = field(default_factory=dict)
    """By partition and series."""

    def follow(
        self, champion: Outcome, shadow: Outcome, counted_from: Mapping[TopicPartition, int]
    ) -> list[Example]:
        """Take what both made of the same records; return the incidents that ended as one side's alone.

        `counted_from`: what begins at an earlier offset of a partition is followed, not counted.
        """
        found: list[Example] = []
        of_records: dict[str, dict[Side, Alert]] = {}
        for alert, side in sorted([*_of(champion, "champion"), *_of(shadow, "shadow")], key=_place_in_order):
            place = _place(alert)
            counts = alert.offset >= counted_from[place]
            if alert.series:
                found += self._follow(place, alert, side, counts=counts)
            elif counts:
                of_records.setdefault(alert.incident, {})[side] = alert
        for sides in of_records.values():
            for side, alert in sides.items():
                self.tally.of(side).incidents += 1
                open_ = _Open(alert, counted=True, shared=len(sides) > 1, score=alert.score or 0.0)
                self.tally.of(side).shared += open_.shared
                found += self._ended(open_, alert, side)
        self.tally.examples = [*self.tally.examples, *found][-MOST_EXAMPLES:]
        return found

    def forget(self, partition: TopicPartition) -> None:
        """Forget the incidents of a partition whose state is thrown away: those that are open do not count."""
        for key in [key for key in self._open if key[0] == partition]:
            for side, incident in self._open.pop(key).items():
                self.tally.of(side).incidents -= incident.counted and not incident.shared

    def _follow(self, place: TopicPartition, alert: Alert, side: Side, *, counts: bool) -> Iterator[Example]:
        """Move an incident on; yield it where it ends as one side's alone."""
        sides = self._open.setdefault((place, alert.series), {})
        mine = sides.get(side)
        if mine is None:
            mine = sides[side] = _Open(alert, counted=counts and alert.state in STARTS)
            self.tally.of(side).incidents += mine.counted
        mine.score = max(mine.score, alert.score or 0.0)
        if len(sides) == len(SIDES):
            for which, incident in sides.items():
                self.tally.of(which).shared += incident.counted and not incident.shared
                incident.shared = True
        if alert.state in ENDS:
            del sides[side]
            yield from self._ended(mine, alert, side)
        if not sides:
            del self._open[place, alert.series]

    def _ended(self, incident: _Open, last: Alert, side: Side) -> Iterator[Example]:
        if not incident.counted or incident.shared:
            return
        self.tally.of(side).alone += 1
        begun = incident.begun
        yield Example(
            side,
            begun.incident,
            begun.series,
            begun.event_ms,
            last.event_ms,
            incident.score,
            begun.topic,
            begun.partition,
            begun.offset,
        )


def _of(outcome: Outcome, side: Side) -> Iterator[tuple[Alert, Side]]:
    """Yield what the stages found, but for silence and storms, which have no score."""
    for alert in (*outcome.alerts, *(muted.alert for muted in outcome.muted)):
        if alert.score is not None:
            yield alert, side


def _place_in_order(event: tuple[Alert, Side]) -> tuple[TopicPartition, int, int, bool]:
    """In the order of the records; of one record what begins goes before what ends."""
    alert, _ = event
    return _place(alert), alert.offset, alert.row, alert.state in ENDS


def _place(alert: Alert) -> TopicPartition:
    return TopicPartition(alert.topic, alert.partition)
