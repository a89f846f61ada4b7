"""Draw the dashboards from a real Prometheus: `python -m tests.deploy.pictures FOLDER`, for two minutes.

They are drawn by matplotlib, from the queries in the JSON that Grafana imports, asked while all of offkey runs on
the embedded broker: Grafana itself shows the same figures in its own way.
"""

import json
import math
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from pipeline.connectors.embedded import EmbeddedBroker
from tests.deploy.test_prometheus import DASHBOARDS, chosen
from tests.deploy.watched import Watched, later_payloads, watched
from tests.prometheus import PrometheusProcess

_SHOWN_S = 75
_UNITS = {"short": "", "none": "", "s": "s", "percentunit": "share", "cps": "1/s", "cpm": "1/min", "bytes": "MiB"}


def live(deployed: Watched) -> None:
    """Have records come in, one of each series a second."""
    pause = threading.Event()
    for payloads in later_payloads(_SHOWN_S // 2):
        deployed.produce([*payloads, (b"a", b"no record"), payloads[0]])
        pause.wait(1)


def lines_of(prometheus: PrometheusProcess, expression: str, now_s: float) -> list[tuple[dict[str, str], Any, Any]]:
    """Return labels, times (s before now) and values of what an expression has been."""
    asked = {"query": chosen(expression, "15s"), "start": now_s - _SHOWN_S, "end": now_s, "step": 1}
    found = []
    for each in prometheus.ask("query_range", **asked)["result"]:
        at = [(float(when) - now_s, float(value)) for when, value in each["values"]]
        found.append((each["metric"], *zip(*at, strict=True)))
    return found


def legend(text: str, labels: dict[str, str]) -> str:
    for name, value in labels.items():
        text = text.replace(f"{{{{{name}}}}}", value)
    return text or ", ".join(value for name, value in labels.items() if name != "__name__")


def draw(prometheus: PrometheusProcess, page: dict[str, Any], path: Path) -> None:
    """Draw a page's panels where Grafana has them."""
    panels = [panel for panel in page["panels"] if panel["type"] != "row"]
    heights = {panel["gridPos"]["y"]: panel["gridPos"]["h"] for panel in panels}
    rows, now_s = sorted(heights), time.time()
    figure = Figure(figsize=(16, 0.33 * sum(heights.values())))
    ratios = [heights[row] for row in rows]
    grid = figure.add_gridspec(len(rows), 24, height_ratios=ratios, hspace=0.4, wspace=1.4)
    figure.subplots_adjust(left=0.04, right=0.99, top=0.93, bottom=0.03)
    for panel in panels:
        at = panel["gridPos"]
        axes = figure.add_subplot(grid[rows.index(at["y"]), at["x"] : at["x"] + at["w"]])
        axes.set_title(panel["title"], fontsize=9, loc="left", fontweight="bold")
        axes.tick_params(labelsize=7)
        defaults = panel["fieldConfig"]["defaults"]
        shown = [
            (legend(target["legendFormat"], labels), when, values)
            for target in panel["targets"]
            for labels, when, values in lines_of(prometheus, target["expr"], now_s)
        ]
        if panel["type"] == "timeseries":
            draw_lines(axes, shown, defaults)
        else:
            axes.set_axis_off()
            told = [f"{name}: {values[-1]:,.5g}" for name, _, values in shown]
            size = 22 if panel["type"] == "stat" and len(told) == 1 else 9
            text = "\n".join(told) if len(told) > 1 or panel["type"] == "table" else told[0].rpartition(": ")[2]
            axes.text(0.5, 0.45, text, ha="center", va="center", fontsize=size, color="#2a7d3b")
    figure.suptitle(f"{page['title']}: the last {_SHOWN_S} s of a test deployment", fontsize=11, x=0.01, ha="left")
    figure.savefig(path, dpi=70)


def draw_lines(axes: Any, shown: Sequence[tuple[str, Any, Any]], defaults: dict[str, Any]) -> None:
    # Lines that are zero all the time say nothing in so small a picture.
    told = [line for line in shown if any(value for value in line[2] if not math.isnan(value))] or shown[:1]
    for name, when, values in told[:10]:
        unit = 2**20 if defaults["unit"] == "bytes" else 1
        axes.plot(when, [value / unit for value in values], label=name, linewidth=1.2)
    scale = (defaults.get("custom") or {}).get("scaleDistribution") or {}
    if scale.get("type") == "log" and any(value > 0 for _, _, values in told for value in values):
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.set_ylabel(_UNITS[defaults["unit"]], fontsize=7)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=6, loc="upper left", framealpha=0.6, ncols=2 if len(told) > 5 else 1)


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as work,
        EmbeddedBroker() as broker,
        watched(Path(work), broker.bootstrap_servers) as deployed,
    ):
        live(deployed)
        for name, page in DASHBOARDS.items():
            path = folder / f"{Path(name).stem}.png"
            draw(deployed.prometheus, page, path)
            print(json.dumps({"picture": str(path), "bytes": path.stat().st_size}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
