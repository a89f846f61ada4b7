"""Commands on a Kafka that keeps rules: each works with the rights that `deploy/rights.py` lists, and says in one
line which one is missing. What it could not do it does when it has the right again.

With `--every-right` each right is taken away in turn; in a usual run the last of each row that is needed.
"""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deploy.rights import ALERTS, COMMANDS, CONTROL, GROUP, IN, KEYS, LETTERS, RECEIVER, Command, Right
from pipeline.control import Request, message_of
from tests.commands import Running, events, only_line, produce, wait_for
from tests.receiving import Hook, Reply
from tests.rights import INCIDENT, SAID, Ground
from tests.secured import SecuredBroker

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def same_ground(secured_broker: SecuredBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    with Hook(usual=Reply(400)) as hook:
        made = Ground(tmp_path_factory.mktemp("rights"), secured_broker, hook)
        yield made
        made.close()


@pytest.fixture
def ground(same_ground: Ground) -> Ground:
    """All that commands work on, which others may have worked on before, for another user."""
    same_ground.begin_anew()
    return same_ground


class AtWork:
    """A command that is run by who has all the rights that it needs, or one less."""

    def __init__(self, ground: Ground, run: Run, logged: pytest.LogCaptureFixture, command: Command) -> None:
        self.ground, self.run, self.name = ground, run, command.name
        self._logged = logged
        kafka = {"delivery": "exactly_once"} if "exactly_once" in command.given else {}
        self.config = str(ground.configured(retrained=command.name == "check" and "retrain" in command.given, **kafka))
        self.exactly_once = bool(kafka)

    def does(self) -> str:
        """Have it do its work; return what it said."""
        work: Callable[[], str] = getattr(self, f"_{re.sub('[ -]+', '_', self.name)}")
        return work()

    def fails(self) -> str:
        """Have it fail; return its one line."""
        before = self.progress()
        if self.name == "check":
            status, printed, _ = self._call()
            (wrong,) = [row for row in json.loads(printed) if row["verdict"] == "wrong"]
            assert status == 1
            line = f"{wrong['found']}; {wrong['remedy']}"
        else:
            status, printed, said = self._call("critical")
            line = only_line(said)
            assert (status, printed) == (2, ""), said
        assert self.progress() == before
        return line

    def progress(self) -> dict[str, int]:
        """Return what was committed and written by now."""
        groups = ("", "-recorder", "-scheduler", f"-notify-{RECEIVER}")
        topics = (key for key in KEYS if "topic" in key)
        return {
            **{group: self.ground.committed(f"{{kafka.group_id}}{group}") for group in groups},
            **{topic: self.ground.records(f"{{{topic}}}") for topic in topics},
        }

    def _call(self, level: str = "info") -> tuple[int, str, str]:
        words = self.name.split()
        options = {
            "check": ["--json"],
            "feedback": [INCIDENT[:6], "confirmed"],
            "feedback --retract": [SAID[:6]],
            "retrain --snapshots": ["30d"],
            "dead-letters replay": ["--yes"],
        }
        path = words.index(words[-1] if not words[-1].startswith("--") else words[0]) + 1
        self._logged.clear()
        return self.run(
            "--log-level", level, *words[:path], self.config, *words[path:], *options.get(self.name, [])
        )

    def _ends(self) -> str:
        status, printed, said = self._call()
        assert status == 0, said
        return printed + said + self._logged.text

    def _serves(self, done: Callable[[], bool], *options: str) -> str:
        with Running(Path(self.config), "info", self.name, *options) as running:
            wait_for(done, running)
            said = running.end()
        assert running.process.returncode == 0, said
        return said

    def _check(self) -> str:
        status, printed, said = self._call()
        rows = json.loads(printed)
        assert not [row for row in rows if row["verdict"] == "wrong"]
        assert status == 0
        return self._logged.text + "".join(f"{row['found']}; {row['remedy']}" for row in rows)

    def _worker(self) -> str:
        # What it did before is committed, and it begins there.
        produce(self.ground.open, self.ground.named(IN), [(b"a", b"no JSON")])
        before, end = self.progress(), self.ground.end(IN)
        said = self._serves(lambda: self.ground.committed(GROUP) >= end, "--leave")
        after = self.progress()
        assert after["topics.alerts"] > 1
        assert after["topics.dead_letters"] > before["topics.dead_letters"]
        return said

    def _record(self) -> str:
        end = self.ground.end(IN)
        return self._serves(lambda: self.ground.committed(f"{GROUP}-recorder") >= end)

    def _schedule(self) -> str:
        produce(self.ground.open, self.ground.named(CONTROL), [(b"machines", REQUEST)])
        end = self.ground.end(CONTROL)
        said = self._serves(lambda: self.ground.committed(f"{GROUP}-scheduler") >= end)
        assert "training (request): " in said
        return said

    def _notify(self) -> str:
        before, end = self.progress(), self.ground.end(ALERTS)
        said = self._serves(lambda: self.ground.committed(f"{GROUP}-notify-{RECEIVER}") >= end)
        # The receiver refuses all.
        told = events(self.ground.open, self.ground.named(ALERTS))
        assert self.progress()["topics.dead_letters"] == before["topics.dead_letters"] + len(told)
        return said

    def _dead_letters_replay(self) -> str:
        before = self.progress()["streams.*.topic"]
        said = self._ends()
        assert self.progress()["streams.*.topic"] > before
        return said

    _train = _retrain = _retrain_snapshots = _retrain_now = _ends
    _feedback = _feedback_retract = _feedback_list = _dead_letters_list = _ends


REQUEST = message_of(Request("machines", 0, "me@here"), "").value


def base_of(command: Command) -> tuple[Right, ...]:
    """Return all the rights that a row of the table stands for: of an `and with` those before it as well."""
    first = next(each for each in COMMANDS if each.name == command.name)
    return command.rights if first is command else (*first.rights, *command.rights)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda each: f"{each.name} {each.given}".strip())
