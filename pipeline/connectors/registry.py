"""The registry of model versions in storage.

`models/STREAM/versions/VERSION/` holds `model.safetensors`, then `manifest.json`, whose presence makes the
version complete; `models/STREAM/promotions/00000001.json` and so on is the log of promotions. Versions and
promotions are only ever created, so two writers cannot both win.
"""

import json
from collections.abc import Sequence

import msgspec

from pipeline.connectors.storage import ObjectStorage
from pipeline.errors import RegistryError
from pipeline.protocols import ModelVersion, Promotion

MANIFEST = "manifest.json"


class StoredRegistry:
    """Model versions on an `ObjectStorage`."""

    def __init__(self, storage: ObjectStorage) -> None:
        self._storage = storage

    def add(self, model: ModelVersion) -> None:
        folder = f"models/{model.stream}/versions/{model.version}"
        for name in sorted(model.files, key=lambda name: name == MANIFEST):
            if not self._storage.create(f"{folder}/{name}", model.files[name]):
                raise RegistryError(
                    f"model {model.stream} {model.version}: this version is there already and never changes; "
                    "train again for another one"
                )

    def versions(self, stream: str) -> Sequence[str]:
        folder = f"models/{stream}/versions/"
        names = self._storage.list(folder.rstrip("/"))
        return [name.removeprefix(folder).partition("/")[0] for name in names if name.endswith(f"/{MANIFEST}")]

    def load(self, stream: str, version: str) -> ModelVersion:
        folder = f"models/{stream}/versions/{version}/"
        names = self._storage.list(folder.rstrip("/"))
        files = {name.removeprefix(folder): self._storage.get(name) for name in names}
        present = {name: content for name, content in files.items() if content is not None}
        if MANIFEST not in present:
            raise RegistryError(
                f"model {stream} {version}: not in {self._storage.url}, or not complete; promote another version"
            )
        return ModelVersion(stream, version, present)

    def promote(self, stream: str, promotion: Promotion) -> None:
        entry = {
            "number": promotion.number,
            "version": promotion.version,
            "promoted_ms": promotion.promoted_ms,
            "reason": promotion.reason,
        }
        name = f"models/{stream}/promotions/{promotion.number:08d}.json"
        if not self._storage.create(name, json.dumps(entry).encode()):
            raise RegistryError(
                f"stream {stream}: promotion {promotion.number} was made by someone else meanwhile; "
                "train again if yours should serve"
            )

    def promotions(self, stream: str) -> Sequence[Promotion]:
        found = []
        for name in self._storage.list(f"models/{stream}/promotions"):
            content = self._storage.get(name)
            try:
                found.append(msgspec.json.decode(content or b"", type=Promotion))
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise RegistryError(
                    f"{self._storage.url}/{name}: damaged promotion ({error}); remove it"
                ) from error
        return found
