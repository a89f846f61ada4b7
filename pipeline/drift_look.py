"""A look at the champion's scores on snapshots, for drift: the first blocks after its training, and the newest.

Either stretch is read, scored and summed up by itself; of very many series some are drawn. What lies in spans that
teach nothing is left out. Where the first blocks are kept no more, the oldest ones that are kept take their place.

Legend: N rows of a series, S series, B blocks.
"""

import logging
from collections.abc import Mapping, Sequence

import numpy as np

from models.arrays import FloatArray
from models.dataset import usable_rows
from models.detector import Detector
from models.spec import shortened
from pipeline.config import StreamSettings
from pipeline.drift import EARLIER, NEWEST, Drift, drift_of, level_of
from pipeline.errors import ConfigError, RegistryError
from pipeline.excluded import Span, excluded_rows, maintenance_of
from pipeline.lanes import load_champion
from pipeline.logs import about
from pipeline.protocols import Registry
from pipeline.snapshots import Snapshots
from pipeline.train import read_snapshots
from pipeline.versions.origin import ORIGIN, OriginError, from_file

logger = logging.getLogger(__name__)

_MOST_SERIES = 200
_LEAST_ROWS = 20
"""Of a block, without which its median says nothing."""


def look(
    name: str,
    settings: StreamSettings,
    registry: Registry,
    snapshots: Snapshots,
    now_ms: int,
    spans: Sequence[Span] = (),
    seed: int = 0,
) -> Drift:
    """Say whether a stream has drifted since its champion was trained.

    Where there is no champion, no worker could start with it, or its features are gone, that counts as drift: there
    is nothing to compare by.

    Raises:
        SnapshotError: a stretch holds too few rows, or a file is damaged.
        RegistryError: which model serves is not known.
        TransientError: storage does not answer.
    """
    entry = registry.champion(name)
    if entry is None:
        return Drift(True, "the stream has no model yet")
    try:
        detector, version = load_champion(name, settings, registry)
    except (RegistryError, ConfigError) as error:
        return Drift(True, f"no worker could start with the champion: {error}")
    held = snapshots.schema(name)
    gone = [] if held is None else [each for each in detector.spec.features if each not in held.features]
    if gone:
        return Drift(True, f"the champion needs features that snapshots have no more: {shortened(gone)}")
    block_ms = int(1000 * settings.retrain.drift_block)
    begin_ms = trained_ms = _trained_ms(name, version, registry, entry.promoted_ms)
    if settings.record.keep is not None:
        begin_ms = max(begin_ms, now_ms - int(1000 * settings.record.keep) + block_ms)
    newest_ms = now_ms - NEWEST * block_ms
    if begin_ms + EARLIER * block_ms > newest_ms:
        there = max(now_ms - trained_ms, 0) / block_ms
        return Drift(
            False,
            f"{there:.1f} blocks have passed since training, or are kept; it takes {EARLIER + NEWEST} to compare",
        )
    spans = [*maintenance_of(settings.alerts), *spans]
    earlier = _medians(name, settings, detector, snapshots, (begin_ms, EARLIER), block_ms, spans, seed)
    newest = _medians(name, settings, detector, snapshots, (newest_ms, NEWEST), block_ms, spans, seed, earlier)
    both = [series for series in earlier if series in newest]
    if not both:
        return Drift(False, "no series is in the newest blocks and in those after training")
    earlier_SB, newest_SB = (np.array([found[series] for series in both]) for found in (earlier, newest))
    return drift_of(earlier_SB, newest_SB, level_of(settings.retrain.drift_block))


def _trained_ms(name: str, version: str, registry: Registry, otherwise_ms: int) -> int:
    content = registry.file(name, version, ORIGIN)
    try:
        return otherwise_ms if content is None else from_file(content).trained_ms
    except OriginError as error:
        said = about(stream=name, version=version)
        logger.warning("model %s %s: %s; its promotion stands for its training", name, version, error, extra=said)
        return otherwise_ms


def _medians(
    name: str,
    settings: StreamSettings,
    detector: Detector,
    snapshots: Snapshots,
    stretch: tuple[int, int],
    block_ms: int,
    spans: Sequence[Span],
    seed: int,
    known: Mapping[str, FloatArray] | None = None,
) -> dict[str, FloatArray]:
    """Return the median scores of the blocks of a stretch (begin, blocks) by series; of those `known` only."""
    begin_ms, blocks = stretch
    features, read = read_snapshots(name, settings, snapshots, begin_ms, begin_ms + blocks * block_ms)
    place_of = {feature: place for place, feature in enumerate(features)}
    places = [place_of[feature] for feature in detector.spec.features]
    names = np.random.default_rng(seed).permutation(sorted(read.columns if known is None else known))
    found: dict[str, FloatArray] = {}
    for series in names.tolist():
        if len(found) >= _MOST_SERIES or series not in read.columns:
            continue
        time_ms_N, x_NF = read.columns[series]
        x_NF = x_NF[:, places]
        usable_N = usable_rows(x_NF)
        time_ms_N, x_NF = time_ms_N[usable_N], x_NF[usable_N]
        if not len(x_NF):
            continue
        if settings.kind == "series":
            score_N, margin = detector.score_series(series, x_NF, [0])[0], detector.spec.window
        else:
            score_N, margin = detector.score_rows(x_NF), 0
        counts_N = ~excluded_rows(series, time_ms_N, spans, margin)
        block_N = (time_ms_N - begin_ms) // block_ms
        found[series] = np.array([_median(score_N[counts_N & (block_N == block)]) for block in range(blocks)])
    return found


def _median(score_N: FloatArray) -> float:
    return float(np.median(score_N)) if len(score_N) >= _LEAST_ROWS else float("nan")
