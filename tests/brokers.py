"""Apache Kafka for tests: one KRaft broker on loopback, from the folder that KAFKA_HOME names.

KAFKA_HOME is an Apache Kafka distribution, or any folder with its jars in `libs/`; Java 17 runs it.
"""

import contextlib
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Mapping
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
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}{listeners}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}{advertised}
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT{protocols}
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
    """Answers when it is made, and is ended by its own pid with `close`; `rights`: it keeps access rules.

    After `stop`, `start` brings it back on its address with all that it held. `settings` are further lines of its
    properties, `listeners` further names and their protocols, each at its own of `addresses`.
    """

    def __init__(
        self, folder: Path, rights: bool = False, settings: str = "", listeners: Mapping[str, str] | None = None
    ) -> None:
        self._port, self._folder = free_port(), folder
        self.bootstrap_servers = f"127.0.0.1:{self._port}"
        ports = {name: free_port() for name in listeners or {}}
        self.addresses = {name: f"localhost:{port}" for name, port in ports.items()}
        properties = folder / "server.properties"
        text = _PROPERTIES.format(
            port=self._port,
            controller=free_port(),
            folder=folder,
            listeners="".join(f",{name}://127.0.0.1:{port}" for name, port in ports.items()),
            advertised="".join(f",{name}://{address}" for name, address in self.addresses.items()),
            protocols="".join(f",{name}:{protocol}" for name, protocol in (listeners or {}).items()),
        )
        properties.write_text(text + (_RIGHTS if rights else "") + settings)
        classes = f"{os.environ['KAFKA_HOME']}/libs/*"
        java = ["java", "-Xms128m", "-Xmx512m", "-XX:+UseSerialGC", "-cp", classes]
        format_storage = [*java, "kafka.tools.StorageTool", "format", "--cluster-id", "4L6g3nShT-eMCtK--X86sw"]
        subprocess.run([*format_storage, "--config", str(properties)], check=True, capture_output=True, timeout=60)
        self._command = [*java, "kafka.Kafka", str(properties)]
        self.start()

    def start(self) -> None:
        """Start it, and return when it answers."""
        self._log = (self._folder / "broker.log").open("ab")
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.pid = self._process.pid
        self._wait(self._port, self._folder)

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def stop(self, number: signal.Signals = signal.SIGKILL) -> None:
        """End it with this signal, and return when it has ended."""
        self._process.send_signal(number)
        self._process.wait(_START_S)
        self._log.close()

    def close(self) -> None:
        if self._process.poll() is None:
            self.stop()

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
