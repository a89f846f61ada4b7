"""The manifest of a model's two files: what it says, and whether every byte is as it was written.

It holds the hash of the tensors and its own, which is that of what it says, and has to be spelled as it is here. It
needs no torch: what only asks which model this is, or whether it is whole, starts quickly.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from models.spec import ImageShape, ModelSpec

FORMAT, FORMAT_VERSION = "offkey.model", 2
TENSORS, MANIFEST = "model.safetensors", "manifest.json"


class ModelFileError(ValueError):
    """A model file that cannot be used; one line that says which and why."""


def seal(manifest: Mapping[str, Any], tensors: bytes) -> bytes:
    """Return the manifest as it is stored, with the hashes."""
    hashes = {TENSORS: hashlib.sha256(tensors).hexdigest()}
    sealed = {**manifest, "sha256": hashes}
    hashes[MANIFEST] = manifest_hash(sealed)
    return _written(sealed)


def whole(files: Mapping[str, bytes], name: str = "model") -> dict[str, Any]:
    """Return what the manifest says, once both files are found to be as they were written.

    Raises:
        ModelFileError: a file is missing or damaged, or of a newer format.
    """
    for file in (MANIFEST, TENSORS):
        if file not in files:
            raise ModelFileError(f"{name}: {file} is missing; train again or take another version")
    manifest = read_manifest(files[MANIFEST], name)
    if manifest["sha256"].get(TENSORS) != hashlib.sha256(files[TENSORS]).hexdigest():
        raise ModelFileError(f"{name}: {TENSORS} is damaged, its sha256 differs; take another version")
    return manifest


def read_manifest(content: bytes, name: str = "model") -> dict[str, Any]:
    """Return what a manifest says; the tensors are not looked at.

    Raises:
        ModelFileError: it is damaged or of a newer format.
    """
    try:
        manifest: dict[str, Any] = json.loads(content)
        found, number = manifest["format"], manifest["format_version"]
        recorded = {**manifest["sha256"]}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelFileError(f"{name}: {MANIFEST} is damaged ({error}); take another version") from error
    if found != FORMAT or number not in (1, FORMAT_VERSION):
        raise ModelFileError(
            f"{name}: format {found} {number} is not {FORMAT} 1 to {FORMAT_VERSION}; "
            f"it needs another version of offkey"
        )
    if recorded.get(MANIFEST) != manifest_hash(manifest):
        raise ModelFileError(f"{name}: {MANIFEST} is damaged, its sha256 differs; take another version")
    if content != _written(manifest):
        raise ModelFileError(
            f"{name}: {MANIFEST} is damaged, it says the same in other bytes; take another version, and leave the "
            "files as they are written"
        )
    return manifest


def written_features(spec: ModelSpec) -> dict[str, Any]:
    """Return what a manifest says of the features; of images the size alone, for each value of a pixel is one."""
    if spec.image is None:
        return {"features": list(spec.features)}
    return {"image": spec.image._asdict()}


def image_of(manifest: Mapping[str, Any]) -> ImageShape | None:
    """Return the size of the images that a model is of; None: it is of something else."""
    return ImageShape(**manifest["image"]) if "image" in manifest else None


def features_of(manifest: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the features of a model; raises KeyError or TypeError where the manifest does not tell."""
    image = image_of(manifest)
    return tuple(manifest["features"]) if image is None else image.names


def manifest_hash(manifest: Mapping[str, Any]) -> str:
    """Return the hash of everything the manifest says, its own hash left out."""
    hashes = {file: hashed for file, hashed in manifest["sha256"].items() if file != MANIFEST}
    said = json.dumps({**manifest, "sha256": hashes}, sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()


def _written(manifest: Mapping[str, Any]) -> bytes:
    return json.dumps(manifest, indent=1).encode()
