"""What `offkey check` looks at, from the configuration to a sample of the records.

Each question is asked as far as the one before allows: a topic that is not there is said once.
"""

import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import Literal, Protocol

from models.spec import shortened
from pipeline.config import Settings, StreamSettings
from pipeline.control import require_one_partition
from pipeline.errors import ConfigError, OffkeyError, TransientError
from pipeline.feedback import COMPACTED, require_compacted
from pipeline.kafka_settings import KafkaSettings
from pipeline.protocols import PartitionRecords, Registry, TopicPartition

_SAMPLE_RECORDS = 2_000


@dataclass(frozen=True)
class Row:
    """One answer."""

    verdict: Literal["ok", "warning", "wrong"]
    what: str
    found: str
    remedy: str = ""


class Storage(Protocol):
    """What is asked of storage; see `pipeline.connectors.storage`."""

    def get(self, name: str) -> bytes | None: ...
    def put(self, name: str, content: bytes) -> None: ...
    def create(self, name: str, content: bytes) -> bool: ...
    def delete(self, name: str) -> None: ...


class TopicFacts(Protocol):
    @property
    def partitions(self) -> int: ...


class Cluster(Protocol):
    """What is asked of a cluster; see `pipeline.connectors.kafka`."""

    def topic(self, name: str, right: Literal["READ", "WRITE"] | None = None) -> TopicFacts: ...
    def setting(self, topic: str, name: str) -> str | None: ...
    def committed(self, group: str) -> Mapping[TopicPartition, int]: ...
    def close(self) -> None: ...


@dataclass(frozen=True)
class Outside:
    """How to open each part of the outside world."""

    storage: Callable[[], Storage]
    registry: Callable[[], Registry]
    cluster: Callable[[], Cluster]
    history: Callable[[str, int], Iterator[PartitionRecords]]
    """(topic, most records) -> its newest records."""
    refuses_zombies: Callable[[], bool]
    """Whether the cluster refuses the transactions of a process that another one has replaced."""
    door: Callable[[], object]
    """Reads the files of `metrics`."""


def check_all(settings: Settings, outside: Outside) -> list[Row]:
    """Ask everything; return the answers in order."""
    rows = [Row("ok", "configuration", f"streams: {', '.join(settings.streams)}")]
    rows += _option_rows(settings)
    rows += _metrics_rows(settings, outside)
    storage = _storage_row(settings, outside)
    rows.append(storage)
    models = []
    if storage.verdict == "ok":
        models = [_model_row(name, stream, outside) for name, stream in settings.streams.items()]
    try:
        cluster = outside.cluster()
    except OffkeyError as error:
        return [*rows, _wrong("broker", error), *models]
    with closing(cluster):
        rows.append(_broker_row(settings.kafka))
        rows.append(_group_row(settings.kafka.group_id, cluster))
        rows += _output_rows(settings, cluster)
        rows += _control_rows(settings, cluster)
        rows += _transaction_rows(settings, outside)
        for name, stream in settings.streams.items():
            rows += _stream_rows(settings, name, stream, cluster, outside)
    return [*rows, *models]


def _option_rows(settings: Settings) -> Iterator[Row]:
    from pipeline.train import wrong_option

    for name, stream in settings.streams.items():
        if wrong := wrong_option(stream):
            found, _, remedy = wrong[1].partition("; ")
            place = settings.place_of("streams", name, "model", wrong[0])
            yield Row("wrong", f"{name}: model's options", f"{place}: {found}", remedy)


def _metrics_rows(settings: Settings, outside: Outside) -> Iterator[Row]:
    """Look at the files by which the port of metrics lets in, where there are any."""
    if settings.metrics.certificate_file is None and not settings.metrics.asks_password:
        return
    try:
        outside.door()
    except OffkeyError as error:
        yield _wrong("metrics", error)
    else:
        yield Row("ok", "metrics", settings.metrics.in_words())


