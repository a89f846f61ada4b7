"""The rights of each command as a page for people, `deploy/rights.md`: a table, and the lines that grant it;
`tests.schemas` writes it."""

from collections.abc import Iterator, Sequence
from itertools import groupby

from deploy.rights import COMMANDS, NOTHING, OF_ITS_OWN, Command, Right, filled

_BEGIN = """\
# Rights on Kafka

Where the cluster keeps rules (`authorizer.class.name`), a user needs those that are listed here for the commands
that it runs, and no other. The page is written from [`rights.py`](rights.py), and tested on Apache Kafka with
SASL_SSL: each command does its work with exactly these, and each is taken away in turn to see what is said then.
[Back to the front page](../README.md).

`{topics.alerts}` stands for what that key of your configuration says. Kafka lets who may read or write a topic
describe it too. Nobody needs a right to the cluster (before Kafka 2.8, who writes needs `IdempotentWrite`), nor
to create topics: create them first. A missing right is one line and status 2, and nothing was committed or
published; a command whose right is taken away while it runs ends so as well, and whoever starts it again, with the
right, goes on where it was. What is marked *may be missing* costs what it says and no more.

The lines that grant it are for the names of a configuration that leaves them as they are, and for one user: the
scheduler, say, may log in as another. `admin.properties` says how an administrator logs in.

```sh
ADMIN="--bootstrap-server localhost:9092 --command-config admin.properties"
grant() { kafka-acls.sh $ADMIN --add --allow-principal User:offkey "$@"; }
```
"""
_CHECK = """
`offkey check` asks as whoever runs it: run it as the user of the worker.
"""


def page() -> str:
    """Return the page."""
    parts = [_BEGIN]
    for name, commands in groupby(COMMANDS, lambda each: each.name):
        parts.append(f"\n## offkey {name}\n")
        parts += [_CHECK] if name == "check" else []
        for command in commands:
            parts.append(f"\n{command.given[:1].upper()}{command.given[1:]}:\n" if command.given else "")
            parts.append(_table(command.rights))
            parts.append("\n```sh\n" + "".join(f"{line}\n" for line in grants(command)) + "```\n")
    parts.append("\n## Those that need none\n")
    none, own = (", ".join(f"`offkey {name}`" for name in names) for names in (NOTHING, OF_ITS_OWN))
    parts.append(f"\nThey do not talk to Kafka: {none}. {own} brings a broker of its own.\n")
    return "".join(parts)


def grants(command: Command) -> Iterator[str]:
    """Yield the lines that grant a command's rights, by the names of `KEYS`: one for what one rule can say."""

    def how(right: Right) -> tuple[str, bool]:
        return right.operation, right.prefixed

    for (operation, prefixed), rights in groupby(sorted(command.rights, key=how), how):
        told = [f"--{right.resource} '{filled(right.name)}'" for right in rights]
        pattern = " --resource-pattern-type prefixed" if prefixed else ""
        yield f"grant --operation {operation} {' '.join(told)}{pattern}"


def _table(rights: Sequence[Right]) -> str:
    rows = [("right", "to", "for what", "without it"), ("---",) * 4, *map(_row, rights)]
    return "\n" + "".join(f"| {' | '.join(cells)} |\n" for cells in rows)


def _row(right: Right) -> tuple[str, str, str, str]:
    kind = right.resource.replace("-", " ") + ("s that begin with" if right.prefixed else "")
    missing = "*may be missing*: " if right.optional else ""
    return right.operation, f"{kind} `{right.name}`", right.why, f"{missing}`{right.without}`"
