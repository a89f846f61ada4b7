"""Versions in shadow, in storage.

`shadows/STREAM/appointed/00000001.json` and so on is the log that says which version is in shadow: each entry is
created under the number after the last one that its writer saw. `shadows/STREAM/seen/VERSION/RUN.json` is what a
run of a worker has seen of it.
"""

from collections.abc import Sequence

import msgspec

from pipeline.connectors.objects import Storage
from pipeline.errors import PromotionLost, RegistryError
from pipeline.shadows import Appointment, Tally


class StoredShadows:
    """The versions in shadow of all streams on a `Storage`."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def appointed(self, stream: str) -> Appointment | None:
        folder = f"shadows/{stream}/appointed"
        stems = (name.rpartition("/")[2].removesuffix(".json") for name in self._storage.list(folder))
        last = max((int(stem) for stem in stems if stem.isdecimal()), default=0)
        content = self._storage.get(_entry(stream, last)) if last else None
        # A store may list late.
        while (later := self._storage.get(_entry(stream, last + 1))) is not None:
            last, content = last + 1, later
        if content is None:
            return None
        try:
            entry = msgspec.json.decode(content, type=Appointment)
            if entry.number != last:
                raise msgspec.ValidationError(f"it is entry {entry.number}")
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise RegistryError(
                f"{self._storage.url}/{_entry(stream, last)}: damaged ({error}), so no version is in shadow; "
                f"remove it, then say it again: offkey models shadow CONFIG {stream} VERSION"
            ) from error
        return entry

    def appoint(self, stream: str, appointment: Appointment) -> None:
        place, content = _entry(stream, appointment.number), msgspec.json.encode(appointment)
        # The client may have tried twice, and met what it wrote itself.
        if not self._storage.create(place, content) and self._storage.get(place) != content:
            raise PromotionLost(
                f"stream {stream}: someone else said meanwhile which version is in shadow, and this does not "
                f"count; see `offkey models shadow CONFIG {stream}`, and do it again if it should still be"
            )

    def keep(self, stream: str, run: str, tally: Tally) -> None:
        self._storage.put(f"{_seen(stream, tally.version)}/{run}.json", msgspec.json.encode(tally))

    def seen(self, stream: str, version: str) -> tuple[Sequence[Tally], Sequence[str]]:
        tallies, faults = [], []
        for name in self._storage.list(_seen(stream, version)):
            content = self._storage.get(name)
            try:
                if content is not None:
                    tallies.append(msgspec.json.decode(content, type=Tally))
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                faults.append(f"{self._storage.url}/{name}: damaged ({error}) and left out; remove it")
        return tallies, faults

    def forget(self, stream: str, version: str) -> None:
        for name in self._storage.list(_seen(stream, version)):
            self._storage.delete(name)


def _entry(stream: str, number: int) -> str:
    return f"shadows/{stream}/appointed/{number:08d}.json"


def _seen(stream: str, version: str) -> str:
    return f"shadows/{stream}/seen/{version}"
