"""A detector as two files: `model.safetensors` and `manifest.json`. Never pickle.

The manifest tells what the tensors mean, and by its hashes no byte of either file changes unseen: a damaged model
is refused instead of scoring nonsense (`models.manifest`). Format 2 holds any number of views and a calibration for
each delay; format 1, of one view without memory, is still read.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy
import torch

from models import architectures
from models.by_series import BySeries
from models.calibration import CLUSTER_LEVELS, PooledTail
from models.detector import Calibration, Detector, Judgement
from models.golden import golden_errors
from models.manifest import (
    FORMAT,
    FORMAT_VERSION,
    MANIFEST,
    TENSORS,
    ModelFileError,
    features_of,
    image_of,
    seal,
    whole,
    written_features,
)
from models.mapping import Delay, reach_of
from models.online_tail import with_far_quantile
from models.scaling import Scaling
from models.spec import ModelSpec
from models.views import View, ViewConfig

_CPU = torch.device("cpu")

Arrays = Mapping[str, npt.NDArray[Any]]


def to_files(detector: Detector) -> dict[str, bytes]:
    """Return the content of each file by its name."""
    calibration = detector.calibration
    names = list(calibration.interval_of_series)
    arrays: dict[str, npt.NDArray[Any]] = detector.scaling.arrays()
    for number, view in enumerate(detector.views):
        for name, tensor in view.state_dict().items():
            arrays[f"view{number}.{name}"] = np.ascontiguousarray(tensor.detach().cpu().numpy())
    arrays["series.interval_ms"] = np.array([calibration.interval_of_series[name] for name in names])
    for delay, judgement in calibration.judgements.items():
        for part in ("error_knots", "surprise_knots", "slope"):
            arrays[f"{_called(delay)}.{part}"] = getattr(judgement.tail, part).cpu().numpy()
        arrays[f"{_called(delay)}.reference"] = judgement.reference_V.cpu().numpy()
        if judgement.clusters_of_series:
            arrays[f"{_called(delay)}.clusters"] = np.array([judgement.clusters_of_series[name] for name in names])
        arrays[f"{_called(delay)}.quantiles"] = np.array([judgement.quantiles_of_series[name] for name in names])
    tensors = safetensors.numpy.save(arrays)
    manifest = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "kind": detector.spec.kind,
        **written_features(detector.spec),
        "window": detector.spec.window,
        "scaling": detector.scaling.kind,
        "views": [dataclasses.asdict(view.config) for view in detector.views],
        "calibration": {
            "interval_ms": calibration.interval_ms,
            "delays": [
                {
                    "delay": delay,
                    "cluster_points": list(judgement.cluster_points),
                    "points": judgement.points,
                    "extrapolated_above": round(judgement.extrapolated_above, 3),
                }
                for delay, judgement in calibration.judgements.items()
            ],
        },
        "training": dict(detector.training),
        "series": names,
        "golden": golden_errors(detector).tolist(),
        "libraries": _libraries(detector),
    }
    return {TENSORS: tensors, MANIFEST: seal(manifest, tensors)}


def from_files(files: Mapping[str, bytes], name: str = "model") -> Detector:
    """Read a detector back; its scores equal those before.

    Args:
        name: what to call the model in an error.

    Raises:
        ModelFileError: a file is missing or damaged, or of a newer format.
    """
    manifest = whole(files, name)
    try:
        arrays: Arrays = safetensors.numpy.load(files[TENSORS])
        if manifest["format_version"] == 1:
            manifest, arrays = _from_first_format(manifest, arrays)
        return _build(manifest, arrays)
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        # The bytes are as they were written: what they ask for is not here, such as a later architecture.
        reason = str(error).splitlines()[0]
        raise ModelFileError(
            f"{name}: cannot be built ({reason}); it needs another version of offkey, or of the package that its "
            "architecture comes from"
        ) from error


def _libraries(detector: Detector) -> dict[str, str]:
    """Return the version of each library that a score depends on, those that its architectures come from too."""
    versions = {"offkey": version("offkey"), "safetensors": safetensors.__version__}
    for view in detector.views:
        if added := architectures.distribution_of(view.config.architecture):
            versions[added[0]] = added[1]
    return {"torch": torch.__version__, "numpy": np.__version__, **versions}


def _build(manifest: Mapping[str, Any], arrays: Arrays) -> Detector:
    spec = ModelSpec(manifest["kind"], features_of(manifest), manifest["window"], image_of(manifest))
    configs = [ViewConfig(**each) for each in manifest["views"]]
    if not configs:
        raise ValueError("it lists no view")
    views = []
    for number, config in enumerate(configs):
        view = View(len(spec.features), config, spec.image)
        prefix = f"view{number}."
        own = {key.removeprefix(prefix): torch.from_numpy(a) for key, a in arrays.items() if key.startswith(prefix)}
        view.load_state_dict(own)
        views.append(view)
    names = manifest["series"]
    row_of = {name: row for row, name in enumerate(names)}
    judgements = {
        each["delay"]: _judgement(arrays, configs, row_of, each) for each in manifest["calibration"]["delays"]
    }
    intervals = dict(zip(names, arrays["series.interval_ms"].tolist(), strict=True))
    calibration = Calibration(manifest["calibration"]["interval_ms"], judgements, intervals)
    scaled_names = names if spec.kind == "series" else []
    scaling = Scaling.from_arrays(arrays, manifest["scaling"], scaled_names)
    detector = Detector(spec, views, scaling, calibration, manifest["training"])
    if "golden" in manifest:
        detector.golden_BV = np.array(manifest["golden"], np.float64)
    return detector


def _judgement(
    arrays: Arrays, configs: Sequence[ViewConfig], row_of: Mapping[str, int], said: Mapping[str, Any]
) -> Judgement:
    called = _called(said["delay"])
    parts = ("error_knots", "surprise_knots", "slope")
    clusters = arrays.get(f"{called}.clusters")
    return Judgement(
        reach_of(configs, said["delay"], _CPU),
        torch.from_numpy(arrays[f"{called}.reference"]),
        PooledTail(*(torch.from_numpy(arrays[f"{called}.{part}"]) for part in parts)),
        tuple(said["cluster_points"]),
        BySeries.of({}) if clusters is None else BySeries(row_of, clusters),
        BySeries(row_of, arrays[f"{called}.quantiles"]),
        said.get("points"),
    )


def _called(delay: Delay) -> str:
    return "settled" if delay is None else f"delay{delay}"


def _from_first_format(manifest: dict[str, Any], arrays: Arrays) -> tuple[dict[str, Any], Arrays]:
    """Say a model of format 1 in the terms of format 2; its surprise stays the same within a thousandth.

    Its one view judged the newest row by the plain mean of the three strangest features, without memory. Its tail
    was over that mean, where a view now gives the logarithm: the line beyond the last knot becomes many short ones.
    """
    (view,) = manifest["views"]
    if view["architecture"] == "denoising":
        # Its code was made narrower than the input, whatever the option said.
        latent = arrays["view0.network.decoder.0.weight"].shape[1]
        view = {**view, "options": {**view["options"], "latent": latent}}
    config = ViewConfig(
        **view,
        window=manifest["window"],
        judged=1,
        largest=3,
        softness=0.1,
        fade=None,
    )
    known = arrays["tail0.error_knots"].astype(np.float64)
    dense = np.concatenate([np.linspace(a, b, 33)[:-1] for a, b in pairwise(known)])
    beyond = known[-1] * np.geomspace(1, 1e3, 2048)
    errors = np.maximum(np.concatenate([dense, beyond]), 1e-9)
    tail = PooledTail(
        *(torch.from_numpy(arrays[f"tail0.{part}"]) for part in ("error_knots", "surprise_knots", "slope"))
    )
    surprise = tail.surprise(torch.from_numpy(errors).float()).numpy()
    log_errors, first = np.unique(np.log(errors).astype(np.float32), return_index=True)
    calibration = manifest["calibration"]
    kept = {key: a for key, a in arrays.items() if not key.startswith("tail0.")}
    kept["view0.band_F"] = np.sqrt(arrays["view0.usual_C"][: len(manifest["features"])])
    kept["view0.high_error"] = np.zeros((), np.float32)
    return (
        {
            **manifest,
            "scaling": "range" if manifest["kind"] == "series" else "standard",
            "views": [dataclasses.asdict(config)],
            "calibration": {
                "interval_ms": calibration["interval_ms"],
                "delays": [{"delay": 0, "cluster_points": [calibration["cluster_points"]] * len(CLUSTER_LEVELS)}],
            },
        },
        {
            **kept,
            "delay0.error_knots": log_errors,
            "delay0.surprise_knots": surprise[first],
            "delay0.slope": np.asarray(
                (surprise[-1] - surprise[-2]) / (log_errors[-1] - log_errors[-2]), np.float32
            ),
            "delay0.reference": np.zeros(1, np.float32),
            "delay0.quantiles": with_far_quantile(arrays["series.quantiles"], manifest["kind"]),
        },
    )
