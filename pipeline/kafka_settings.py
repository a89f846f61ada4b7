"""The cluster, and how offkey reads from it and writes to it: the keys below `kafka`."""

from typing import Annotated, Literal

from pipeline.security_settings import SecuritySettings
from pipeline.setting_types import LONGEST_WAIT, WRITTEN, Name, Section, Servers, Topic, Wait, Whole, between


class KafkaSettings(Section):
    bootstrap_servers: Servers = "localhost:9092"
    """Addresses to find the cluster by, with commas between them."""
    group_id: Name = "offkey"
    """Consumer group of the workers: those of one group share the partitions."""
    instance_id: Topic | None = None
    """A name that this process alone has, and has again after a restart: it then keeps its partitions without a
    rebalance, and with exactly_once ends at once what a crash left open."""
    client_id: Name = "offkey"
    """Name in the broker's logs and quotas."""
    security: SecuritySettings = SecuritySettings()
    """Whether the connection is encrypted, and who offkey is to the cluster."""
    delivery: Literal["at_least_once", "exactly_once"] = "at_least_once"
    """at_least_once: after a crash some alerts are published twice, with equal ids. exactly_once: alerts, dead
    letters and offsets in one transaction; readers with isolation_level=read_committed see each once."""
    connect_timeout: Wait = 10
    """How long to wait for the cluster at the start."""
    session_timeout: Annotated[float, between("1s", LONGEST_WAIT), WRITTEN] = 10
    """How long a silent worker keeps its partitions."""
    max_poll_interval: Wait = 300
    """How long one batch may take before the group gives the partitions to others."""
    max_poll_records: Whole = 16_000
    """Most records of a batch."""
    max_poll_bytes: Whole = 33_554_432
    """Most bytes of a batch's records, unpacked; a record that is larger comes alone."""
    fetch_min_bytes: Whole = 1
    """Bytes that the broker gathers before it answers; 20000 saves CPU at thousands of records a second."""
    fetch_max_bytes: Whole = 16_777_216
    """Most bytes of one answer of a broker; each broker has two on their way at most, whatever is slow."""
    fetch_max_wait: Annotated[float, between("1ms", "5s"), WRITTEN] = 0.1
    """How long the broker gathers at most; up to 5 s."""
    delivery_timeout: Wait = 30
    """How long an alert may take to be confirmed; with exactly_once 10 s at most, the transaction's own limit."""
