"""What `offkey generate` has made, and how true it is: lines for people, and one self-contained HTML page."""

import base64
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from typing import Any

from pipeline.demo.frame import framed, tile
from pipeline.jobs.reduce_report import counted

_MOST_FEATURES = 40


def lines(report: Mapping[str, Any], name: str, output: Path) -> Iterator[str]:
    """Yield lines about a run; `name` is the stream's."""
    rows, read = report["rows"], report["read"]
    image = report.get("image")
    if "record" in report.get("varied", {}):
        off, what = report["varied"]["mean_off"], "image" if image else "record"
        yield (
            f"{name}: {report['variations']:,} variations of {what} {report['varied']['record']}, strength "
            f"{report['strength']:g}, {off:.3g} scales off on the mean, in {output}"
        )
    elif "variations" in report:
        what = f"{report['variations']:,} variations of {report['window']} rows of {report['series'][0]}"
        off = report["varied"]["mean_off"]
        yield f"{name}: {what}, strength {report['strength']:g}, {off:.3g} scales off on the mean, in {output}"
    elif report["kind"] == "series":
        yield f"{name}: {rows:,} rows of {len(report['series']):,} series, in {output}"
    elif image:
        yield f"{name}: {rows:,} images of {image}, in {output}"
    else:
        yield f"{name}: {rows:,} records, in {output}"
    of = "images" if image else f"rows of {counted(len(report['features']), 'feature')}"
    yield f"{name}: like {report['learned_rows']:,} of {read['rows']:,} {of}; {report['model']}"
    for count, why in ((read["unusable"], "lack a number"), (read["late"], "are late")):
        if count:
            yield f"{name}: {count:,} rows {why}, and nothing was learned from them"
    if report.get("short_series"):
        yield f"{name}: {report['short_series']:,} series are shorter than a window; none was made like them"
    if report.get("asked"):
        room = "" if report["anomalies"] == report["asked"] else f" of {report['asked']:,}: there is no more room"
        yield f"{name}: {report['anomalies']:,} anomalies injected{room}; what and where is in anomalies.jsonl"
    if report.get("redrawn"):
        what = "images" if image else "records"
        yield f"{name}: {report['redrawn']:,} {what} were copies of one, and were drawn anew"
    if "fidelity" in report:
        yield from _fidelity(report["fidelity"], name)


def _fidelity(found: Mapping[str, Any], name: str) -> Iterator[str]:
    if (apart := found["two_sample"]) is not None:
        yield (
            f"{name}: told from {apart['rows']:,} held-out {found['of']} with AUROC {apart['auroc']:.3f}, .5 is "
            f"best; rows learned from with {apart['auroc_of_learned']:.3f}"
        )
    else:
        yield f"{name}: {found['held_out']:,} {found['of']} held out are too few to tell made-up ones from them"
    if (near := found["privacy"]) is not None:
        what = "image" if found["of"] == "images" else "row"
        yield (
            f"{name}: median distance to the nearest training {what} {near['median']:.3g}, among training {what}s "
            f"{near['median_among_training']:.3g}; {near['copies_of_one']:,} copies of one"
            + (" (root mean square of pixels, of 255)" if what == "image" else "")
        )


def page(report: Mapping[str, Any], name: str, picture: bytes | None) -> str:
    """Return the page."""
    found = report["fidelity"]
    said = "".join(f"<p class=soft>{escape(line)}</p>" for line in lines(report, name, Path("this folder")))
    drawn = ""
    if picture is not None:
        encoded = base64.b64encode(picture).decode()
        drawn = (
            '<section><h2>Beside each other</h2><article class=card><img style="width:100%" alt="marginals, '
            f'correlations, distances and examples" src="data:image/png;base64,{encoded}"></article></section>'
        )
    what = "Numbers of an image" if found["of"] == "images" else "Features"
    body = (
        f"<header><h1>Made up like {escape(name)}</h1>{said}<div class=tiles>{_tile(found)}</div></header>{drawn}"
        f"<section><h2>{what}</h2><article class=card>{_features(report)}</article></section>"
    )
    return framed(
        f"offkey generate: {name}",
        body,
        "<p><b>Told from held-out rows</b>: gradient boosting learns to tell made-up rows from real ones "
        "that nothing was learned from, over five folds; .5 is a guess. Beside it the same of rows that were "
        "learned from: what time has changed tells real ones apart, too.</p><p><b>Distances</b> are in standard "
        "deviations of the features, of images the root of the mean of squares over all pixels; equal rows count "
        "once, copies are left out and counted.</p><p><b>Images</b> are compared by the mean, the spread and the "
        "mean step from pixel to pixel of 4 x 4 regions, and by how far they lie along the directions in which "
        "those learned from vary most.</p>",
    )


def _tile(found: Mapping[str, Any]) -> str:
    apart, near = found["two_sample"], found["privacy"]
    row = "image" if found["of"] == "images" else "row"
    figures = [
        ("?" if apart is None else f"{apart['auroc']:.3f}", "AUROC, .5 is best"),
        ("?" if near is None else f"{near['median']:.3g}", f"from the nearest training {row}"),
        ("?" if near is None else f"{near['median_among_training']:.3g}", f"training {row}s from one another"),
    ]
    return tile(figures)


def _features(report: Mapping[str, Any]) -> str:
    marginals = report["fidelity"]["marginals"]
    if marginals is None:
        return "<p>Nothing was held out to compare with.</p>"
    grids = next(iter(report["grids"].values())) if report["kind"] == "series" else report["grids"]
    rows = "".join(
        f"<tr><td>{escape(name)}</td>{_grid(grids.get(name))}<td>{each['distance']:.3f}</td>"
        f"<td>{each['mean'][0]:.4g}</td><td>{each['mean'][1]:.4g}</td><td>{each['std'][0]:.4g}</td>"
        f"<td>{each['std'][1]:.4g}</td></tr>"
        for name, each in list(marginals.items())[:_MOST_FEATURES]
    )
    more = len(marginals) - _MOST_FEATURES
    heads = "<th>feature</th><th>grid</th>" if grids else "<th>number</th>"
    return (
        f"<div class=scroll><table><thead><tr>{heads}<th>marginals apart</th><th>mean, held "
        "out</th><th>made up</th><th>spread, held out</th><th>made up</th></tr></thead><tbody>"
        f"{rows}</tbody></table></div>"
        + (f"<p class=soft>and {more:,} more in report.json</p>" if more > 0 else "")
    )


def _grid(grid: Mapping[str, Any] | None) -> str:
    if grid is None:
        return ""
    span = f"{grid['low']:.6g} to {grid['high']:.6g}"
    if grid["grid"] == "levels":
        told = f"{len(grid['levels']):,} values, {span}"
    else:
        told = f"steps of {grid['step']:.6g}, {span}" if grid["grid"] == "step" else f"any, {span}"
    return f"<td>{told}</td>"
