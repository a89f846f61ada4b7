"""What has to hold of a deployment whose processes were killed, asked of storage and topics alone.

- Snapshots: a reader finds each accepted record of the topic once, with its values, and no gap.
- Registry: the log of promotions has no hole and nothing damaged; each version that is listed is whole by its
  hashes from the moment it is listed, so one that is half written is none; every entry names one that is there, and
  what was trained was compared with the very version before it. The champion is one, of which all who ask are told.
- Worker: all partitions have adopted the champion in the end, and alerts and dead letters are those of a run that
  nothing disturbs and that is given the log of adoptions, each once.
- No record is unaccounted for: it is in the snapshots, or a dead letter.
- The training that was asked for before all kills is done in the end.
"""

import signal
import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from itertools import pairwise

from pipeline.connectors.registry import StoredRegistry
from pipeline.connectors.storage import ObjectStorage
from pipeline.fields import decoder_of
from pipeline.protocols import PartitionRecords, RawRecord, TopicPartition
from pipeline.versions.log import PromotionLog
from pipeline.versions.origin import ORIGIN, from_file
from pipeline.versions.promoting import RETRAIN
from tests.chaos.comparison import Chapter, Outcome, alerts_of, differences, letters_of, undisturbed
from tests.chaos.deployment import FEATURES, STREAM, Deployment, Role
from tests.snapshots import Row

_ASKED_AGAIN_S = 400.0
"""A training that failed is tried again after five minutes."""


def settled(deployment: Deployment) -> list[str]:
    """Let all work off what is there, and see what is left; return what alerts and dead letters differ in.

    Raises:
        AssertionError: something else does not hold, or takes too long.
    """
    group, scheduler = deployment.group, f"{deployment.group}-scheduler"
    deployment.settle("all are there", deployment.begun)
    deployment.settle("what was asked for is done", lambda: deployment.committed(scheduler) == 1, _ASKED_AGAIN_S)
    _end(deployment, "scheduler")
    records = deployment.records("metrics")
    total = sum(map(len, records.values()))
    deployment.settle("all is recorded", lambda: deployment.committed(f"{group}-recorder") == total)
    deployment.settle("all is scored", lambda: deployment.committed(group) == total)
    log = deployment.look()
    champion = deployment.registry.champion("machines")
    assert champion is not None
    assert champion == log.champion == StoredRegistry(ObjectStorage(deployment.url)).champion("machines")

    def serves() -> bool:
        return all(entries[-1].version == champion.version for entries in deployment.adopted(sys.maxsize).values())

    deployment.settle(f"{champion.version} serves", serves)
    for role in ("recorder", "worker"):
        _end(deployment, role)
    _require_built_on_each_other(deployment, log)
    return _accounted(deployment, records)


def _end(deployment: Deployment, role: Role) -> None:
    """Have it stop in order."""
    process = deployment.processes[role]
    process.signal(signal.SIGTERM)
    try:
        process.process.wait(60)
        assert process.status == 0, f"{role} stopped with {process.status}: {process.text}"
        assert "Traceback" not in process.text, process.text
    finally:
        process.kill()
        deployment.forget(role)


def _require_built_on_each_other(deployment: Deployment, log: PromotionLog) -> None:
    """See that what was trained was promoted over what it was compared with."""
    for before, entry in pairwise(log.entries):
        if entry.reason == RETRAIN:
            content = deployment.registry.file("machines", entry.version, ORIGIN)
            assert content is not None
            assert from_file(content).parent == before.version, entry
    trained = deployment.trained()
    assert len(set(trained)) == len(trained), "a version was promoted twice"
    half = deployment.registry.unfinished("machines")
    assert not {*half} & {entry.version for entry in log.entries}
    logs = deployment.adopted(0).values()
    swaps = sum(one.version != other.version for entries in logs for one, other in pairwise(entries))
    assert swaps, "a run in which no worker takes what was trained shows little"
    deployment.note(
        f"{len(trained)} versions trained and promoted, {len(log.entries) - len(trained) - 1} rolled back, "
        f"{swaps} swaps of partitions, {len(half)} half versions"
    )


def _accounted(deployment: Deployment, records: Mapping[TopicPartition, list[RawRecord]]) -> list[str]:
    """See that snapshots and dead letters hold all; return what the worker did otherwise than undisturbed."""
    rejected = _recorded(deployment, records)
    alerts, dead = (
        [each for log in deployment.records(kind).values() for each in log] for kind in ("alerts", "dead")
    )
    letters = letters_of(dead)
    assert {letter.id for letter in letters} == rejected
    total = sum(map(len, records.values()))
    deployment.note(f"{total} records, {len(rejected)} of them rejected, {len(alerts)} alerts")
    payments = TopicPartition(f"payments-{deployment.suffix}", 0)
    logs: dict[TopicPartition, list[RawRecord]] = {place: [] for place in (*deployment.places, payments)}
    logs |= records
    nothing = dict.fromkeys(logs, 0)
    versions = {version: partial(deployment.versions.__getitem__, version) for version in deployment.versions}
    wanted = undisturbed(Chapter(logs, nothing, nothing, deployment.adopted(0)), versions, STREAM)
    assert wanted.alerts, "a run without alerts shows nothing"
    found = Outcome(alerts_of(alerts), letters)
    return differences(replace(wanted, state={}), found, exactly_once=deployment.delivery == "exactly_once")


def _recorded(deployment: Deployment, records: Mapping[TopicPartition, list[RawRecord]]) -> set[str]:
    """See that snapshots hold each row of the topic that can be decoded; return the places of the other records."""
    decoder = decoder_of(STREAM, FEATURES)
    found, rejected = deployment.recorded(), set()
    assert found.keys() <= records.keys()
    for place, log in records.items():
        batch, rejects = decoder.decode(PartitionRecords(place, log))
        columns = (batch.offset_N, batch.place_in_record_N, batch.published_ms_N, batch.time_ms_N)
        values = [value.tobytes() for value in batch.values_NF]
        wanted = list(zip(*(column.tolist() for column in columns), batch.series_of_rows, values, strict=True))
        _require_same(deployment, place, wanted, found.get(place, []))
        rejected |= {f"{place.topic}/{place.partition}@{reject.record.offset}" for reject in rejects}
    return rejected


def _require_same(deployment: Deployment, place: TopicPartition, wanted: list[Row], there: list[Row]) -> None:
    """See that snapshots hold a partition's rows; else tell which they do not, and which files are about them."""
    if wanted == there:
        return
    lost, more = (sorted({*one} - {*other}) for one, other in ((wanted, there), (there, wanted)))
    offsets = [row[0] for row in (*lost, *more)]
    names = [
        file.name
        for unit in deployment.snapshots.units("machines")
        for file in unit.files
        if unit.topic.partition == place and any(unit.covered.begin <= at < unit.covered.end for at in offsets)
    ]
    told = [f"{place}: snapshots lack {len(lost)} rows, hold {len(more)} that the topic does not"]
    raise AssertionError("\n".join([*told, *map(str, lost[:9]), "---", *map(str, more[:9]), *names]))
