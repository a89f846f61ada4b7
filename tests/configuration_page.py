"""Every key of the configuration as a page for people, `deploy/configuration.md`; `tests.schemas` writes it.

What a key takes is read from its type and from what checks it, so the page says what the command does.
"""

import ast
import inspect
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Annotated, Any, Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from models.architectures import available, configure
from models.training import TrainingConfig
from pipeline import setting_types
from pipeline.config import Settings

_INTRODUCTION = """\
# Every key of the configuration

Written from the settings by `python -m tests.schemas`.
[`config.schema.json`](../pipeline/config.schema.json) says the same to editors, and `offkey init` writes a file to
begin with. A key that there is not is refused, with the nearest one that there is.
[Back to the front page](../README.md).

## How values are written

| word | such as |
|---|---|
| duration | `30s`, `5 min`, `2h`, `1 day`; `90` are seconds |
| size | `64 MiB`, `100 GB`; `4096` are bytes |
| budget | `1 per day`, `3 per week`, `1 per 1000 records` |
| moment | `2026-03-01T22:00:00Z`, always with its zone |
| field | `cpu`; `disk.used` is one inside another; a dot that belongs to a name has a backslash before it |
| Kafka name | of a topic or member: up to 249 letters, digits, dots, dashes and underscores |

## In the environment

Every key is a variable too: `OFFKEY_`, then its path in capitals, with `__` between the parts. `alerts.budget` of
the stream `machines` is `OFFKEY_STREAMS__MACHINES__ALERTS__BUDGET`. A text is taken as it is (`3 per week`),
everything else as it is written in the file: `OFFKEY_STREAMS__MACHINES__FEATURES='[cpu, memory]'`. The
environment wins over the file, and a variable of a key over one of the section around it. A list is one value:
what stands in it has no variable. A variable that begins with `OFFKEY_` and names no key is refused. Secrets are
taken from here or from the file that `..._file` names, and refused in the configuration itself.
"""
_OPTIONS = """\
## Options of `model`

They stand below `streams.NAME.model`, beside its keys, and are those of the training, whatever the network, and
of the network. Records of features and images train by other defaults of some, and the default of features has a
wider network: [`models/plan.py`](../models/plan.py) says which.
"""
_HEADER = "| key | takes | unless you say | what it is |\n|---|---|---|---|"


def page() -> str:
    """Return the whole page."""
    return "\n".join([_INTRODUCTION, *_section(Settings, ""), _OPTIONS, *_options()])


def _section(section: type[BaseModel], path: str) -> Iterator[str]:
    """Yield the table of a section, and then those of the sections in it."""
    rows, below = [_HEADER], []
    for name, field in section.model_fields.items():
        key = field.alias or name
        inner, mark = _section_of(field.annotation)
        if inner is None:
            takes, default = _takes(field), _default(field)
        else:
            inside = f"{path}.{key}{mark}".removeprefix(".")
            below.append((inner, inside))
            takes, default = f"[{_HOW[mark]}](#{_anchor(inside)})", "required" if field.is_required() else ""
        rows.append(_row(key, takes, default, field.description))
    yield f"## `{path}`\n" if path else "## The file\n"
    yield "\n".join(rows) + "\n"
    for inner, inside in below:
        yield from _section(inner, inside)


def _options() -> Iterator[str]:
    """Yield the options of training, and those of each network."""
    yield f"### Training\n\n{_table(TrainingConfig)}"
    for name in available():
        config = type(configure(name, {}))
        about = inspect.getdoc(inspect.getmodule(config)) or ""
        yield f"### `{name}`\n\n{about.splitlines()[0]}\n\n{_table(config)}"


_HOW = {"": "below", ".NAME": "below, by names", "[]": "a list, below"}
_PLAIN: Mapping[Any, str] = {bool: "true or false", int: "whole number", float: "number", str: "text"}


def _table(config: Any) -> str:
    said = {name: text for each in reversed(config.__mro__[:-1]) for name, text in _docstrings(each).items()}
    rows = [_HEADER]
    for field in fields(config):
        words = ", ".join(f"`{word}`" for word in get_args(field.type))
        rows.append(_row(field.name, words or _PLAIN[field.type], f"`{field.default}`", said.get(field.name)))
    return "\n".join(rows) + "\n"


