"""YAML text -> its values, and the line of each key.

Only what can be a configuration is let in: keys are text and stand once, nothing holds itself, and aliases may
not unfold to more than a person would write. Whatever else is wrong is said with its line.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

Keys = tuple[str, ...]
"""The keys on the way from the outside to a value; the items of a list count from "0"."""

_MOST_VALUES = 100_000
_TEXT, _MERGE = "tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"


class YamlError(Exception):
    """Text that is no YAML, or none for a configuration: one line that says what to do."""

    def __init__(self, line: int, text: str) -> None:
        super().__init__(text)
        self.line = line


@dataclass(frozen=True)
class Document:
    """What a text holds."""

    values: Any
    lines: Mapping[Keys, int]
    """From 1. A value that came in by a merge (`<<`) has none."""


def read_yaml(text: str) -> Document:
    """Return the values of one YAML document.

    Raises:
        YamlError: with the line.
    """
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return Document(None, {})
        lines: dict[Keys, int] = {}
        # Before anything is made of the tree: making it moves merged keys to where they are merged to.
        for keys, line in _lines(node, (), frozenset()):
            lines[keys] = line
            if len(lines) > _MOST_VALUES:
                raise YamlError(line, f"more than {_MOST_VALUES:,} values, aliases unfolded; write fewer")
        return Document(loader.construct_document(node), lines)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise YamlError(
            line, f"not YAML: the character {error.character:#x} may not stand here; take it out"
        ) from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        about = f"{error.problem}, {error.context}" if error.context else f"{error.problem}"
        raise YamlError(mark.line + 1 if mark else 1, f"not YAML: {about}; mend it there or just before") from error
    except RecursionError as error:
        raise YamlError(1, "lists or keys are nested too deep; a configuration has a handful of levels") from error


class _Loader(yaml.SafeLoader):
    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            # What the library's own constructors let through: `2024-13-45`, a number of 5,000 digits, `!!int x`.
            kind = node.tag.rpartition(":")[2]
            raise YamlError(
                node.start_mark.line + 1, f"{node.value!r:.60} is no {kind}; mend it, or put quotes around it"
            ) from error


def _lines(node: yaml.Node, keys: Keys, above: frozenset[int]) -> Iterator[tuple[Keys, int]]:
    """Yield the keys on the way to each value, with the line.

    Raises:
        YamlError: a key that is no text or stands twice, or a value that holds itself.
    """
    yield keys, node.start_mark.line + 1
    if id(node) in above:
        raise YamlError(node.start_mark.line + 1, f"{shown(keys)} holds itself by an alias; write its values out")
    above |= {id(node)}
    if isinstance(node, yaml.MappingNode):
        first: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if key.tag not in (_TEXT, _MERGE):
                raise YamlError(line, _no_key(key, keys))
            inside = (*keys, key.value)
            if key.value in first:
                raise YamlError(line, f"{shown(inside)} is there already, in line {first[key.value]}; keep one")
            first[key.value] = line
            yield from _lines(value, inside, above)
            yield inside, line
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield from _lines(item, (*keys, str(index)), above)


def _no_key(key: yaml.Node, keys: Keys) -> str:
    where = f" in {shown(keys)}" if keys else ""
    if not isinstance(key, yaml.ScalarNode):
        return f"a list or mapping is no key{where}; write a name before the colon"
    if not key.value:
        return f"the key before the colon is empty{where}; write a name there"
    return f"the key {key.value!r:.60}{where} is no text for YAML; put quotes around it"


def shown(keys: Keys) -> str:
    """Return keys as they are written with dots, on one line whatever they hold."""
    text = ".".join(keys)
    return text if text.isprintable() and len(text) <= 100 else f"{text!r:.100}"
