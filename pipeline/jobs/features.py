"""`offkey features`: rows -> what a classifier or a clustering can learn from, in Parquet.

Of each row: its code, how far each value lies from what the code tells (`error_cpu`), and for series mean, standard
deviation, least and largest value and slope of each feature in the row's window (`mean_cpu`). The first rows of a
series have no whole window: their statistics are empty and `warming` is true; so are those of late rows and of rows
that hold no number for a feature. Of one feature there is no code: one number cannot be told by fewer. Of images
the errors are told of their regions, each the mean of its pixels'.

Legend: N rows, F features, S series.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from models.codes import Coder
from models.window_statistics import statistic_names
from pipeline.errors import SnapshotError
from pipeline.jobs import coding
from pipeline.jobs.blocks import LATE, Block, Column, Divisible, Input, Progress, named_apart
from pipeline.jobs.parts import MODEL, opened
from pipeline.jobs.reduce import (
    Options,
    begins_of,
    coder_for,
    finished,
    look_at,
    make_all,
    stops,
    summed,
    sums_of,
    told,
    total_of,
)
from pipeline.jobs.series_windows import SeriesLengths, SeriesWindows
from pipeline.stages.regions import Regions


class Featuring:
    """Codes, errors and window statistics of rows."""

    def __init__(
        self,
        features: Sequence[str],
        coder: Coder | None,
        windows: SeriesWindows | None,
        threads: int | None = None,
    ) -> None:
        self._features, self._coder, self._threads = features, coder, threads
        self.carried = windows

    def columns(self, block: Block) -> tuple[Mapping[str, Column], Mapping[str, Any]]:
        made: dict[str, Column] = {}
        sums: dict[str, Any] = {}
        if self._coder is not None:
            usable_N = block.usable_N
            coded = coding.code_rows(self._coder, block.values_NF, usable_N, each=True, threads=self._threads)
            assert coded.off_NF is not None
            made |= zip(coding.names_of(self._coder), coded.code_ND.T, strict=True)
            image = self._coder.detector.spec.image
            names = self._features if image is None else Regions(image).names
            made |= zip((f"error_{name}" for name in names), coded.off_NF.T, strict=True)
            sums |= sums_of(coded, usable_N)
        kept = dict(block.columns)
        if self.carried is not None:
            found = self.carried.of(block)
            made |= zip(statistic_names(self._features), found.statistics_NS.T, strict=True)
            made["warming"] = found.warming_N
            # As the windows have it: snapshots flag only what the recorder knew of.
            kept[LATE] = found.late_N
            sums |= {"warming": int(found.warming_N.sum()), "late": int(found.late_N.sum())}
        return {**named_apart(kept, made), **made}, sums

    def passed(self, block: Block) -> None:
        if self.carried is not None:
            self.carried.passed(block)


@dataclass(frozen=True)
class Recipe:
    """Makes `Featuring` of what travels; a part comes with what is carried to it."""

    features: Sequence[str]
    files: Mapping[str, bytes] | None
    """Of the model; None: there is none."""

    def __call__(self, device: torch.device) -> Featuring:
        coder = None if self.files is None else coding.coder_of(self.files, MODEL, device)
        return Featuring(self.features, coder, None, coding.threads_beside_others(device))


def feature_rows(
    source: Divisible, options: Options, window: int | None, what: str, progress: Progress
) -> dict[str, Any]:
    """Write features of all rows; return the report.

    Args:
        window: rows of a window; None: rows are of no series, and there are no statistics.
        what: the rows are called in an error.

    Raises:
        Stopped: by Ctrl-C; the parts that are there are whole.
        SnapshotError: too few rows, or no series has a whole window.
        ConfigError, TransientError: as those below it.
    """
    with opened(options.output, options.about, resume=options.resume, overwrite=options.overwrite) as parts:
        if parts.complete:
            return finished(parts)
        with stops(parts):
            lengths = SeriesLengths(source.series, source.time)
            begins = begins_of(source, options, parts, _windows(source, window))
            seeing = [lengths.see] if window else []
            looked = look_at(source, options, parts, what, progress, [*seeing, *([begins.see] if begins else [])])
            if window:
                _require_windows(lengths, window, what)
            coder = coder_for(source, options, parts, looked, progress) if len(source.features) > 1 else None
            recipe = Recipe(source.features, None if coder is None else coding.read_files(parts.path))
            step = Featuring(source.features, coder, _windows(source, window))
            make_all(source, parts, options, step, recipe, begins, looked, what, partial(progress, "writing"))
            report: dict[str, Any] = {"command": "features", "rows": looked.rows}
            report["features"] = [] if options.image else list(source.features)
            if coder is not None:
                progress("judging", 0.0, None)
                report |= {**summed(parts, coder, looked), **told(coding.judge(coder, looked), coder)}
            report |= {"empty": looked.unusable, "parts": len(parts.entries)}
            if window:
                report |= {
                    "window": window,
                    "series": len(lengths.rows_S),
                    "short_series": int((lengths.rows_S < window).sum()),
                    "warming": total_of(parts, "warming"),
                    "late": total_of(parts, "late"),
                }
            parts.finish(report)
            return report


def _windows(source: Input, window: int | None) -> SeriesWindows | None:
    return SeriesWindows(len(source.features), window, source.series, source.time) if window else None


def _require_windows(lengths: SeriesLengths, window: int, what: str) -> None:
    longest = int(lengths.rows_S.max(initial=0))
    if longest < window:
        raise SnapshotError(
            f"{what}: a window is {window:,} rows, and the longest of {len(lengths.rows_S):,} series has "
            f"{longest:,} that count; ask for more time, or for a shorter --window"
        )
