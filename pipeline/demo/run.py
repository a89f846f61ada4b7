"""The demo from end to end: the user's own path, on a broker of its own.

It writes a configuration, fills the topics with history, runs `offkey train`, `offkey record` and `offkey worker`
on it as anybody would, replays the rest, and reads the alerts topic. Meanwhile one stream is retrained, its model
swapped, and one incident marked as a false alarm (`life`). The steps that need torch are child processes.
"""

import json
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from importlib.resources import files
from itertools import islice
from pathlib import Path
from string import Template

import numpy as np
from rich.console import Console

from pipeline.config import load_settings
from pipeline.connectors.connection import Connection
from pipeline.connectors.embedded import EmbeddedBroker, free_port
from pipeline.connectors.kafka import KafkaCluster, KafkaPublisher
from pipeline.demo import gauges, life, life_report, replay
from pipeline.demo.children import failed, finish, module, offkey, running, sigterm_ends_us
from pipeline.demo.closing import print_closing, stay
from pipeline.demo.counting import MARGIN_POINTS, Tally, summary, total_of
from pipeline.demo.data import Shipment, shipped
from pipeline.demo.inbox import Inbox
from pipeline.demo.outcome import StreamOutcome, tally_and_view
from pipeline.demo.report import page
from pipeline.demo.screen import Screen
from pipeline.errors import ConfigError, OffkeyError
from pipeline.protocols import Message, TopicPartition

_CHUNK = 2000
_READ_EVERY_S = 0.25
_READY_S = 60.0
_STALLED_S = 60.0
_DELIVERY_S = 30.0
_KEPT = ("snapshots", "models", "checkpoints", "adoptions")
"""What the commands leave in storage, which is the demo's folder."""


def run_demo(out: Path, keep: bool, shipment: Shipment | None = None) -> None:
    """Leave `alerts.jsonl`, `summary.json` and `report.html` in `out`; with `keep`, run on until Ctrl-C.

    `shipment` is by default all that the package ships.

    Raises:
        ConfigError: `out` is no folder that can be written.
        OffkeyError: the broker, the training or the worker failed.
    """
    started_s = time.monotonic()
    console = Console()
    console.print("[bold]offkey demo[/]: real series through a Kafka broker, scored by three autoencoders")
    shipment = shipment or shipped()
    planned = {name: sum(len(one) - one.train_rows for one in series) for name, series in shipment.streams.items()}
    _make_folder(out)
    with ExitStack() as stack:
        stack.enter_context(sigterm_ends_us())
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="offkey-demo-")))
        screen = stack.enter_context(Screen(console, planned))
        screen.begin("starting the broker")
        broker = stack.enter_context(EmbeddedBroker(out / "broker.log"))
        demo = Demo(shipment, planned, out, scratch, broker.bootstrap_servers, screen, stack)
        demo.fill()
        demo.train()
        demo.start()
        demo.replay()
        tallies = demo.conclude(started_s)
        screen.close()
        print_closing(console, tallies, demo.course, out, time.monotonic() - started_s)
        if keep:
            stay(console, demo.settings, demo.worker, out)


