"""`offkey worker --processes N`: starts N workers, starts again what dies, and ends them together.

What a process's end means:

- It ends with status 2, whenever that is: only the user can mend it. All end, with its reason and its status. Two
  deployments with one `kafka.instance_id` would otherwise take turns at throwing each other out.
- Its first start fails before it was ready: what kept it from starting keeps the others too. All end likewise.
- Anything else, a kill or a bug or a broker that stayed away: it is started again, at once more or less, then at
  intervals that double. A stretch of health sets them back. The others go on; the group gives its partitions to
  them in the meantime, unless its instance id keeps them.

It does no work itself and imports nothing that does, so it costs little memory. The processes run in sessions of
their own, so that Ctrl-C reaches the supervisor alone, which hands one signal on. If it is killed, they notice
(`pipeline.supervised`). What they say on stderr is passed on with their number in front (JSON holds it as a field),
but for the line that a process ends with, which is told once, as what became of it. SIGUSR1 is handed on too.
"""

import asyncio
import logging
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline import logs
from pipeline.config import Settings
from pipeline.cores import cores
from pipeline.errors import ProcessError
from pipeline.own_program import own_program
from pipeline.stopping import SIGNALS
from pipeline.supervised import READY, Place, settings_of

logger = logging.getLogger(__name__)

_MARGIN_S = 2.0
"""How much longer than its own budget a process may take to end before it is killed."""
_OURS = b"offkey: "
"""How the last lines of a process begin, that say why it ends."""
_USERS_MISTAKE = 2


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long to wait before a process is started again."""

    first_s: float = 1.0
    longest_s: float = 30.0
    healthy_s: float = 60.0
    """Ready for so long, a process that dies is started again as if for the first time."""

    def after(self, before_s: float, ready_for_s: float) -> float:
        """Return the next wait; `before_s` is the one before, 0 at first."""
        if before_s == 0 or ready_for_s >= self.healthy_s:
            return self.first_s
        return min(2 * before_s, self.longest_s)


def supervise(config: Path, settings: Settings, processes: int, leave: bool) -> None:
    """Run workers until SIGTERM or Ctrl-C.

    Raises:
        ProcessError: one cannot start, or did not end as it should.
        ConfigError: the settings do not suffice for so many.
    """
    for number in range(processes):
        settings_of(settings, number)
    leaving = ["--leave"] if leave and settings.kafka.instance_id is not None else []
    worker = [sys.executable, *own_program(), "worker", str(config), *leaving]

    def command(place: Place) -> Sequence[str]:
        return [*worker, "--supervised", str(place)]

    there = cores()
    threads = max(there // processes, 1)
    logger.info(
        "%d processes on %d cores; each scores on one thread, and its libraries take %d at most",
        *(processes, there, threads),
    )
    if processes > there:
        logger.warning("%d processes are more than the %d cores; they will wait for each other", processes, there)
    numbered = settings.logs.format == "text"
    Supervisor(command, processes, settings.worker.stop_timeout, threads, numbered=numbered).run()


@dataclass
class _Child:
    """One process, from its start to its end."""

    number: int
    process: Process
    ready_s: float | None = None
    """When it was ready first, by the loop's clock."""
    last_words: list[str] = field(default_factory=list)
    """Why it ends, in its own words."""
    last_line: str = ""
    killed: bool = False
    """It did not end in time, and was made to."""

    @property
    def status(self) -> int:
        """As a shell tells it: 128 and the signal's number for one that a signal ended."""
        code = self.process.returncode
        assert code is not None, "it has not ended"
        return code if code >= 0 else 128 - code

    def end(self) -> str:
        """Say how it ended."""
        code = self.process.returncode or 0
        if self.last_words:
            return "; ".join(self.last_words)
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        return f"{how}, and said last: {self.last_line}" if code > 0 and self.last_line else how


