"""The commands `offkey models list`, `show`, `promote`, `rollback` and `prune`."""

import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli_options import AsJson, ConfigPath, duration_s
from pipeline.cli_who_when import now_ms, who
from pipeline.errors import ConfigError, RegistryError

if TYPE_CHECKING:
    from pipeline.config import Settings
    from pipeline.versions.log import PromotionLog
    from pipeline.versions.usage import Serving

logger = logging.getLogger(__name__)

app = typer.Typer(name="models", help="See model versions, and say which one serves.", no_args_is_help=True)

Stream = Annotated[str, typer.Argument(metavar="STREAM", help="The stream.")]
OneOrAll = Annotated[str | None, typer.Argument(metavar="[STREAM]", help="Default: all.")]
Version = Annotated[
    str, typer.Argument(metavar="VERSION", help="Its name, the beginning of it that no other has, or `champion`.")
]
Note = Annotated[str, typer.Option("--note", help="Why; it is kept in the log.")]


class Opened:
    """A configuration and what its storage holds."""

    def __init__(self, config: Path) -> None:
        from pipeline.config import load_settings
        from pipeline.connectors.registry import StoredRegistry
        from pipeline.connectors.shadows import StoredShadows
        from pipeline.connectors.storage import ObjectStorage

        self.settings: Settings = load_settings(config)
        self.storage: ObjectStorage = ObjectStorage(self.settings.storage)
        self.registry: StoredRegistry = StoredRegistry(self.storage)
        self.shadows: StoredShadows = StoredShadows(self.storage)

    def streams(self, asked: str | None) -> list[str]:
        """Return the stream that was asked for, or all."""
        return self.settings.chosen(None if asked is None else [asked])

    def serving(self, stream: str) -> "Sequence[Serving]":
        from pipeline.connectors.serving import serving

        return serving(self.storage, stream)

    def shadow(self, stream: str) -> str:
        """Return the version in shadow; "": there is none."""
        appointed = self.shadows.appointed(stream)
        return appointed.version if appointed else ""

    def version(self, stream: str, asked: str, log: "PromotionLog") -> str:
        """Return the version that is meant."""
        from pipeline.versions.naming import meant

        return meant(stream, asked, self.registry, log)


@app.command("list")
def list_versions(config: ConfigPath, stream: OneOrAll = None, as_json: AsJson = False) -> None:
    """Say which versions there are, what each learned from, and which one serves."""
    from rich.console import Console

    from pipeline.letters.report import printable
    from pipeline.versions import report
    from pipeline.versions.facts import facts_of

    opened = Opened(config)
    for name in opened.streams(stream):
        log, serving, shadow = opened.registry.log(name), opened.serving(name), opened.shadow(name)
        versions = [
            facts_of(opened.registry, name, each, log, serving, shadow) for each in opened.registry.versions(name)
        ]
        unfinished = opened.registry.unfinished(name)
        if as_json:
            print(json.dumps(report.log_json(name, log, versions, unfinished)))
            continue
        if versions:
            Console().print(report.versions_table(name, versions))
        else:
            print(f"{name} has no versions; train one with: offkey train CONFIG {name}")
        faults = [*log.faults, *(fault for facts in versions for fault in facts.faults)]
        faults += [f"model {name} {each}: not complete; `offkey models prune` removes it" for each in unfinished]
        for fault in faults:
            print(f"look: {printable(fault)}")


@app.command()
def show(config: ConfigPath, stream: Stream, version: Version, as_json: AsJson = False) -> None:
    """Say what a version was trained on, how the gate judged it, and where it is in use; check every byte of it."""
    from rich.console import Console

    from models.manifest import ModelFileError, whole
    from pipeline.versions import report
    from pipeline.versions.facts import facts_of

    opened = Opened(config)
    (stream,) = opened.streams(stream)
    log = opened.registry.log(stream)
    chosen = opened.version(stream, version, log)
    facts = facts_of(opened.registry, stream, chosen, log, opened.serving(stream), opened.shadow(stream))
    files = opened.registry.load(stream, chosen).files
    damaged = list(facts.faults)
    try:
        whole(files, f"model {stream} {chosen}")
    except ModelFileError as error:
        damaged = [str(error), *(fault for fault in damaged if fault != str(error))]
    if as_json:
        print(json.dumps({**report.version_json(facts), "faults": damaged}))
    else:
        for line in report.version_lines(stream, facts):
            print(line)
        if facts.origin and facts.origin.gate:
            Console().print(report.gate_table(facts.origin.gate, facts.origin.parent))
    if damaged:
        raise RegistryError("\n".join(damaged))


