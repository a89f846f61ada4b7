"""Environment variables -> settings: `OFFKEY_` and the path of a key with `__` between the parts.

A source of pydantic-settings. Its own passes over a variable whose section it does not know, so a misspelt one
would change nothing and nobody would be told; here every variable that begins with the prefix becomes a key, and
the check of the settings refuses those that there are not. Names are taken in any case, streams by the names
that the file gives them. A value for text is taken as it is; any other is read as YAML: `3`, `[cpu, memory]`.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, SecretStr
from pydantic_settings import BaseSettings, EnvSettingsSource

from pipeline.errors import ConfigError
from pipeline.yaml_lines import Keys, YamlError, read_yaml, shown

_DELIMITER = "__"
_SERVICE_LINK = re.compile(r"(\w*_)?(SERVICE_(HOST|PORT)(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?)")
"""What Kubernetes puts into every pod for a service whose name begins with "offkey": none of ours."""


@dataclass(frozen=True)
class Variable:
    """An environment variable, and the key that it sets."""

    name: str
    keys: Keys
    text: str
    takes: Any
    """Type of the setting; None where there is no such key."""

    @property
    def value(self) -> Any:
        """What it sets.

        Raises:
            ConfigError: it is no YAML, where it has to be.
        """
        if _is_text(self.takes):
            return self.text
        try:
            return read_yaml(self.text).values
        except YamlError as error:
            raise ConfigError(f"environment variable {self.name}: {shown(self.keys)}: {error}") from error


class Environment(EnvSettingsSource):
    """Settings from the environment; `known` is what the file says, for the names of streams."""

    def __init__(self, settings_cls: type[BaseSettings], known: Mapping[str, Any]) -> None:
        super().__init__(settings_cls)
        self._known = known

    def __call__(self) -> dict[str, Any]:
        values: dict[str, Any] = {}
        # Those of a whole section first: what is set inside it by a variable of its own wins.
        for variable in sorted(self.variables(), key=lambda variable: len(variable.keys)):
            inside = values
            for key in variable.keys[:-1]:
                below = inside.setdefault(key, {})
                if not isinstance(below, dict):
                    break  # It is refused for what it is.
                inside = below
            else:
                inside[variable.keys[-1]] = variable.value
        return values

    def variables(self) -> Iterator[Variable]:
        """Yield every variable that begins with the prefix.

        Raises:
            ConfigError: one goes on below a key that takes a value.
        """
        for name, text in self.env_vars.items():
            tail = name.upper().removeprefix(self.env_prefix)
            if tail == name.upper() or text is None or _is_service_link(tail, text):
                continue
            keys, takes = self._resolved(name, name[len(self.env_prefix) :].split(_DELIMITER))
            yield Variable(name, keys, text, takes)

    def _resolved(self, variable: str, parts: list[str]) -> tuple[Keys, Any]:
        """Return the keys in the case of the settings, and what the last one takes."""
        keys: Keys = ()
        takes: Any = self.settings_cls
        known: Any = self._known
        for part in parts:
            if not (takes in (Any, None) or _is_section(takes) or get_origin(takes) is dict):
                raise ConfigError(
                    f"environment variable {variable}: {shown(keys)} takes a value and has no keys below it; "
                    f"take {_DELIMITER}{part} off the name"
                )
            names = known if isinstance(known, dict) and get_origin(takes) is dict else keys_of(takes)
            key = next((name for name in names if str(name).upper() == part.upper()), part.lower())
            keys, takes = (*keys, key), below(takes, key)
            known = known.get(key) if isinstance(known, dict) else None
        return keys, takes


def below(takes: Any, key: str) -> Any:
    """Return the type of what stands under a key of a setting of type `takes`; None where nothing may."""
    if get_origin(takes) is dict:
        return get_args(takes)[1]
    if not _is_section(takes):
        return _item_of(takes)
    for name, field in takes.model_fields.items():
        if key == (field.alias or name):
            return field.annotation
    return Any if takes.model_config.get("extra") == "allow" else None


def keys_of(takes: Any) -> list[str]:
    """Return the keys that may stand under a setting of this type."""
    if not _is_section(takes):
        return []
    return sorted(field.alias or name for name, field in takes.model_fields.items())


def is_secret(takes: Any) -> bool:
    return SecretStr in (takes, *get_args(takes))


def _is_text(takes: Any) -> bool:
    if get_origin(takes) in (Annotated, Union, UnionType):
        return any(_is_text(each) for each in get_args(takes))
    return takes in (str, SecretStr)


def _item_of(takes: Any) -> Any:
    """Return the type of a list's items; None where `takes` is no list."""
    if get_origin(takes) in (Annotated, Union, UnionType):
        return next((item for each in get_args(takes) if (item := _item_of(each)) is not None), None)
    return get_args(takes)[0] if get_origin(takes) is list else None


def _is_section(takes: Any) -> bool:
    return isinstance(takes, type) and issubclass(takes, BaseModel)


def _is_service_link(tail: str, text: str) -> bool:
    return _DELIMITER not in tail and (
        _SERVICE_LINK.fullmatch(tail) is not None or (tail.endswith("PORT") and "://" in text)
    )