def _storage_row(settings: Settings, outside: Outside) -> Row:
    probe = f"checks/{uuid.uuid4().hex}"
    try:
        storage = outside.storage()
        storage.put(probe, b"offkey")
        created = storage.create(probe, b"something else")
        written = storage.get(probe)
        storage.delete(probe)
    except OffkeyError as error:
        return _wrong("storage", error)
    if created:
        return Row(
            "wrong",
            "storage",
            f"{settings.storage} writes over what is there when it is asked not to (If-None-Match: *)",
            "use a store with conditional writes: on this one two who promote a model at once would both win",
        )
    if written != b"offkey":
        return Row("wrong", "storage", f"{settings.storage} gave back something else than was written")
    return Row("ok", "storage", f"{settings.storage} can be written and read")


def _broker_row(kafka: KafkaSettings) -> Row:
    found = f"{kafka.bootstrap_servers}, {kafka.security.in_words()}"
    if kafka.security.tls or kafka.security.mechanism is None or kafka.security.in_clear:
        return Row("ok", "broker", found)
    remedy = "set kafka.security.tls, where the brokers can: records and alerts can be read on the way"
    return Row("warning", "broker", found, remedy)


def _group_row(group: str, cluster: Cluster) -> Row:
    try:
        committed = cluster.committed(group)
    except ConfigError as error:
        return _wrong("group", error)
    except TransientError as error:
        return Row("warning", "group", str(error).partition("; ")[0], "check again: a new cluster takes a moment")
    return Row("ok", "group", f"{group}, committed partitions: {len(committed)}")


def _output_rows(settings: Settings, cluster: Cluster) -> Iterator[Row]:
    for what, topic in (("alerts", settings.topics.alerts), ("dead letters", settings.topics.dead_letters)):
        try:
            found = cluster.topic(topic, "WRITE")
        except OffkeyError as error:
            yield _wrong(f"topic of {what}", error)
        else:
            yield Row("ok", f"topic of {what}", f"{topic}, partitions: {found.partitions}")
    yield _feedback_row(settings.topics.feedback, cluster)


def _feedback_row(topic: str, cluster: Cluster) -> Row:
    """Say whether feedback can be given, and whether it stays: a stream runs without it."""
    what = "topic of feedback"
    try:
        found = cluster.topic(topic, "READ")
    except TransientError as error:
        return _wrong(what, error)
    except ConfigError as error:
        found_out, _, remedy = str(error).partition("; ")
        if not remedy.startswith("grant"):
            remedy = f"create {topic} with {COMPACTED}"
        return Row("warning", what, found_out, f"to use `offkey feedback`, {remedy}")
    policy = cluster.setting(topic, "cleanup.policy")
    try:
        require_compacted(topic, policy)
    except ConfigError as error:
        return _wrong(what, error)
    return Row("ok", what, f"{topic}, partitions: {found.partitions}" + (", compacted" if policy else ""))


def _control_rows(settings: Settings, cluster: Cluster) -> Iterator[Row]:
    """Look at the topic by whose one partition a scheduler leads, where a stream asks for one."""
    if not any(stream.retrain.scheduled for stream in settings.streams.values()):
        return
    what, topic = "topic of requests", settings.topics.control
    try:
        cluster.topic(topic, "WRITE")
        require_one_partition(topic, cluster.topic(topic, "READ").partitions)
    except OffkeyError as error:
        yield _wrong(what, error)
    else:
        yield Row("ok", what, f"{topic}, partitions: 1")


def _transaction_rows(settings: Settings, outside: Outside) -> Iterator[Row]:
    """Say what can be found out of exactly once without writing: not whether readers are spared aborted records."""
    if settings.kafka.delivery != "exactly_once":
        return
    try:
        refused = outside.refuses_zombies()
    except OffkeyError as error:
        yield _wrong("transactions", error)
        return
    if refused:
        yield Row("ok", "transactions", "the cluster takes them, and refuses those of a replaced worker")
    else:
        yield Row(
            "wrong",
            "transactions",
            "the cluster takes those of a replaced worker",
            "set kafka.delivery to at_least_once, or use Apache Kafka 2.5 or later",
        )
    if settings.kafka.instance_id is None:
        yield Row(
            "warning",
            "transactions",
            "kafka.instance_id is not set: after a crash nobody ends the open transaction before its timeout, and "
            "readers of alerts and the next owner of the partitions wait 10 to 20 s",
            "give each process a name that it has again after a restart",
        )


