"""What the documents say is so: links, commands and their options, configurations, keys, metrics, programs.

Commands are taken apart by the command itself here and run elsewhere: `RUN_BY` says by which test.
"""

import ast
import importlib.util
import json
import re
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import typer
import yaml
from kafka.admin import ACLOperation
from typer.main import get_command

from pipeline.cli import app
from pipeline.config import Settings, StreamSettings, load_settings
from pipeline.environment import below
from pipeline.stages.alerts import json_schema
from tests.commands import command_names
from tests.documents import DOCUMENTS, ROOT, Line, blocks, inline, lines
from tests.metrics_page import all_metrics
from tests.programs import program

LINES = list(lines())
SOURCES = sorted(path for package in ("pipeline", "models", "deploy") for path in (ROOT / package).rglob("*.py"))
INLINE = sorted({code for path in (*DOCUMENTS, *SOURCES) for code in inline(path)})
OFFKEY: Any = get_command(app)
UsageError: type[Exception] = typer.BadParameter.__bases__[0]
RUN_BY = {
    "backtest": "tests/pipeline/jobs/test_backtest_command.py",
    "check": "tests/pipeline/test_cli.py",
    "dead-letters list": "tests/pipeline/letters/test_asking.py",
    "dead-letters replay": "tests/pipeline/letters/test_asking.py",
    "demo": "tests/pipeline/demo/test_demo.py",
    "evaluate": "tests/pipeline/jobs/test_evaluate.py",
    "features": "tests/pipeline/test_reduce_command.py",
    "feedback": "tests/pipeline/test_feedback_command.py",
    "generate": "tests/pipeline/test_generate_command.py",
    "init": "tests/pipeline/test_cli.py",
    "models list": "tests/pipeline/test_models.py",
    "models promote": "tests/pipeline/test_models.py",
    "models prune": "tests/pipeline/test_models.py",
    "models rollback": "tests/pipeline/test_models.py",
    "models shadow": "tests/pipeline/test_shadow_command.py",
    "models show": "tests/pipeline/test_models.py",
    "notify": "tests/pipeline/test_notify_command.py",
    "plan": "tests/pipeline/jobs/test_sizing.py",
    "record": "tests/pipeline/test_record_command.py",
    "reduce": "tests/pipeline/test_reduce_command.py",
    "retrain": "tests/pipeline/test_retrain_command.py",
    "schedule": "tests/pipeline/test_schedule_command.py",
    "train": "tests/pipeline/test_cli.py",
    "worker": "tests/pipeline/test_running.py",
}
"""A test that runs each command in earnest."""
FILES = (".py", ".md", ".json", ".yaml", ".yml", ".csv", ".npz", ".jsonl")
FRONT_PAGE = ROOT / "README.md"
NOT_PAGES = {"CHANGELOG.md", "pipeline/demo/data/ATTRIBUTION.md", "tests/fixtures/README.md"}
"""A list, and notes that lie beside data."""
LOOKED_UP = {
    "deploy/configuration.md",
    "deploy/metrics.md",
    "deploy/rights.md",
    "tests/benchmarks/results/README.md",
}
"""As long as what there is makes them: nobody reads them from the top."""
EXAMPLES = {"$seed": "0"}
"""What stands for the reader's own."""


def anchor_of(heading: str) -> str:
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def taken_apart(words: tuple[str, ...]) -> str:
    """Have the command look at its words, and return its name.

    Raises:
        UsageError: it would refuse them.
    """
    found, rest, name = OFFKEY, list(words), ""
    if rest[:1] == ["--log-level"]:
        rest = rest[2:]
    while hasattr(found, "commands"):
        if not rest or rest[0] not in found.commands:
            raise typer.BadParameter(f"no command {rest[:1]}")
        name = f"{name} {rest[0]}".strip()
        found = found.commands[rest.pop(0)]
    found.make_context(name, [EXAMPLES.get(word, word) for word in rest])
    return name


def links_of(path: Path) -> list[str]:
    """Return the links of a document that do not leave the repository."""
    links = re.findall(r"\]\(([^)\s]+)\)", path.read_text())
    return [link for link in links if not link.startswith("http")]


def linked_from(path: Path) -> set[Path]:
    return {(path.parent / link.partition("#")[0]).resolve() for link in links_of(path)}


def test_every_document_is_looked_at() -> None:
    """`tests.documents` walks the folders, so that a page is tried before it is added; Git knows what was added."""
    listed = ["git", "ls-files", "-z", "*.md"]
    done = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True)
    assert {ROOT / name for name in done.stdout.split("\0") if name} <= set(DOCUMENTS)


