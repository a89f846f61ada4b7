"""`offkey models promote` and `rollback` beside a running `offkey worker`, on Apache Kafka."""

import json
import signal
from pathlib import Path

from models.files import to_files
from pipeline.config import load_settings
from pipeline.connectors.registry import StoredRegistry
from pipeline.connectors.storage import ObjectStorage
from pipeline.protocols import ModelVersion
from tests.commands import Running, events, metrics_of, offkey, produce, wait_for
from tests.pipeline.test_running import Deployed, deployed
from tests.streams import retrained_detector, series_payloads

__all__ = ["deployed"]


def add(config: Path, version: str) -> None:
    """Put another version into a configuration's registry, where nobody is served by it yet."""
    registry = StoredRegistry(ObjectStorage(load_settings(config).storage))
    registry.add(ModelVersion("machines", version, to_files(retrained_detector())))


def watching(deployed: Deployed) -> Path:
    settings = json.loads(deployed.config.read_text())
    settings["worker"]["watch_every"] = 0.1
    deployed.config.write_text(json.dumps(settings))
    return deployed.config


def logging_json(config: Path) -> None:
    config.write_text(json.dumps(json.loads(config.read_text()) | {"logs": {"format": "json"}}))


def gauge(config: Path) -> set[str]:
    """Return the versions that `offkey_model_info` names."""
    lines = [line for line in metrics_of(config).splitlines() if line.startswith("offkey_model_info{")]
    return {line.partition('version="')[2].partition('"')[0] for line in lines}


def test_a_promotion_and_a_rollback_reach_the_running_worker_and_a_restart(deployed: Deployed) -> None:
    config, payloads = watching(deployed), series_payloads(200)
    add(config, "v2")
    parts = [payloads[:260], payloads[260:420], payloads[420:600], payloads[600:]]
    ends = [260, 420, 600, 800]
    with Running(config, "info") as running:
        produce(deployed.connection, deployed.topic, parts[0])
        wait_for(lambda: deployed.reached(ends[0]), running)
        assert gauge(config) == {"v1"}
        assert offkey("models", "promote", str(config), "machines", "v2").returncode == 0
        wait_for(lambda: serves(config, "v2"), running)
        produce(deployed.connection, deployed.topic, parts[1])
        wait_for(lambda: deployed.reached(ends[1]), running)
        assert gauge(config) == {"v2"}
        running.end(signal.SIGKILL)
    logging_json(config)
    with Running(config, "info") as running:
        produce(deployed.connection, deployed.topic, parts[2])
        wait_for(lambda: deployed.reached(ends[2]), running)
        assert gauge(config) == {"v2"}
        assert offkey("models", "rollback", str(config), "machines").returncode == 0
        wait_for(lambda: serves(config, "v1"), running)
        running.process.send_signal(signal.SIGUSR1)
        produce(deployed.connection, deployed.topic, parts[3])
        wait_for(lambda: deployed.reached(ends[3]), running)
        assert gauge(config) == {"v1"}
        said = [json.loads(line) for line in running.end().splitlines()]
    (swap,) = (line for line in said if "judged by model v1 from offset 600 on" in line["message"])
    assert (swap["stream"], swap["topic"], swap["partition"]) == ("machines", deployed.topic, 0)
    assert (swap["offset"], swap["version"], swap["level"]) == (600, "v1", "info")
    # From the signal on there is a line for each batch.
    batches = [line for line in said if line["level"] == "debug" and line["message"].endswith(" are done")]
    assert batches[-1]["last_offset"] == 799
    assert all(line["offset"] >= 600 for line in batches)
    alerts = events(deployed.connection, deployed.alerts)
    assert len({alert["id"] for alert in alerts}) == len(alerts)
    by_version = {
        version: {a["offset"] for a in alerts if a["model_version"] == version} for version in ("v1", "v2")
    }
    assert by_version["v2"]
    assert by_version["v1"]
    assert all(260 <= offset < 600 for offset in by_version["v2"])
    assert all(not 260 <= offset < 600 for offset in by_version["v1"])


def serves(config: Path, version: str) -> bool:
    """Whether the champion is this version, and the worker has loaded it."""
    registry = StoredRegistry(ObjectStorage(load_settings(config).storage))
    champion, name = registry.champion("machines"), 'offkey_model_promoted_timestamp_seconds{stream="machines"} '
    told = [line for line in metrics_of(config).splitlines() if line.startswith(name)]
    assert champion is not None
    return champion.version == version and [float(line.removeprefix(name)) for line in told] == [
        champion.promoted_ms / 1000
    ]
