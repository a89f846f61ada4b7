"""Rules and dashboards: they are tested, told of in the runbooks, and ask for what offkey really tells."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from deploy.grafana.write import written
from tests.deploy.watched import watched
from tests.metrics_page import all_metrics, labels_of, processes_of
from tests.programs import program
from tests.prometheus import DEPLOY, PrometheusProcess
from tests.receiving import until

RULES = [
    rule
    for group in yaml.safe_load((DEPLOY / "prometheus" / "offkey.rules.yml").read_text())["groups"]
    for rule in group["rules"]
]
ALERTS = {rule["alert"]: rule for rule in RULES if "alert" in rule}
COMPARISONS = {"==", "!=", ">", "<", ">=", "<="}
SETS = {"and", "or", "unless"}
SELDOM = {("offkey_shadow_info", "offkey-worker")}
"""Nothing is in shadow there."""
DASHBOARDS = {path.name: json.loads(path.read_text()) for path in sorted((DEPLOY / "grafana").glob("*.json"))}
PANELS = [panel for page in DASHBOARDS.values() for panel in page["panels"] if panel["type"] != "row"]


def chosen(expression: str, rate: str = "30m") -> str:
    """Return a panel's expression as Grafana asks it, with everything chosen.

    `rate`: such that it holds the whole test; where nothing was scored in it, a share is none.
    """
    for name, text in {"stream": ".*", "instance": ".*", "__rate_interval": rate}.items():
        expression = expression.replace(f"${name}", text)
    assert "$" not in expression, expression
    return expression


def asked(expression: Any) -> Iterator[Any]:
    """Yield what an expression asks for before it compares: where all is well, a comparison has nothing left."""
    kind = type(expression).__name__
    if kind == "ParenExpr":
        yield from asked(expression.expr)
    elif kind == "Call" and expression.func.name == "absent":
        yield from asked(expression.args[0])
    elif kind == "BinaryExpr" and str(expression.op) in COMPARISONS | SETS:
        yield from asked(expression.lhs)
        yield from asked(expression.rhs)
    else:
        yield expression


def selectors(expression: Any) -> set[str]:
    """Return the names of all series that an expression reads."""
    found: set[str] = set()

    def note(node: Any) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            found.add(str(node))

    promql_parser.walk(expression, pre_visit=note)
    return found


def untold(prometheus: PrometheusProcess) -> list[tuple[str, str]]:
    """Return the metrics with labels that a process tells of, or is said to tell of, and not both.

    Those without labels are there in every process: the client shows them from its import on.
    """
    labelled = {name: metric for name, metric in all_metrics().items() if labels_of(metric)}
    said = {(name, f"offkey-{process}") for name in labelled for process in processes_of(name)}
    told = {
        (re.sub(r"_(bucket|sum|count|created)$", "", each["__name__"]), each["job"])
        for each in prometheus.ask("series", **{"match[]": '{__name__=~"offkey_.+"}'})
    }
    return sorted((said ^ {each for each in told if each[0] in labelled}) - SELDOM)


def test_rules_and_dashboards_find_what_they_ask_for(embedded_broker: str, tmp_path: Path) -> None:
    """One test, so that one deployment does for all of them."""
    with watched(tmp_path, embedded_broker) as deployed:
        told = deployed.prometheus.values
        missing = []
        for rule in RULES:
            parsed = promql_parser.parse(rule["expr"])
            parts = [f"count({selector})" for selector in selectors(parsed)]
            parts += [part.prettify() for part in asked(parsed)]
            parts += [rule["record"]] if "record" in rule else []
            missing += [(rule.get("alert") or rule["record"], part) for part in parts if not told(part)]
        for panel in PANELS:
            parts = [chosen(target["expr"]) for target in panel["targets"]]
            missing += [(panel["title"], part) for part in parts if not told(part)]
        for name, page in DASHBOARDS.items():
            for variable in page["templating"]["list"][1:]:
                (query, label), *_ = re.findall(r"^label_values\((.+), (\w+)\)$", variable["query"])
                if not deployed.prometheus.ask(f"label/{label}/values", **{"match[]": query}):
                    missing.append((name, variable["query"]))
        assert missing == []
        assert untold(deployed.prometheus) == []
        # Alerts wait for minutes, and what one waits for is told at once. While a worker reads what it found at its
        # start, its lag may be one.
        until(lambda: deployed.prometheus.ask("alerts")["alerts"] == [], "something is wrong where all is well")
        deployed.worker.process.kill()
        until(lambda: bool(told('ALERTS{alertname="OffkeyDown",job="offkey-worker",alertstate="pending"}')))


def test_the_rules_are_tested() -> None:
    promtool = program("promtool", "apt-get install prometheus")
    done = subprocess.run(
        [promtool, "test", "rules", "offkey.test.yml"],
        cwd=DEPLOY / "prometheus",
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for checked in (["check", "rules", "offkey.rules.yml"], ["check", "config", "prometheus.yml"]):
        done = subprocess.run([promtool, *checked], cwd=DEPLOY / "prometheus", capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_is_tested_firing_and_not_firing(name: str) -> None:
    tests = yaml.safe_load((DEPLOY / "prometheus" / "offkey.test.yml").read_text())["tests"]
    about = f'ALERTS{{alertname="{name}",alertstate="firing"}}'
    expected = [each["exp_samples"] for test in tests for each in test["promql_expr_test"] if each["expr"] == about]
    assert [] in expected, "nothing says when it is silent"
    assert any(expected), "nothing says when it fires"


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_has_a_runbook(name: str) -> None:
    rule = ALERTS[name]
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    path, _, anchor = rule["annotations"]["runbook_url"].partition("#")
    text = (DEPLOY.parent / path).read_text()
    heading = f"## {name}\n"
    assert anchor == name.lower()
    assert text.count(heading) == 1
    section = " ".join(text.split(heading)[1].split("\n## ")[0].split())
    assert all(word in section for word in ("**Means**", "**Do**", "**Look at**")), section


def test_runbooks_are_of_alerts() -> None:
    assert re.findall(r"^## (\w+)$", (DEPLOY / "runbooks.md").read_text(), re.MULTILINE) == list(ALERTS)


def test_dashboards_are_what_the_code_says() -> None:
    found = {path: path.read_text() for path in Path(DEPLOY / "grafana").glob("*.json")}
    assert found == written(), "write them again with: python -m deploy.grafana.write"


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_a_panel_says_what_it_shows(panel: dict[str, Any]) -> None:
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${datasource}"}


@pytest.mark.parametrize("page", DASHBOARDS.values(), ids=DASHBOARDS)
def test_a_dashboard_asks_which_prometheus(page: dict[str, Any]) -> None:
    first = page["templating"]["list"][0]
    assert (first["name"], first["type"], first["query"]) == ("datasource", "datasource", "prometheus")
    assert len({panel["id"] for panel in page["panels"]}) == len(page["panels"])
    assert page["description"]
