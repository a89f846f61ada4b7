"""The schemas that are shipped are those of the code, and say what each setting is."""

import json
from importlib.resources import files

import pytest

from tests.schemas import generated, text_of


@pytest.mark.parametrize("name", ["alert.schema.json", "config.schema.json"])
def test_the_shipped_schema_is_the_generated_one(name: str) -> None:
    shipped = files("pipeline").joinpath(name).read_text()
    assert shipped == text_of(generated()[name]), "run: make schemas"


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
