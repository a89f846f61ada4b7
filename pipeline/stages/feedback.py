"""What was said of incidents -> the thresholds of points that deviate in the same way.

Two deviations are of one *kind* where `SAME_KIND` of their scores is due to the same features, observed on the same
side of what was expected: the sum over features of the smaller share, a feature not counting where one lies above
and the other below. With one feature the side is all that tells kinds apart. At two thirds, what a second cause
adds to a score is at most half of what both have in common.

How strong it is. A score is -10 log10 of a probability, so 10 points are a factor of ten, and evidence adds up in
them: Turing's decibans (Good, "Studies in the History of Probability and Statistics XXXVII", Biometrika, 1979).

- A *false alarm* raises the threshold of its series to its peak and a margin. Repeats are taken for draws of one
  distribution, whatever it is: then the next one exceeds the highest of n with a probability of 1 / (n + 1), for
  each of the n + 1 is as likely to be the highest. How far it exceeds it is taken for exponential with the mean of
  normal scores, 10 / ln 10: peaks scatter upwards no more widely than strange points do. That is the assumption;
  the tail of errors is fitted as such a one (Pickands, 1975), to logarithms, so it allows a repeat an error larger
  by as much as separates strange training points. As that distribution has no memory, a margin m leaves 10^(-m /
  10) / (n + 1) of the repeats, and the one that leaves `REPEATED`, a tenth, is 10 log10(10 / (n + 1)): 7.0 after
  one, 5.2 after two, none after nine, when the marked peaks themselves tell how they scatter. Where they scatter
  more widely than assumed, a repeat that alerts is marked too, and the highest peak rises. Anything stronger than
  that alerts as ever. Of an incident that was open when it was marked, the peak is what its alerts had told so far:
  repeats may well exceed it. A score tells how rare a point is in its series by now: where such points have since
  become less rare, repeats score lower than the peak that was marked, and what is stronger does, too.
- A false alarm in k *other series* of the stream raises it by 10 log10(k + 1), to `MOST_SOFTLY` at most. Nothing is
  known there of a peak; but of series whose deviations of a kind were looked at, all k were for nothing, and by
  Laplace's rule of succession the odds that the next one means something are 1 to k + 1: that much rarer has a
  point to be. So it is 3.0 after one series and not 10 times the same for its ten incidents. A series in which the
  kind was confirmed counts the other way: 10 log10((k + 1) / (c + 1)), and never below 0.
- A *confirmed* incident lowers the threshold of its series by 10 log10 2, Laplace's odds after one: at most as many
  false incidents come on top as the budget allows anyway, however many were confirmed. It does so only where none
  of the kind was a false alarm there.
- Confirmed and false ones of one kind in one series: a threshold is never raised beyond 10 log10(5) under the
  lowest peak that was confirmed, by the same reckoning downwards, so that at most a tenth of the repeats of what
  was confirmed is lost. Confirmed wins, not the majority: of a repeated false alarm somebody hears and can say so
  again, of an incident that was kept quiet nobody does.
- An *expected* deviation begins no incident in its series before `until_ms`, however strong.

What was excused has an *echo*: the model expects it to go on, so the points after it deviate the other way, often
more. For `echo_points` of the series after the last point that was of the kind, no point begins an incident that
stays under the threshold which that one had. Another incident that begins there is told when that is over.

Only what begins an incident is asked: one that is open keeps its threshold. Feedback acts on a partition from an
offset on, and what was taken back does so up to one, so a replay that is given the same offsets decides the same.
Where nothing was said nothing is reckoned; otherwise only points that feedback could move are explained.

Legend: K judged points, C candidates of them, J deviations, P pieces of feedback, N series, F features.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from models.arrays import BoolArray, FloatArray, IntArray
from pipeline.feedback import Feedback
from pipeline.protocols import TopicPartition
from pipeline.stages.incidents import LEAST_BOUND

SAME_KIND = 2 / 3
REPEATED = 0.1
"""Share of the repeats of a false alarm that may alert again, and of those of a confirmed one that may be lost."""
MOST_SOFTLY = 10.0
"""What is said of other series raises a threshold by so much at most: a factor of ten, one band of severity."""
LOWERED = 10 * float(np.log10(2))
_ASKED_AGAIN = 4
_UNDER_CONFIRMED = 10 * float(np.log10(0.5 / REPEATED))


def margin(marks_C: npt.ArrayLike) -> FloatArray:
    """Return how far above the highest of so many peaks the threshold is raised."""
    return np.asarray(np.maximum(-10 * np.log10(REPEATED * (np.asarray(marks_C, np.float64) + 1)), 0.0))


class Kinds(NamedTuple):
    """How features have to do with some points."""

    share_CF: FloatArray
    sign_CF: IntArray
    """1: observed above what was expected, -1: below, 0: not known."""


def signs_of(off_CF: FloatArray, band_CF: FloatArray, back_C: IntArray) -> IntArray:
    """Return on which side of what was expected some points lie.

    Args:
        off_CF: observed less expected.
        band_CF: how far from it is usual: within, the side says nothing.
        back_C: how many points before the judged one the error was largest; but for 0, it is not this point's.
    """
    known_CF = (np.abs(off_CF) > band_CF) & (back_C == 0)[:, None]
    return np.where(known_CF, np.sign(off_CF), 0).astype(np.int64)


class Moved(NamedTuple):
    """Why a point's threshold is not its own."""

    incidents: Sequence[str]
    """Those that it is of one kind with and that count, in the order of their names."""
    raised_by: float
    """Negative: it is lowered."""


