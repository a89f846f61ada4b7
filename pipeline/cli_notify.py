"""The command `offkey notify`."""

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli_options import ConfigPath
from pipeline.cli_running import begin
from pipeline.cli_who_when import now_ms
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from pipeline.config import Settings
    from pipeline.connectors.kafka import KafkaSource
    from pipeline.notify import Notify
    from pipeline.notify_settings import ReceiverSettings
    from pipeline.protocols import Delivery
    from pipeline.receivers.told import Receiver
    from pipeline.stopping import Stop

logger = logging.getLogger(__name__)

_POLL_RECORDS = 200
"""As many may be told again after a crash."""


def notify(
    config: ConfigPath,
    receivers: Annotated[list[str] | None, typer.Argument(metavar="[RECEIVER]...", help="Default: all.")] = None,
) -> None:
    """Tell Alertmanager, Slack, PagerDuty and webhooks of incidents, until SIGTERM or Ctrl-C."""
    from pipeline.config import load_settings

    settings = load_settings(config)
    chosen = _chosen(settings, receivers)
    begun = begin(settings, "notify", awaited="cluster")
    with _notify(settings, chosen, begun.stop) as built:
        logger.info("telling %s; metrics on %s", ", ".join(chosen), begun.address)
        begun.run(built)
    logger.info("left the groups")


def _chosen(settings: "Settings", asked: Sequence[str] | None) -> list[str]:
    """Return the names of the receivers that are asked for, each once; all where none is.

    Raises:
        ConfigError: there is no such receiver, the nearest one is named; or there is none at all.
    """
    from pipeline.mistakes import unknown

    known = settings.notify.receivers
    if not known:
        raise ConfigError(
            f"{settings.place_of('notify', 'receivers')}: notify.receivers is empty; name who is to be told, as in "
            "receivers: {pager: {type: alertmanager, url: 'http://localhost:9093'}}"
        )
    names = list(dict.fromkeys(asked or known))
    for name in names:
        if name not in known:
            raise ConfigError(unknown("receiver", name, known))
    return names


@contextlib.contextmanager
def _notify(settings: "Settings", chosen: Sequence[str], stop: "Stop") -> "Iterator[Notify]":
    """Build the production notifiers; each leaves its group when it ends, in what is left of a stop's budget.

    Raises:
        ConfigError: a topic, a right or a secret's file is missing.
        TransientError: the broker does not answer.
    """
    from dataclasses import replace

    from pipeline import zeros
    from pipeline.connectors.connection import Connection, GroupOptions
    from pipeline.connectors.kafka import KafkaCluster, KafkaSource, open_delivery
    from pipeline.notifier import Notifier, NotifierOptions
    from pipeline.notify import Notify

    zeros.of_notify(chosen)
    kafka, topics, connection = settings.kafka, settings.topics, Connection.of(settings.kafka)
    built = {name: _receiver(name, settings.notify.receivers[name], settings.notify.link) for name in chosen}
    with contextlib.closing(KafkaCluster(connection)) as cluster:
        cluster.topic(topics.dead_letters, "WRITE")
    with contextlib.ExitStack() as opened:
        notifiers = []
        for name, receiver in built.items():
            group = replace(
                GroupOptions.of(kafka), group_id=f"{kafka.group_id}-notify-{name}", max_poll_records=_POLL_RECORDS
            )
            source = KafkaSource(connection, group, [topics.alerts])
            opened.callback(_closing(source, stop))
            delivery = open_delivery("at_least_once", connection, group, source, kafka.delivery_timeout)
            opened.callback(_closing(delivery, stop))
            wanted = settings.notify.receivers[name]
            options = NotifierOptions(
                topics.dead_letters,
                wanted.start,
                retry_for_s=wanted.retry_for,
                delivery_timeout_s=kafka.delivery_timeout,
                retry_deadline_s=settings.worker.retry_deadline,
            )
            notifiers.append(Notifier(name, topics.alerts, source, delivery, receiver, options, now_ms))
        yield Notify(notifiers)


def _closing(what: "KafkaSource | Delivery", stop: "Stop") -> "Callable[[], None]":
    return lambda: what.close(stop.closing_s())


def _receiver(name: str, wanted: "ReceiverSettings", link: str | None) -> "Receiver":
    """Return what tells one receiver.

    Raises:
        ConfigError: a file that holds a secret cannot be read, or holds none.
    """
    from pipeline.connectors.http_post import HttpPost
    from pipeline.notify_settings import PAGERDUTY, require_url
    from pipeline.receivers import alertmanager, webhooks
    from pipeline.receivers.answers import Poster
    from pipeline.secret_files import read_secret

    at = f"notify.receivers.{name}"
    try:
        url = require_url(read_secret(wanted.url, wanted.url_file, f"{at}.url_file") or PAGERDUTY)
    except ValueError as error:
        raise ConfigError(f"{at}.url_file: {wanted.url_file}: {error}") from error
    if wanted.type == "alertmanager":
        url = url.rstrip("/") + alertmanager.PATH
    headers = {}
    authorization = read_secret(wanted.authorization, wanted.authorization_file, f"{at}.authorization_file")
    if authorization is not None:
        headers["Authorization"] = authorization
    post = HttpPost(
        url,
        lambda: now_ms() / 1000,
        timeout_s=wanted.timeout,
        headers=headers,
        ca_file=wanted.ca_file,
        ca_key=f"{at}.ca_file",
    )
    poster = Poster(name, post)
    if wanted.type == "alertmanager":
        return alertmanager.Alertmanager(
            name, poster, now_ms, resend_s=wanted.resend, horizon_s=wanted.horizon, link=link
        )
    if wanted.type == "slack":
        return webhooks.Webhook(webhooks.slack(link), poster)
    if wanted.type == "pagerduty":
        key = read_secret(wanted.routing_key, wanted.routing_key_file, f"{at}.routing_key_file")
        assert key is not None, "the settings have seen to it"
        return webhooks.Webhook(webhooks.pagerduty(key, link), poster)
    secret = read_secret(wanted.secret, wanted.secret_file, f"{at}.secret_file")
    signing = None if secret is None else webhooks.secret_bytes(secret, f"{at}.secret_file")
    return webhooks.Webhook(webhooks.generic(signing, now_ms), poster)
