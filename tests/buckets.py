"""A bucket for tests: a moto server on loopback, in a process of its own, that speaks S3 as moto's authors read it.

It is the judge of what we take S3 to be: its errors, its listing in pages, its rights. `tests.chaos.object_store`
is ours, and is there to fail, to be slow and to be full on command, in the midst of a worker's requests, which moto
is not; what it answers otherwise is held to the same suite.
"""

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Mapping
from typing import Any

PAGE = 100
"""So many objects are listed at a time, for S3's thousand take long to write."""


class MotoServer:
    """Answers when it is made, and is ended by its own pid with `close`."""

    def __init__(self) -> None:
        # `python -m moto.server` does not say on which port it listens but in a log, where each request goes too.
        self._process = subprocess.Popen(
            [sys.executable, "-c", _SERVE],
            stdout=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "MOTO_S3_DEFAULT_MAX_KEYS": str(PAGE)},
        )
        assert self._process.stdout is not None
        port = self._process.stdout.readline().strip()
        if not port:
            raise RuntimeError("moto did not start, see above; it comes with: pip install 'offkey[dev]'")
        self.endpoint = f"http://127.0.0.1:{port}"

    def environment(self, key: str = "key", secret: str = "secret") -> Mapping[str, str]:
        """What tells the client where buckets are, and who asks."""
        return {
            "AWS_ENDPOINT": self.endpoint,
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": key,
            "AWS_SECRET_ACCESS_KEY": secret,
        }

    def client(self, service: str) -> Any:
        """Return what the buckets' owner works with."""
        import boto3

        who = {"aws_access_key_id": "owner", "aws_secret_access_key": "secret"}
        return boto3.client(service, endpoint_url=self.endpoint, region_name="us-east-1", **who)

    def create_bucket(self, name: str) -> None:
        self.client("s3").create_bucket(Bucket=name)

    def user(self, name: str, actions: list[str]) -> Mapping[str, str]:
        """Make a user who may do this, and return the environment of their processes."""
        iam = self.client("iam")
        iam.create_user(UserName=name)
        allowed = {"Effect": "Allow", "Action": actions, "Resource": "*"}
        policy = json.dumps({"Version": "2012-10-17", "Statement": [allowed]})
        iam.put_user_policy(UserName=name, PolicyName="rights", PolicyDocument=policy)
        made = iam.create_access_key(UserName=name)["AccessKey"]
        return self.environment(made["AccessKeyId"], made["SecretAccessKey"])

    def ask_for_rights(self, asked: bool) -> None:
        """Look at who asks from now on, or at nobody."""
        body = b"0" if asked else b"inf"
        headers = {"Content-Type": "text/plain"}
        url = f"{self.endpoint}/moto-api/reset-auth"
        urllib.request.urlopen(urllib.request.Request(url, body, headers, method="POST"), timeout=30).close()

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(30)
        if self._process.stdout is not None:
            self._process.stdout.close()


# S3 lets one of two win who create an object at once. moto looks and then writes: it is asked one thing at a time.
_SERVE = """
import logging, signal, threading
from werkzeug.serving import make_server
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
logging.getLogger("werkzeug").setLevel(logging.ERROR)
moto, one = DomainDispatcherApplication(create_backend_app), threading.Lock()
def answer(environ, start_response):
    with one:
        return list(moto(environ, start_response))
server = make_server("127.0.0.1", 0, answer, threaded=True)
signal.signal(signal.SIGTERM, signal.SIG_DFL)
print(server.server_port, flush=True)
server.serve_forever()
"""
