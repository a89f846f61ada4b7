"""The walls of the house: who may import whom, which names are not used, what the start may cost."""

import ast
import os
import resource
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted([*(ROOT / "pipeline").rglob("*.py"), *(ROOT / "models").rglob("*.py")])
ONE_IMPORTER = (
    "kafka",
    "pyarrow.parquet",
    "pyarrow.ipc",
    "obstore",
    "apscheduler",
    "prometheus_client",
    "matplotlib",
    "http.client",
    "urllib.request",
    "ray",
    "torch.distributed.launcher",
    "PIL",
)
CLIENT_LIBRARIES = (
    *("kafka", "pyarrow", "obstore", "apscheduler", "prometheus_client", "ray", "rich", "typer", "PIL"),
)
PYARROW = {"pipeline/connectors/parquet.py", "pipeline/formats/arrow.py"}
"""It is two libraries under one name: files for a connector, and a codec without I/O for a format."""
CODECS = {"pyarrow": {"pipeline/formats/arrow.py"}, "PIL": {"pipeline/formats/png_jpeg.py"}}
"""Libraries that turn bytes into columns, without I/O."""
STAGES = (
    "decode",
    "tables",
    "images",
    "bounds",
    "name_index",
    "capacity",
    "slot_arrays",
    "slices",
    "runs",
    "rounds",
    "seats",
    "series",
    "silence",
    "thresholds",
    "fading",
    "windows",
    "scoring",
    "incidents",
    "feedback",
    "alerts",
    "regions",
    "muting",
    "dead_letters",
)
FORBIDDEN_FILES = {"utils.py", "helpers.py", "common.py", "manager.py", "misc.py"}


@cache
def parsed(path: Path) -> list[ast.AST]:
    return list(ast.walk(ast.parse(path.read_text())))


@cache
def imports(path: Path) -> frozenset[str]:
    found: set[str] = set()
    for node in parsed(path):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.update([node.module, *(f"{node.module}.{alias.name}" for alias in node.names)])
    return frozenset(found)


def importers(module: str) -> set[str]:
    return {
        str(path.relative_to(ROOT))
        for path in SOURCES
        if any(name == module or name.startswith(f"{module}.") for name in imports(path))
    }


def test_models_know_nothing_of_the_pipeline() -> None:
    assert not [path for path in importers("pipeline") if path.startswith("models/")]


def test_stages_know_no_connectors_and_no_client_libraries() -> None:
    for module in ("pipeline.connectors", "pipeline.config", *CLIENT_LIBRARIES):
        inside = {path for path in importers(module) if path.startswith(("pipeline/stages/", "pipeline/formats/"))}
        assert inside == CODECS.get(module, set())


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_imports_earlier_ones_only(stage: str) -> None:
    later = STAGES[STAGES.index(stage) + 1 :]
    if stage == "dead_letters":
        later = STAGES[1:-1]
    imported = imports(ROOT / "pipeline" / "stages" / f"{stage}.py")
    assert not [name for name in later if f"pipeline.stages.{name}" in imported]


def test_every_stage_has_its_place_in_the_order() -> None:
    there = {path.stem for path in (ROOT / "pipeline" / "stages").glob("*.py")} - {"__init__"}
    assert there == set(STAGES)


def test_only_commands_build_connectors() -> None:
    """Each file of `pipeline/jobs` is an offline command, and reads its own files."""
    outside = ("pipeline/connectors/", "pipeline/demo/", "pipeline/jobs/")
    assert {path for path in importers("pipeline.connectors") if not path.startswith(outside)} == {
        "pipeline/cli.py",
        "pipeline/cli_backtest.py",
        "pipeline/cli_endpoint.py",
        "pipeline/cli_feedback.py",
        "pipeline/cli_generate.py",
        "pipeline/cli_letters.py",
        "pipeline/cli_models.py",
        "pipeline/cli_notify.py",
        "pipeline/cli_record.py",
        "pipeline/cli_rows.py",
        "pipeline/cli_retrain.py",
        "pipeline/cli_schedule.py",
        "pipeline/cli_training.py",
        "pipeline/cli_worker.py",
    }


@pytest.mark.parametrize("library", ONE_IMPORTER)
def test_a_client_library_has_one_importer(library: str) -> None:
    assert len(importers(library)) <= 1


def test_the_models_do_without_scikit_learn() -> None:
    """It is an extra: only who asks for its estimators needs it, and who asks how true made-up rows are."""
    assert importers("sklearn") == {"models/sklearn.py", "pipeline/jobs/two_sample.py"}
    assert not importers("models.sklearn")


def test_no_wait_and_no_age_rests_on_a_clock_that_can_be_set() -> None:
    """The readings are what versions and entries of their log are called by, and what ages are reckoned by.

    Those of versions that are pruned, and of snapshots, of which the newest ones say it too.
    """
    wall = {("time", "time"), ("time", "time_ns"), ("datetime", "now"), ("datetime", "utcnow"), ("date", "today")}
    readers = [
        str(path.relative_to(ROOT))
        for path in SOURCES
        for node in parsed(path)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
        if (node.value.id, node.attr) in wall
    ]
    assert readers == ["pipeline/cli_who_when.py"]
    assert not importers("time.time") | importers("time.time_ns")