@dataclass(frozen=True, slots=True)
class Heeded:
    """What feedback makes of some points."""

    threshold_K: FloatArray
    """Infinite where no score begins an incident."""
    moved: Mapping[int, Moved]
    """By position; only of points that reach the threshold that they have now."""
    excused: int = 0
    """Points that reach their own threshold and not the raised one."""


class _Echo(msgspec.Struct, frozen=True):
    """The last point of a series that was excused for its kind; checkpoints hold it in this form."""

    index: int
    threshold: float | None
    """Which it stayed under; None: it was expected, however strong."""
    incidents: list[str]


class FeedbackEffect:
    """The feedback that acts on each partition of a stream."""

    def __init__(self, features: Sequence[str], echo_points: int = 0) -> None:
        self._features = features
        self._echo_points = echo_points
        self._adopted: dict[TopicPartition, list[_Said]] = {}
        """In the order of their offsets."""
        self._echoes: dict[TopicPartition, dict[str, _Echo]] = {}
        """By series."""

    def __len__(self) -> int:
        """Return how many pieces act on the partition that most act on."""
        return max((len(acting[-1].pieces) for acting in self._adopted.values()), default=0)

    def adopt(self, partition: TopicPartition, offset: int, said: Mapping[str, Feedback]) -> None:
        """Have this act on a partition's records from `offset` on, by incident, and nothing that did before.

        Offsets never go back, but after `drop`.
        """
        acting = self._adopted.setdefault(partition, [])
        while acting and acting[-1].offset >= offset:
            acting.pop()
        acting.append(_Said(offset, said, self._features))
        # A poll is cut where something begins to act, so the last two would do.
        del acting[:-_ASKED_AGAIN]

    def drop(self, partition: TopicPartition) -> None:
        """Forget a partition."""
        self._adopted.pop(partition, None)
        self._echoes.pop(partition, None)

    def forget(self, series: Iterable[tuple[TopicPartition, str]]) -> None:
        """Forget series that had to leave; those of their names begin anew."""
        for partition, name in series:
            self._echoes.get(partition, {}).pop(name, None)

    def snapshot(self, partition: TopicPartition) -> bytes:
        """Return what a checkpoint has to hold beside what was adopted; b"" where that is nothing."""
        echoes = self._echoes.get(partition)
        return msgspec.json.encode(dict(sorted(echoes.items()))) if echoes else b""

    def restore(self, partition: TopicPartition, kept: bytes) -> None:
        """Put back what `snapshot` returned."""
        self._echoes[partition] = msgspec.json.decode(kept, type=dict[str, _Echo])

    def heed(
        self,
        partitions: Sequence[TopicPartition],
        names: Sequence[str],
        slot_K: IntArray,
        index_K: IntArray,
        offset_K: IntArray,
        time_ms_K: IntArray,
        score_K: FloatArray,
        threshold_K: FloatArray,
        kinds_of: Callable[[Sequence[int]], Kinds],
    ) -> Heeded:
        """Return the thresholds of judged points.

        Args:
            partitions: by slot, as `names`.
            slot_K: the points are sorted by it, and in a slot by `index_K`, how many points its series had before.
            score_K: NaN: not scored.
            kinds_of: tells of points at some positions how features have to do with them.
        """
        if not any(said.pieces for acting in self._adopted.values() for said in acting):
            return Heeded(threshold_K, {})
        place_C = np.flatnonzero(score_K >= threshold_K - LOWERED)
        new_K, moved, excused = threshold_K.copy(), dict[int, Moved](), 0
        for partition, said, of_said_C in self._acting(partitions, slot_K[place_C], offset_K[place_C]):
            asked_C = said.asked(names, slot_K, score_K, threshold_K, place_C[of_said_C])
            if not len(asked_C):
                continue
            series_C = [names[slot] for slot in slot_K[asked_C].tolist()]
            score_C, own_C = score_K[asked_C], threshold_K[asked_C]
            new_C, counts_CP = said.judge(series_C, time_ms_K[asked_C], own_C, kinds_of(asked_C.tolist()))
            echoes = self._echoes.setdefault(partition, {})
            for c, name in enumerate(series_C):
                index, incidents = int(index_K[asked_C[c]]), said.named(counts_CP[c])
                if own_C[c] <= score_C[c] < new_C[c] and self._echo_points:
                    limit = None if np.isinf(new_C[c]) else float(new_C[c])
                    echoes[name] = _Echo(index, limit, incidents)
                elif score_C[c] >= own_C[c] and (echo := echoes.get(name)):
                    new_C[c] = max(new_C[c], self._echoed(echo, index, said))
                if own_C[c] != new_C[c] <= score_C[c] and incidents:
                    moved[int(asked_C[c])] = Moved(incidents, float(new_C[c] - own_C[c]))
            excused += int(((own_C <= score_C) & (score_C < new_C)).sum())
            new_K[asked_C] = new_C
        return Heeded(new_K, moved, excused)

    def _echoed(self, echo: _Echo, index: int, said: "_Said") -> float:
        """Return the threshold that an excused point leaves to a later one of its series."""
        near = 0 < index - echo.index <= self._echo_points
        if not near or not said.pieces.keys() >= set(echo.incidents):
            return -np.inf
        return np.inf if echo.threshold is None else echo.threshold

    def _acting(
        self, partitions: Sequence[TopicPartition], slot_C: IntArray, offset_C: IntArray
    ) -> "list[tuple[TopicPartition, _Said, BoolArray]]":
        """Return what acts on which of some points."""
        found: list[tuple[TopicPartition, _Said, BoolArray]] = []
        numbers = {partition: number for number, partition in enumerate(self._adopted)}
        partition_C = np.array([numbers.get(partitions[slot], -1) for slot in slot_C.tolist()], np.int64)
        for partition, acting in self._adopted.items():
            of_partition_C = partition_C == numbers[partition]
            begin_C = np.searchsorted([said.offset for said in acting], offset_C, side="right") - 1
            for number, said in enumerate(acting):
                acts_C = of_partition_C & (begin_C == number)
                if said.pieces and acts_C.any():
                    found.append((partition, said, acts_C))
        return found