def test_every_page_is_found_from_the_front_page() -> None:
    """By one link: the front page is the map of all."""
    assert set(DOCUMENTS) - linked_from(FRONT_PAGE) <= {FRONT_PAGE}


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_a_page_is_one_that_can_be_read(path: Path) -> None:
    """It leads back to the front page, and neither is too long for one sitting."""
    length = len(path.read_text().splitlines())
    if path == FRONT_PAGE:
        assert length <= 450
    elif name_of(path) not in NOT_PAGES:
        assert FRONT_PAGE in linked_from(path)
        assert length <= 400 or name_of(path) in LOOKED_UP


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_links_lead_somewhere(path: Path) -> None:
    for link in links_of(path):
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        assert target.exists(), link
        if anchor:
            assert target.suffix == ".md", link
            headings = re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE)
            assert anchor in map(anchor_of, headings), link


def test_every_command_is_run_by_a_test() -> None:
    assert sorted(command_names()) == sorted(RUN_BY)
    for command, path in RUN_BY.items():
        text = (ROOT / path).read_text()
        assert all(f'"{word}"' in text for word in command.split()), f"{path} does not run {command}"


def test_no_option_is_taken_that_there_is_not() -> None:
    wrong = ("worker", "x", "--proceses", "2"), ("models", "shw", "x"), ("train",), ("plan", "x", "--series", "y")
    for words in wrong:
        with pytest.raises(UsageError):
            taken_apart(words)


def test_commands_within_a_line_are_there() -> None:
    """With their options; what else they take may be left out there."""
    for code in INLINE:
        named = re.match(r"(?:[A-Z_]+=\S+ )*offkey ([a-z].*)", code)
        if named is None:
            continue
        found, words = OFFKEY, re.split(r"[ |\[\]]+", named[1])
        while hasattr(found, "commands") and words:
            assert words[0] in found.commands, code
            found = found.commands[words.pop(0)]
        known = {option for each in found.params for option in (*each.opts, *each.secondary_opts)}
        assert {word.partition("=")[0] for word in words if word.startswith("--")} <= known, code


def test_modules_within_a_line_are_there() -> None:
    for code in INLINE:
        for module in re.findall(r"\bpython -m ((?:tests|deploy|pipeline)[\w.]*)", code):
            assert importlib.util.find_spec(module) is not None, code


def test_paths_within_a_line_are_there() -> None:
    """Those of this repository, in commands too; `models/` is a folder of storage as well."""
    for code in INLINE:
        for path in re.findall(r"(?:^| )((?:deploy|tests|pipeline)/[\w./-]*)", code):
            assert (ROOT / path).exists(), code


OF_SHELL = {".": "activate", "for": "loop", "grant()": "loop", "}": "loop"}


class Shell:
    """What is asked of a line in a block, by its program; a program that is none of these is not checked at all."""

    def offkey(self, *words: str) -> None:
        taken_apart(words)

    def make(self, target: str) -> None:
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)

    def pip(self, install: str, *words: str) -> None:
        assert install == "install"
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        for extras in re.findall(r"\[(.*?)\]", " ".join(words)):
            assert set(extras.split(",")) <= set(project["optional-dependencies"])
        assert "-c" not in words or (ROOT / words[words.index("-c") + 1]).exists()

    def python(self, m: str, module: str, *words: str) -> None:
        assert m == "-m"
        assert importlib.util.find_spec(module) is not None
        if module.startswith("kafka."):
            importlib.import_module(module.replace("kafka.", "kafka.cli.")).main_parser().parse_args(words)

    def python3(self, m: str, module: str, *words: str) -> None:
        self.python(m, module, *words)

    def activate(self, path: str) -> None:
        """The shell's own, after `python3 -m venv`."""
        assert path == "venv/bin/activate"

    def prometheus_alertmanager(self, *words: str) -> None:
        """`tests/receiving.py` starts one with the same options, and amtool checks the file."""
        given = dict(word.removeprefix("--").split("=", 1) for word in words)
        assert (ROOT / given["config.file"]).exists()
        text = (ROOT / "tests" / "receiving.py").read_text()
        assert all(f"--{option}=" in text for option in given)

    def docker(self, compose: str, f: str, path: str, up: str, build: str) -> None:
        """No engine is here to run it; `tests/deploy/test_compose.py` checks the file."""
        assert (compose, f, up, build) == ("compose", "-f", "up", "--build")
        assert (ROOT / path).exists()

    def torchrun(self, *words: str) -> None:
        """Two machines are not here; `tests/pipeline/test_torchrun.py` has two processes train together."""
        assert "--no-python" in words
        taken_apart(words[words.index("offkey") + 1 :])

    def amtool(self, *words: str) -> None:
        """`tests/pipeline/test_notified_alertmanager.py` asks a real one so."""
        assert words[1:3] == ("alert", "query")

    def export(self, *words: str) -> None:
        """Variables of the object storage, which `tests/contracts/test_storage.py` sets."""
        text = (ROOT / "tests" / "buckets.py").read_text()
        assert all(word.partition("=")[0] in text for word in words)

    def grant(self, *words: str) -> None:
        """What `deploy/rights.md` calls Kafka's own command; `tests/pipeline/test_rights.py` gives these rights."""
        given = dict(zip(words[::2], words[1::2], strict=True))
        assert set(given) <= {"--operation", "--topic", "--group", "--transactional-id", "--resource-pattern-type"}
        assert re.sub(r"(?<=.)(?=[A-Z])", "_", given["--operation"]).upper() in ACLOperation.__members__

    def useradd(self, *words: str) -> None:
        """Not run: it would change the machine."""

    def install(self, *words: str) -> None:
        """Not run, for the same reason."""

    def systemctl(self, enable: str, now: str, *units: str) -> None:
        """Not run either; `tests/deploy/test_kubernetes.py` has systemd check the units."""
        assert all((ROOT / "deploy" / "systemd" / f"{unit}.service").exists() for unit in units)

    def cp(self, source: str, target: str) -> None:
        assert list(ROOT.glob(source))

    def build(self, source: str, target: str) -> None:
        """`tests/deploy/test_image.py` runs it in an empty folder."""

    def loop(self, *words: str) -> None:
        """The shell's own."""

    do = done = loop


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.where)
def test_a_line_is_one_that_can_be_typed(line: Line) -> None:
    name = OF_SHELL.get(line.words[0], Path(line.words[0]).stem.replace("-", "_"))
    check: Callable[..., None] | None = getattr(Shell(), name, None)
    assert check is not None, f"nothing checks a line of {name}"
    if "/" in line.words[0]:
        assert (ROOT / line.words[0]).exists()
    check(*line.words[1:])


