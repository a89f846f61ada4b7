"""Write what is generated from the code and kept beside it: `python -m tests.schemas`.

The JSON Schemas that ship with the package, and the pages of all keys, all metrics and the rights of each
command.
"""

import json
from pathlib import Path
from typing import Any

from pipeline.config import Settings
from pipeline.stages.alerts import json_schema
from tests import configuration_page, metrics_page, rights_page

ROOT = Path(__file__).parent.parent


def generated() -> dict[str, str]:
    """Return the text of each file by its path in the repository."""
    config = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Settings.model_json_schema()}
    return {
        "pipeline/alert.schema.json": _text_of(json_schema()),
        "pipeline/config.schema.json": _text_of(config | {"title": "offkey configuration"}),
        "deploy/configuration.md": configuration_page.page(),
        "deploy/metrics.md": metrics_page.page(),
        "deploy/rights.md": rights_page.page(),
    }


def _text_of(schema: dict[str, Any]) -> str:
    return json.dumps(schema, indent=1) + "\n"


if __name__ == "__main__":
    for path, text in generated().items():
        (ROOT / path).write_text(text)
