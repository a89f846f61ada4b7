"""What `offkey reduce` and `offkey features` say when they are done, for people."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.jobs.parts import PICTURE

_MOST_FEATURES = 20


def lines(report: Mapping[str, Any], name: str, output: Path, picture: bool) -> Iterator[str]:
    """Yield lines about a run; `name` is the stream's."""
    rows = report["rows"]
    of = f"rows of {counted(len(report['features']), 'feature')}"
    of = f"{rows:,} " + (f"images of {report['image']}" if "image" in report else of)
    if report["command"] == "decode":
        numbers = counted(report["dimensions"], "number")
        yield f"{name}: {of} from codes of {numbers}, in {output}"
        if report["error"] is not None:
            yield f"{name}: they lie {report['error']:.3g} off the original ones, root of the mean square by scale"
    else:
        numbers = counted(report["dimensions"], "number") if "dimensions" in report else ""
        what = f"codes of {numbers}" if numbers else "which has no code"
        yield f"{name}: {of}, {what}, in {output}"
    if report["empty"]:
        yield f"{name}: {report['empty']:,} rows lack a number: what is made of their values is empty"
    if "window" in report:
        yield from _windows(report, name)
    if "r2" in report:
        yield from _quality(report, name)
    if picture:
        yield f"{name}: picture in {output / PICTURE}"


def _windows(report: Mapping[str, Any], name: str) -> Iterator[str]:
    short = f", {report['short_series']:,} of them shorter" if report["short_series"] else ""
    yield (
        f"{name}: statistics of windows of {report['window']:,} rows in {report['series']:,} series{short}; empty "
        f"for {report['warming']:,} rows without a whole window (`warming`) and {report['late']:,} late ones"
    )


def _quality(report: Mapping[str, Any], name: str) -> Iterator[str]:
    yield (
        f"{name}: R2 {_share(report['r2'])}, PCA of the same size {_share(report['r2_of_pca'])}: mean over "
        f"features, learned from {report['learned_rows']:,} rows, measured on {report['held_out_rows']:,} others"
    )
    width = max(len("feature"), *(len(feature) for feature in report["r2_by_feature"]))
    yield f"  {'feature':<{width}}  {'codes':>8}  {'PCA':>8}"
    for feature, found in list(report["r2_by_feature"].items())[:_MOST_FEATURES]:
        yield f"  {feature:<{width}}  {_share(found['codes']):>8}  {_share(found['pca']):>8}"
    if (more := len(report["r2_by_feature"]) - _MOST_FEATURES) > 0:
        yield f"  and {more:,} more in report.json"


def counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'s' * (count != 1)}"


def _share(value: float | None) -> str:
    return "constant" if value is None else f"{value:.3f}"
