"""Adoptions in storage: `adoptions/STREAM/TOPIC/TOPIC_ID/PARTITION/00000001.json` and so on.

Each entry is created under the number after the last one that its writer saw, so of two writers one gets it. A
topic that was made anew has another id, and a log of its own.

What was said of a stream's incidents is `adoptions/STREAM/said/NAME.json`, named by its content: many entries of
all partitions share one.
"""

import logging

import msgspec

from pipeline.adoptions import Adoption, AdoptionLog
from pipeline.connectors.objects import Storage
from pipeline.feedback import Unreadable, Words
from pipeline.logs import about
from pipeline.protocols import TopicPartition
from pipeline.sealed import SealError, sealed, unsealed

logger = logging.getLogger(__name__)

_FORMAT_VERSION = 1


class _Entry(msgspec.Struct):
    adoption: Adoption
    format_version: int = _FORMAT_VERSION


class StoredAdoptions:
    """The logs of all partitions on a `Storage`."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def since(self, stream: str, partition: TopicPartition, topic_id: str, offset: int) -> AdoptionLog:
        folder = _folder(stream, partition, topic_id)
        found: list[Adoption] = []
        last = self._last_number(folder)
        for number in range(last, 0, -1):
            entry = self._read(_name(folder, number), number)
            if entry is None:
                # What was in force before it is not known.
                break
            found.append(entry)
            if entry.first_offset <= offset:
                break
        return AdoptionLog(found[::-1], last)

    def write(self, stream: str, partition: TopicPartition, topic_id: str, adoption: Adoption) -> bool:
        name = _name(_folder(stream, partition, topic_id), adoption.number)
        content = sealed("entry", msgspec.json.encode(_Entry(adoption)))
        return self._storage.create(name, content) or self._storage.get(name) == content

    def words(self, stream: str, name: str) -> Words | None:
        if not name:
            return Words()
        at = _said(stream, name)
        content = self._storage.get(at)
        try:
            if content is None:
                raise SealError("is missing")
            words = Words.of(unsealed("said", content))
            if words.name != name:
                raise SealError("holds something else than its name says")
        except (SealError, Unreadable) as error:
            logger.error(
                "%s/%s %s: what acted on records that are read again is not known, so they are judged without it",
                *(self._storage.url, at, error),
                extra=about(stream=stream),
            )
            return None
        return words

    def keep(self, stream: str, words: Words) -> None:
        if words.name:
            self._storage.create(_said(stream, words.name), sealed("said", words.content))

    def _last_number(self, folder: str) -> int:
        listed = (name.rpartition("/")[2].removesuffix(".json") for name in self._storage.list(folder))
        last = max((int(stem) for stem in listed if stem.isdecimal()), default=0)
        # A store may list late.
        while self._storage.get(_name(folder, last + 1)) is not None:
            last += 1
        return last

    def _read(self, name: str, number: int) -> Adoption | None:
        content = self._storage.get(name)
        try:
            if content is None:
                raise SealError("is missing")
            entry = msgspec.json.decode(unsealed("entry", content), type=_Entry)
            if (entry.format_version, entry.adoption.number) != (_FORMAT_VERSION, number):
                raise SealError(f"is entry {entry.adoption.number} of format {entry.format_version}")
        except (SealError, msgspec.DecodeError) as error:
            logger.error(
                "%s/%s %s: which version records were judged by before the entry after it is not known; what is "
                "read again of them is judged by that of the checkpoint",
                *(self._storage.url, name, error),
            )
            return None
        return entry.adoption


def _said(stream: str, name: str) -> str:
    return f"adoptions/{stream}/said/{name}.json"


def _folder(stream: str, partition: TopicPartition, topic_id: str) -> str:
    return f"adoptions/{stream}/{partition.topic}/{topic_id or 'none'}/{partition.partition}"


def _name(folder: str, number: int) -> str:
    return f"{folder}/{number:08d}.json"