def test_each_half_of_pyarrow_has_one_importer() -> None:
    assert importers("pyarrow") == PYARROW


def test_what_needs_pyarrow_is_imported_where_it_is_asked_for() -> None:
    """A stream of JSON works without it."""
    asked = "import sys, pipeline.lanes, pipeline.check, pipeline.train, pipeline.recorder; "
    asked += "print('pyarrow' in sys.modules, 'PIL' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "False False"


@pytest.mark.parametrize(
    "modules",
    [
        "recorder, connectors.snapshots, connectors.kafka, fields, connectors.registry, endpoint",
        # It trains in processes of their own.
        "scheduler, training_process, connectors.kafka, endpoint, connectors.registry, connectors.storage",
        "notify, connectors.kafka, connectors.http_post, endpoint, receivers.alertmanager, secret_files",
    ],
)
def test_who_scores_nothing_works_without_torch(modules: str) -> None:
    """It is half a gigabyte that they have no use for."""
    asked = "".join(f"import pipeline.{module}; " for module in modules.split(", "))
    asked += "import sys; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "False"


def test_receivers_know_no_network() -> None:
    """What a receiver takes is a pure function of the alert; who sends it is in one place."""
    for module in ("pipeline.connectors", "http", "socket", "kafka"):
        assert not [path for path in importers(module) if path.startswith("pipeline/receivers/")]


def test_nothing_that_is_read_can_run_code() -> None:
    """Whoever can write models, checkpoints, records or a configuration can put none of theirs into a process.

    The two that unpickle do so with what they have sent to processes of their own run.
    """
    assert importers("pickle") == {"pipeline/connectors/ray.py", "pipeline/jobs/spread.py"}
    for module in ("marshal", "shelve", "dill", "cloudpickle", "joblib", "runpy", "code", "pickletools"):
        assert not importers(module), module
    runs = {"eval", "exec", "compile", "__import__"}
    loads = {("torch", "load"), ("yaml", "load"), ("yaml", "unsafe_load"), ("yaml", "full_load"), ("os", "system")}
    loads |= {
        ("os", "popen"),
        ("pandas", "read_pickle"),
        ("torch.jit", "load"),
        ("torch.package", "PackageImporter"),
    }
    found = []
    for path in SOURCES:
        for node in parsed(path):
            if not isinstance(node, ast.Call):
                continue
            given = {
                key.arg: ast.unparse(key.value) for key in node.keywords if key.arg in ("shell", "allow_pickle")
            }
            bad = given.get("shell", "False") != "False"
            if isinstance(node.func, ast.Name):
                bad |= node.func.id in runs
            elif isinstance(node.func, ast.Attribute):
                called = ast.unparse(node.func.value), node.func.attr
                bad |= called in loads
                bad |= called in (("np", "load"), ("numpy", "load")) and given.get("allow_pickle") != "False"
            if bad:
                found.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert found == []


def test_no_name_that_explains_nothing() -> None:
    assert not [path for path in SOURCES if path.name in FORBIDDEN_FILES]


def test_files_hold_one_idea() -> None:
    long = [f"{path.relative_to(ROOT)}: {n}" for path in SOURCES if (n := len(path.read_text().splitlines())) > 400]
    assert long == []


def test_the_top_level_is_what_the_design_says() -> None:
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    known = {"pyproject.toml", "README.md", "LICENSE", "pipeline", "models", "deploy", "tests"}
    known |= {"Makefile", "constraints.txt", "CHANGELOG.md", ".ci", ".gitignore"}
    assert {name.split("/")[0] for name in tracked} <= known


def test_help_is_quick_and_without_torch() -> None:
    asked = [sys.executable, "-X", "importtime", "-c", "import sys; sys.argv = ['offkey', '--help']; "]
    asked[-1] += "from pipeline.cli import main; main()"
    done = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=60)
    assert "Usage: offkey" in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert not imported & {"torch", "kafka", "pyarrow", "numpy", "matplotlib"}


def test_help_answers_in_half_a_second() -> None:
    """The whole process, from its start to its end, in processor time: other work beside it does not count."""
    asked = [
        sys.executable,
        "-c",
        "import sys; sys.argv = ['offkey', '--help']; import pipeline.cli as c; c.main()",
    ]
    took_s = []
    for _ in range(5):
        before_s = _children_s()
        subprocess.run(asked, capture_output=True, check=True, timeout=60, env=_without_coverage())
        took_s.append(_children_s() - before_s)
    assert min(took_s) < 0.5


def _children_s() -> float:
    """Return the processor time of the child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _without_coverage() -> dict[str, str]:
    """Return our environment, but for what has child processes measured: that doubles the time of their start."""
    return {name: text for name, text in os.environ.items() if not name.startswith("COVERAGE")}
