"""What is generated from the code and kept is what the code says, and says what each setting is."""

import json
from importlib.resources import files

import pytest

from tests.schemas import ROOT, generated


@pytest.mark.parametrize("path", generated())
def test_the_kept_file_is_the_generated_one(path: str) -> None:
    assert (ROOT / path).read_text() == generated()[path], "run: make schemas"


def test_every_setting_is_described() -> None:
    schema = json.loads(files("pipeline").joinpath("config.schema.json").read_text())
    sections = [schema, *schema["$defs"].values()]
    silent = [
        name
        for section in sections
        for name, field in section["properties"].items()
        if not field.get("description")
    ]
    assert silent == []
