"""What checkpoints and models ask of storage: whole objects under names."""

from typing import NamedTuple, Protocol


class Stat(NamedTuple):
    """What storage says of an object without giving it."""

    size_bytes: int
    written_ms: int
    """When it was written, in ms since the epoch by the store's clock."""


class Storage(Protocol):
    """`pipeline.connectors.storage`, or a dictionary."""

    @property
    def url(self) -> str: ...
    def get(self, name: str) -> bytes | None: ...
    def get_range(self, name: str, start: int, end: int) -> bytes | None: ...
    def stat(self, name: str) -> Stat | None: ...
    def create(self, name: str, content: bytes | memoryview) -> bool: ...
    def list(self, folder: str) -> list[str]: ...
    def delete(self, name: str) -> None: ...
