"""What the probes of a worker, recorder, scheduler or notifier say.

`/healthz` says whether the loop turns, `/readyz` whether the worker does its work now: a member of its group, with
the state of every partition in place and replayed, and nothing that makes it try again. Both look at the worker
itself at each question; nothing is set to "ready" in advance. A member that owns no partition, for its group has
more members than partitions, is ready: it takes over at once, and a rollout that waits for it would wait for ever.

`pipeline.endpoint` serves them.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

_MOST_NAMED = 20
"""Reasons in one answer."""


class Loop(Protocol):
    """What the probes ask of a worker, recorder, scheduler or of notifiers."""

    @property
    def turned_s(self) -> float | None:
        """When the loop last came round, by a clock that cannot be set; None before its first turn."""

    @property
    def stopping(self) -> bool: ...
    @property
    def trouble(self) -> str:
        """What makes it try again just now."""

    @property
    def joined(self) -> bool:
        """Whether the group counted it in lately."""

    def facts(self) -> dict[str, object]:
        """Return what is told beside the verdict."""

    def missing(self) -> Iterable[str]:
        """Return what keeps its partitions from being worked on."""

    def unfinished(self) -> str:
        """Say what an end at once leaves undone."""


@dataclass
class Health:
    """What the probes answer. Asked on threads of its server; it only reads what the worker's thread writes."""

    turn_limit_s: float
    """How old the loop's last turn may be: longer than any that is legal, with its restoring and waiting."""
    clock: Callable[[], float] = time.monotonic
    worker: Loop | None = None
    """Set as soon as it is built: then its models are loaded, and the cluster has answered once."""
    awaited: str = "models and cluster"
    """What the process waits for until then."""
    _begun_s: float = field(init=False)

    def __post_init__(self) -> None:
        self._begun_s = self.clock()

    def alive(self) -> tuple[bool, dict[str, Any]]:
        """Tell whether the loop turns, with the facts."""
        age_s = self._turn_age_s()
        facts: dict[str, Any] = {"alive": age_s <= self.turn_limit_s, "last_turn_s": round(age_s, 3)}
        facts |= {"limit_s": self.turn_limit_s, "why": [] if facts["alive"] else [self._stuck(age_s)]}
        return facts["alive"], facts

    def ready(self) -> tuple[bool, dict[str, Any]]:
        """Tell whether records are scored, with what is missing."""
        if self.worker is None:
            return False, {"ready": False, "why": [f"starting: {self.awaited} are waited for"]}
        why = list(self._missing(self.worker))
        facts = {"ready": not why, "why": why[:_MOST_NAMED], **self.worker.facts()}
        return not why, facts

    def unfinished(self) -> str:
        """Say what an end at once leaves undone; may be asked before the loop is built."""
        return "nothing was begun" if self.worker is None else self.worker.unfinished()

    def _missing(self, worker: Loop) -> Iterable[str]:
        age_s = self._turn_age_s()
        if age_s > self.turn_limit_s:
            yield self._stuck(age_s)
        if worker.stopping:
            yield "stopping"
        if worker.trouble:
            yield f"trying again: {worker.trouble}"
        if not worker.joined:
            yield "no member of the group yet, or its coordinator does not answer"
        yield from worker.missing()

    def _turn_age_s(self) -> float:
        turned_s = None if self.worker is None else self.worker.turned_s
        return self.clock() - (self._begun_s if turned_s is None else turned_s)

    def _stuck(self, age_s: float) -> str:
        return f"the loop has not turned for {age_s:.0f} s, and may take {self.turn_limit_s:.0f} s"
