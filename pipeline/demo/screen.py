"""What the demo shows while it runs: on a terminal a live picture, elsewhere a line now and then."""

import time
from collections import Counter, deque
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from pipeline.demo.gauges import Gauges
from pipeline.demo.plot import moment, short
from pipeline.stages.alerts import Alert, CloudEvent
from pipeline.stages.incidents import ENDS

_SHOWN_ALERTS = 6
_RATE_S = 3.0
_LINE_EVERY_S = 5.0
_COLOURS = {"minor": "yellow", "major": "dark_orange", "critical": "red"}


class Screen:
    """Phases done and under way, the streams' counters, the newest alerts."""

    def __init__(self, console: Console, records: Mapping[str, int]) -> None:
        """`records`: how many each stream will replay."""
        self._console = console
        self._records = records
        self._phase = Spinner("dots", "")
        self._phase_text = ""
        self._started_s = self._phase_started_s = self._line_s = time.monotonic()
        self._gauges: Gauges | None = None
        self._scored: Mapping[str, int] = {}
        self._published: Counter[str] = Counter()
        self._history: deque[tuple[float, Mapping[str, int]]] = deque()
        self._alerts: deque[Alert] = deque(maxlen=_SHOWN_ALERTS)
        self._live = Live(get_renderable=self._picture, console=console, refresh_per_second=8, transient=True)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave the terminal to others."""
        self._live.stop()

    def begin(self, phase: str) -> None:
        """Name what is happening now."""
        self._phase_text, self._phase_started_s = phase, time.monotonic()
        self._phase.update(text=f" {phase}")
        if not self._console.is_terminal:
            self._console.print(f"{self._elapsed():5.1f} s  {phase} ...", highlight=False, soft_wrap=True)

    def done(self, text: str) -> None:
        """Write one line that stays."""
        took_s = time.monotonic() - self._phase_started_s
        self._console.print(f"[green]✓[/] {text} [dim]({took_s:.1f} s)[/]", highlight=False, soft_wrap=True)

    def read(self, gauges: Gauges, scored: Mapping[str, int]) -> None:
        """Take a new reading of the worker's metrics, and how many records of each stream are through."""
        now_s = time.monotonic()
        self._gauges, self._scored = gauges, scored
        self._history.append((now_s, scored))
        while now_s - self._history[0][0] > _RATE_S:
            self._history.popleft()
        if not self._console.is_terminal and now_s - self._line_s >= _LINE_EVERY_S:
            self._line_s = now_s
            self._console.print(f"{self._elapsed():5.1f} s  {self._line(gauges)}", highlight=False, soft_wrap=True)

    def show(self, event: CloudEvent) -> None:
        """Take an alert that was consumed."""
        self._published[event.data.stream] += 1
        if event.data.state not in ENDS:
            self._alerts.append(event.data)

    def _elapsed(self) -> float:
        return time.monotonic() - self._started_s

    def _line(self, gauges: Gauges) -> str:
        lag, open_incidents = (
            sum(gauges.of(name, stream) for stream in self._records)
            for name in ("offkey_lag_records", "offkey_incidents_open")
        )
        rate = sum(self._rate(stream) for stream in self._records)
        return (
            f"{sum(self._scored.values()):,} of {sum(self._records.values()):,} records scored, {rate:,.0f}/s, "
            f"lag {lag:,}, open incidents {open_incidents:,}, alerts {self._published.total():,}"
        )

    def _rate(self, stream: str) -> float:
        if len(self._history) < 2:
            return 0.0
        (first_s, first), (last_s, last) = self._history[0], self._history[-1]
        return (last[stream] - first[stream]) / max(last_s - first_s, 1e-3)

    def _picture(self) -> RenderableType:
        parts: list[RenderableType] = []
        if self._gauges is not None:
            parts += [self._counters(self._gauges), *map(_alert_line, self._alerts), Text()]
        self._phase.update(text=f" {self._phase_text}  {time.monotonic() - self._phase_started_s:.0f} s")
        return Group(*parts, self._phase)

    def _counters(self, gauges: Gauges) -> Table:
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
        table.add_column("stream")
        table.add_column("scored")
        for head in ("records", "rate", "lag", "open incidents", "alerts"):
            table.add_column(head, justify="right")
        for stream, planned in self._records.items():
            records = self._scored[stream]
            table.add_row(
                stream,
                ProgressBar(total=planned, completed=records, width=24),
                f"{records:,}",
                f"{self._rate(stream):,.0f}/s",
                f"{gauges.of('offkey_lag_records', stream):,}",
                f"{gauges.of('offkey_incidents_open', stream):,}",
                f"{self._published[stream]:,}",
            )
        return table


def _alert_line(alert: Alert) -> Text:
    text = Text("  ")
    text.append(f"{alert.severity:<8}", style=_COLOURS[alert.severity])
    text.append(f" {alert.series or alert.stream}", style="bold")
    text.append(f"  {moment(alert.event_ms)}  ", style="dim")
    if alert.score is not None:
        text.append(f"score {min(alert.score, 100):.0f}  ", style="dim")
    for name, view in list(alert.features.items())[:1]:
        text.append(f"{name} {short(view.observed)}, expected {short(view.expected)}")
    text.truncate(118, overflow="ellipsis")
    return text
