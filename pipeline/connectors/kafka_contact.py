"""The client's first and later contact with brokers, and why there is none.

The client tries to reach a cluster until a timeout, whatever the reason, and tells it to nobody. Here a refusal
that will not change by itself, of every address that it knows, ends the first contact at once with that reason; a
later one is logged, once until it changes, while the client goes on trying as it does for brokers that are away.

**What is not said**: at level debug the client logs each request, as it is and as bytes, and its own configuration.
Requests that log in hold the password or the token, so they are left out, and bytes altogether.
"""

import logging
from functools import partial
from typing import Any

from pipeline.connectors.connection import Connection
from pipeline.connectors.kafka_client import (
    AbstractTokenProvider,
    KafkaConnectionManager,
    KafkaNetClient,
    NetworkSelector,
    NoToken,
    client_errors,
    hung_up,
    refusal,
)
from pipeline.connectors.security import KEYS
from pipeline.errors import ConfigError, Refused, TransientError
from pipeline.secret_files import read_secret

logger = logging.getLogger(__name__)

_TELL_REQUESTS = ("kafka.net.connection", "kafka.protocol.parser")


def client_options(connection: Connection) -> dict[str, Any]:
    """Return what consumers, producers and admin clients share."""
    options = {**connection.options(), "kafka_client": _Client}
    if connection.security.token_file is not None:
        options["sasl_oauth_token_provider"] = _Tokens(connection.security.token_file)
    return options


class _Client(KafkaNetClient):  # type: ignore[misc]
    def __init__(self, **configs: Any) -> None:
        for name in _TELL_REQUESTS:
            logging.getLogger(name).addFilter(_without_logins)
        net = NetworkSelector(**configs)
        super().__init__(net, _Manager(net, **configs), **configs)


class _Manager(KafkaConnectionManager):  # type: ignore[misc]
    """Keeps why a broker was lost."""

    def __init__(self, net: Any, **configs: Any) -> None:
        super().__init__(net, **configs)
        self._lost_by: dict[Any, Exception] = {}
        self._told: dict[Any, str] = {}

    def bootstrap(self, timeout_ms: float | None = None, refresh: bool = True) -> None:
        """Reach a broker of the cluster, or say why none can be reached.

        Raises:
            Refused: the cluster does not let us in, or is not who it should be.
            TransientError: it hangs up.
        """
        try:
            super().bootstrap(timeout_ms, refresh)
        except client_errors.KafkaTimeoutError as error:
            for broker in self.cluster.bootstrap_brokers():
                if said := self._refusal(broker):
                    raise Refused(said) from error
            for broker in self.cluster.bootstrap_brokers():
                cause = self._lost_by.get(broker.node_id)
                if cause is not None and hung_up(cause):
                    raise TransientError(
                        f"Kafka at {broker.host}:{broker.port}: it hangs up at once; is it still starting, or does "
                        "that port want another kafka.security: TLS or none, a user or none?"
                    ) from error
            raise

    async def _connect(self, node: Any, conn: Any, **options: Any) -> None:
        conn.close_future.add_errback(partial(self._lost, node))
        await super()._connect(node, conn, **options)
        if conn.connected:
            self._lost_by.pop(node.node_id, None)
            self._told.pop(node.node_id, None)

    async def _build_transport(self, node: Any, timeout_at: float | None = None) -> Any:
        transport = await super()._build_transport(node, timeout_at)
        receive = transport._sock_recv

        def received() -> tuple[bytes, Exception | None]:
            # The client drops what comes together with the end of a connection: the words that say why it ends.
            content, error = receive()
            return content, None if content else error

        transport._sock_recv = received
        return transport

    def _lost(self, node: Any, error: Exception) -> None:
        """Called on the I/O thread."""
        self._lost_by[node.node_id] = error
        said = self._refusal(node)
        if said is None:
            return
        if not self.bootstrapped:
            if all(map(self._refusal, self.cluster.bootstrap_brokers())):
                self.close()
        elif self._told.get(node.node_id) != said:
            self._told[node.node_id] = said
            logger.warning("%s", said)

    def _refusal(self, node: Any) -> str | None:
        error, user = self._lost_by.get(node.node_id), self.config["sasl_plain_username"]
        who = f"user {user}, or its password," if user else "the token"
        said = None if error is None else refusal(error, f"{who} by {self.config['sasl_mechanism']}")
        return None if said is None else f"Kafka at {node.host}:{node.port}: {said}"


class _Tokens(AbstractTokenProvider):  # type: ignore[misc]
    """The content of a file, read at each login."""

    def __init__(self, file: str) -> None:
        super().__init__()
        self._file = file

    def token(self) -> str:
        try:
            found = read_secret(None, self._file, f"{KEYS}.token_file")
        except ConfigError as error:
            raise NoToken(str(error)) from error
        assert found is not None, "the file is given"
        return found


def _without_logins(record: logging.LogRecord) -> bool:
    arguments = record.args if isinstance(record.args, tuple) else ()
    return not any(
        isinstance(each, bytes | bytearray | memoryview) or type(each).__name__.startswith("Sasl")
        for each in arguments
    )
