"""What a process says on its standard error while it runs: a line for each event, as text or as JSON.

A line of JSON has `time`, `level`, `logger` and `message`, and what the event is about as fields of their own:
`stream`, `topic`, `partition`, `offset`, `last_offset`, `version`, `receiver`, and of a training `champion`,
`cause` and `outcome`, as far as it has them. Text says the same in its message.

Of lines of one kind a few go through each minute, and the next one tells how many did not; at level `debug` all do.
SIGUSR1 turns that level on and off for our own lines while the process runs.
"""

import json
import logging
import signal
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, TextIO

if TYPE_CHECKING:
    from pipeline.protocols import TopicPartition

logger = logging.getLogger(__name__)

Format = Literal["text", "json"]
_TEXT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"
_FIELDS = "fields"
_WINDOW_S = 60.0
_A_WINDOW = 20
"""Lines of one kind that go through in one window."""
_KINDS = 1000
"""Kinds that are remembered, those last seen."""


def about(partition: "TopicPartition | None" = None, **fields: object) -> dict[str, Any]:
    """Return what an event is about, to be given to a logger as `extra`."""
    place = {} if partition is None else {"topic": partition.topic, "partition": partition.partition}
    return {_FIELDS: {**place, **fields}}


class _Stderr(logging.StreamHandler[TextIO]):
    """Our own handler, for there may be others."""


def begin(level: int) -> None:
    """Have the process log on its standard error, as text until `use` says otherwise."""
    root = logging.getLogger()
    if not root.handlers:
        handler = _Stderr(sys.stderr)
        handler.setFormatter(logging.Formatter(_TEXT))
        root.addHandler(handler)
        root.setLevel(level)
    # The client reports each lost connection several times; what matters of it comes as one error of ours.
    logging.getLogger("kafka").setLevel(logging.CRITICAL if level > logging.DEBUG else level)


def use(form: Format, process: int | None = None) -> None:
    """Log in a form from now on, and let SIGUSR1 turn the level; for commands that run until they are stopped.

    Called on the main thread. `process` is the number of one of several, which lines of JSON then hold.
    """
    for handler in logging.getLogger().handlers:
        if isinstance(handler, _Stderr):
            if form == "json":
                handler.setFormatter(JsonLines(process))
            handler.addFilter(Repeats())
    # On a thread: the main one may be in the midst of writing a line, and cannot write another within it.
    signal.signal(signal.SIGUSR1, lambda *_: threading.Thread(target=turn, name="logs", daemon=True).start())


def turn() -> None:
    """Log all that we say ourselves, or again what the command line asks for."""
    ours = logging.getLogger("pipeline")
    ours.setLevel(logging.NOTSET if ours.level else logging.DEBUG)
    level = ours.getEffectiveLevel()
    logger.log(max(level, logging.INFO), "by SIGUSR1 the level is %s now", logging.getLevelName(level).lower())


class JsonLines(logging.Formatter):
    """One JSON object a line."""

    def __init__(self, process: int | None = None) -> None:
        super().__init__()
        self._process = {} if process is None else {"process": process}

    def format(self, record: logging.LogRecord) -> str:
        said: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            **self._process,
            "message": record.getMessage(),
            **getattr(record, _FIELDS, {}),
        }
        if record.exc_info:
            said["exception"] = self.formatException(record.exc_info)
        return json.dumps(said, default=str)


@dataclass(slots=True)
class _Kind:
    """Lines that come of one call of a logger."""

    since_s: float
    told: int = 0
    kept: int = 0


class Repeats(logging.Filter):
    """Lets only so many lines of one kind through each minute, and tells of the others with the next one."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._kinds: OrderedDict[tuple[str, str], _Kind] = OrderedDict()

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno <= logging.DEBUG:
            return True
        key, now_s = (record.name, str(record.msg)), self._clock()
        kind = self._kinds.setdefault(key, _Kind(now_s))
        self._kinds.move_to_end(key)
        if len(self._kinds) > _KINDS:
            self._kinds.popitem(last=False)
        kept = 0
        if now_s - kind.since_s >= _WINDOW_S:
            kept = kind.kept
            kind.since_s, kind.told, kind.kept = now_s, 0, 0
        if kind.told >= _A_WINDOW:
            kind.kept += 1
            return False
        kind.told += 1
        if kept:
            record.msg = f"{record.getMessage()} (and {kept} more like it before)"
            record.args = None
        return True