def _docstrings(config: type) -> dict[str, str]:
    """Return the docstring underneath each field of a class."""
    (node,) = ast.parse(textwrap.dedent(inspect.getsource(config))).body
    assert isinstance(node, ast.ClassDef)
    found = {}
    for field, below in zip(node.body, node.body[1:], strict=False):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(below, ast.Expr)
            and isinstance(below.value, ast.Constant)
        ):
            assert isinstance(field.target, ast.Name)
            found[field.target.id] = inspect.cleandoc(str(below.value.value))
    return found


def _row(key: str, takes: str, default: str, said: str | None) -> str:
    assert said, f"{key} has no docstring"
    return f"| `{key}` | {takes} | {default} | {' '.join(said.split()).replace('|', chr(92) + '|')} |"


def _section_of(annotation: Any) -> tuple[type[BaseModel] | None, str]:
    """Return the section that a key holds, and how those in it are told apart; None where it holds a value."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, ""
    inside = get_args(annotation)
    if get_origin(annotation) is dict:
        return _section_of(inside[1])[0], ".NAME"
    for each in inside:
        section, mark = _section_of(each)
        if section is not None:
            return section, "[]" if get_origin(annotation) is list else mark
    return None, ""


def _checks(annotation: Any) -> Iterator[Any]:
    """Yield what checks a value, from the inside of a type."""
    for each in get_args(annotation):
        yield from _checks(each)
    if get_origin(annotation) is Annotated:
        yield from annotation.__metadata__


def _words(takes: Mapping[str, Any]) -> dict[Any, str]:
    """Return the word for each check; where two types share one, the later type has it."""
    return {check.func: word for word, each in takes.items() for check in _checks(each) if hasattr(check, "func")}


_WORDS = _words(
    {
        "size": setting_types.Size,
        "list of fields": setting_types.FieldPaths,
        "field": setting_types.FieldPath,
        "Kafka name": setting_types.Topic,
        "budget": setting_types.BudgetText,
        "moment": setting_types.Moment,
        "duration, or `never`": setting_types.DurationOrNever,
        "addresses, `host:port`": setting_types.Servers,
        "address of a folder or bucket": setting_types.StorageUrl,
    }
)


def _takes(field: FieldInfo) -> str:
    """Return what a key takes, and within which bounds."""
    checks = [*_checks(field.annotation), *field.metadata]
    called = [check.func for check in checks if hasattr(check, "func")]
    for call in reversed(called):
        if call in _WORDS:
            return _WORDS[call]
        bounds = inspect.getclosurevars(call).nonlocals
        if {"shortest", "longest"} <= set(bounds):
            return f"duration, {bounds['shortest']} to {bounds['longest']}"
    kinds = _kinds(field.annotation)
    if words := [f"`{each}`" for kind in kinds if get_origin(kind) is Literal for each in get_args(kind)]:
        return ", ".join(words)
    if SecretStr in kinds:
        return "a secret, only in the environment"
    (kind,) = [kind for kind in kinds if kind in _PLAIN]
    return _PLAIN[kind] + _bounds([*checks, *(each for check in checks for each in getattr(check, "metadata", []))])


def _kinds(annotation: Any) -> list[Any]:
    """Return the types that a value may have."""
    if get_origin(annotation) in (None, Literal):
        return [annotation]
    inside = get_args(annotation)
    return [
        kind for each in (inside[:1] if get_origin(annotation) is Annotated else inside) for kind in _kinds(each)
    ]


def _bounds(checks: list[Any]) -> str:
    least = next((check.ge for check in checks if isinstance(check, Ge)), None)
    above = next((check.gt for check in checks if isinstance(check, Gt)), None)
    most = next((check.le for check in checks if isinstance(check, Le)), None)
    if most is None and least is None:
        return ""
    if most == setting_types.LARGEST:
        return f" of {least} or more"
    return f", above {above}, {most} at most" if least is None else f", {least} to {most:,}"


_SPANS = {86_400: "d", 3600: "h", 60: " min", 1: "s"}
_SIZES = {2**30: "GiB", 2**20: "MiB", 2**10: "KiB", 1: "bytes"}


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    default, takes = field.get_default(call_default_factory=True), _takes(field)
    if default is None:
        return "`never`" if "`never`" in takes else ""
    if takes.startswith("duration") and default:
        unit = next((each for each in _SPANS if default % each == 0), None)
        return f"`{default:g}s`" if unit is None else f"`{default / unit:g}{_SPANS[unit]}`"
    if takes == "size":
        unit = next(each for each in _SIZES if default % each == 0)
        return f"`{default // unit} {_SIZES[unit]}`"
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


def _anchor(heading: str) -> str:
    return "".join(each for each in heading.lower() if each.isalnum() or each in "-_")