@pytest.mark.parametrize("block", blocks("yaml"), ids=str)
def test_a_configuration_is_taken(block: Any, tmp_path: Path) -> None:
    """Whole, or put into one of a stream; what is of others is looked at by their own programs."""
    held = yaml.safe_load(block.text)
    path = tmp_path / "offkey.yaml"
    if set(held) <= set(Settings.model_fields):
        streams = {
            name: {"topic": name, **stream} for name, stream in held.get("streams", {"machines": {}}).items()
        }
        path.write_text(yaml.safe_dump({**held, "streams": streams}))
        load_settings(path)
    elif set(held) <= set(StreamSettings.model_fields):
        path.write_text(yaml.safe_dump({"streams": {"machines": {"topic": "metrics", **held}}}))
        load_settings(path)
    elif "scrape_configs" in held:
        path.write_text(block.text)
        checked = [program("promtool", "apt-get install prometheus"), "check", "config", "--syntax-only", str(path)]
        subprocess.run(checked, check=True, capture_output=True, timeout=30)
    else:
        path.write_text("route: {receiver: nobody}\nreceivers: [{name: nobody}]\n" + block.text)
        checked = [program("amtool", "apt-get install prometheus-alertmanager"), "check-config", str(path)]
        subprocess.run(checked, check=True, capture_output=True, timeout=30)


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_keys_within_a_line_are_there(path: Path) -> None:
    """`kafka.delivery`, and `alerts.delay` of a stream."""
    for code in inline(path):
        named = re.fullmatch(r"([a-z_]+(?:\.[a-z_0-9]+)+)(?:: .+)?", code)
        first = named[1].split(".")[0] if named else ""
        if named is None or not (first in Settings.model_fields or first in StreamSettings.model_fields):
            continue
        if named[1].endswith(FILES):
            continue
        takes: Any = Settings if first in Settings.model_fields else StreamSettings
        for key in named[1].split("."):
            takes = below(takes, key)
            assert takes is not None, code


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_metrics_within_a_line_are_there(path: Path) -> None:
    rules = (ROOT / "deploy" / "prometheus" / "offkey.rules.yml").read_text()
    for code in inline(path):
        for name in re.findall(r"\boffkey_[a-z_]+\b(?!\*)", code):
            family = re.sub(r"_(bucket|sum|count)$", "", name)
            shortened = any(each.startswith(name) for each in all_metrics()) and name.endswith("_")
            assert {name, family} & set(all_metrics()) or shortened or name in rules, code


@pytest.mark.parametrize("block", [each for each in blocks("json") if "..." not in each.text], ids=str)
def test_an_alert_is_one(block: Any) -> None:
    """One that is cut off with dots is none."""
    schema = json_schema()
    jsonschema.validate(json.loads(block.text), {"$defs": schema["$defs"], "$ref": "#/$defs/Alert"})


@pytest.mark.parametrize("block", blocks("python"), ids=str)
def test_python_can_be_read(block: Any) -> None:
    """`tests/test_examples.py` runs those that are marked."""
    ast.parse(block.text)
