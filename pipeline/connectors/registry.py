"""The registry of model versions in storage.

`models/STREAM/versions/VERSION/` holds `model.safetensors`, `origin.json` where it is known, then `manifest.json`,
whose presence makes the version complete; `models/STREAM/promotions/00000001.json` and so on is the log. Both are
only ever created, so two writers cannot both win: each entry has the number after the last one that its writer saw,
and of two who saw the same, one gets it.

The highest number says who serves, whatever the entries before it are like: they are written in order, so an entry
that is missing or damaged was there, and was followed. It is told, and what needs to know it is refused; a worker
goes on. A store may list late: the numbers after the listed ones, and those that seem to be missing, are asked for
one by one.

An entry may take versions out of service for ever, before their files are deleted: who promotes one of them then
either sees that entry, or has seen the number that it took.
"""

from collections.abc import Iterator, Mapping, Sequence

import msgspec

from pipeline.connectors.objects import Storage
from pipeline.errors import PromotionLost, RegistryError
from pipeline.protocols import ModelVersion
from pipeline.versions.log import Promotion, PromotionLog, made_champion

MANIFEST = "manifest.json"


class StoredRegistry:
    """Model versions on a `Storage`."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def add(self, model: ModelVersion) -> None:
        folder = _versions(model.stream) + f"/{model.version}"
        for name in sorted(model.files, key=lambda name: name == MANIFEST):
            content = model.files[name]
            place = f"{folder}/{name}"
            if not self._storage.create(place, content) and self._storage.get(place) != content:
                raise RegistryError(
                    f"model {model.stream} {model.version}: this version is there already and never changes; "
                    "train again for another one"
                )

    def versions(self, stream: str) -> Sequence[str]:
        return [version for version, files in self._files(stream).items() if MANIFEST in files]

    def unfinished(self, stream: str) -> Sequence[str]:
        return [version for version, files in self._files(stream).items() if MANIFEST not in files]

    def load(self, stream: str, version: str) -> ModelVersion:
        folder = f"{_versions(stream)}/{version}/"
        names = self._storage.list(folder.rstrip("/"))
        files = {name.removeprefix(folder): self._storage.get(name) for name in names}
        present = {name: content for name, content in files.items() if content is not None}
        if MANIFEST not in present:
            raise RegistryError(
                f"model {stream} {version}: not in {self._storage.url}, or not complete; promote another version"
            )
        return ModelVersion(stream, version, present)

    def file(self, stream: str, version: str, name: str) -> bytes | None:
        return self._storage.get(f"{_versions(stream)}/{version}/{name}")

    def size_bytes(self, stream: str, version: str) -> int:
        folder = f"{_versions(stream)}/{version}"
        stats = (self._storage.stat(name) for name in self._storage.list(folder))
        return sum(stat.size_bytes for stat in stats if stat is not None)

    def remove(self, stream: str, version: str) -> None:
        folder = f"{_versions(stream)}/{version}"
        # Whatever ends this between two files, what is left is no version.
        for name in sorted(self._storage.list(folder), key=lambda name: name != f"{folder}/{MANIFEST}"):
            self._storage.delete(name)

    def promote(self, stream: str, promotion: Promotion) -> None:
        place = _entry(stream, promotion.number)
        content = msgspec.json.encode(promotion)
        # The client may have tried twice, and met what it wrote itself.
        if not self._storage.create(place, content) and self._storage.get(place) != content:
            raise PromotionLost(
                f"stream {stream}: promotion {promotion.number} was made by someone else meanwhile, and this one "
                f"does not count; see `offkey models list CONFIG {stream}`, and do it again if it should still be"
            )

    def champion(self, stream: str) -> Promotion | None:
        return made_champion(self._newest_first(stream))

    def log(self, stream: str) -> PromotionLog:
        last = self._last_number(stream)
        read = [self._read(stream, number) for number in range(1, last + 1)]
        return PromotionLog(
            [entry for entry in read if not isinstance(entry, str)],
            last,
            [fault for fault in read if isinstance(fault, str)],
        )

    def _files(self, stream: str) -> Mapping[str, set[str]]:
        """Return the files of each version, be it complete or not."""
        folder = f"{_versions(stream)}/"
        found: dict[str, set[str]] = {}
        for name in self._storage.list(folder.rstrip("/")):
            version, _, file = name.removeprefix(folder).partition("/")
            found.setdefault(version, set()).add(file)
        return found

    def _numbers(self, stream: str) -> Iterator[int]:
        """Yield the numbers of the listed entries; other objects are none of ours."""
        for name in self._storage.list(f"models/{stream}/promotions"):
            stem = name.rpartition("/")[2].removesuffix(".json")
            if stem.isdecimal() and name == _entry(stream, int(stem)):
                yield int(stem)

    def _newest_first(self, stream: str) -> Iterator[Promotion]:
        """Yield entries from the end as far as they are whole; that the last one is, is required."""
        last = self._last_number(stream)
        for number in range(last, 0, -1):
            entry = self._read(stream, number)
            if not isinstance(entry, str):
                yield entry
            elif number == last:
                raise RegistryError(entry)
            else:
                return

    def _last_number(self, stream: str) -> int:
        last = max(self._numbers(stream), default=0)
        while self._storage.get(_entry(stream, last + 1)) is not None:
            last += 1
        return last

    def _read(self, stream: str, number: int) -> Promotion | str:
        """Return an entry, or what is wrong with it."""
        name = _entry(stream, number)
        content = self._storage.get(name)
        if content is None:
            return (
                f"{self._storage.url}/{name}: missing from the log of promotions; put it back, or name the version "
                "with `rollback --to`, for what served before it is not known"
            )
        try:
            entry = msgspec.json.decode(content, type=Promotion)
            if entry.number != number:
                raise msgspec.ValidationError(f"it is entry {entry.number}")
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            return (
                f"{self._storage.url}/{name}: damaged promotion ({error}); put back what it was, or promote the "
                f"version that should serve: offkey models promote CONFIG {stream} VERSION"
            )
        return entry


def _versions(stream: str) -> str:
    return f"models/{stream}/versions"


def _entry(stream: str, number: int) -> str:
    return f"models/{stream}/promotions/{number:08d}.json"
