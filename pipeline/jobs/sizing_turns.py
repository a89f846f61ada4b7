"""How often the worker's loop turns, and what the Kafka client takes of it.

The loop turns as often as records come. Its next question goes out when the records of the one before are done, so
a turn takes its own time and that in which the broker gathers. What the stages take of a turn is measured
(`sizing_measured`). What the Kafka client does for it cannot be measured without a broker: `CLIENT` was, beside
one, and is scaled by how fast this machine unpacks records against the one it is of.

A turn after a rest takes longer than one that follows another, for the caches have been others' meanwhile.

It is of records that come evenly, uncompressed, in one partition, without alerts; producers that send many at once
make fewer turns.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.jobs.sizing_measured import REST_S, Measured
from pipeline.kafka_settings import KafkaSettings

_ROUNDS = 200


@dataclass(frozen=True)
class Client:
    """What the Kafka client takes of the processor, and how long it waits, on the machine of the measurement."""

    poll_s: float
    """A poll with records: to ask, to take the answer, to commit."""
    rested_s: float
    """By how much longer that takes after a rest."""
    empty_s: float
    """A poll that comes back empty after `fetch_max_wait`."""
    wait_s: float
    """For which a turn waits for the broker beside the processor's time, not counting what is gathered."""
    idle_share: float
    """Of a core, for heartbeats and the like."""
    memory_bytes: float
    """Answers of the broker, and what is sent."""
    unpacking_s: float
    """`Machine.unpacking_s` of that machine."""


CLIENT = Client(
    poll_s=0.0006,
    rested_s=0.0014,
    empty_s=0.0008,
    wait_s=0.0011,
    idle_share=0.003,
    memory_bytes=25e6,
    unpacking_s=0.0028,
)
"""Measured by `tests/benchmarks/plan_accuracy.py`, on 2 cores of an AMD EPYC with the broker beside."""


@dataclass(frozen=True)
class Turn:
    """One turn of the worker's loop at the rate that is asked about."""

    seconds: float
    points: float
    cpu_s: float
    """Time of the processor, without checkpoints."""
    rested: float
    """How much of a rest the loop has, from 0 to 1."""

    @property
    def keeps_up(self) -> bool:
        return self.cpu_s <= self.seconds


def turn_of(streams: Sequence[Measured], each_per_s: float, kafka: KafkaSettings, slower: float = 1.0) -> Turn:
    """Return a turn of the loop where each stream has so many points a second.

    While a turn works, records gather at the broker. It answers the next question as soon as there are
    `fetch_min_bytes`, or after `fetch_max_wait`; of evenly coming records one by one the first answers it.
    """
    per_s, count = each_per_s * len(streams), len(streams)
    point_bytes = float(np.mean([found.point_bytes for found in streams]))
    enough_s = max(kafka.fetch_min_bytes / (per_s * point_bytes), 1 / per_s)
    largest = float(sum(found.turns[-1].points for found in streams))

    def worked_s(points: float, rested: float) -> float:
        own_s = sum(found.turn_s(points / count, rested) for found in streams)
        return own_s + slower * (CLIENT.poll_s + rested * CLIENT.rested_s)

    seconds, rested = enough_s, 0.0
    for _ in range(_ROUNDS):
        worked = worked_s(per_s * seconds, rested) + slower * CLIENT.wait_s
        wanted = max(worked, min(worked + kafka.fetch_max_wait, enough_s))
        if per_s * wanted > largest:
            return Turn(largest / per_s, largest, worked_s(largest, 0.0), 0.0)
        # By halves, for a turn that has no rest is shorter, and then has one.
        seconds = (seconds + wanted) / 2
        rested = (rested + min(max(seconds - worked, 0.0) / REST_S, 1.0)) / 2
    return Turn(seconds, per_s * seconds, worked_s(per_s * seconds, rested), rested)


def client_share_of(turn: Turn, kafka: KafkaSettings, slower: float) -> float:
    """Return the share of a core that the Kafka client takes at such turns."""
    poll_s = CLIENT.poll_s + turn.rested * CLIENT.rested_s
    empty_per_s = max(1 / kafka.fetch_max_wait - 1 / turn.seconds, 0.0)
    return slower * (poll_s / turn.seconds + CLIENT.empty_s * empty_per_s + CLIENT.idle_share)


def most_points_per_s(streams: Sequence[Measured], slower: float) -> float:
    """Return what one core takes at most, in the largest polls."""
    each_s = [
        (last.seconds + slower * CLIENT.poll_s) / last.points for last in (found.turns[-1] for found in streams)
    ]
    return len(streams) / sum(each_s)
