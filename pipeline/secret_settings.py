"""Secrets among the settings: by the environment or by a file that `..._file` names, never in the configuration."""

from collections.abc import Iterator
from typing import Any

from pipeline.environment import below, is_secret
from pipeline.mistakes import mistake_at
from pipeline.setting_types import Section
from pipeline.yaml_lines import Keys


def refuse_twice(section: Section) -> None:
    """See that what may stand in a file of its own is not given beside that file.

    Raises:
        PydanticCustomError: it is.
    """
    for key in type(section).model_fields:
        file = getattr(section, f"{key}_file", None)
        if file is not None and getattr(section, key) is not None:
            raise mistake_at((f"{key}_file",), f"`{key}` is set too; keep one")


def secrets_written(values: Any, takes: Any, at: Keys = ()) -> Iterator[Keys]:
    """Yield the keys of secrets that stand in a file's values themselves, whatever else these hold.

    `takes`: the type of the setting that the values are of.
    """
    if is_secret(takes) and values is not None:
        yield at
    elif takes is not None and isinstance(values, dict):
        for key, inside in values.items():
            yield from secrets_written(inside, below(takes, key), (*at, key))