@app.command()
def promote(config: ConfigPath, stream: Stream, version: Version, note: Note = "", as_json: AsJson = False) -> None:
    """Have a version serve, once it is found whole and made for what the configuration says."""
    from pipeline.versions.promoting import PROMOTE

    opened = Opened(config)
    (stream,) = opened.streams(stream)
    log = opened.registry.log(stream)
    _promote(opened, stream, log, opened.version(stream, version, log), PROMOTE, note, as_json)


@app.command()
def rollback(
    config: ConfigPath,
    stream: Stream,
    to: Annotated[str | None, typer.Option("--to", metavar="VERSION", help="Default: what served before.")] = None,
    note: Note = "",
    as_json: AsJson = False,
) -> None:
    """Have the version serve that served before; once more, and it is the one before that."""
    from pipeline.versions.promoting import ROLLBACK, knows_what_served_before, served_before

    opened = Opened(config)
    (stream,) = opened.streams(stream)
    log = opened.registry.log(stream)
    if to is not None:
        chosen = opened.version(stream, to, log)
    else:
        before = served_before(log.tail)
        if before is None and not knows_what_served_before(log):
            raise RegistryError(f"stream {stream}: what served before is not known; {log.faults[-1]}")
        if before is None:
            raise ConfigError(
                f"stream {stream}: no other version has served before; name one: offkey models rollback CONFIG "
                f"{stream} --to VERSION"
            )
        chosen = before
    _promote(opened, stream, log, chosen, ROLLBACK, note, as_json)


@app.command()
def prune(
    config: ConfigPath,
    stream: OneOrAll = None,
    keep: Annotated[int, typer.Option(min=1, help="So many of the newest stay.")] = 10,
    older_than: Annotated[
        str | None, typer.Option(metavar="D", help="Only what is older goes, as in 30d.", show_default="any age")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go, and remove nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove versions that nobody needs.

    Never the champion, what a rollback goes to, what is in shadow, and what a partition is scored with.
    """
    from pipeline.versions.pruning import carry_out, plan

    older_than_s = duration_s("--older-than", older_than)
    if not (yes or dry_run or sys.stdin.isatty()):
        raise ConfigError("a prune asks before it removes, and there is no terminal; give --yes, or --dry-run")
    opened = Opened(config)
    screen = sys.stderr if as_json else sys.stdout
    for name in opened.streams(stream):
        registry, log = opened.registry, opened.registry.log(name)
        planned = plan(
            name,
            registry.versions(name),
            registry.unfinished(name),
            log,
            opened.serving(name),
            shadow=opened.shadow(name),
            keep=keep,
            older_than_ms=None if older_than_s is None else int(1000 * older_than_s),
            now_ms=now_ms(),
        )
        going = [*planned.removed, *planned.leftovers]
        for version, why in planned.kept:
            print(f"{name}: {version} stays: {why}", file=screen)
        for version in going:
            left = " (left by what was interrupted)" if version in planned.leftovers else ""
            print(f"{name}: {version} goes{left}", file=screen)
        done = not dry_run and bool(going)
        if done and not (yes or typer.confirm(f"{name}: remove {len(going)} for ever?", err=as_json)):
            print(f"{name}: nothing was removed", file=screen)
            raise typer.Exit(1)
        if done:
            carry_out(registry, name, log, planned, now_ms(), who())
            for version in going:
                opened.shadows.forget(name, version)
        if as_json:
            fields = {"removed": going if done else [], "would_remove": going, "kept": dict(planned.kept)}
            print(json.dumps({"stream": name, **fields}))
        else:
            print(f"{name}: " + (f"removed {len(going)}" if done else "nothing was removed"))


def _promote(
    opened: Opened, stream: str, log: "PromotionLog", version: str, reason: str, note: str, as_json: bool
) -> None:
    """Write the entry, and say what it comes to."""
    from pipeline.lanes import read_version
    from pipeline.versions import report
    from pipeline.versions.promoting import promote as promoted

    champion = log.champion
    if champion is not None and champion.version == version:
        if as_json:
            print(json.dumps({"stream": stream, "changed": False, **report.promotion_json(champion)}))
        else:
            print(f"{stream}: {version} is the champion already; nothing was written")
        return
    settings = opened.settings.streams[stream]
    entry = promoted(
        opened.registry,
        stream,
        log,
        version,
        reason,
        now_ms(),
        lambda model: read_version(model, settings),
        note=note,
        by=who(),
    )
    for fault in log.faults:
        logger.warning("%s", fault)
    if as_json:
        print(json.dumps({"stream": stream, "changed": True, **report.promotion_json(entry)}))
        return
    before = f", in the place of {champion.version}" if champion else ""
    print(f"{stream}: {version} is the champion now{before} (promotion {entry.number})")
    for line in report.serving_lines(stream, version, opened.serving(stream)):
        print(line)
