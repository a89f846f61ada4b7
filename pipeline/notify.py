"""All receivers of one process: a thread for each, and what the probes hear of them together.

They share nothing but the process, so that none waits for another. One that cannot go on (the broker is away for
too long, a right is missing) ends all, with its reason: whoever starts the process again mends all of them.
"""

import logging
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from pipeline.logs import about
from pipeline.notifier import Notifier
from pipeline.stopping import Stop

logger = logging.getLogger(__name__)

_SHARE = 0.9
"""Of a stop's time that the threads may take."""


@dataclass
class Notify:
    """Runs notifiers, each on a thread of its own."""

    notifiers: Sequence[Notifier]
    _failures: list[BaseException] = field(default_factory=list)
    _stop: Stop = field(default_factory=Stop)

    @property
    def turned_s(self) -> float | None:
        """When the loop that is furthest behind last came round."""
        turns = [notifier.turned_s for notifier in self.notifiers]
        return None if None in turns else min(turn for turn in turns if turn is not None)

    @property
    def stopping(self) -> bool:
        return self._stop.is_set()

    @property
    def trouble(self) -> str:
        return "; ".join(f"receiver {each.name}: {each.trouble}" for each in self.notifiers if each.trouble)

    @property
    def joined(self) -> bool:
        return all(notifier.joined for notifier in self.notifiers)

    def facts(self) -> dict[str, object]:
        """Return what the probes tell beside the verdict; may be asked on another thread."""
        return {"receivers": {each.name: {"waiting": each.waiting} for each in self.notifiers}}

    def missing(self) -> Iterator[str]:
        """Yield what keeps receivers from being told; may be asked on another thread."""
        for notifier in self.notifiers:
            yield from (f"receiver {notifier.name}: {what}" for what in notifier.missing())

    def unfinished(self) -> str:
        """Say what an end at once leaves undone; may be asked on another thread."""
        waiting = sum(notifier.waiting for notifier in self.notifiers)
        return f"{waiting:,} alerts are not told yet; nothing is lost, the next start tells them"

    def run(self, stop: Stop) -> None:
        """Tell all receivers until `stop` is set, and end within its budget.

        Raises:
            OffkeyError: the first reason for which one of them cannot go on.
        """
        self._stop = stop
        stop.begun = True
        threads = [
            threading.Thread(target=self._run, args=(notifier,), name=notifier.name, daemon=True)
            for notifier in self.notifiers
        ]
        for thread in threads:
            thread.start()
        stop.wait()
        for thread, notifier in zip(threads, self.notifiers, strict=True):
            thread.join(stop.left_s(_SHARE))
            if thread.is_alive():
                said = about(receiver=notifier.name)
                logger.warning(
                    "receiver %s: still waits for an answer; %s", notifier.name, self.unfinished(), extra=said
                )
        if self._failures:
            raise self._failures[0]

    def _run(self, notifier: Notifier) -> None:
        try:
            notifier.run(self._stop)
        except BaseException as error:
            # Whatever it is: raised again on the main thread, which is who ends the process.
            self._failures.append(error)
            self._stop.set()
