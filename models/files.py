"""A detector as two files: `model.safetensors` and `manifest.json`. Never pickle.

The manifest tells what the tensors mean and holds their hash; every byte of both files is checked, so a
damaged model is refused instead of scoring nonsense. Views stand in a list, of which this format fills one.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy
import torch

from models.calibration import PooledTail
from models.detector import Calibration, Detector
from models.scaling import Scaling
from models.spec import ModelSpec
from models.views import View, ViewConfig

FORMAT, FORMAT_VERSION = "offkey.model", 1
TENSORS, MANIFEST = "model.safetensors", "manifest.json"


class ModelFileError(ValueError):
    """A model file that cannot be used; one line that says which and why."""


def to_files(detector: Detector) -> dict[str, bytes]:
    """Return the content of each file by its name."""
    view, calibration, scaling = detector.view, detector.calibration, detector.scaling
    assert view.tail is not None
    names = list(calibration.quantiles_of_series)
    arrays: dict[str, npt.NDArray[Any]] = {
        f"view0.{name}": np.ascontiguousarray(tensor.detach().cpu().numpy())
        for name, tensor in view.state_dict().items()
    }
    for part in ("error_knots", "surprise_knots", "slope"):
        arrays[f"tail0.{part}"] = getattr(view.tail, part).cpu().numpy()
    arrays |= scaling.arrays()
    arrays["series.interval_ms"] = np.array([calibration.interval_of_series[name] for name in names])
    arrays["series.quantiles"] = np.array([calibration.quantiles_of_series[name] for name in names])
    tensors = safetensors.numpy.save(arrays)
    manifest = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "kind": detector.spec.kind,
        "features": list(detector.spec.features),
        "window": detector.spec.window,
        "views": [
            {
                "architecture": view.config.architecture,
                "options": view.config.options,
                "inputs": view.config.inputs,
            }
        ],
        "calibration": {
            "interval_ms": calibration.interval_ms,
            "cluster_points": calibration.cluster_points,
        },
        "training": dict(detector.training),
        "series": names,
        "libraries": {"torch": torch.__version__, "numpy": np.__version__},
        "sha256": {TENSORS: hashlib.sha256(tensors).hexdigest()},
    }
    manifest["sha256"][MANIFEST] = _manifest_hash(manifest)  # type: ignore[index]
    return {TENSORS: tensors, MANIFEST: json.dumps(manifest, indent=1).encode()}


def from_files(files: Mapping[str, bytes], name: str = "model") -> Detector:
    """Read a detector back; its scores equal those before.

    Args:
        name: what to call the model in an error.

    Raises:
        ModelFileError: a file is missing or damaged, or of a newer format.
    """
    for file in (MANIFEST, TENSORS):
        if file not in files:
            raise ModelFileError(f"{name}: {file} is missing; train again or take another version")
    try:
        manifest = json.loads(files[MANIFEST])
        found, version = manifest["format"], manifest["format_version"]
        recorded = {**manifest["sha256"]}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelFileError(f"{name}: {MANIFEST} is damaged ({error}); take another version") from error
    if found != FORMAT or version != FORMAT_VERSION:
        raise ModelFileError(
            f"{name}: format {found} {version} is not {FORMAT} {FORMAT_VERSION}; it needs another version of offkey"
        )
    for file, hashed in (
        (TENSORS, hashlib.sha256(files[TENSORS]).hexdigest()),
        (MANIFEST, _manifest_hash(manifest)),
    ):
        if recorded.get(file) != hashed:
            raise ModelFileError(f"{name}: {file} is damaged, its sha256 differs; take another version")
    if len(manifest["views"]) != 1:
        raise ModelFileError(
            f"{name}: {MANIFEST} lists {len(manifest['views'])} views, this version of offkey scores by one; "
            f"it needs another version of offkey"
        )
    try:
        return _build(manifest, safetensors.numpy.load(files[TENSORS]))
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        # The bytes are as they were written: what they ask for is not here, such as a later architecture.
        reason = str(error).splitlines()[0]
        raise ModelFileError(f"{name}: cannot be built ({reason}); it needs another version of offkey") from error


def _build(manifest: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> Detector:
    spec = ModelSpec(manifest["kind"], tuple(manifest["features"]), manifest["window"])
    view = View(spec, ViewConfig(**manifest["views"][0]))
    view.load_state_dict(
        {
            key.removeprefix("view0."): torch.from_numpy(array)
            for key, array in arrays.items()
            if key.startswith("view0.")
        }
    )
    view.tail = PooledTail(
        *(torch.from_numpy(arrays[f"tail0.{part}"]) for part in ("error_knots", "surprise_knots", "slope"))
    )
    names = manifest["series"]
    calibration = Calibration(
        manifest["calibration"]["interval_ms"],
        manifest["calibration"]["cluster_points"],
        dict(zip(names, arrays["series.interval_ms"].tolist(), strict=True)),
        {name: (row[0], row[1]) for name, row in zip(names, arrays["series.quantiles"].tolist(), strict=True)},
    )
    return Detector(spec, view, Scaling.from_arrays(arrays, names), calibration, manifest["training"])


def _manifest_hash(manifest: Mapping[str, Any]) -> str:
    """Return the hash of everything the manifest says, its own hash left out."""
    hashes = {file: hashed for file, hashed in manifest["sha256"].items() if file != MANIFEST}
    said = json.dumps({**manifest, "sha256": hashes}, sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()
