"""Objects under names, on a local folder or an object store: what checkpoints and models are kept in.

`create` is the only conditional write, since local folders have no other.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    PermissionDeniedError,
    UnauthenticatedError,
    UnknownConfigurationKeyError,
)
from obstore.store import from_url

from pipeline.errors import ConfigError, TransientError

# The caller tries again too: the library's own 180 s would hide from it that storage is away.
_RETRY = timedelta(seconds=10)

_NO_RIGHT = (PermissionDeniedError, UnauthenticatedError, PermissionError)
_NO_RIGHT_CODES = ("(os error 13)", "(os error 30)")
"""No permission, read-only: on a folder the library calls them generic."""


class ObjectStorage:
    """Whole objects: each write is seen complete or not at all."""

    def __init__(self, url: str) -> None:
        """Open `file:///folder` (made if it is not there) or `s3://bucket/prefix`.

        Raises:
            ConfigError: it cannot be opened.
        """
        self.url = url
        if not url.startswith(("file:///", "s3://")):
            raise ConfigError(f"storage {url}: neither file:///folder nor s3://bucket/prefix; set `storage` to one")
        try:
            if url.startswith("file:"):
                self._store = from_url(url, mkdir=True)
            else:
                self._store = from_url(url, retry_config={"max_retries": 3, "retry_timeout": _RETRY})
        except (BaseError, OSError, ValueError, UnknownConfigurationKeyError) as error:
            raise ConfigError(
                f"storage {url}: cannot be opened ({_first_line(error)}); "
                "set `storage` to a folder that this user may write, or to a bucket"
            ) from error

    def get(self, name: str) -> bytes | None:
        """Return an object, or None where there is none."""
        try:
            with self._translated("read", name):
                return bytes(obstore.get(self._store, name).bytes())
        except FileNotFoundError:
            return None

    def put(self, name: str, content: bytes) -> None:
        """Write an object, over one that is there."""
        with self._translated("write", name):
            obstore.put(self._store, name, content, use_multipart=False)

    def create(self, name: str, content: bytes | memoryview) -> bool:
        """Write an object that is not there yet; return False where it is."""
        try:
            with self._translated("write", name):
                obstore.put(self._store, name, content, mode="create", use_multipart=False)
        except AlreadyExistsError:
            return False
        return True

    def list(self, folder: str) -> list[str]:
        """Return the names of all objects below a folder, sorted."""
        return sorted(self.sizes(folder))

    def sizes(self, folder: str) -> dict[str, int]:
        """Return the size in bytes of each object below a folder, by name."""
        with self._translated("list", folder):
            return {each["path"]: each["size"] for part in obstore.list(self._store, f"{folder}/") for each in part}

    def delete(self, name: str) -> None:
        """Remove an object; one that is not there is fine."""
        try:
            with self._translated("delete", name):
                obstore.delete(self._store, name)
        except FileNotFoundError:
            return

    @contextmanager
    def _translated(self, verb: str, name: str) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, AlreadyExistsError):
            raise
        except (BaseError, OSError) as error:
            about = _first_line(error)
            if isinstance(error, _NO_RIGHT) or any(code in about for code in _NO_RIGHT_CODES):
                raise ConfigError(
                    f"storage {self.url}: no right to {verb} {name} ({about}); grant it or set `storage`"
                ) from error
            raise TransientError(
                f"storage {self.url}: cannot {verb} {name} ({about}); is it there, and not full?"
            ) from error


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