class Demo:
    """The steps, in order, and what they hand on."""

    def __init__(
        self,
        shipment: Shipment,
        planned: Mapping[str, int],
        out: Path,
        scratch: Path,
        bootstrap_servers: str,
        screen: Screen,
        stack: ExitStack,
    ) -> None:
        """Write the configuration. `stack` ends what the steps leave running."""
        self._shipment, self._planned = shipment, planned
        self._out, self._scratch, self._screen, self._stack = out, scratch, screen, stack
        self._config = out / "demo.yaml"
        self._config.write_text(
            Template((files("pipeline.demo") / "demo.yaml").read_text()).substitute(
                bootstrap_servers=bootstrap_servers,
                storage=out.resolve().as_uri(),
                metrics_port=free_port(),
                recorder_port=free_port(),
            )
        )
        self.settings = load_settings(self._config)
        self._connection = Connection(bootstrap_servers)
        metrics = self.settings.metrics
        self._metrics_url = f"http://{metrics.host}:{metrics.port}/metrics"
        self._begins: dict[str, list[int]] = {}
        self._seconds: dict[str, float] = {}
        self._scored: dict[str, int] = dict.fromkeys(planned, 0)
        self._killed_s: float | None = None
        self.course: dict[str, int] = {"restarts": 0}
        """What the worker went through, for the summary."""
        told, own = screen.done, shipment.streams[life.STREAM]
        self._life = life.Life(self._config, out, own, shipment.labels_of(life.STREAM), told, stack)

    def fill(self) -> None:
        """Create the topics and produce the training part of each series."""
        self._cluster = self._stack.enter_context(closing(KafkaCluster(self._connection)))
        self._cluster.create_topics(replay.PARTITIONS)
        self._publisher = self._stack.enter_context(closing(KafkaPublisher(self._connection, _DELIVERY_S)))
        self._inbox = self._stack.enter_context(closing(Inbox(self._connection, self.settings.topics.alerts)))
        self._screen.done(f"broker on {self._connection.bootstrap_servers}, configuration in {self._config}")
        self._screen.begin("producing the history to train on")
        count = sum(1 for _ in self._produced(replay.training(self._shipment.streams)))
        for topic in replay.TOPICS.values():
            self._begins[topic] = self._inbox.ends(topic, replay.PARTITIONS[topic])
        self._screen.done(f"{count:,} records of history in {len(replay.TOPICS)} topics")

    def train(self) -> None:
        """Run `offkey train`."""
        log = self._out / "train.log"
        waiting = list(self.settings.streams)
        with running(offkey("train", str(self._config), "--json"), log) as child:
            assert child.stdout is not None
            self._screen.begin(f"offkey train: {waiting[0]}")
            for line in child.stdout:
                trained = json.loads(line)
                self._screen.done(
                    f"{trained['stream']}: {trained['architecture']} autoencoder of "
                    f"{_count(len(trained['features']), 'feature')}, trained on {trained['records']:,} records"
                )
                waiting.remove(trained["stream"])
                if waiting:
                    self._screen.begin(f"offkey train: {waiting[0]}")
            finish(child, "offkey train", log)

    def start(self) -> None:
        """Run `offkey record`, from the history on, and `offkey worker`; wait until both have their partitions."""
        self._screen.begin("starting offkey record and offkey worker")
        log, metrics = self._out / "record.log", self.settings.metrics
        # The worker begins where the history ends, for it was trained on that; snapshots are to hold it too.
        begins = {f"OFFKEY_STREAMS__{name.upper()}__START": "earliest" for name in self.settings.streams}
        recorder = self._stack.enter_context(running(offkey("record", str(self._config)), log, **begins))
        self._run_worker("worker.log")
        deadline_s = time.monotonic() + _READY_S
        while time.monotonic() < deadline_s:
            self._require_worker()
            if recorder.poll() is not None:
                raise failed(recorder, "offkey record", log)
            self._inbox.poll(0.2)
            records = gauges.answers(f"http://{metrics.host}:{self.settings.recorder.port}/readyz")
            if records and self._has_partitions(gauges.read(self._metrics_url)):
                self._screen.done(f"recorder and worker ready, metrics on {self._metrics_url}")
                return
        raise OffkeyError(
            f"recorder and worker were not ready within {_READY_S:g} s; what they said is in {log} and {self._log}"
        )

    def replay(self) -> None:
        """Produce the rest and follow the worker until it has scored all of it; half way it is killed once."""
        self._screen.begin("replaying")
        started_s = self._moved_s = time.monotonic()
        next_read_s = 0.0
        total = sum(self._planned.values())
        for count, _ in enumerate(self._produced(replay.replayed(self._shipment.streams))):
            if self._life.holds(count / total):
                self._follow(started_s, timeout_s=_READ_EVERY_S)
            if time.monotonic() >= next_read_s:
                self._follow(started_s, timeout_s=0.0)
                next_read_s = time.monotonic() + _READ_EVERY_S
        self._screen.begin("waiting for the worker to catch up")
        while len(self._seconds) < len(self._planned):
            self._follow(started_s, timeout_s=_READ_EVERY_S)
        took_s = time.monotonic() - started_s
        self._screen.done(f"{total:,} records scored, {total / took_s:,.0f} a second")

    def conclude(self, started_s: float) -> dict[str, Tally]:
        """Redraw the scores, count, and write the three files."""
        self._screen.begin("redrawing the scores for the report")
        log = self._out / "curves.log"
        command = module("pipeline.demo.curves", str(self._config), str(self._scratch), json.dumps(self._begins))
        with running(command, log) as child:
            finish(child, "the redrawing of scores", log)
        curves_of = {}
        for name in self._shipment.streams:
            with np.load(self._scratch / f"{name}.npz", allow_pickle=False) as arrays:
                curves_of[name] = dict(arrays)
        expected = {alert_id for curves in curves_of.values() for alert_id in curves["alert_ids"].tolist()}
        missing = self._inbox.wait_for(expected)
        alerts = self._inbox.alerts()
        if missing or len(alerts) > len(expected):
            raise OffkeyError(
                f"scoring again gave {len(expected)} alerts; of these the worker published all but {missing}, and "
                f"{len(alerts) + missing - len(expected)} others; see {self._log}, and please report it"
            )
        self._inbox.write(self._out / "alerts.jsonl")
        self.course |= {
            "alerts_lost": missing,
            "alerts_repeated": len(self._inbox.events) - len(alerts),
            "records_late": sum(int(curves["late"]) for curves in curves_of.values()),
        }
        tallies, views = {}, []
        for name, recorded in self._shipment.streams.items():
            own = [alert for alert in alerts if alert.stream == name]
            outcome = StreamOutcome(
                name,
                recorded,
                own,
                self._shipment.labels_of(name),
                curves_of[name],
                MARGIN_POINTS,
                self._seconds[name],
                self._begins[replay.TOPICS[name]][0],
            )
            tallies[name], view = tally_and_view(outcome)
            views.append(view)
        total = total_of(list(tallies.values()), time.monotonic() - started_s)
        own = [alert for alert in alerts if alert.stream == life.STREAM]
        happened = self._life.course, own, int(curves_of[life.STREAM]["excused"])
        said = {**summary(total, tallies, self.course), "life": life_report.summary_of(*happened)}
        (self._out / "summary.json").write_text(json.dumps(said, indent=1) + "\n")
        (self._out / "report.html").write_text(page(total, views, life_report.section(*happened)))
        self._screen.done("report written")
        return {**tallies, "total": total}

    def _produced(self, messages: Iterator[Message]) -> Iterator[Message]:
        """Publish messages in chunks, each confirmed before the next; yield them when they are queued."""
        last: dict[tuple[str, bytes | None], Message] = {}
        while chunk := list(islice(messages, _CHUNK)):
            for message in chunk:
                before = last.pop((message.topic, message.key), None)
                if before is not None:
                    self._publisher.send(before)
                last[message.topic, message.key] = message
                yield message
            self._publisher.flush(_DELIVERY_S)
        # Asked for the end of a partition, the embedded broker tells the one of the first record in its newest
        # batch. So the newest batch of each has to hold a single record, or readers would miss the others.
        for message in last.values():
            self._publisher.send(message)
            self._publisher.flush(_DELIVERY_S)

    def _follow(self, started_s: float, timeout_s: float) -> None:
        """Take new alerts, the committed offsets and the metrics; note which streams are through."""
        for event in self._inbox.poll(timeout_s):
            self._screen.show(event)
        self._require_worker()
        now_s, scored = time.monotonic(), self._committed()
        if scored != self._scored:
            self._scored, self._moved_s = scored, now_s
        elif now_s - self._moved_s > _STALLED_S and not self._life.holds(self._scored_share()):
            raise OffkeyError(f"the worker has not moved for {_STALLED_S:g} s; what it said is in {self._log}")
        for name, planned in self._planned.items():
            if name not in self._seconds and scored[name] >= planned:
                self._seconds[name] = now_s - started_s
        reading = gauges.read(self._metrics_url)
        if reading is not None:
            self._screen.read(reading, scored)
            versions = reading.versions.get(life.STREAM, frozenset())
            self._life.follow(self._scored_share(), versions, self._inbox.alerts)
        if self._killed_s is not None and self._has_partitions(reading):
            self._screen.done(f"another worker has taken over, {now_s - self._killed_s:.0f} s later")
            self._killed_s = None
        if not self.course["restarts"] and self._scored_share() >= 0.5:
            self._kill_worker()

    def _scored_share(self) -> float:
        return sum(self._scored.values()) / sum(self._planned.values())

    def _committed(self) -> dict[str, int]:
        """Return how many replayed records of each stream are scored and committed."""
        committed = self._cluster.committed(self.settings.kafka.group_id)
        return {
            name: sum(
                max(committed.get(TopicPartition(topic, number), 0) - begin, 0)
                for number, begin in enumerate(self._begins[topic])
            )
            for name, topic in replay.TOPICS.items()
        }

    def _kill_worker(self) -> None:
        """Do to the worker what a machine does that fails, and start another one."""
        self.worker.kill()
        self.worker.wait()
        self._killed_s = time.monotonic()
        self.course["restarts"] += 1
        self._screen.done("half way: killed the worker on purpose (SIGKILL), and started another")
        self._run_worker("worker-restarted.log")

    def _run_worker(self, log: str) -> None:
        self._log = self._out / log
        self.worker = self._stack.enter_context(running(offkey("worker", str(self._config)), self._log))

    def _require_worker(self) -> None:
        if self.worker.poll() is not None:
            raise failed(self.worker, "offkey worker", self._log)

    def _has_partitions(self, reading: gauges.Gauges | None) -> bool:
        return reading is not None and all(
            reading.of("offkey_partitions_assigned", name) == replay.PARTITIONS[topic]
            for name, topic in replay.TOPICS.items()
        )


def _make_folder(out: Path) -> None:
    """Make the folder, without what an earlier demo has kept in it.

    Raises:
        ConfigError: it cannot be written to, or holds folders of these names that are none of a demo's.
    """
    earlier = [folder for folder in (out / name for name in _KEPT) if folder.exists()]
    if earlier and not (out / "demo.yaml").exists():
        raise ConfigError(f"{earlier[0]}: is there, and of no demo; name another folder with --out")
    try:
        for folder in earlier:
            shutil.rmtree(folder)
        out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out).close()
    except OSError as error:
        raise ConfigError(
            f"{out}: cannot be written to ({error.strerror}); name another folder with --out"
        ) from error


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