class Supervisor:
    """Keeps so many processes running; `command` gives the command line of one."""

    def __init__(
        self,
        command: Callable[[Place], Sequence[str]],
        processes: int,
        stop_s: float,
        threads: int = 1,
        backoff: Backoff = Backoff(),
        margin_s: float = _MARGIN_S,
        numbered: bool = True,
    ) -> None:
        """`numbered`: lines that are passed on get their process's number in front."""
        self._numbered = numbered
        self._command, self._processes, self._backoff = command, processes, backoff
        self._kill_after_s = stop_s + margin_s
        # What the user has set goes before.
        self._environment = {"OMP_NUM_THREADS": str(threads), **os.environ, "PYTHONUNBUFFERED": "1"}
        self._children: dict[int, _Child] = {}
        self._failed: _Child | None = None
        self._debugs = False
        """Whether all log at level debug, by SIGUSR1."""

    def run(self) -> None:
        """Return when all have ended after a signal, each as it should.

        Raises:
            ProcessError: one cannot start, or did not end as it should.
        """
        asyncio.run(self._run())

    async def _run(self) -> None:
        self._loop, self._ending = asyncio.get_running_loop(), asyncio.Event()
        for number in SIGNALS:
            self._loop.add_signal_handler(number, self._end)
        self._loop.add_signal_handler(signal.SIGUSR1, self._turn_logs)
        ended = await asyncio.gather(*(self._keep(number) for number in range(self._processes)))
        wrong = [child for child in ended if child and not _ended_well(child)]
        if self._failed:
            for child in wrong:
                # What kept others from starting is most likely the same, and is told once.
                if child is not self._failed and child.ready_s is not None:
                    logger.error("process %d: %s", child.number, "; ".join(_words(child)))
            wrong = [self._failed]
        if wrong:
            raise ProcessError(
                "\n".join(f"process {child.number}: {word}" for child in wrong for word in _words(child)),
                wrong[0].status or 1,
            )

    async def _keep(self, number: int) -> _Child | None:
        """Run one process, again and again, until all are to end; return the last, None between two."""
        restarts, wait_s = 0, 0.0
        while not self._ending.is_set():
            child = await self._run_once(Place(number, restarts))
            if self._ending.is_set():
                return child
            if child.status == _USERS_MISTAKE or (restarts == 0 and child.ready_s is None):
                self._failed = child
                self._end()
                return child
            ready_for_s = 0.0 if child.ready_s is None else self._loop.time() - child.ready_s
            wait_s = self._backoff.after(wait_s, ready_for_s)
            restarts += 1
            logger.error("process %d: %s; starting it again in %.1f s", number, child.end(), wait_s)
            try:
                await asyncio.wait_for(self._ending.wait(), wait_s)
            except TimeoutError:
                continue
        return None

    async def _run_once(self, place: Place) -> _Child:
        process = await asyncio.create_subprocess_exec(
            *self._command(place),
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
            start_new_session=True,
            env=self._environment,
        )
        child = self._children[place.number] = _Child(place.number, process)
        logger.info("process %d: started as pid %d", child.number, process.pid)
        if self._ending.is_set():  # While it was started.
            process.terminate()
        try:
            await asyncio.gather(self._follow(child), self._pass_on(child), process.wait())
        finally:
            del self._children[place.number]
            assert process.stdin is not None
            process.stdin.close()
        if self._ending.is_set() and self._failed is None and child.ready_s is not None:
            logger.info("process %d: has ended", child.number)
        return child

    async def _follow(self, child: _Child) -> None:
        """Note when it is ready."""
        assert child.process.stdout is not None
        async for line in _lines(child.process.stdout):
            if line == READY and child.ready_s is None:
                child.ready_s = self._loop.time()
                logger.info("process %d: is ready", child.number)
                if self._debugs:
                    child.process.send_signal(signal.SIGUSR1)
            elif line != READY:
                self._say(child, line)

    async def _pass_on(self, child: _Child) -> None:
        """Say what it says."""
        assert child.process.stderr is not None
        async for line in _lines(child.process.stderr):
            if line.startswith(_OURS):
                child.last_words.append(line.removeprefix(_OURS).decode(errors="replace"))
            else:
                child.last_line = line.decode(errors="replace").strip() or child.last_line
                self._say(child, line)

    def _say(self, child: _Child, line: bytes) -> None:
        number = f"[{child.number}] " if self._numbered else ""
        try:
            # In one piece: a thread that turns the level has a line of its own to say.
            print(f"{number}{line.decode(errors='replace')}\n", end="", file=sys.stderr, flush=True)
        except OSError:
            # Nobody reads it any more; a worker that runs alone goes on then too.
            logger.debug("stderr is closed")

    def _turn_logs(self) -> None:
        """Have all log more, or less again; the signal would end one that is not ready for it."""
        self._debugs = not self._debugs
        logs.turn()
        for child in self._children.values():
            if child.process.returncode is None and child.ready_s is not None:
                child.process.send_signal(signal.SIGUSR1)

    def _end(self) -> None:
        """Ask all to end, and see that they do; called again, hand a further signal on."""
        for child in self._children.values():
            if child.process.returncode is None:
                child.process.terminate()
        if not self._ending.is_set():
            self._ending.set()
            self._loop.call_later(self._kill_after_s, self._kill)

    def _kill(self) -> None:
        for child in self._children.values():
            if child.process.returncode is None:
                child.killed = True
                child.process.kill()


def _ended_well(child: _Child) -> bool:
    # A signal that comes before Python runs ends a process that has begun nothing.
    return child.process.returncode in (0, -signal.SIGTERM)


def _words(child: _Child) -> list[str]:
    if child.killed:
        return ["did not end in its time and was killed; nothing is lost: what is not committed is read again"]
    return child.last_words or [child.end()]


async def _lines(stream: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """Yield lines of any length, without their ends."""
    rest = b""
    while chunk := await stream.read(65_536):
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line
    if rest:
        yield rest
