"""Write the JSON Schemas that ship with the package: `python -m tests.schemas`."""

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from pipeline.config import Settings
from pipeline.stages.alerts import json_schema


def generated() -> dict[str, dict[str, Any]]:
    """Return each schema by its file's name in the package."""
    config = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Settings.model_json_schema()}
    return {
        "alert.schema.json": json_schema(),
        "config.schema.json": config | {"title": "offkey configuration"},
    }


def text_of(schema: dict[str, Any]) -> str:
    return json.dumps(schema, indent=1) + "\n"


if __name__ == "__main__":
    for name, schema in generated().items():
        Path(str(files("pipeline") / name)).write_text(text_of(schema))
