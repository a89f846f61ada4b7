"""What pydantic finds wrong with the settings -> one line for each mistake, in words that say what to do."""

import difflib
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from models.spec import shortened
from pipeline.environment import Variable, below, is_secret, keys_of
from pipeline.yaml_lines import Keys, shown

_TAKES = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a smaller number",
    "int_from_float": "a whole number",
    "finite_number": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "greater_than": "more than {gt}",
    "greater_than_equal": "{ge} or more",
    "less_than_equal": "{le} or less",
    "literal_error": "{expected}",
    "list_type": "a list, such as [cpu, memory]",
    "dict_type": "keys of its own below it",
    "model_type": "keys of its own below it",
}
"""By pydantic's type of error: what the setting takes instead."""


def mistake_at(keys: Keys, text: str) -> PydanticCustomError:
    """Return an error about a key inside a section, for checks that look at several."""
    return PydanticCustomError("value_error", "{text}", {"text": text, "at": keys})


def unknown(what: str, name: str, known: Collection[str]) -> str:
    """Return what to say of a name that there is not: the nearest one, or all that there are."""
    near = difflib.get_close_matches(name, known, n=1)
    return f"there is no {what} {name!r}; " + (
        f"did you mean {near[0]!r}?" if near else f"there are: {shortened(list(known))}"
    )


def nearest(places: Collection[Keys], keys: Keys) -> Keys:
    """Return the place of a key, or the nearest one around it; the outermost, (), is always there."""
    return next(keys[:n] for n in range(len(keys), -1, -1) if keys[:n] in places)


def explain(
    error: ValidationError, settings: type, places: Mapping[Keys, str], variables: Iterable[Variable]
) -> str:
    """Return a line for each mistake, in the order of the file: the place, the key, what is wrong, what to do.

    Args:
        settings: the type that was checked.
        places: where a key is set; the nearest one around a mistake is named.
        variables: those in the environment.
    """
    unknown = {variable.keys for variable in variables if variable.takes is None}
    order = {keys: number for number, keys in enumerate(places)}
    lines: list[tuple[int, str]] = []
    for mistake in error.errors(include_url=False):
        context = mistake.get("ctx", {})
        keys = tuple(str(part) for part in mistake["loc"] if part != "[key]")
        keys += context.get("at", ())
        at = nearest(places, keys)
        if mistake["type"] == "extra_forbidden":
            said = no_setting(settings, keys, unknown)
        else:
            said = _said(mistake, shown(keys), context, secret=_is_secret(settings, keys))
        lines.append((order[at], f"{places[at]}: {said}"))
    return "\n".join(line for _, line in sorted(lines))


def no_setting(settings: type, keys: Keys, unknown: Collection[Keys] = ()) -> str:
    """Return what to say of a key that there is not, with the nearest one that there is.

    `unknown`: those that variables of the environment set.
    """
    takes: Any = settings
    for key in keys[:-1]:
        takes = below(takes, key)
    known = keys_of(takes)
    near = difflib.get_close_matches(keys[-1], known, n=1, cutoff=0.6)
    hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(known)}"
    if keys in unknown and len(keys) == 1 and (near := _nearest_variables(settings, keys[0])):
        hint = f"did you mean {near[0]}?"
    return f"{shown(keys)} is no setting; {hint}"


def _nearest_variables(settings: Any, name: str) -> list[str]:
    """Find the variable that was meant by a name without the double underscore between its parts."""
    flat = {
        f"{section}_{key}": f"OFFKEY_{section}__{key}".upper()
        for section in keys_of(settings)
        for key in keys_of(below(settings, section))
    }
    return [flat[near] for near in difflib.get_close_matches(name, flat, n=1, cutoff=0.8)]


def _is_secret(settings: Any, keys: Keys) -> bool:
    takes = settings
    for key in keys:
        takes = below(takes, key)
    return is_secret(takes)


def _said(mistake: ErrorDetails, key: str, context: Mapping[str, Any], *, secret: bool) -> str:
    kind, found = mistake["type"], mistake["input"]
    if kind == "missing":
        return f"{key} is missing; add it"
    if kind == "too_short":
        return f"{key} is empty; write at least one below it"
    if kind == "too_long":
        return f"{key} lists {context['actual_length']}; it takes {context['max_length']} or fewer"
    if kind not in _TAKES:
        text = str(context.get("text") or context.get("error") or mistake["msg"])
        return f"{key}: {text}"
    takes = _TAKES[kind].format(**context)
    if secret:
        return f"{key} is something else than it takes, {takes}: put quotes around it"
    if found is None:
        return f"{key} is empty; it takes {takes}: write that, or take out a key that has a default"
    if kind == "string_type" and not isinstance(found, list | dict):
        return f"{key} is {_short(found)}; it takes {takes}: put quotes around it"
    if kind == "literal_error":
        known = [word.strip("'") for word in takes.replace(" or ", ", ").split(", ")]
        near = difflib.get_close_matches(str(found), known, n=1)
        takes += f"; did you mean {near[0]!r}?" if near else ""
    return f"{key} is {_short(found)}; it takes {takes}"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
