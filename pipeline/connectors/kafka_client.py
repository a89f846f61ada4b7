"""The client library, kafka-python: what offkey takes of it, and its exceptions in our words.

This is the one module that imports the library. Its classes carry no types; the modules beside this one give them
some: `kafka_contact` reaches the brokers, `kafka_source` reads as a member of a group, `kafka_history` and
`kafka_feedback` outside any, `kafka_publisher` writes, `kafka_transactions` writes and commits as one,
`kafka_topics` asks about topics,
`rehearsed` unpacks what no broker has sent.
"""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka import errors as client_errors
from kafka.admin import ConfigResource, ConfigResourceType, MemberToRemove
from kafka.consumer.fetcher import Fetcher
from kafka.consumer.subscription_state import ConsumerRebalanceListener
from kafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from kafka.net.compat import KafkaNetClient
from kafka.net.manager import KafkaConnectionManager
from kafka.net.sasl.oauth import AbstractTokenProvider
from kafka.net.selector import NetworkSelector
from kafka.record.memory_records import MemoryRecords, MemoryRecordsBuilder
from kafka.serializer import SerializeWrapper
from kafka.structs import ConsumerGroupMetadata, OffsetAndMetadata
from kafka.structs import TopicPartition as ClientPartition

from pipeline.errors import ConfigError, TransientError

__all__ = [
    "NO_MEMBER",
    "READING",
    "AbstractTokenProvider",
    "ClientPartition",
    "ConfigResource",
    "ConfigResourceType",
    "ConsumerGroupMetadata",
    "ConsumerRebalanceListener",
    "FetchedRecords",
    "KafkaAdminClient",
    "KafkaConnectionManager",
    "KafkaConsumer",
    "KafkaNetClient",
    "KafkaProducer",
    "MemberToRemove",
    "MemoryRecords",
    "MemoryRecordsBuilder",
    "NetworkSelector",
    "NoToken",
    "OffsetAndMetadata",
    "SerializeWrapper",
    "StickyPartitionAssignor",
    "client_errors",
    "hung_up",
    "refusal",
    "translated",
]

FetchedRecords = Fetcher.PartitionRecords
"""What unpacks an answer of the broker to the records that a poll returns."""
NO_MEMBER = (
    client_errors.CommitFailedError,
    client_errors.RebalanceInProgressError,
    client_errors.IllegalGenerationError,
    client_errors.UnknownMemberIdError,
)
"""The group has moved on without this member."""

READING = {"enable_auto_commit": False, "isolation_level": "read_committed", "allow_auto_create_topics": False}
"""Options of every consumer."""

_EXPIRED, _NOT_YET_VALID, _OTHER_HOST = 10, 9, (62, 64)
"""By `verify_code` of OpenSSL."""
_ALERT = 0x15
_NO_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG", "HTTP_REQUEST")


class NoToken(client_errors.KafkaConnectionError):  # type: ignore[misc]
    """There is no token to log in with; its text is one line for people."""


def refusal(error: BaseException, who: str = "the user, its password or its token") -> str | None:
    """Return what a broker or its certificate is refused for, and the remedy; None: it may only be away.

    `who`: what was shown to the broker.
    """
    for each in _chain(error):
        if isinstance(each, NoToken):
            return str(each.args[0])
        if isinstance(each, client_errors.InvalidReceiveError) and _is_tls(each):
            return "it answers as one that wants TLS; set kafka.security.tls, or name its port without"
        if isinstance(each, ssl.SSLError):
            return _refusal_of_tls(each)
        if isinstance(each, client_errors.SaslAuthenticationFailedError):
            return f"{who} is refused; are the keys of kafka.security right?"
        if isinstance(each, client_errors.UnsupportedSaslMechanismError):
            return f"it does not take that kafka.security.mechanism ({each.args[0]}); set one that it takes"
        if isinstance(each, client_errors.IllegalSaslStateError):
            return "it asks for no user; take kafka.security.mechanism out, or name its port for SASL"
        if isinstance(each, ValueError) and "Server" in str(each):
            return "it does not know the password itself (SCRAM); is it the cluster that you mean?"
    return None