def _stream_rows(
    settings: Settings,
    name: str,
    stream: StreamSettings,
    cluster: Cluster,
    outside: Outside,
) -> Iterator[Row]:
    try:
        topic = cluster.topic(stream.topic, "READ")
    except OffkeyError as error:
        yield _wrong(f"{name}: topic", error)
        return
    yield Row("ok", f"{name}: topic", f"{stream.topic}, partitions: {topic.partitions}")
    yield from _size_rows(settings, name, stream, cluster)
    try:
        yield from _sample_rows(name, stream, outside)
    except OffkeyError as error:
        yield _wrong(f"{name}: records", error)


def _size_rows(settings: Settings, name: str, stream: StreamSettings, cluster: Cluster) -> Iterator[Row]:
    setting, dead_letters = "max.message.bytes", settings.topics.dead_letters
    taken, written = cluster.setting(stream.topic, setting), cluster.setting(dead_letters, setting)
    if taken is None or written is None:
        return
    what, found = f"{name}: record size", f"{stream.topic} takes {int(taken):,} bytes, {dead_letters}"
    if int(taken) <= int(written):
        yield Row("ok", what, f"{found} {int(written):,}")
    else:
        yield Row(
            "warning",
            what,
            f"{found} only {int(written):,}",
            f"raise {setting} of {dead_letters}: a record too large to dead-letter stops the worker",
        )


def _sample_rows(name: str, stream: StreamSettings, outside: Outside) -> Iterator[Row]:
    from pipeline.fields import decoder_of, features_of, label_warning

    sample = list(islice(outside.history(stream.topic, _SAMPLE_RECORDS), 64))
    read = sum(len(records.records) for records in sample)
    if not read:
        yield Row("warning", f"{name}: records", "the topic is empty", "produce some, then train")
        return
    features = stream.features or features_of(sample, stream)
    decoder = decoder_of(stream, features)
    reasons: Counter[str] = Counter()
    partitions: dict[str, set[int]] = {}
    rows = 0
    for records in sample:
        for (part,) in decoder.split([records]):
            batch, rejects = decoder.decode(part)
            rows += len(batch) + len(rejects)
            reasons.update(reject.reason for reject in rejects)
            for series in set(batch.series_of_rows):
                partitions.setdefault(series, set()).add(records.partition.partition)
    rejected = reasons.total()
    counted = f"{rows:,} rows" if stream.format == "arrow" else f"{rows:,}"
    what = f"images: {stream.image.shape}" if stream.image else f"features: {shortened(features)}"
    found = f"{rows - rejected:,} of the newest {counted} decode; {what}"
    if rejected:
        worst = ", ".join(f"{reason} {count:,}" for reason, count in reasons.most_common())
        verdict: Literal["warning", "wrong"] = "wrong" if rejected == rows else "warning"
        yield Row(
            verdict,
            f"{name}: records",
            f"{found}; rejected: {worst}",
            "mend the producer or the stream's fields",
        )
    else:
        yield Row("ok", f"{name}: records", found)
    if odd := label_warning(features, stream):
        yield Row("warning", f"{name}: features", *odd)
    moved = [series for series, seen in partitions.items() if series and len(seen) > 1]
    if moved:
        yield Row(
            "warning",
            f"{name}: series",
            f"{moved[0]!r} and {len(moved) - 1} others stand in several partitions",
            "key the topic by series: each partition keeps its own state",
        )


def _model_row(name: str, stream: StreamSettings, outside: Outside) -> Row:
    from pipeline.lanes import load_champion, support_of

    try:
        detector, version = load_champion(name, stream, outside.registry())
    except OffkeyError as error:
        return _wrong(f"{name}: model", error)
    return Row("ok", f"{name}: model", f"{version}, {detector.name}; {support_of(stream, detector)}")


def _wrong(what: str, error: OffkeyError) -> Row:
    found, _, remedy = str(error).partition("; ")
    return Row("wrong", what, found, remedy)
