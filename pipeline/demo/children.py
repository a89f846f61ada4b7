"""Child processes of the demo: started in a session of their own, ended by their own pid, whatever happens."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from pipeline.errors import OffkeyError

_END_S = 15.0

Child = subprocess.Popen[str]


def offkey(*words: str) -> list[str]:
    """Return the command line of an `offkey` command under this very Python."""
    return [sys.executable, "-c", "from pipeline.cli import main; main()", *words]


def module(name: str, *words: str) -> list[str]:
    """Return the command line of a module run as a program."""
    return [sys.executable, "-m", name, *words]


@contextmanager
def running(command: Sequence[str], log: Path, **settings: str) -> Iterator[Child]:
    """Run a command beside us; its stdout is ours to read, its stderr goes to `log`. It ends with the block.

    `settings` are environment variables of its own.
    """
    with log.open("w") as errors:
        # A session of its own: Ctrl-C reaches the demo alone, which then ends its children in order.
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
            # One thread each: models this small gain little from two, and lose much where others compute too.
            env={"OMP_NUM_THREADS": "1", **os.environ, "PYTHONUNBUFFERED": "1", **settings},
        )
    try:
        yield child
    finally:
        end(child)


def end(child: Child) -> None:
    """Ask a child to end, and make it where it does not."""
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(timeout=_END_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
    if child.stdout is not None:
        child.stdout.close()


def finish(child: Child, what: str, log: Path) -> None:
    """Wait for a child that ends by itself.

    Raises:
        OffkeyError: it failed.
    """
    if child.wait() != 0:
        raise failed(child, what, log)


def failed(child: Child, what: str, log: Path) -> OffkeyError:
    """Return the error that says how a child failed."""
    said = log.read_text().strip().splitlines()
    last = said[-1] if said else "it said nothing"
    return OffkeyError(f"{what} ended with status {child.returncode}: {last} (all it said is in {log})")


@contextmanager
def sigterm_ends_us() -> Iterator[None]:
    """Make SIGTERM leave the block as an exception does, so that children are ended."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
