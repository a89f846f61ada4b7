"""The services of compose.yaml fit together, and nothing of them is open that need not be."""

import re
import subprocess
from typing import Any

import pytest
import yaml

from pipeline.config import Settings, load_settings
from tests.programs import program
from tests.prometheus import DEPLOY

COMPOSE = DEPLOY / "compose"
DOCUMENT = yaml.safe_load((COMPOSE / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = DOCUMENT["services"]
OURS = {"worker": "worker", "recorder": "record", "scheduler": "schedule", "notify": "notify"}


def ports(settings: Settings) -> dict[str, int]:
    """Return the port of each of our services' metrics."""
    return {
        "worker": settings.metrics.port,
        "recorder": settings.recorder.port,
        "scheduler": settings.scheduler.port,
        "notify": settings.notify.port,
    }


def test_it_is_what_compose_takes() -> None:
    asked = [program("check-jsonschema", "pip install check-jsonschema"), "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*asked, str(COMPOSE / "compose.yaml")], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout


def test_its_parts_are_all_there() -> None:
    assert set(SERVICES) == {"kafka", "topics", *OURS, "prometheus", "grafana", "alertmanager"}
    for name, service in SERVICES.items():
        assert re.fullmatch(r"[\w/.-]+:v?\d+\.\d+\.\d+", service["image"]), name
        hardened = "no-new-privileges:true" in service.get("security_opt", [])
        assert hardened or service["image"].startswith("apache/kafka:"), name
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert source in DOCUMENT["volumes"] or (COMPOSE / source).exists(), source
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), f"{name} is open to the network"


@pytest.mark.parametrize(("name", "command"), OURS.items())
def test_our_services_are_hardened_and_probed(name: str, command: str) -> None:
    service, settings = SERVICES[name], load_settings(COMPOSE / "offkey.yaml")
    assert service["command"] == [command, "/etc/offkey/offkey.yaml"]
    assert (service["read_only"], service["user"], service["cap_drop"]) == (True, "10001:10001", ["ALL"])
    assert service["healthcheck"]["test"][-1] == str(ports(settings)[name])
    assert service["mem_limit"]


def test_prometheus_finds_them() -> None:
    settings = load_settings(COMPOSE / "offkey.yaml")
    assert settings.metrics.host == "0.0.0.0"
    watched = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    jobs = {job["job_name"]: job.get("dns_sd_configs") for job in watched["scrape_configs"]}
    for name, port in ports(settings).items():
        (asked,) = jobs[f"offkey-{name}"]
        assert (asked["names"], asked["port"]) == ([name], port)
    (managers,) = watched["alerting"]["alertmanagers"]
    (receiver,) = settings.notify.receivers.values()
    assert managers["static_configs"][0]["targets"] == ["alertmanager:9093"]
    assert receiver.url == "http://alertmanager:9093"
    (source,) = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yaml").read_text())[
        "datasources"
    ]
    assert (source["type"], source["url"]) == ("prometheus", "http://prometheus:9090")


def test_topics_that_are_made_are_those_of_the_configuration() -> None:
    settings = load_settings(COMPOSE / "offkey.yaml")
    made = re.findall(r"^topic (\S+) (.*)$", SERVICES["topics"]["command"][0], re.MULTILINE)
    topics = dict(made)
    assert set(topics) == {
        *(stream.topic for stream in settings.streams.values()),
        *settings.topics.model_dump().values(),
    }
    assert topics[settings.topics.control] == "--partitions 1"
    assert "cleanup.policy=compact" in topics[settings.topics.feedback]


def test_alertmanager_takes_its_configuration() -> None:
    asked = [
        program("amtool", "apt-get install prometheus-alertmanager"),
        "check-config",
        str(DEPLOY / "alertmanager" / "alertmanager.yml"),
    ]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_file_holds_a_secret() -> None:
    suspicious = re.compile(r"(?i)(password|passwd|secret|token|api_?key)\w*\s*[:=]\s*['\"]?[\w/+-]{6,}")
    for path in DEPLOY.rglob("*"):
        if path.suffix in (".yml", ".yaml", ".service", ".sh", "") and path.is_file():
            # A Kubernetes secret's name is none.
            text = re.sub(r"secretName: [\w-]+", "", path.read_text())
            assert not suspicious.search(text), path
