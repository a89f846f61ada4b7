"""The command `offkey record`."""

import contextlib
import logging
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from pipeline.cli_options import ConfigPath, Streams
from pipeline.cli_running import begin
from pipeline.cli_who_when import now_ms
from pipeline.errors import ConfigError, RegistryError

if TYPE_CHECKING:
    from pipeline.config import Settings, StreamSettings
    from pipeline.protocols import Registry
    from pipeline.recorder import Recorder
    from pipeline.snapshots import Snapshots
    from pipeline.stopping import Stop

logger = logging.getLogger(__name__)


def record(
    config: ConfigPath,
    streams: Streams = None,
) -> None:
    """Keep every accepted record in storage, as Parquet files, until SIGTERM or Ctrl-C."""
    from pipeline.config import load_settings

    settings = load_settings(config)
    chosen = settings.chosen(streams)
    begun = begin(settings, "recorder", awaited="storage and cluster")
    with _recorder(settings, chosen, begun.stop) as built:
        logger.info("recording %s; metrics on %s", ", ".join(chosen), begun.address)
        begun.run(built)
    logger.info("left the group")


@contextlib.contextmanager
def _recorder(settings: "Settings", chosen: Sequence[str], stop: "Stop") -> "Iterator[Recorder]":
    """Build the production recorder; it leaves its group when the block ends, in what is left of a stop's
    budget."""
    from dataclasses import replace

    from pipeline import zeros
    from pipeline.connectors.connection import Connection, GroupOptions
    from pipeline.connectors.kafka import KafkaSource
    from pipeline.connectors.registry import StoredRegistry
    from pipeline.connectors.snapshots import StoredSnapshots
    from pipeline.connectors.storage import ObjectStorage
    from pipeline.fields import decoder_of
    from pipeline.recorded_partitions import RecordedStream
    from pipeline.recorder import Recorder, RecorderOptions
    from pipeline.snapshots import Limits

    zeros.of_recorder(chosen)
    kafka, options, storage = settings.kafka, settings.recorder, ObjectStorage(settings.storage)
    snapshots, registry = StoredSnapshots(storage), StoredRegistry(storage)
    recorded, limits = [], {}
    for name in chosen:
        stream = settings.streams[name]
        features = _features(name, stream, registry, snapshots)
        decoder = decoder_of(stream, features)
        recorded.append(
            RecordedStream(
                name, stream.topic, decoder, features, stream.start, stream.max_series, stream.image_shape
            )
        )
        keep_ms = None if stream.record.keep is None else 1000 * stream.record.keep
        limits[name] = Limits(keep_ms, stream.record.keep_bytes, options.merged_bytes)
    group = replace(GroupOptions.of(kafka), group_id=f"{kafka.group_id}-recorder")
    with contextlib.ExitStack() as opened:
        source = KafkaSource(Connection.of(kafka), group, [stream.topic for stream in recorded])
        opened.callback(lambda: source.close(stop.closing_s()))
        yield Recorder(
            recorded,
            source,
            snapshots,
            RecorderOptions(
                file_rows=options.file_rows,
                file_bytes=options.file_bytes,
                file_age_s=options.file_age,
                open_bytes=options.open_bytes,
                tidy_every_s=options.tidy_every,
                retry_deadline_s=settings.worker.retry_deadline,
                limits=limits,
            ),
            now_ms,
        )


def _features(name: str, stream: "StreamSettings", registry: "Registry", snapshots: "Snapshots") -> tuple[str, ...]:
    """Return the features that a stream is recorded with: those of its configuration, or of its model.

    Raises:
        ConfigError: neither names any, or there are snapshots with others, or of another kind.
        RegistryError: which model serves is not known, or its manifest is damaged.
        SnapshotError: the newest snapshot cannot be read.
    """
    features = tuple(stream.features or ()) if stream.image is None else stream.image.shape.names
    if not features and (champion := registry.champion(name)):
        features = _features_of(name, champion.version, registry)
    if not features:
        raise ConfigError(
            f"stream {name}: what is to be recorded is named neither by `features` nor by a model; name them, or "
            f"train first with: offkey train CONFIG {name}"
        )
    from models.spec import shortened
    from pipeline.snapshots import mismatch

    held = snapshots.schema(name)
    if wrong := mismatch(held, stream.kind, stream.image_shape):
        raise ConfigError(f"stream {name}: {wrong}, or begin anew by moving snapshots/{name} out of its storage")
    if held is not None and held.features != features:
        raise ConfigError(
            f"stream {name}: its snapshots hold the features {shortened(held.features)}, and "
            f"{shortened(features)} are to be recorded; all snapshots of a stream hold the same: set `features` "
            f"back, or begin anew by moving snapshots/{name} out of its storage"
        )
    return features


def _features_of(name: str, version: str, registry: "Registry") -> tuple[str, ...]:
    """Return the features of a version, by its manifest alone."""
    from models.manifest import MANIFEST, ModelFileError, features_of, read_manifest

    try:
        manifest = read_manifest(registry.file(name, version, MANIFEST) or b"", f"model {name} {version}")
    except ModelFileError as error:
        raise RegistryError(f"{error}; or name the `features` of stream {name}") from error
    return features_of(manifest)