@dataclass
class _Said:
    """What acts on a partition from an offset on."""

    offset: int
    pieces: Mapping[str, Feedback]
    """By incident."""
    features: Sequence[str]
    incidents: list[str] = field(init=False)

    def __post_init__(self) -> None:
        pieces = [each for each in self.pieces.values() if each.deviations and each.peak is not None]
        self.incidents = [each.incident for each in pieces]
        self._number = {name: n for n, name in enumerate(dict.fromkeys(each.series for each in pieces))}
        self._series_P = np.array([self._number[each.series] for each in pieces], np.int64)
        self._false_P = np.array([each.verdict == "false_alarm" for each in pieces], np.bool_)
        self._confirmed_P = np.array([each.verdict == "confirmed" for each in pieces], np.bool_)
        self._expected_P = ~self._false_P & ~self._confirmed_P
        self._peak_P = np.array([each.peak for each in pieces], np.float64)
        self._until_ms_P = np.array([each.until_ms or 0 for each in pieces], np.int64)
        deviations = [(p, each) for p, piece in enumerate(pieces) for each in piece.deviations]
        self._begin_P = np.searchsorted([p for p, _ in deviations], np.arange(len(pieces)))
        self._kinds = Kinds(
            np.array([[each.shares.get(name, 0.0) for name in self.features] for _, each in deviations]),
            np.array([[each.signs.get(name, 0) for name in self.features] for _, each in deviations], np.int64),
        )
        self._most_N = np.full(len(self._number), -np.inf)
        np.maximum.at(self._most_N, self._series_P[self._false_P], self._peak_P[self._false_P] + margin(1))
        self._most_N[self._series_P[self._expected_P]] = np.inf
        self._has_confirmed_N = np.zeros(len(self._number), np.bool_)
        self._has_confirmed_N[self._series_P[self._confirmed_P]] = True

    def asked(
        self,
        names: Sequence[str],
        slot_K: IntArray,
        score_K: FloatArray,
        threshold_K: FloatArray,
        place_C: IntArray,
    ) -> IntArray:
        """Return which of the points at these positions may begin an incident for what was said, or may not."""
        if not self.incidents:
            return place_C[:0]
        number_C = np.array([self._number.get(names[slot], -1) for slot in slot_K[place_C].tolist()], np.int64)
        own_C, score_C, threshold_C = number_C >= 0, score_K[place_C], threshold_K[place_C]
        most_C = np.where(own_C, self._most_N[number_C], -np.inf)
        if self._false_P.any():
            most_C = np.maximum(most_C, threshold_C + MOST_SOFTLY)
        may_C = (score_C >= threshold_C) & (score_C < most_C)
        may_C |= own_C & self._has_confirmed_N[number_C]
        return place_C[may_C]

    def named(self, counts_P: BoolArray) -> list[str]:
        """Return the incidents of some pieces, in the order of their names."""
        return sorted(self.incidents[piece] for piece in np.flatnonzero(counts_P))

    def judge(
        self, series_C: Sequence[str], time_ms_C: IntArray, threshold_C: FloatArray, kinds: Kinds
    ) -> tuple[FloatArray, BoolArray]:
        """Return the thresholds of some points, and which pieces count for each."""
        number_C = np.array([self._number.get(name, -1) for name in series_C], np.int64)
        own_CP = number_C[:, None] == self._series_P
        same_CP = self._alike(kinds) >= SAME_KIND
        false_CP, confirmed_CP = same_CP & own_CP & self._false_P, same_CP & own_CP & self._confirmed_P
        marks_C = false_CP.sum(axis=1)
        highest_C = np.where(false_CP, self._peak_P, -np.inf).max(axis=1)
        was_confirmed_C = confirmed_CP.any(axis=1)
        limit_C = np.where(confirmed_CP, self._peak_P, np.inf).min(axis=1) - _UNDER_CONFIRMED
        softly_C = np.where(was_confirmed_C, 0.0, self._softly(same_CP & ~own_CP, confirmed_CP))
        raised_C = np.maximum(threshold_C + softly_C, highest_C + margin(marks_C))
        raised_C = np.maximum(np.minimum(raised_C, limit_C), threshold_C)
        lowered_C = np.maximum(threshold_C - LOWERED, np.minimum(threshold_C, LEAST_BOUND))
        new_C = np.where(was_confirmed_C & (marks_C == 0), lowered_C, raised_C)
        expected_CP = same_CP & own_CP & (time_ms_C[:, None] < self._until_ms_P)
        new_C = np.where(expected_CP.any(axis=1), np.inf, new_C)
        counts_CP = false_CP | confirmed_CP | (same_CP & ~own_CP & ~self._expected_P & (softly_C > 0)[:, None])
        return new_C, counts_CP | expected_CP

    def _alike(self, kinds: Kinds) -> FloatArray:
        """Return of each point and piece how much of their scores has one cause."""
        alike_CP = np.zeros((len(kinds.share_CF), len(self.incidents)))
        for c, (share_F, sign_F) in enumerate(zip(kinds.share_CF, kinds.sign_CF, strict=True)):
            common_JF = np.minimum(self._kinds.share_CF, share_F)
            common_JF = np.where(self._kinds.sign_CF * sign_F < 0, 0.0, common_JF)
            alike_CP[c] = np.maximum.reduceat(common_JF.sum(axis=1), self._begin_P)
        return alike_CP

    def _softly(self, others_CP: BoolArray, confirmed_CP: BoolArray) -> FloatArray:
        """Return by how much other series raise the thresholds of some points."""
        one_hot_PN = self._series_P[:, None] == np.arange(len(self._number))
        false_C = ((others_CP & self._false_P) @ one_hot_PN).sum(axis=1)
        confirmed_C = (((others_CP & self._confirmed_P) | confirmed_CP) @ one_hot_PN).sum(axis=1)
        return np.asarray(np.clip(10 * np.log10((false_C + 1) / (confirmed_C + 1)), 0.0, MOST_SOFTLY))
