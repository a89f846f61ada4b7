"""An Apache Kafka that lets in only whom it knows: users, certificates and tokens for tests of security."""

import base64
import json
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from kafka import KafkaAdminClient
from kafka.admin import (
    ACL,
    ACLOperation,
    ACLPermissionType,
    ACLResourcePatternType,
    ResourcePattern,
    ResourceType,
    ScramMechanism,
    UserScramCredentialDeletion,
    UserScramCredentialUpsertion,
)

from tests.brokers import ApacheBroker
from tests.certificates import Authority

USER, PASSWORD = "worker=1,a", "planted-Pass 4711'\"\\"
"""A name that SCRAM has to escape, and a password that what prints it might."""
PLAIN_PASSWORD = "planted-plain-0815"
MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER")
_SCRAM = {"SCRAM-SHA-256": ScramMechanism.SCRAM_SHA_256, "SCRAM-SHA-512": ScramMechanism.SCRAM_SHA_512}
_LISTENERS = {"SECURE": "SASL_SSL", "RENEWED": "SASL_SSL", "EXPIRED": "SSL", "OTHER": "SSL", "MUTUAL": "SSL"}
_LOGIN = "org.apache.kafka.common.security"
# Who logs in by a certificate, a token or PLAIN may do all, as may who comes by the open listener.
_RIGHTS = """\
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
allow.everyone.if.no.acl.found=false
super.users=User:ANONYMOUS;User:worker;User:CN=worker
"""


class SecuredBroker:
    """One broker with a listener for each way to get it right or wrong; `open` is one without any of it."""

    def __init__(self, folder: Path) -> None:
        self.authority, self._stranger = Authority(folder), Authority(folder, "stranger")
        self.wrong_ca = self._stranger.certificate
        own = ("localhost", "127.0.0.1")
        keys = {
            "SECURE": self.authority.sign("server", own),
            "EXPIRED": self.authority.sign("expired", own, expired=True),
            "OTHER": self.authority.sign("other", ["kafka.example"]),
        }
        lines = ["listener.name.mutual.ssl.client.auth=required"]
        for name in _LISTENERS:
            at = f"listener.name.{name.lower()}"
            lines += [f"{at}.ssl.keystore.type=PEM", f"{at}.ssl.keystore.location={keys.get(name, keys['SECURE'])}"]
            lines += [f"{at}.ssl.truststore.type=PEM", f"{at}.ssl.truststore.location={self.authority.certificate}"]
        for at in ("listener.name.secure", "listener.name.renewed"):
            lines.append(f"{at}.sasl.enabled.mechanisms={','.join(MECHANISMS)}")
            plain = f'{_LOGIN}.plain.PlainLoginModule required user_worker="{PLAIN_PASSWORD}";'
            lines.append(f"{at}.plain.sasl.jaas.config={plain}")
            lines += [
                f"{at}.{name.lower()}.sasl.jaas.config={_LOGIN}.scram.ScramLoginModule required;" for name in _SCRAM
            ]
            token = f'{_LOGIN}.oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="broker";'
            lines.append(f"{at}.oauthbearer.sasl.jaas.config={token}")
        lines.append("listener.name.renewed.connections.max.reauth.ms=2000")
        self._broker = ApacheBroker(folder, settings="\n".join(lines) + "\n" + _RIGHTS, listeners=_LISTENERS)
        self.open, self.addresses = self._broker.bootstrap_servers, self._broker.addresses
        self.let_in(USER)

    def let_in(self, user: str, *, with_all_rights: bool = True) -> None:
        self._alter([UserScramCredentialUpsertion(user, each, PASSWORD) for each in _SCRAM.values()])
        if with_all_rights:
            kinds = (ResourceType.TOPIC, ResourceType.GROUP, ResourceType.TRANSACTIONAL_ID)
            self.grant([rule(user, kind, "*", ACLOperation.ALL) for kind in kinds])

    def shut_out(self, user: str) -> None:
        self._alter([UserScramCredentialDeletion(user, each) for each in _SCRAM.values()])

    def grant(self, rules: Sequence[ACL]) -> None:
        """Have rules, and return when the broker goes by them: one broker keeps and applies them in one."""
        with closing(KafkaAdminClient(bootstrap_servers=self.open)) as admin:
            answered = admin.create_acls(rules)
        assert not answered["failed"], answered

    def close(self) -> None:
        self._broker.close()

    def _alter(self, changes: list[Any]) -> None:
        with closing(KafkaAdminClient(bootstrap_servers=self.open)) as admin:
            for change in changes:  # Several of one user are refused.
                answered = admin.alter_user_scram_credentials([change])
                assert not any(answered.values()), answered


def rule(user: str, kind: ResourceType, name: str, operation: ACLOperation, *, prefixed: bool = False) -> ACL:
    """Return what allows a user one thing."""
    of = ACLResourcePatternType.PREFIXED if prefixed else ACLResourcePatternType.LITERAL
    return ACL(f"User:{user}", "*", operation, ACLPermissionType.ALLOW, ResourcePattern(kind, name, of))


def token(subject: str = "worker", lasts_s: float = 3600.0) -> str:
    """Return what Kafka takes for a token where nobody has told it whose to trust: an unsigned one."""
    now_s = time.time()
    parts = ({"alg": "none"}, {"sub": subject, "iat": now_s - 60, "exp": now_s + lasts_s})
    encoded = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts]
    return ".".join([*encoded, ""])
