"""How a panel and a page are put together, with Grafana's own builders.

Every query goes to the data source that the page's variable names, so a page shows data wherever it is imported.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from grafana_foundation_sdk.builders import common as common_builders
from grafana_foundation_sdk.builders import stat, table, timeseries
from grafana_foundation_sdk.builders.dashboard import (
    Dashboard,
    DashboardLink,
    DatasourceVariable,
    QueryVariable,
    Row,
    ThresholdsConfig,
)
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.models import common
from grafana_foundation_sdk.models.dashboard import Dashboard as Document
from grafana_foundation_sdk.models.dashboard import (
    DashboardLinkType,
    DataSourceRef,
    Threshold,
    ThresholdsMode,
    VariableOption,
    VariableRefresh,
    VariableSort,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

_SOURCE = DataSourceRef("prometheus", "${datasource}")
_COLUMNS = 24
STREAMS = 'label_values(offkey_partitions_assigned{job="offkey-worker"}, stream)'
"""The streams that a viewer may choose from."""


@dataclass(frozen=True)
class Panel:
    """One panel: what it shows, in which unit of Grafana's, and what that means."""

    title: str
    description: str
    unit: str
    queries: Mapping[str, str]
    """Expressions by their legend."""
    kind: Literal["lines", "stack", "number", "table"] = "lines"
    width: int = 8
    logarithmic: bool = False
    red_from: float | None = None


@dataclass(frozen=True)
class Page:
    """A dashboard: rows of panels."""

    uid: str
    title: str
    description: str
    rows: Mapping[str, Sequence[Panel]]
    variables: Mapping[str, str]
    """Queries of what a viewer may choose, by name."""


def document_of(page: Page) -> Document:
    """Return Grafana's document of a page."""
    built = (
        Dashboard(page.title)
        .uid(page.uid)
        .description(page.description)
        .tags(["offkey"])
        .time("now-6h", "now")
        .refresh("30s")
        .timezone("browser")
        .link(DashboardLink("offkey").type(DashboardLinkType.DASHBOARDS).tags(["offkey"]).keep_time(True))
        .with_variable(DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
    )
    for name, query in page.variables.items():
        built.with_variable(_choice(name, query))
    for title, panels in page.rows.items():
        built.with_row(Row(title))
        assert sum(panel.width for panel in panels) % _COLUMNS == 0, f"{page.title}: {title} leaves a gap"
        for panel in panels:
            built.with_panel(_built(panel))
    document = built.build()
    # Grafana numbers panels as it imports them; here they are the same at each build.
    for number, made in enumerate(document.panels or [], 1):
        made.id_val = number
    return document


def _choice(name: str, query: str) -> QueryVariable:
    return (
        QueryVariable(name)
        .label(name.capitalize())
        .query(query)
        .datasource(_SOURCE)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".*")
        .current(VariableOption(True, ["All"], ["$__all"]))
    )


def _built(panel: Panel) -> "stat.Panel | table.Panel | timeseries.Panel":
    made: stat.Panel | table.Panel | timeseries.Panel
    if panel.kind == "number":
        made = stat.Panel().graph_mode(common.BigValueGraphMode.AREA)
        made.reduce_options(common_builders.ReduceDataOptions().calcs(["lastNotNull"]))
    elif panel.kind == "table":
        made = table.Panel()
    else:
        made = timeseries.Panel().fill_opacity(30 if panel.kind == "stack" else 5)
        made.legend(common_builders.VizLegendOptions().show_legend(True).placement(common.LegendPlacement.BOTTOM))
        made.tooltip(common_builders.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI))
        if panel.kind == "stack":
            made.stacking(common_builders.StackingConfig().mode(common.StackingMode.NORMAL))
        if panel.logarithmic:
            scale = common_builders.ScaleDistributionConfig().type(common.ScaleDistribution.LOG).log(10)
            made.scale_distribution(scale)
        else:
            made.min(0)
    steps = [Threshold(None, "green")]
    if panel.red_from is not None:
        steps.append(Threshold(panel.red_from, "red"))
    made.title(panel.title).description(panel.description).unit(panel.unit).datasource(_SOURCE)
    made.span(panel.width).height(4 if panel.kind == "number" else 8)
    made.thresholds(ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps))
    for index, (legend, expression) in enumerate(panel.queries.items()):
        query = Dataquery().expr(expression).legend_format(legend).ref_id(chr(ord("A") + index)).datasource(_SOURCE)
        if panel.kind == "table":
            query.instant().format(PromQueryFormat.TABLE)
        else:
            query.range()
        made.with_target(query)
    return made
