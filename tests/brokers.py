"""Apache Kafka for tests: one KRaft broker on loopback, from the folder that KAFKA_HOME names.

KAFKA_HOME is an Apache Kafka distribution, or any folder with its jars in `libs/`; Java 17 runs it.
"""

import contextlib
import os
import socket
import subprocess
import threading
import time
from pathlib import Path

from kafka import KafkaAdminClient
from kafka.admin import ACL, ACLOperation, ACLPermissionType, ResourcePattern, ResourceType
from kafka.errors import RetriableError

from pipeline.connectors.embedded import free_port

MISSING = (
    "KAFKA_HOME is not set: unpack a distribution of Apache Kafka 4 (kafka.apache.org) and set KAFKA_HOME to its "
    "folder; Java 17 must be on the PATH"
)
_START_S = 60.0
_PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={folder}/data
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
auto.create.topics.enable=false
transaction.abort.timed.out.transaction.cleanup.interval.ms=500
"""
# All may do all, until an access rule names a topic or a group.
_RIGHTS = """\
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
allow.everyone.if.no.acl.found=true
"""


class ApacheBroker:
    """Answers when it is made, and is ended by its own pid with `close`; `rights`: it keeps access rules."""

    def __init__(self, folder: Path, rights: bool = False) -> None:
        port = free_port()
        self.bootstrap_servers = f"127.0.0.1:{port}"
        properties = folder / "server.properties"
        text = _PROPERTIES.format(port=port, controller=free_port(), folder=folder)
        properties.write_text(text + (_RIGHTS if rights else ""))
        classes = f"{os.environ['KAFKA_HOME']}/libs/*"
        java = ["java", "-Xms128m", "-Xmx512m", "-XX:+UseSerialGC", "-cp", classes]
        format_storage = [*java, "kafka.tools.StorageTool", "format", "--cluster-id", "4L6g3nShT-eMCtK--X86sw"]
        subprocess.run([*format_storage, "--config", str(properties)], check=True, capture_output=True, timeout=60)
        self._log = (folder / "broker.log").open("wb")
        self._process = subprocess.Popen(
            [*java, "kafka.Kafka", str(properties)],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.pid = self._process.pid
        self._wait(port, folder)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._log.close()

    def _wait(self, port: int, folder: Path) -> None:
        """Until it takes connections and coordinates groups: the first question creates its topic of offsets."""
        deadline_s, pause = time.monotonic() + _START_S, threading.Event()
        while time.monotonic() < deadline_s and self._process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                with contextlib.closing(KafkaAdminClient(bootstrap_servers=self.bootstrap_servers)) as admin:
                    admin.list_group_offsets({"any": None})
            except (OSError, RetriableError):
                pause.wait(0.1)
            else:
                return
        self.close()
        raise RuntimeError(f"Apache Kafka did not start: {(folder / 'broker.log').read_text()[-2000:]}")


def forbid(admin: KafkaAdminClient, operation: ACLOperation, kind: ResourceType, name: str) -> None:
    """Take one operation away from the tests' user, who keeps all others."""
    for permission, what in ((ACLPermissionType.DENY, operation), (ACLPermissionType.ALLOW, ACLOperation.ALL)):
        admin.create_acls([ACL("User:ANONYMOUS", "*", what, permission, ResourcePattern(kind, name))])
