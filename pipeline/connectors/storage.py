"""Objects under names, on a local folder or an object store: what checkpoints and models are kept in.

`create` is the only conditional write, since local folders have no other.
"""

import re
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

from pipeline.connectors.objects import Stat
from pipeline.errors import ConfigError, TransientError

# The caller tries again too: the library's own 180 s would hide from it that storage is away.
_RETRY = timedelta(seconds=10)

_NO_RIGHT = (PermissionDeniedError, UnauthenticatedError, PermissionError)
_NO_RIGHT_SIGNS = ("(os error 13)", "(os error 30)", "status code: 401", "status code: 403", "(code: AccessDenied)")
"""No permission, read-only: the library calls them generic on a folder, and at lists and deletions of a bucket."""

_S3_CODE = re.compile(r"<Code>(\w+)</Code>")


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
                f"storage {url}: cannot be opened ({_told(error)[0]}); "
                "set `storage` to a folder that this user may write, or to a bucket"
            ) from error

    def get(self, name: str) -> bytes | None:
        """Return an object, or None where there is none."""
        try:
            with self._translated("read", name):
                return bytes(obstore.get(self._store, name).bytes())
        except FileNotFoundError:
            return None

    def get_range(self, name: str, start: int, end: int) -> bytes | None:
        """Return the bytes from `start` to before `end`, which it has, or None where there is no such object."""
        try:
            with self._translated("read", name):
                return bytes(obstore.get_range(self._store, name, start=start, end=end))
        except FileNotFoundError:
            return None

    def stat(self, name: str) -> Stat | None:
        """Return an object's size and when it was written, or None where there is none."""
        try:
            with self._translated("read", name):
                found = obstore.head(self._store, name)
        except FileNotFoundError:
            return None
        return Stat(found["size"], int(found["last_modified"].timestamp() * 1000))

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
        except AlreadyExistsError:
            raise
        except (BaseError, OSError) as error:
            about, code = _told(error)
            # Else a store without the bucket would look like an empty one.
            if code == "NoSuchBucket":
                raise ConfigError(
                    f"storage {self.url}: there is no such bucket; create it, or set `storage` and the endpoint "
                    "(AWS_ENDPOINT) to where it is"
                ) from error
            if isinstance(error, FileNotFoundError):
                raise
            if isinstance(error, _NO_RIGHT) or any(sign in about for sign in _NO_RIGHT_SIGNS):
                raise ConfigError(
                    f"storage {self.url}: no right to {verb} {name} ({about}); grant it or set `storage`"
                ) from error
            raise TransientError(
                f"storage {self.url}: cannot {verb} {name} ({about}); is it there, and not full?"
            ) from error


def _told(error: Exception) -> tuple[str, str]:
    """Return what to say of an error, in a line, and the code that S3 gives it, "" where it gives none.

    The code stands in an XML document, whose first line says nothing.
    """
    found = _S3_CODE.search(str(error))
    line = str(error).partition("\n")[0]
    if found is None:
        return line, ""
    return f"{line.partition('<?xml')[0].rstrip(': ')}: {found[1]}", found[1]
