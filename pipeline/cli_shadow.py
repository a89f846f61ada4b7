"""The command `offkey models shadow`."""

import json
from typing import Annotated

import typer

from pipeline.cli_models import Note, OneOrAll, Opened
from pipeline.cli_options import AsJson, ConfigPath
from pipeline.cli_who_when import now_ms, who
from pipeline.errors import ConfigError


def shadow(
    config: ConfigPath,
    stream: OneOrAll = None,
    version: Annotated[
        str | None,
        typer.Argument(
            metavar="[VERSION]", help="Have this one in shadow; default: say which is, and what was seen of it."
        ),
    ] = None,
    end: Annotated[bool, typer.Option("--end", help="Have none in shadow any more.")] = False,
    note: Note = "",
    as_json: AsJson = False,
) -> None:
    """Have a version score beside the champion without alerting anybody, and say how far the two agree."""
    if (version or end) and stream is None:
        raise ConfigError("offkey models shadow: name the stream before --end")
    if version and end:
        raise ConfigError(f"--end: no version is in shadow then; leave {version} out, or --end")
    opened = Opened(config)
    for name in opened.streams(stream):
        if version or end:
            _appoint(opened, name, version, note, as_json)
        else:
            _show(opened, name, as_json)


def _appoint(opened: Opened, stream: str, version: str | None, note: str, as_json: bool) -> None:
    """Write the entry, once the version is found whole and made for what the configuration says."""
    from pipeline.lanes import read_version
    from pipeline.shadows import appoint

    log, before = opened.registry.log(stream), opened.shadows.appointed(stream)
    chosen = opened.version(stream, version, log) if version else ""
    if log.champion is not None and chosen == log.champion.version:
        raise ConfigError(f"stream {stream}: {chosen} is the champion; name another version to compare it with")
    changed = chosen != (before.version if before else "")
    if changed:
        if chosen:
            read_version(opened.registry.load(stream, chosen), opened.settings.streams[stream])
        appoint(opened.shadows, stream, before, chosen, now_ms(), note=note, by=who())
    if as_json:
        print(json.dumps({"stream": stream, "changed": changed, "shadow": chosen or None}))
    elif not changed:
        print(
            f"{stream}: {f'{chosen} is in shadow already' if chosen else 'none is in shadow'}; nothing was written"
        )
    elif chosen:
        print(
            f"{stream}: {chosen} is in shadow now, beside {log.champion.version if log.champion else 'no champion'}"
        )
        print(f"{stream}: running workers follow; they look every `worker.watch_every`")
    else:
        print(f"{stream}: no version is in shadow any more; what was seen is kept")


def _show(opened: Opened, stream: str, as_json: bool) -> None:
    from rich.console import Console

    from pipeline.shadows import tally_json, together
    from pipeline.versions.shadow_report import agreement_lines, alone_table

    appointed, champion = opened.shadows.appointed(stream), opened.registry.log(stream).champion
    version = appointed.version if appointed else ""
    tallies, faults = opened.shadows.seen(stream, version) if version else ((), ())
    seen = together(tallies)
    if as_json:
        fields = {
            "stream": stream,
            "champion": champion.version if champion else None,
            "shadow": version or None,
            "seen": None if seen is None else tally_json(seen),
            "faults": list(faults),
        }
        print(json.dumps(fields))
        return
    for line in agreement_lines(stream, appointed, champion, seen):
        print(line)
    if seen is not None and seen.examples:
        Console().print(alone_table(seen))
    for fault in faults:
        print(f"look: {fault}")
