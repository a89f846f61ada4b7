"""The folder that a backtest leaves: of each stream `alerts.jsonl`, `summary.json`, `report.html`, and if asked for
`scores.parquet`.

All is written into a folder beside it, which takes its name when it is whole: what was stopped, or did not fit on
the disk, leaves nothing that looks like a result. A folder is overwritten only if there is nothing else in it.

Legend: M scored points.
"""

import errno
import json
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from pipeline.connectors.parquet import Coded, Reader, Writer
from pipeline.errors import ConfigError, TransientError
from pipeline.jobs.backtest import Judged
from pipeline.stages.alerts import Alert, message, structured

ALERTS, SUMMARY, REPORT, SCORES = "alerts.jsonl", "summary.json", "report.html", "scores.parquet"
_OURS = {ALERTS, SUMMARY, REPORT, SCORES}


def check_folder(folder: Path, overwrite: bool) -> None:
    """See that a folder may be written, before anything is replayed.

    Raises:
        ConfigError: it is there, and is not to be overwritten or holds more than a backtest leaves.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ConfigError(f"--output {folder}: that is a file; name a folder")
    if not overwrite:
        raise ConfigError(f"--output {folder}: it is there already; name another folder, or give --overwrite")
    if others := sorted({path.name for path in folder.rglob("*") if not path.is_dir()} - _OURS):
        raise ConfigError(
            f"--output {folder}: it holds {others[0]}, which no backtest has written; name another folder, or move "
            "that away"
        )


@contextmanager
def unfinished(folder: Path) -> Iterator[Path]:
    """Give a folder to write into, which takes this one's place at the end of the block, or goes.

    Raises:
        TransientError: the disk is full.
        ConfigError: it cannot be written.
    """
    beside = folder.parent / f".{folder.name}.{secrets.token_hex(4)}"
    try:
        with _translated(folder):
            beside.mkdir(parents=True)
        with _translated(folder):
            yield beside
        with _translated(folder):
            if folder.exists():
                shutil.rmtree(folder)
            beside.rename(folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def write_alerts(folder: Path, alerts: Sequence[Alert], topic: str) -> None:
    """Write each alert as a CloudEvent in a line, as readers of the topic would see it."""
    with (folder / ALERTS).open("wb") as file:
        for alert in alerts:
            sent = message(alert, topic)
            file.write(msgspec.json.encode(structured(dict(sent.headers), sent.value or b"")) + b"\n")


def write_summary(folder: Path, summary: Mapping[str, Any]) -> None:
    (folder / SUMMARY).write_text(json.dumps(summary, indent=1) + "\n")


class Scores:
    """Writes the score of each judged point, portion by portion."""

    def __init__(self, path: Path, stream: str) -> None:
        self._writer = Writer({"offkey.stream": stream}, path)

    def add(self, judged: Judged) -> None:
        """Append what a piece of a partition came to; to be called before the next one is judged."""
        scored, begun = judged.outcome.scored, judged.begun
        count = len(scored.offset_M)
        until_ms = begun.warming_until_ms
        self._writer.add(
            {
                "partition": np.full(count, begun.partition.partition, np.int32),
                "offset": scored.offset_M,
                "row": scored.row_M.astype(np.int32),
                "time_ms": scored.time_ms_M,
                "series": _coded(scored.series),
                "score": scored.score_M,
                "threshold": scored.threshold_M,
                "version": Coded([judged.version], np.zeros(count, np.int64)),
                "warming": np.zeros(count, np.bool_) if until_ms is None else scored.time_ms_M < until_ms,
            }
        )

    def close(self) -> None:
        self._writer.close()


def read_scores(path: Path, series: frozenset[str]) -> Iterator[dict[str, Any]]:
    """Yield the columns of some series' points, group by group."""
    reader = Reader(path)
    for group in range(reader.groups):
        columns = reader.read(group)
        names = columns.coded("series")
        asked = np.array([name in series for name in names.names], np.bool_)[names.code_N]
        yield {
            "series": [names.names[code] for code in names.code_N[asked].tolist()],
            **{name: columns.array(name)[asked] for name in ("partition", "offset", "row", "score", "threshold")},
        }


def _coded(names: Sequence[str]) -> Coded:
    place: dict[str, int] = {}
    code_M = np.fromiter((place.setdefault(name, len(place)) for name in names), np.int64, len(names))
    return Coded(list(place) or [""], code_M)


@contextmanager
def _translated(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise TransientError(
                f"--output {folder}: the disk is full; nothing was left there: make room, or name another folder, "
                "and run the same command again"
            ) from error
        raise ConfigError(f"--output {folder}: it cannot be written ({error.strerror or error})") from error
