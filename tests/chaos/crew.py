"""Worker processes and who looks after them: what ends is started again, as an orchestrator does it.

A process that ends unasked has to have a reason: a fault that lets it. One that ends with a traceback, by a signal
that nobody sent, or while nothing was wrong, is a bug of the worker's, whatever its output looks like later.
"""

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

COMMAND = "from pipeline.cli import main; main()"
_BEGUN = "scoring "
"""What a worker says once it has loaded its models."""
_FENCED = "another process has the same kafka.instance_id"
_KEPT_LINES = 400
_BACKOFF_S = 0.3
_STOP_S = 40.0
"""A stop takes ten seconds at most by its own budget; the rest is for a machine that is busy."""


class WorkerProcess:
    """One `offkey worker CONFIG`, or another command, as users run it, with what it said."""

    def __init__(
        self,
        config: Path,
        name: str,
        environment: Mapping[str, str],
        options: Sequence[str] = (),
        code: str = COMMAND,
        command: str = "worker",
    ):
        self.name = name
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, "--log-level", "info", command, str(config), *options],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
            env={**_plain_environment(), **environment},
        )
        self.pid = self.process.pid
        self.said: deque[str] = deque(maxlen=_KEPT_LINES)
        # A pipe and no file: a file's size may be limited on purpose.
        self._reader = threading.Thread(target=self._read, name=f"stderr of {name}", daemon=True)
        self._reader.start()

    @property
    def status(self) -> int | None:
        """Exit status, negative for a signal; None while it runs."""
        status: int | None = self.process.poll()
        if status is not None:
            self._reader.join(5)
        return status

    @property
    def text(self) -> str:
        return "".join(self.said)

    @property
    def begun(self) -> bool:
        """Whether it has loaded its models."""
        return _BEGUN in self.text

    def signal(self, number: signal.Signals) -> None:
        if self.process.poll() is None:
            self.process.send_signal(number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self.process.wait()

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as lines:
            self.said.extend(lines)


@dataclass
class Slot:
    """One place in the crew: the process in it, and whether there should be one."""

    name: str
    wanted: bool = True
    process: WorkerProcess | None = None
    asked_to_stop_s: float | None = None
    restart_s: float = 0.0
    restarts: int = 0


@dataclass
class Crew:
    """The workers of one group."""

    config: Path
    named: bool
    """Each has an instance id that its successor has again."""
    leave: bool
    environment: Mapping[str, str]
    code: str = COMMAND
    slots: list[Slot] = field(default_factory=list)
    zombies: list[WorkerProcess] = field(default_factory=list)
    """Processes that were replaced while they were frozen, and have been woken since or will be."""
    excuse: str = ""
    """The fault by which a process may end just now; "" for none."""
    file_bytes: int | None = None
    """Files longer than this cannot be written."""
    told: list[str] = field(default_factory=list)
    """What has happened, a line each."""
    wrong: list[str] = field(default_factory=list)
    """Ends that nothing explains."""
    clock: Callable[[], float] = time.monotonic

    def add(self) -> Slot:
        slot = Slot(f"replica-{len(self.slots)}")
        self.slots.append(slot)
        self._start(slot)
        return slot

    @property
    def present(self) -> list[Slot]:
        """Those that work, or will again."""
        return [slot for slot in self.slots if slot.wanted]

    def look_after(self) -> None:
        """See what has ended, and start it again."""
        for slot in self.slots:
            process = slot.process
            if process is None:
                if slot.wanted and self.clock() >= slot.restart_s:
                    self._start(slot)
                continue
            status = process.status
            if status is None:
                self._hurry(slot)
                continue
            self._judge(slot, process, status)
            slot.process = None
            slot.restart_s = self.clock() + _BACKOFF_S
        for zombie in [each for each in self.zombies if each.status is not None]:
            self.zombies.remove(zombie)
            self.note(f"{zombie.name}: the one that was replaced ended with {zombie.status}")
            if "Traceback" in zombie.text:
                self.wrong.append(f"{zombie.name}, replaced: {zombie.text}")

    def note(self, what: str) -> None:
        """Keep what happens, with the time, for a report."""
        self.told.append(f"{datetime.now():%H:%M:%S.%f}"[:-3] + f" {what}")

    def kill(self, slot: Slot) -> None:
        """End it at once; it is started again."""
        if slot.process is not None:
            slot.process.kill()
            self._note_restart(slot, "killed")

    def stop(self, slot: Slot) -> None:
        """Ask it to end, for good."""
        slot.wanted = False
        if slot.process is not None:
            slot.asked_to_stop_s = self.clock()
            slot.process.signal(signal.SIGTERM)

    def replace(self, slot: Slot) -> WorkerProcess:
        """Start another one in the place of a process that does not answer; return the old one."""
        old = slot.process
        assert old is not None
        self.zombies.append(old)
        self.note(f"{slot.name} is replaced by another process")
        self._start(slot)
        return old

    def limit_files(self, size_bytes: int | None) -> None:
        """Have none of them write files longer than this; None: no limit."""
        self.file_bytes = size_bytes
        for slot in self.slots:
            if slot.process is not None:
                self._limit(slot.process)

    def tails(self) -> str:
        """Return the last lines of each that runs, for a report."""
        there = [slot.process for slot in self.slots if slot.process is not None]
        parts = [f"--- {process.name}\n{''.join(list(process.said)[-40:])}" for process in there]
        parts += [f"--- {each.name}, replaced\n{''.join(list(each.said)[-40:])}" for each in self.zombies]
        return "\n".join(parts)

    def close(self) -> None:
        for process in [*self.zombies, *(slot.process for slot in self.slots if slot.process is not None)]:
            process.kill()

    def _start(self, slot: Slot) -> None:
        environment = {**self.environment}
        options = ["--leave"] if self.leave else []
        if self.named:
            environment["OFFKEY_KAFKA__INSTANCE_ID"] = slot.name
        slot.process = WorkerProcess(self.config, slot.name, environment, options, self.code)
        slot.asked_to_stop_s = None
        self._limit(slot.process)

    def _limit(self, process: WorkerProcess) -> None:
        if process.process.poll() is None:
            _, hard = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
            soft = hard if self.file_bytes is None else self.file_bytes
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (soft, hard))

    def _hurry(self, slot: Slot) -> None:
        """A stop that takes longer than it may is wrong; it ends all the same."""
        if slot.asked_to_stop_s is not None and self.clock() - slot.asked_to_stop_s > _STOP_S:
            assert slot.process is not None
            self.wrong.append(f"{slot.name} did not stop within {_STOP_S:.0f} s: {slot.process.text}")
            slot.process.kill()

    def _judge(self, slot: Slot, process: WorkerProcess, status: int) -> None:
        """Tell ends that have a reason from those that have none."""
        last = process.said[-1].strip() if process.said else ""
        # Of a process and its successor the one that joins last stays, be it the zombie.
        fenced = _FENCED in last and any(zombie.name == slot.name for zombie in self.zombies)
        if slot.asked_to_stop_s is not None:
            self.note(f"{slot.name} stopped with {status}")
            # Before it has begun there is nothing to end in order: Python's own way of ending has to do.
            unbegun = status == -signal.SIGTERM and not process.begun
            explained = status == 0 or unbegun or fenced or bool(self.excuse)
        else:
            self._note_restart(slot, f"ended with {status} ({last})")
            explained = status in (1, 2) and last.startswith("offkey: ") and (fenced or bool(self.excuse))
        if not explained or "Traceback" in process.text:
            self.wrong.append(f"{slot.name} ended with {status}, excuse: {self.excuse!r}: {process.text}")

    def _note_restart(self, slot: Slot, what: str) -> None:
        slot.restarts += 1
        self.note(f"{slot.name} {what}")
        if what == "killed":
            slot.process = None
            slot.restart_s = self.clock() + _BACKOFF_S


def _plain_environment() -> dict[str, str]:
    """Return ours, but for what has child processes measured, which is lost in a kill and slows a start."""
    kept = {name: text for name, text in os.environ.items() if not name.startswith(("COVERAGE", "OFFKEY_"))}
    return {**kept, "OMP_NUM_THREADS": "1"}
