"""Which rights of Kafka each command needs, at the least; `rights.md` and its test are made from this.

Kafka grants to describe what one may read or write, so that is named only where nothing else is needed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

KEYS = {
    "streams.*.topic": "metrics",
    "topics.alerts": "offkey.alerts",
    "topics.dead_letters": "offkey.dead-letters",
    "topics.feedback": "offkey.feedback",
    "topics.control": "offkey.control",
    "kafka.group_id": "offkey",
    "kafka.instance_id": "replica-0",
    "notify.receivers.*": "pager",
}
"""What names are made of: keys of the configuration, and what those are that nobody has changed."""
IN, ALERTS, LETTERS, FEEDBACK, CONTROL, GROUP, INSTANCE, RECEIVER = (f"{{{key}}}" for key in KEYS)


@dataclass(frozen=True)
class Right:
    """One rule that allows something to a user."""

    resource: Literal["topic", "group", "transactional-id"]
    name: str
    operation: Literal["Read", "Write", "Describe", "DescribeConfigs"]
    why: str
    without: str
    """What is said where it is missing."""
    prefixed: bool = False
    optional: bool = False
    """The command works without, but for what it says."""


@dataclass(frozen=True)
class Command:
    name: str
    rights: tuple[Right, ...]
    given: str = ""
    """Where it needs them."""


def filled(template: str, names: Mapping[str, str] = KEYS) -> str:
    """Return a name or a text with the configuration's own names in place of its keys."""
    for key, name in names.items():
        template = template.replace(f"{{{key}}}", name)
    return template


def _read(topic: str, why: str) -> Right:
    return Right("topic", topic, "Read", why, f"topic {topic}: no right to read; grant it to this user")


def _write(topic: str, why: str) -> Right:
    return Right("topic", topic, "Write", why, f"topic {topic}: no right to write; grant it to this user")


def _configs(topic: str, why: str, setting: str) -> Right:
    return Right(
        "topic",
        topic,
        "DescribeConfigs",
        why,
        f"{setting} is not known of topic {topic}: no right to describe configs; grant it to this user",
        optional=True,
    )


def _group(suffix: str = "", shown: str | None = None) -> Right:
    """Return the right to a group; with `shown` in place of a suffix, to all that begin as the suffix does."""
    said = f"group {GROUP}{shown or suffix}: no right to read; grant it to this user"
    why = "to share the partitions, and to commit"
    return Right("group", GROUP + suffix, "Read", why, said, prefixed=shown is not None)


def _spans(topic: str, why: str) -> Right:
    said = f"topic {topic} is not there, or this user may not see it: {why}"
    return Right("topic", topic, "Read", "to leave out what incidents teach wrong", said, optional=True)


_READS = _read(IN, "its records")
_SPANS = (
    _spans(ALERTS, "no span of an incident is left out"),
    _spans(FEEDBACK, "what was said of incidents does not count"),
)
_TRANSACTIONS = Right(
    "transactional-id",
    f"{GROUP}/",
    "Write",
    "transactions, each process by an id of its own",
    f"transaction {GROUP}/{INSTANCE}: no right to write by that transactional id; grant it to this user",
    prefixed=True,
)
_WORKER = (
    _READS,
    _write(ALERTS, "what it alerts on"),
    _write(LETTERS, "what it rejects"),
    _group(),
    Right(
        "topic",
        FEEDBACK,
        "Read",
        "to hear feedback",
        f"topic {FEEDBACK} is not there, or this user may not see it: no feedback is heard",
        optional=True,
    ),
)
_CHECK = (
    _READS,
    _write(ALERTS, "as the worker"),
    _write(LETTERS, "as the worker"),
    replace(
        _group(),
        operation="Describe",
        why="what the group has committed",
    ),
    replace(
        _read(FEEDBACK, "as the worker"),
        without=f"topic {FEEDBACK}: no right to read; to use `offkey feedback`, grant it to this user",
        optional=True,
    ),
    _configs(IN, "how large its records may be", "max.message.bytes"),
    _configs(LETTERS, "the same", "max.message.bytes"),
    _configs(FEEDBACK, "whether it is compacted", "cleanup.policy"),
)
COMMANDS = (
    Command("check", _CHECK),
    Command(
        "check",
        (
            replace(_TRANSACTIONS, without=filled(_TRANSACTIONS.without, {"kafka.instance_id": "/check"})),
            replace(_group(), why="to try a transaction that commits, without effect"),
        ),
        given="and with `kafka.delivery: exactly_once`",
    ),
    Command(
        "check",
        (_read(CONTROL, "as the scheduler"), _write(CONTROL, "as `retrain --now`")),
        given="and where a stream has `retrain`",
    ),
    Command("train", (_READS,)),
    Command("worker", _WORKER),
    Command("worker", (_TRANSACTIONS,), given="and with `kafka.delivery: exactly_once`"),
    Command("record", (_READS, _group("-recorder"))),
    Command(
        "schedule", (_read(CONTROL, "requests, and by its one partition the lead"), _group("-scheduler"), *_SPANS)
    ),
    Command("retrain", (_READS, *_SPANS)),
    Command("retrain --snapshots", _SPANS),
    Command("retrain --now", (_write(CONTROL, "to ask the scheduler"),)),
    Command(
        "notify",
        (
            _read(ALERTS, "whom to tell of what"),
            _write(LETTERS, "alerts that a receiver refuses for good"),
            _group("-notify-", shown=f"-notify-{RECEIVER}"),
        ),
    ),
    Command(
        "feedback",
        (
            _read(ALERTS, "to find the incident"),
            _read(FEEDBACK, "what was said before"),
            _write(FEEDBACK, "what is said now"),
            _configs(FEEDBACK, "whether it keeps what is said", "cleanup.policy"),
        ),
    ),
    Command(
        "feedback --retract",
        (_read(FEEDBACK, "what was said"), _write(FEEDBACK, "to take it back")),
    ),
    Command("feedback --list", (_read(FEEDBACK, "what was said"),)),
    Command("dead-letters list", (_read(LETTERS, "the letters"),)),
    Command(
        "dead-letters replay",
        (
            _read(LETTERS, "the letters"),
            _write(LETTERS, "marks of what was sent back"),
            _write(IN, "to send records back"),
            Right(
                "transactional-id",
                f"offkey-dead-letters-{LETTERS}",
                "Write",
                "to send each once",
                f"transaction offkey-dead-letters-{LETTERS}: no right to write by that transactional id; grant it "
                "to this user",
            ),
        ),
    ),
)
NOTHING = (
    *("init", "plan", "evaluate", "backtest", "reduce", "features", "generate"),
    *("models list", "models show", "models promote", "models rollback", "models prune", "models shadow"),
)
"""Commands that do not talk to Kafka."""
OF_ITS_OWN = ("demo",)
"""Commands that bring a broker of their own."""
