"""Faults, one function each: what goes wrong, for how long, and how it is mended.

A fault is a generator: it does something, yields how many seconds later it wants to go on, and has mended all that
it broke when it ends. It draws from a source of its own, so what it does depends on nothing but its seed. Other
faults and the records go on between its steps.

`PASSING` ones change nothing of what a run leaves. Each of `TURNING` is a turn in the story: the records behind it
are scored without the state from before it, and what then has to come out is known.
"""

import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing

from kafka.admin import (
    ACLFilter,
    ACLOperation,
    ACLPermissionType,
    ACLResourcePatternType,
    ConfigResource,
    ConfigResourceType,
    ResourcePatternFilter,
    ResourceType,
)
from kafka.errors import KafkaError, NoError
from kafka.structs import TopicPartition as ClientPartition

from pipeline.connectors.kafka import KafkaCluster
from pipeline.errors import ConfigError, TransientError
from pipeline.protocols import TopicPartition
from tests.brokers import forbid
from tests.chaos.crew import Slot
from tests.chaos.incoming import Records
from tests.chaos.speaking import say
from tests.chaos.stage import SESSION_S, Stage

Draw = random.Random
Steps = Iterator[float]
_TINY_BYTES = 300
"""No alert is so short."""
_BEGIN_S = 15.0
"""How long a frozen worker waits for its successor to have begun, and we for a topic to go."""
_LAST_BATCH_S = 3.0
"""So soon after it was woken a worker has published what it had read."""
_BLOCK_BYTES = 2_000
"""No checkpoint is so short, so one that is written to a full disk is cut off within."""


def kill(stage: Stage, draw: Draw) -> Steps:
    """SIGKILL a worker, and now and then its successor while that one starts."""
    stage.crew.kill(_any(stage, draw))
    if draw.random() < 0.4:
        yield draw.uniform(0.5, 4)
        stage.crew.kill(_any(stage, draw))


def freeze(stage: Stage, draw: Draw) -> Steps:
    """SIGSTOP a worker for longer than its session; it comes back as a zombie, or finds another in its place."""
    slot, replaced = _any(stage, draw), draw.random() < 0.5
    while stage.adopting:
        yield 0.2
    frozen = slot.process
    if frozen is None:
        return
    stage.asleep += 1
    frozen.signal(signal.SIGSTOP)
    stage.crew.note(f"{slot.name} is frozen")
    yield SESSION_S * draw.uniform(1.3, 2)
    if replaced and slot.process is frozen and slot.wanted:
        stage.crew.replace(slot)
        until_s = time.monotonic() + _BEGIN_S
        while not (slot.process is not None and slot.process.begun) and time.monotonic() < until_s:
            yield 0.2
        yield draw.uniform(0, 3)
    frozen.signal(signal.SIGCONT)
    stage.crew.note(f"{slot.name}, frozen, goes on")
    if frozen in stage.crew.zombies and not stage.crew.named:
        # Without a name it is a member like any other, and does not know that it has a double.
        yield draw.uniform(0.5, 2)
        frozen.signal(signal.SIGTERM)
    yield _LAST_BATCH_S
    stage.asleep -= 1


def swap(stage: Stage, draw: Draw) -> Steps:
    """Have another model serve, or the one before it again, and wait until every partition has adopted it.

    At least once, a worker that wakes up publishes its last batch again, as its model judged it. What then comes
    twice says two things, if its successor has adopted another one meanwhile; so nobody sleeps through a swap then.
    """
    while stage.asleep and not stage.exactly_once:
        yield 0.2
    stage.adopting += not stage.exactly_once
    version = ""
    while not version:
        try:
            if not stage.store_hangs:
                version = stage.promote_the_other()
                stage.crew.note(f"{version} serves")
        except (TransientError, ConfigError):
            # Storage has a fault of its own just now.
            pass
        yield 0.3
    yield from stage.look_until(
        f"{version} is adopted", lambda: stage.has_adopted("machines", lambda last: last.version == version)
    )
    stage.adopting -= not stage.exactly_once


def join(stage: Stage, draw: Draw) -> Steps:
    """Have a further worker join, or two at once."""
    for _ in range(draw.choice([1, 2])):
        stage.crew.add()
    yield 0


def leave(stage: Stage, draw: Draw) -> Steps:
    """Have a worker leave in order; another one is there already, or comes at once."""
    slot = _any(stage, draw)
    if len(stage.crew.present) == 1:
        stage.crew.add()
    stage.crew.stop(slot)
    yield 0


def restart_broker(stage: Stage, draw: Draw) -> Steps:
    """End the broker, hard or in order, and start it again on the same data; or let it hang for a while."""
    way, down_s = draw.choice(["killed", "stopped", "hanging"]), draw.uniform(0.2, 3)
    stage.crew.note(f"the broker is {way} for {down_s:.1f} s")
    stage.crew.excuse = "the broker is away"
    stage.broker_is_up = False
    if way == "hanging":
        stage.broker.send(signal.SIGSTOP)
        yield down_s
        stage.broker.send(signal.SIGCONT)
    else:
        stage.broker.stop(signal.SIGKILL if way == "killed" else signal.SIGTERM)
        yield down_s
        stage.broker.start()
    stage.broker_is_up = True


def storage_fails(stage: Stage, draw: Draw) -> Steps:
    """Have every access to storage fail: a file lies in the folder's place, or the store answers with errors."""
    stage.crew.excuse = "storage fails"
    if stage.store is not None:
        stage.store.failing = True
        yield draw.uniform(1, 5)
        stage.store.heal()
        return
    folder = stage.folder / "storage"
    parked = folder.with_name("parked")
    folder.rename(parked)
    # Root may write anywhere, but not where a folder has to be made in place of a file.
    folder.write_text("in the way")
    yield draw.uniform(1, 5)
    folder.unlink()
    parked.rename(folder)


