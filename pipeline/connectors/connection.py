"""How to reach a Kafka cluster, and how a worker takes part in its group. Knows no client."""

import importlib.util
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from pipeline.connectors.security import Security
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from pipeline.kafka_settings import KafkaSettings

REQUEST_TIMEOUT_MS = 10_000
"""How long one request may take."""
_HEARTBEAT_S = 1.0
"""Longest time between heartbeats: only by their answers do members learn that one has left."""


@dataclass(frozen=True)
class Connection:
    """How to reach a cluster."""

    bootstrap_servers: str
    client_id: str = "offkey"
    connect_timeout_s: float = 10.0
    security: Security = field(default_factory=Security)

    @classmethod
    def of(cls, kafka: "KafkaSettings") -> Self:
        """Return what the settings say.

        Raises:
            ConfigError: a file that they name cannot be read, or holds something else than it should.
        """
        return cls(kafka.bootstrap_servers, kafka.client_id, kafka.connect_timeout, Security.of(kafka.security))

    def options(self) -> dict[str, Any]:
        """Return what consumers, producers and admin clients share, but for their ways to reach a broker."""
        return {
            "bootstrap_servers": self.bootstrap_servers.split(","),
            "client_id": self.client_id,
            "bootstrap_timeout_ms": int(self.connect_timeout_s * 1000),
            "request_timeout_ms": REQUEST_TIMEOUT_MS,
            **self.security.options(),
        }


@dataclass(frozen=True)
class GroupOptions:
    """How this member takes part in its consumer group, and how it fetches."""

    group_id: str
    instance_id: str | None = None
    session_timeout_s: float = 10.0
    max_poll_interval_s: float = 300.0
    max_poll_records: int = 16_000
    max_poll_bytes: int = 32 * 1024 * 1024
    fetch_min_bytes: int = 1
    fetch_max_bytes: int = 16 * 1024 * 1024
    fetch_max_wait_ms: int = 100
    partition_fetch_bytes: int = 4_194_304
    """Most bytes of a partition in one answer. Records of many rows are large: with the client's own 1 MiB a worker
    that catches up would publish and commit four times as often."""
    metadata_max_age_s: float = 30.0
    """How old what the client knows of its topics may be: a new partition is found so late."""

    @classmethod
    def of(cls, kafka: "KafkaSettings") -> Self:
        """Return what the settings say."""
        return cls(
            kafka.group_id,
            kafka.instance_id,
            kafka.session_timeout,
            kafka.max_poll_interval,
            kafka.max_poll_records,
            kafka.max_poll_bytes,
            kafka.fetch_min_bytes,
            kafka.fetch_max_bytes,
            int(kafka.fetch_max_wait * 1000),
        )

    def options(self) -> dict[str, Any]:
        """Return what a consumer takes of this."""
        return {
            "group_id": self.group_id,
            "group_instance_id": self.instance_id,
            "session_timeout_ms": int(self.session_timeout_s * 1000),
            "heartbeat_interval_ms": int(min(self.session_timeout_s / 4, _HEARTBEAT_S) * 1000),
            "max_poll_interval_ms": int(self.max_poll_interval_s * 1000),
            "max_poll_records": self.max_poll_records,
            "fetch_min_bytes": self.fetch_min_bytes,
            "fetch_max_bytes": self.fetch_max_bytes,
            "fetch_max_wait_ms": self.fetch_max_wait_ms,
            "max_partition_fetch_bytes": self.partition_fetch_bytes,
            "metadata_max_age_ms": int(self.metadata_max_age_s * 1000),
        }


def transactional_id(group_id: str, instance_id: str | None) -> str:
    """Return the name of a process's transactions; without an instance's name, one that no other process has.

    All begin with the group and a slash, so that one prefixed rule grants the right to them. An instance's name has
    no slash: two groups never share one.
    """
    return f"{group_id}/{instance_id or uuid.uuid4().hex}"


@dataclass(frozen=True)
class Topic:
    """What the broker says of a topic."""

    name: str
    id: str
    partitions: int


def require_fast_checksums() -> None:
    """See that the client can check records quickly: without crc32c it does so in Python, at half the speed.

    Raises:
        ConfigError: that package is missing.
    """
    if importlib.util.find_spec("crc32c") is None:
        raise ConfigError("the package crc32c is missing; install offkey again with its dependencies")
