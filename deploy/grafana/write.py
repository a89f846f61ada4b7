"""Write the dashboards that Grafana imports: `python -m deploy.grafana.write`."""

from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from deploy.grafana.models import MODELS
from deploy.grafana.overview import OVERVIEW
from deploy.grafana.panels import document_of
from deploy.grafana.worker import WORKER

FOLDER = Path(__file__).parent
PAGES = (OVERVIEW, WORKER, MODELS)


def written() -> dict[Path, str]:
    """Return what each dashboard's file holds."""
    encoder = JSONEncoder(sort_keys=True, indent=1)
    return {FOLDER / f"{page.uid}.json": encoder.encode(document_of(page)) + "\n" for page in PAGES}


if __name__ == "__main__":
    for path, text in written().items():
        path.write_text(text)