def test_each_right_is_needed_and_no_other(
    command: Command,
    ground: Ground,
    run: Run,
    caplog: pytest.LogCaptureFixture,
    request: pytest.FixtureRequest,
) -> None:
    at_work, rights = AtWork(ground, run, caplog, command), base_of(command)
    taken = command.rights
    if not request.config.getoption("every_right"):
        taken = tuple(right for right in taken if not right.optional)[-1:]
    ground.grant(*rights)
    for right in taken:
        ground.take(right)
        wanted = ground.named(right.without)
        if right.optional:
            assert wanted in at_work.does()
        else:
            assert at_work.fails() == wanted
        ground.grant(right)
    said = at_work.does()
    for right in rights:
        assert not right.optional or ground.named(right.without) not in said


WORKER = next(each for each in COMMANDS if each.name == "worker" and "exactly_once" in each.given)
TAKEN = [right for right in base_of(WORKER) if not right.optional and right.name != ALERTS]
"""Of the alerts' topic `test_failures` tells."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "taken" in metafunc.fixturenames:
        # Of topics one is enough for a usual run.
        every = metafunc.config.getoption("every_right")
        some = TAKEN if every else [right for right in TAKEN if right.resource != "topic"]
        metafunc.parametrize("taken", some, ids=lambda each: f"{each.operation} {each.name}")


def test_a_right_that_is_taken_away_ends_the_worker_that_runs(
    taken: Right, ground: Ground, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    """It has committed nothing since, and whoever goes on with the right does that."""
    at_work = AtWork(ground, run, caplog, WORKER)
    ground.grant(*base_of(WORKER))
    end = ground.end(IN)
    with Running(Path(at_work.config), "critical", "worker") as running:
        wait_for(lambda: ground.committed(GROUP) >= end, running)
        offsets, letters = ground.committed(GROUP), ground.read(LETTERS)
        ground.take(taken)
        produce(ground.open, ground.named(IN), [(b"a", b"no JSON")])
        said = running.process.communicate(timeout=90)[1]
    assert running.process.returncode == 2, said
    line = only_line(said)
    if taken.operation == "Write" and taken.resource == "topic":
        assert line.endswith(f": no right to write to topic {ground.named(taken.name)}; grant it to this user")
    else:
        assert line == ground.named(taken.without)
    assert (ground.committed(GROUP), ground.read(LETTERS)) == (offsets, letters)
    ground.grant(taken)
    at_work.does()
    # Another record that is rejected comes with it.
    assert ground.read(LETTERS) == letters + 2
