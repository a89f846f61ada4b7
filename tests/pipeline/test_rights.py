"""Commands on a Kafka that keeps rules: each works with the rights that `deploy/rights.py` lists, and says in one
line which one is missing. What it could not do it does when it has the right again.

With `--every-right` each right is taken away in turn; in a usual run the last of each row that is needed.
"""

import json
from collections.abc import Callable, Iterator

import pytest

from deploy.rights import ALERTS, COMMANDS, CONTROL, FEEDBACK, GROUP, IN, LETTERS, RECEIVER, Command, Right
from pipeline.control import Request, message_of
from tests.commands import Running, only_line, produce, wait_for
from tests.receiving import Hook, Reply
from tests.rights import INCIDENT, SAID, Ground
from tests.secured import SecuredBroker

Run = Callable[..., tuple[int, str, str]]
SERVES = {
    "worker": (GROUP, IN),
    "record": (f"{GROUP}-recorder", IN),
    "schedule": (f"{GROUP}-scheduler", CONTROL),
    "notify": (f"{GROUP}-notify-{RECEIVER}", ALERTS),
}
"""Commands that go on until they are told to stop: the group, and the topic that it reads."""
OPTIONS = {
    "check": ["--json"],
    "feedback": [INCIDENT[:6], "confirmed"],
    "feedback --retract": [SAID[:6]],
    "retrain --snapshots": ["30d"],
    "dead-letters replay": ["--yes"],
}


@pytest.fixture(scope="module")
def same_ground(secured_broker: SecuredBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    # The receiver refuses every alert, for good.
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
        self.ground, self.name = ground, command.name
        self._run, self._logged = run, logged
        kafka = {"delivery": "exactly_once"} if "exactly_once" in command.given else {}
        self.config = ground.configured(retrained="retrain" in command.given, **kafka)

    def does(self) -> str:
        """Have it do its work; return what it said."""
        if self.name in SERVES:
            return self._serves()
        before = self.ground.read(IN)
        status, printed, said = self._call("info")
        assert status == 0, (printed, said)
        if self.name == "check":
            rows = json.loads(printed)
            printed = "".join(f"{row['found']}; {row['remedy']}" for row in rows)
        assert self.ground.read(IN) > before or self.name != "dead-letters replay"
        return printed + said + self._logged.text

    def fails(self) -> str:
        """Have it fail; return its one line."""
        before = self.done()
        status, printed, said = self._call("critical")
        if self.name == "check":
            (wrong,) = [row for row in json.loads(printed) if row["verdict"] == "wrong"]
            assert status == 1
            line = f"{wrong['found']}; {wrong['remedy']}"
        else:
            assert (status, printed) == (2, ""), said
            line = only_line(said)
        assert self.done() == before
        return line

    def done(self) -> list[int]:
        """Return what was committed and written by now."""
        committed = [self.ground.committed(group) for group, _ in SERVES.values()]
        return [*committed, *map(self.ground.read, (IN, ALERTS, LETTERS, FEEDBACK, CONTROL))]

    def reached(self) -> Callable[[], bool]:
        """Give it one thing more to do; return what tells that it is done, and all before."""
        group, topic = SERVES[self.name]
        if topic == ALERTS:
            self.ground.alert()
        else:
            request = message_of(Request("machines", 0, "me@here"), "").value
            payload = request if topic == CONTROL else b"no JSON"
            produce(self.ground.open, self.ground.named(topic), [(b"machines", payload)])
        end = self.ground.end(topic)
        return lambda: self.ground.committed(group) >= end

    def _call(self, level: str) -> tuple[int, str, str]:
        """Run it in this process, which it has to end by itself in."""
        words = self.name.split()
        path = [word for word in words if not word.startswith("--")]
        asked = [*path, str(self.config), *words[len(path) :], *OPTIONS.get(self.name, [])]
        self._logged.clear()
        self._logged.set_level("INFO")
        return self._run("--log-level", level, *asked)

    def _serves(self) -> str:
        letters = self.ground.read(LETTERS)
        reached, leaving = self.reached(), ["--leave"] if self.name == "worker" else []
        with Running(self.config, "info", self.name, *leaving) as running:
            wait_for(reached, running)
            said = running.end()
        assert running.process.returncode == 0, said
        if self.name == "worker":
            assert self.ground.read(ALERTS) > 1
        if self.name in ("worker", "notify"):
            assert self.ground.read(LETTERS) > letters
        if self.name == "schedule":
            assert "training (request): " in said
        return said


def rights_of(command: Command) -> tuple[Right, ...]:
    """Return all the rights that a row of the table stands for: of an `and with` those before it as well."""
    first = next(each for each in COMMANDS if each.name == command.name)
    return command.rights if first is command else (*first.rights, *command.rights)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("command", COMMANDS, ids=lambda each: f"{each.name} {each.given}".strip())
def test_each_right_is_needed_and_no_other(
    command: Command,
    ground: Ground,
    run: Run,
    caplog: pytest.LogCaptureFixture,
    request: pytest.FixtureRequest,
) -> None:
    at_work, rights, taken = AtWork(ground, run, caplog, command), rights_of(command), command.rights
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
SERVING = [WORKER, *(each for each in COMMANDS if each.name in SERVES and each.name != "worker")]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "taken" not in metafunc.fixturenames:
        return
    cases = [(command, right) for command in SERVING for right in rights_of(command) if not right.optional]
    if not metafunc.config.getoption("every_right"):
        cases = [(command, right) for command, right in cases if command is WORKER and right.resource == "group"]
    # That a worker loses the right to alert is tested in `test_failures`: it has to have something to alert on.
    cases = [case for case in cases if case[0] is not WORKER or case[1].name != ALERTS]
    told = [f"{command.name} {right.operation} {right.name}" for command, right in cases]
    metafunc.parametrize(("command", "taken"), cases, ids=told)


@pytest.mark.timeout(400)
def test_a_right_that_is_taken_away_ends_what_runs(
    command: Command, taken: Right, ground: Ground, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    """It has committed nothing since, and whoever goes on with the right does that."""
    at_work = AtWork(ground, run, caplog, command)
    ground.grant(*rights_of(command))
    reached = at_work.reached()
    with Running(at_work.config, "critical", command.name) as running:
        wait_for(reached, running)
        ground.take(taken)
        before, reached = ground.read(LETTERS), at_work.reached()
        said = running.process.communicate(timeout=90)[1]
    assert running.process.returncode == 2, said
    line = only_line(said)
    if taken.operation == "Write" and taken.resource == "topic":
        assert line.endswith(f"no right to write to topic {ground.named(taken.name)}; grant it to this user")
    else:
        assert line == ground.named(taken.without)
    assert not reached()
    assert ground.read(LETTERS) == before or command is not WORKER
    ground.grant(taken)
    at_work.does()
    assert reached()
