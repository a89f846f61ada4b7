"""What a path from a topic to its alerts has on a broker: names of its own, and a configuration that knows them."""

from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from pipeline.connectors.connection import Connection
from pipeline.connectors.embedded import free_port
from pipeline.connectors.kafka import KafkaCluster
from tests.commands import configured


def create_topics(broker: str, unique: Callable[[str], str], *inputs: str) -> dict[str, str]:
    """Create topics of one partition: inputs, `alerts` and `dead`; return their names, and that of a `group`."""
    names = {name: unique(name) for name in (*inputs, "alerts", "dead")}
    with closing(KafkaCluster(Connection(broker))) as cluster:
        cluster.create_topics(dict.fromkeys(names.values(), 1))
    return names | {"group": unique("group")}


def configured_for(
    folder: Path,
    broker: str,
    names: Mapping[str, str],
    streams: Mapping[str, Any],
    *,
    kafka: Mapping[str, Any] = {},
    **changes: Any,
) -> Path:
    """Write a configuration with these names; a member of its group that was killed is missed after six seconds."""
    return configured(
        folder,
        broker,
        kafka={
            "bootstrap_servers": broker,
            "group_id": names["group"],
            "session_timeout": 6,
            "max_poll_interval": 6,
            **kafka,
        },
        topics={"alerts": names["alerts"], "dead_letters": names["dead"]},
        streams=streams,
        metrics={"port": free_port()},
        **changes,
    )
