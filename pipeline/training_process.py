"""One training in a process of its own: how the scheduler starts, watches and ends it, and its own side of it.

It is `offkey retrain CONFIG STREAM --json`, with the lowest priority (nice 19): what scores on the machine goes
first. Its one line on standard output is its result. What it says on standard error is passed on, text with the
stream's name in front, but for the line that it ends with, which is told as what became of it.

Its tie to the scheduler is the standard input, as that of a worker to its supervisor (`pipeline.supervised`): when
the scheduler is gone, however that came, the file ends, and the training with it, where it stands. Stopped in
between two writes it leaves no half version, and what it has learned is kept for the next one.

Its memory is what of it lies in memory (VmRSS of /proc), looked at several times a second by the scheduler. A limit
that the kernel keeps would count what is only reserved: torch maps gigabytes that it never touches (RLIMIT_AS), and
its allocator takes arenas ahead of need (RLIMIT_DATA). Between two looks it may exceed the limit. Without /proc
nothing is watched; `offkey schedule` says so once, as it starts.
"""

import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from pipeline.logs import about

logger = logging.getLogger(__name__)

NICE = 19
_PROC = Path("/proc")
_OURS = "offkey: "
"""How the last lines of a process begin, that say why it ends."""
_MOST_WORDS = 5


@dataclass(frozen=True, slots=True)
class Ended:
    """How a training ended."""

    status: int
    """As a shell tells it: 128 and the signal's number for one that a signal ended."""
    result: Mapping[str, Any] | None
    """What it came to; None: it has not said it."""
    why: str
    """Its last words, where it failed."""


class TrainingProcess:
    """A training that runs."""

    def __init__(self, stream: str, command: Sequence[str]) -> None:
        """Start it.

        Raises:
            OSError: the machine has no room for another process.
        """
        self._stream = stream
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            # Ctrl-C reaches the scheduler alone.
            start_new_session=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        self._told: list[bytes] = []
        self._words: list[str] = []
        self._last = ""
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._readers = [
            threading.Thread(target=self._keep, args=(self._process.stdout,), name="result", daemon=True),
            threading.Thread(target=self._pass_on, args=(self._process.stderr,), name="words", daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def ended(self) -> Ended | None:
        """Return how it ended; None while it runs. Never blocks for long."""
        if self._process.poll() is None:
            return None
        return self._ended()

    def memory_bytes(self) -> int | None:
        """Return what of it lies in memory; None where nothing tells."""
        try:
            status = (_PROC / str(self._process.pid) / "status").read_text()
        except OSError:
            return None
        kept = [line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:")]
        return int(kept[0]) * 1024 if kept else None

    def kill(self) -> None:
        """End it where it stands; it has ended when this returns."""
        self._process.kill()
        self._process.wait()
        self._ended()

    def _ended(self) -> Ended:
        for reader in self._readers:
            reader.join()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            assert pipe is not None
            pipe.close()
        code = self._process.returncode
        status = code if code >= 0 else 128 - code
        lines = b"".join(self._told).splitlines()
        try:
            result = json.loads(lines[-1]) if lines else None
        except ValueError as error:
            said = about(stream=self._stream)
            logger.warning(
                "stream %s: the result of its training cannot be read: %s", self._stream, error, extra=said
            )
            result = None
        how = f"ended by signal {-code}" if code < 0 else f"ended with status {code}"
        why = "; ".join(self._words[-_MOST_WORDS:]) or (
            f"{how}, and said last: {self._last}" if self._last else how
        )
        return Ended(status, result if isinstance(result, dict) else None, why)

    def _keep(self, pipe: IO[bytes]) -> None:
        while chunk := pipe.read1(65_536):  # type: ignore[attr-defined]
            self._told.append(chunk)

    def _pass_on(self, pipe: IO[bytes]) -> None:
        for line in pipe:
            text = line.decode(errors="replace").rstrip()
            if text.startswith(_OURS):
                self._words.append(text.removeprefix(_OURS))
            elif text:
                self._last = text
                try:
                    # A line of JSON says itself of which stream it is.
                    said = text if text.startswith("{") else f"[{self._stream}] {text}"
                    # In one piece: the scheduler's own lines are of another thread, and might come in between.
                    print(f"{said}\n", end="", file=sys.stderr, flush=True)
                except OSError:
                    logger.debug("stderr is closed")


def memory_is_told() -> bool:
    """Tell whether this machine says what of a process lies in memory."""
    return (_PROC / "self" / "status").exists()


def tie() -> None:
    """Be such a process: give way to all others, and end with who started us."""
    os.nice(NICE)
    threading.Thread(target=_end_with_input, name="scheduler", daemon=True).start()


def _end_with_input() -> None:
    while os.read(0, 1024):
        pass
    os._exit(1)
