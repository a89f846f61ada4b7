"""What the demo says at its end, and how to look around in what runs on."""

import shutil
import threading
from collections.abc import Mapping
from pathlib import Path

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from pipeline.config import Settings
from pipeline.demo.children import Child, failed
from pipeline.demo.counting import Tally


def print_closing(
    console: Console, tallies: Mapping[str, Tally], course: Mapping[str, int], out: Path, took_s: float
) -> None:
    table = Table(box=SIMPLE, padding=(0, 1), title="What was found", title_justify="left", title_style="bold")
    table.add_column("stream")
    for head in ("records", "per second", "found", "false alarms", "budget", "alerts"):
        table.add_column(head, justify="right")
    for name, tally in tallies.items():
        if name == "total":
            table.add_section()
        table.add_row(
            name,
            f"{tally.records:,}",
            "" if name == "total" else f"{tally.rate:,.0f}",
            f"{tally.incidents_found:,}/{tally.incidents_labelled:,}",
            f"{tally.false_alarms:,}",
            f"{tally.false_alarm_budget:,.0f}",
            f"{tally.alerts:,}",
        )
    console.print()
    console.print(table)
    repeated = course["alerts_repeated"]
    console.print(
        "[dim]The worker was killed and restarted once, and nothing was lost: the alerts are those of a pass "
        f"without{f', {repeated} of them published twice with equal ids' if repeated else ''}. "
        f"{course['records_late']:,} records were late by their own clock and left out.[/]",
        soft_wrap=True,
    )
    console.print(
        f"Done in {took_s:.0f} s. Look at [bold]{out / 'report.html'}[/]; "
        "the figures are in summary.json beside it, the alerts in alerts.jsonl.",
        soft_wrap=True,
    )


def stay(console: Console, settings: Settings, worker: Child, out: Path) -> None:
    """Say how to look at what runs on, and wait for Ctrl-C."""
    servers, metrics = settings.kafka.bootstrap_servers, settings.metrics
    console.print()
    console.print("[bold]Broker and worker run on.[/] Ctrl-C ends them.")
    console.print(f"  metrics      curl http://{metrics.host}:{metrics.port}/metrics", highlight=False)
    console.print(f"  worker log   tail -f {out / 'worker.log'}", highlight=False)
    console.print(f"  check        offkey check {out / 'demo.yaml'}", highlight=False)
    reader = shutil.which("kcat")
    if reader:
        console.print(f"  alerts       kcat -b {servers} -t {settings.topics.alerts} -C", highlight=False)
    else:
        console.print(f"  broker       {servers}, alerts in topic {settings.topics.alerts}", highlight=False)
    ended = threading.Event()
    try:
        while not ended.wait(1.0):
            if worker.poll() is not None:
                raise failed(worker, "offkey worker", out / "worker.log")
    except KeyboardInterrupt:
        console.print("ending broker and worker")
