"""What happens to one stream's model while the demo's worker scores: a retraining, the gate, the swap, feedback.

The commands are those that anybody would type, as processes of their own: `offkey retrain` on the snapshots that
`offkey record` keeps, and `offkey feedback`. What the gate decides is not known before; where it refuses the
challenger, there is no swap to see, and the report says so.

Who gives feedback has looked at alerts: here, at the labels of the series that has had most false alarms by then.
"""

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pipeline.demo.children import Child, failed, offkey, running
from pipeline.demo.counting import MARGIN_POINTS, judge_series
from pipeline.demo.data import Recorded, Span
from pipeline.stages.alerts import Alert

STREAM = "metrics"
"""The one with most series; its model learns in seconds."""
RETRAINED_AT, HEARD_BY = 0.2, 0.4
"""Shares of the replay from which on records only trickle in until the gate has decided, and until feedback has
come: so the challenger learns from the same records on any machine, and feedback has something left to act on."""
_MOST_HELD_S = 90.0
_NICE = 5


@dataclass
class Course:
    """What has happened, for the summary and the report."""

    retrained: Mapping[str, Any] = field(default_factory=dict)
    """The line that `offkey retrain --json` printed."""
    began_at: float = 0.0
    """Share of the replay when retraining began, as those below."""
    decided_at: float = 0.0
    swapped_at: float | None = None
    """When the worker's metrics named the new version and no other."""
    heard_at: float | None = None
    marked: Alert | None = None
    """The false alarm that feedback was given on."""


Step = Literal["waits", "retrains", "swaps", "marks", "listens", "is over"]


class Life:
    """Takes the steps one after the other, each as soon as it is due; the replay goes on meanwhile."""

    def __init__(
        self,
        config: Path,
        out: Path,
        recorded: Sequence[Recorded],
        labels: Mapping[str, Sequence[Span]],
        told: Callable[[str], None],
        stack: ExitStack,
    ) -> None:
        """`recorded` and `labels` are those of `STREAM`; `told` takes a line for people."""
        self._config, self._out, self._stack = config, out, stack
        self._series = {each.name: each for each in recorded}
        self._labels, self._told = labels, told
        self._step: Step = "waits"
        self._child: Child | None = None
        self._log = out / "retrain.log"
        self._begun_s = 0.0
        self._held_s: float | None = None
        self.course = Course()

    def holds(self, share: float) -> bool:
        """Whether what lies behind this share of the replay should not all come in yet; each wait has an end."""
        by = {"waits": RETRAINED_AT, "retrains": RETRAINED_AT, "is over": 1.0}.get(self._step, HEARD_BY)
        if share < by:
            self._held_s = None
            return False
        self._held_s = self._held_s or time.monotonic()
        return time.monotonic() - self._held_s < _MOST_HELD_S

    def follow(self, share: float, versions: frozenset[str], alerts: Callable[[], Sequence[Alert]]) -> None:
        """Take the next step, if it is due.

        Args:
            share: of the replay that is scored.
            versions: those that the worker's partitions of the stream are judged by.
            alerts: asks for what was raised so far.

        Raises:
            OffkeyError: a command failed.
        """
        # Those that trickle in are scored too: the last percent is not waited for.
        if self._step == "waits" and share >= RETRAINED_AT - 0.01:
            self._retrain(share)
        elif self._step == "retrains" and self._ended("offkey retrain"):
            self._decided(share)
        elif self._step == "swaps" and versions == {self.course.retrained["version"]}:
            self.course.swapped_at = share
            self._told(f"swapped: every partition of {STREAM} is judged by the new version")
            self._step = "marks"
        elif self._step == "marks":
            self._mark(share, [alert for alert in alerts() if alert.stream == STREAM])
        elif self._step == "listens" and self._ended("offkey feedback"):
            marked = self.course.marked
            assert marked is not None
            self.course.heard_at = share
            self._told(
                f"feedback: an incident of {marked.series} was a false alarm; the worker heeds it from now on"
            )
            self._step = "is over"

    def _retrain(self, share: float) -> None:
        self.course.began_at, self._begun_s = share, time.monotonic()
        words = ["retrain", str(self._config), STREAM, "--snapshots", "1d", "--json"]
        self._child = self._stack.enter_context(running(offkey(*words), self._log))
        os.setpriority(os.PRIO_PROCESS, self._child.pid, _NICE)
        self._told(f"offkey retrain: a challenger for {STREAM} learns from the snapshots, beside the worker")
        self._step = "retrains"

    def _decided(self, share: float) -> None:
        assert self._child is not None
        assert self._child.stdout is not None
        self.course.retrained = retrained = json.loads(self._child.stdout.read())
        self.course.decided_at = share
        accepted, reasons = retrained["verdict"]["accepted"], "; ".join(retrained["verdict"]["reasons"])
        took_s = time.monotonic() - self._begun_s
        self._told(f"the gate {'accepts' if accepted else 'refuses'} it after {took_s:.0f} s: {reasons}")
        self._step = "swaps" if accepted else "marks"

    def _mark(self, share: float, alerts: Sequence[Alert]) -> None:
        false: dict[str, list[Alert]] = {}
        for name, recorded in self._series.items():
            opened = [alert for alert in alerts if alert.series == name and alert.state in ("opened", "reopened")]
            assert recorded.time_ms_N is not None
            judged = judge_series(opened, recorded.time_ms_N, self._labels[name], MARGIN_POINTS)
            false[name] = [alert for alert in opened if judged.verdicts[alert.incident] == "false"]
        count = Counter({name: len(own) for name, own in false.items()})
        if not count.total():
            return
        name = max(sorted(count), key=count.__getitem__)
        self.course.marked = marked = false[name][-1]
        words = ["feedback", str(self._config), marked.incident, "false_alarm", "--note", "looked at by the demo"]
        self._log = self._out / "feedback.log"
        self._child = self._stack.enter_context(running(offkey(*words), self._log))
        self._step = "listens"

    def _ended(self, what: str) -> bool:
        assert self._child is not None
        status = self._child.poll()
        if status:
            raise failed(self._child, what, self._log)
        return status == 0
