"""offkey as its users run it: a configuration, a model, commands in processes of their own, and what they left."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Self

from kafka import KafkaAdminClient
from typer.main import get_command

from models.files import to_files
from pipeline.cli import app
from pipeline.config import load_settings
from pipeline.connectors.connection import Connection
from pipeline.connectors.kafka import KafkaPublisher, history
from pipeline.connectors.registry import StoredRegistry
from pipeline.connectors.storage import ObjectStorage
from pipeline.protocols import Message, ModelVersion
from pipeline.stopping import SIGNALS
from pipeline.versions.log import Promotion
from tests.streams import SERIES, Payload, series_detector

_DEADLINE_S = 60.0


def configured(tmp_path: Path, broker: str = "127.0.0.1:1", **changes: Any) -> Path:
    settings = {
        "kafka": {"bootstrap_servers": broker, "connect_timeout": 5 if broker != "127.0.0.1:1" else 0.5},
        "storage": (tmp_path / "storage").as_uri(),
        "streams": {"machines": SERIES.model_dump(mode="json", exclude_unset=True)},
        "metrics": {"port": 0},
        "recorder": {"port": 0},
        "device": "cpu",
    }
    path = tmp_path / "offkey.yaml"
    path.write_text(json.dumps({**settings, **changes}))
    return path


def promote(path: Path, **files: bytes | None) -> None:
    """Put a model into a configuration's registry, `files` in place of its own, by stem; None leaves one out."""
    registry = StoredRegistry(ObjectStorage(load_settings(path).storage))
    content = {name: files.get(name.partition(".")[0], own) for name, own in to_files(series_detector()).items()}
    registry.add(ModelVersion("machines", "v1", {name: own for name, own in content.items() if own is not None}))
    registry.promote("machines", Promotion(1, "v1", 0, "test"))


def produce(connection: Connection, topic: str, payloads: Sequence[Payload]) -> None:
    """Publish keys and values, in order."""
    with closing(KafkaPublisher(connection)) as publisher:
        for key, value in payloads:
            publisher.send(Message(topic, key, value))
        publisher.flush(30)


def events(connection: Connection, topic: str) -> list[dict[str, Any]]:
    return [
        {"id": dict(record.headers)["ce_id"].decode(), **json.loads(record.value or b"")}
        for arrived in history(connection, topic, 100_000)
        for record in arrived.records
    ]


class Running:
    """A command in a process of its own, as users run it; killed at the end of the block if it still runs."""

    def __init__(self, config: Path, log_level: str = "warning", command: str = "worker", *options: str) -> None:
        code = "from pipeline.cli import main; main()"
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, "--log-level", log_level, command, str(config), *options],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()

    def end(self, number: signal.Signals = signal.SIGTERM) -> str:
        self.process.send_signal(number)
        return self.process.communicate(timeout=30)[1]


@contextmanager
def signals_given_back() -> Iterator[list[int]]:
    """Give SIGTERM and SIGINT back to whom they belong; yield a list that then names what was kept of them."""
    kept: list[int] = []
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield kept
    finally:
        if signal.set_wakeup_fd(-1) != -1:
            kept += SIGNALS
        for number, handler in before.items():
            if signal.signal(number, handler) is not handler:
                kept.append(number)


def offkey(*arguments: str) -> subprocess.CompletedProcess[str]:
    code = "from pipeline.cli import main; main()"
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120)


def command_names(within: Any = None, name: str = "") -> Iterator[str]:
    """Yield all commands, those of a group behind its name."""
    inner = getattr(within or get_command(app), "commands", None)
    if inner is None:
        yield name
    for each, command in (inner or {}).items():
        yield from command_names(command, f"{name} {each}".strip())


def metrics_of(config: Path) -> str:
    port = json.loads(config.read_text())["metrics"]["port"]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        return str(answer.read().decode())


def wait_for(what: Callable[[], bool], running: Running) -> None:
    deadline_s, pause = time.monotonic() + _DEADLINE_S, threading.Event()
    while time.monotonic() < deadline_s:
        assert running.process.poll() is None, running.process.communicate()[1]
        if what():
            return
        pause.wait(0.1)
    raise AssertionError("the process did not get there in time")


def committed(broker: str, group: str) -> dict[str, int]:
    """Return the group's committed offset of each topic's first partition; empty: it has committed nothing."""
    with closing(KafkaAdminClient(bootstrap_servers=broker)) as admin:
        offsets = admin.list_group_offsets({group: None})[group]
    return {place.topic: at.offset for place, at in offsets.items() if place.partition == 0}


def only_line(said: str) -> str:
    """Return the one line that a failed command printed; anything more, such as a traceback, is a failure."""
    assert said.count("\n") == 1, said
    assert said.startswith("offkey: "), said
    return said.removeprefix("offkey: ").rstrip("\n")