def _refusal_of_tls(error: ssl.SSLError) -> str | None:
    if isinstance(error, ssl.SSLCertVerificationError):
        said = error.verify_message.rstrip(".")
        if error.verify_code == _EXPIRED:
            return "its certificate has expired; have it renewed"
        if error.verify_code == _NOT_YET_VALID:
            return "its certificate is not valid yet; is the clock of this machine right?"
        if error.verify_code in _OTHER_HOST:
            return (
                f"its certificate is for another host ({said}); name it as the certificate does, in "
                "kafka.bootstrap_servers and in the broker's advertised.listeners"
            )
        return f"its certificate is not trusted ({said}); name the CA that signed it as kafka.security.ca_file"
    reason = error.reason or ""
    if reason in _NO_TLS:
        return "it does not speak TLS; name its port for TLS, or take kafka.security.tls out"
    if "ALERT" in reason and ("CERTIFICATE" in reason or "UNKNOWN_CA" in reason):
        told = reason.replace("_", " ").lower()
        return (
            f"our certificate is refused ({told}); name one that its CAs have signed as "
            "kafka.security.certificate_file"
        )
    if "ALERT" in reason or reason == "UNSUPPORTED_PROTOCOL":
        return f"no TLS that both know ({reason}); it has to take TLS 1.2 or 1.3"
    return None


def hung_up(error: BaseException) -> bool:
    """Return whether a broker ended the connection, and did not say why."""
    return any(
        isinstance(each, ssl.SSLEOFError | ConnectionResetError) or "socket disconnected" in str(each)
        for each in _chain(error)
    )


def _is_tls(error: BaseException) -> bool:
    """Return whether what the client took for the length of an answer is the begin of an alert of TLS."""
    length = str(error).rpartition(" ")[2].rstrip("')")
    return length.isdecimal() and int(length) >> 24 == _ALERT


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception, and those that it was made of: the client keeps some as an argument."""
    found: list[BaseException | None] = [error]
    seen: set[int] = set()
    while found:
        each = found.pop(0)
        if each is not None and id(each) not in seen:
            seen.add(id(each))
            yield each
            found += [arg for arg in each.args if isinstance(arg, BaseException)]
            found += [each.__cause__, each.__context__]


def _lacking(error: BaseException, what: str) -> str:
    """Return to what there is no right, by name, and which; `what` was done, or its name."""
    named = error.args[0] if error.args else None
    if isinstance(error, client_errors.TopicAuthorizationFailedError):
        # What is asked of topics here is to be read; who writes names its own messages.
        names = sorted(named) if isinstance(named, set) else []
        return f"topic {', '.join(names)}: no right to read" if names else f"{what}: no right to read"
    if isinstance(error, client_errors.GroupAuthorizationFailedError):
        of_group = what.startswith("group ") or not isinstance(named, str)
        return f"{what if of_group else f'group {named}'}: no right to read"
    if isinstance(error, client_errors.TransactionalIdAuthorizationFailedError):
        return f"{what}: no right to write by that transactional id"
    return f"{what}: no right ({error})"


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Turn the client's exceptions into ours; those that a caller tells apart pass as they are."""
    try:
        yield
    except (*NO_MEMBER, client_errors.NoOffsetForPartitionError, client_errors.OffsetOutOfRangeError):
        raise
    except client_errors.FencedInstanceIdError as error:
        raise ConfigError(f"{what}: another process has the same kafka.instance_id; give each its own") from error
    except client_errors.AuthorizationError as error:
        raise ConfigError(f"{_lacking(error, what)}; grant it to this user") from error
    except (client_errors.UnknownTopicOrPartitionError, client_errors.InvalidTopicError) as error:
        raise ConfigError(f"{what}: not there; create it, or set another one in the configuration") from error
    except client_errors.InvalidSessionTimeoutError as error:
        raise ConfigError(
            f"{what}: the cluster does not take this kafka.session_timeout; set one between its "
            "group.min.session.timeout.ms and group.max.session.timeout.ms"
        ) from error
    except client_errors.UnsupportedCodecError as error:
        raise ConfigError(
            f"{what}: cannot be unpacked ({error}); install offkey again with its dependencies"
        ) from error
    except (client_errors.InvalidGroupIdError, client_errors.KafkaConfigurationError) as error:
        raise ConfigError(f"{what}: not taken ({error}); change what it names under `kafka`") from error
    except (client_errors.KafkaError, OSError) as error:
        if said := refusal(error):
            raise TransientError(f"{what}: {said}") from error
        text = str(error) or type(error).__name__
        raise TransientError(
            f"{what}: no answer ({text}); is the broker running, and kafka.bootstrap_servers right?"
        ) from error