def storage_slow(stage: Stage, draw: Draw) -> Steps:
    """Have each request to the store take seconds."""
    assert stage.store is not None, "a folder cannot be slowed"
    stage.store.delay_s = draw.uniform(0.3, 4)
    yield draw.uniform(2, 6)
    stage.store.heal()


def storage_full(stage: Stage, draw: Draw) -> Steps:
    """Have nothing more fit into storage: the store refuses, or no file may grow past a few blocks.

    The limit is each process's own, which any user may set: a small file system to fill takes more rights.
    """
    stage.crew.excuse = "storage is full"
    if stage.store is not None:
        stage.store.full = True
        yield draw.uniform(1, 5)
        stage.store.heal()
    else:
        stage.crew.limit_files(draw.randrange(_BLOCK_BYTES))
        yield draw.uniform(1, 5)
        stage.crew.limit_files(None)


def refuse(stage: Stage, draw: Draw) -> Steps:
    """Have the broker refuse alerts or dead letters: no right to write them, or they are too long for the topic."""
    topic = stage.topics[draw.choice(["alerts", "alerts", "dead"])]
    by_right, for_s = draw.random() < 0.5, draw.uniform(1, 5)
    stage.crew.note(f"{topic} is refused for {for_s:.1f} s: {'no right' if by_right else 'too long'}")
    stage.crew.excuse = "alerts are refused"
    resource = ConfigResource(ConfigResourceType.TOPIC, topic, {"max.message.bytes": str(_TINY_BYTES)})
    with stage.admin() as admin:
        if by_right:
            forbid(admin, ACLOperation.WRITE, ResourceType.TOPIC, topic)
        else:
            admin.alter_configs([resource])
    yield for_s
    with stage.admin() as admin:
        if by_right:
            which = ResourcePatternFilter(ResourceType.TOPIC, topic, ACLResourcePatternType.LITERAL)
            admin.delete_acls([ACLFilter(None, None, ACLOperation.ANY, ACLPermissionType.ANY, which)])
        else:
            admin.reset_configs([resource])


def delete_offsets(stage: Stage, records: Records, draw: Draw) -> None:
    """Have the group's offsets expire while nobody works: of one topic, or of all."""
    stage.stop_all()
    stage.end_chapter()
    topics = draw.choice([["metrics"], ["payments"], ["metrics", "payments"]])
    places = [place for place in stage.places if place.topic in {stage.topics[kind] for kind in topics}]

    def deleted() -> bool:
        try:
            with stage.admin() as admin:
                answers = admin.delete_group_offsets(stage.group, [ClientPartition(*place) for place in places])
        except KafkaError:
            # A static member that has stopped is one until its session ends.
            return False
        return all(answer is NoError for answer in answers.values())

    stage.settle("offsets are deleted", deleted, 60)
    stage.begin_anew(places)


def delete_records(stage: Stage, records: Records, draw: Draw) -> None:
    """Have records expire that nobody has read, while nobody works."""
    stage.stop_all()
    stage.end_chapter()
    stage.produce(records.take(draw.randrange(100, 300)))
    stage.remember()
    until: dict[TopicPartition, int] = {}
    for place in stage.places:
        read, end = stage.publishes[place], len(stage.known[place])
        if end > read and draw.random() < 0.7:
            until[place] = draw.randrange(read + 1, end + 1)
    with stage.admin() as admin:
        admin.delete_records({ClientPartition(*place): offset for place, offset in until.items()})
    stage.first_held |= until
    stage.begin_anew(until)


def make_topic_anew(stage: Stage, records: Records, draw: Draw) -> None:
    """Delete a topic and make it again, with the workers stopped or running."""
    kind, running = draw.choice(["metrics", "payments"]), draw.random() < 0.5
    if not running:
        stage.stop_all()
    stage.end_chapter()
    topic = stage.topics[kind]
    stage.crew.excuse = "a topic is away"
    stage.crew.note(f"{topic} is made anew, the workers {'running' if running else 'stopped'}")
    with stage.admin() as admin:
        admin.delete_topics([topic])
    partitions = {topic: sum(place.topic == topic for place in stage.places)}
    with closing(KafkaCluster(stage.connection)) as cluster:
        _wait_until_gone(cluster, topic)
        cluster.create_topics(partitions)
    for place in stage.places:
        if place.topic == topic:
            stage.known[place], stage.first_held[place] = [], 0
            stage.begins[place] = stage.publishes[place] = 0
            stage.made_anew.add(place)


PASSING: dict[str, Callable[[Stage, Draw], Steps]] = {
    "kill": kill,
    "swap": swap,
    "say": say,
    "freeze": freeze,
    "join": join,
    "leave": leave,
    "restart_broker": restart_broker,
    "storage_fails": storage_fails,
    "storage_slow": storage_slow,
    "storage_full": storage_full,
    "refuse": refuse,
}
TURNING: dict[str, Callable[[Stage, Records, Draw], None]] = {
    "delete_offsets": delete_offsets,
    "delete_records": delete_records,
    "make_topic_anew": make_topic_anew,
}


def _any(stage: Stage, draw: Draw) -> Slot:
    there = [slot for slot in stage.crew.present if slot.process is not None]
    return draw.choice(there or stage.crew.present)


def _wait_until_gone(cluster: KafkaCluster, topic: str) -> None:
    until_s, pause = time.monotonic() + _BEGIN_S, threading.Event()
    while time.monotonic() < until_s:
        try:
            cluster.topic(topic)
        except ConfigError:
            return
        pause.wait(0.1)
    raise AssertionError(f"topic {topic} is still there")
