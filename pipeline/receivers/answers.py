"""What a receiver's answer means: taken, refused for good, or to be tried again.

2xx is taken. 4xx is refused for good, but for 408 (too slow) and 429 (too much), which say themselves that another
try may do. Everything else is tried again: 5xx, no answer, and a redirect, which is a mistake of the configuration
or a portal in between, and mended by neither dropping alerts nor sending them and their keys to a stranger.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from pipeline import metrics
from pipeline.errors import ReceiverAway, TransientError
from pipeline.receivers.wording import shown

_TRIED_AGAIN = (408, 429)
_LONGEST_RETRY_AFTER_S = 600.0
_SHOWN = 200


@dataclass(frozen=True, slots=True)
class Answer:
    """What a receiver answered."""

    status: int
    text: str = ""
    """The beginning of its body."""
    retry_after_s: float | None = None
    redirects_to: str = ""
    """Host that a redirect names which was not followed."""


class Post(Protocol):
    """Sends to one address; see `pipeline.connectors.http_post`."""

    host: str

    def post(self, body: bytes, headers: Mapping[str, str]) -> Answer:
        """Send, and return the answer, whatever it is.

        Raises:
            TransientError: there is none.
        """


class Poster:
    """Sends to one receiver, and judges what it answers."""

    def __init__(self, name: str, post: Post) -> None:
        self._name, self._post = name, post

    def send(self, body: bytes, headers: Mapping[str, str]) -> str | None:
        """Return None where it is taken, and otherwise why it is refused for good.

        Raises:
            ReceiverAway: it is to be tried again.
        """
        began_s = time.perf_counter()
        try:
            answer = self._post.post(body, headers)
        except TransientError as error:
            metrics.NOTIFY_REQUESTS.labels(self._name, "no_answer").inc()
            raise ReceiverAway(str(error)) from error
        finally:
            metrics.NOTIFY_REQUEST_DURATION_SECONDS.labels(self._name).observe(time.perf_counter() - began_s)
        metrics.NOTIFY_REQUESTS.labels(self._name, f"{answer.status // 100}xx").inc()
        if 200 <= answer.status < 300:
            return None
        said = f"{self._post.host} answers {answer.status}"
        if answer.redirects_to:
            raise ReceiverAway(
                f"{said}, a redirect to {shown(answer.redirects_to)}, which is not followed; set the `url` of "
                "the receiver to where it is"
            )
        if answer.text:
            said += f": {shown(answer.text, _SHOWN)}"
        if 400 <= answer.status < 500 and answer.status not in _TRIED_AGAIN:
            return said
        retry_after_s = answer.retry_after_s
        raise ReceiverAway(said, None if retry_after_s is None else min(retry_after_s, _LONGEST_RETRY_AFTER_S))
