"""A worker listens: the topic of feedback -> what was said of each of its streams.

The topic is looked at beside the records, and never waited for. Until all that it held when the worker began is
read, nothing of it counts: an earlier word on an incident would be adopted in place of the one that has replaced
it. What counts is in the streams' slots; from there each partition adopts it (`pipeline.adopting`), and from then
on its log of adoptions says what acts on a record, whatever becomes of the topic. What the topic holds no more was
taken back.
"""

import logging
import time
from collections.abc import Callable, Mapping

from pipeline import metrics
from pipeline.errors import ConfigError, TransientError
from pipeline.feedback import Book, FeedbackSlot, FeedbackTopic
from pipeline.logs import about

logger = logging.getLogger(__name__)

EVERY_S = 1.0
"""How often the topic is looked at. A look takes no more than a moment, but a turn of the worker may too."""


class Listening:
    """Keeps the slots of a worker's streams up to the topic; called from the records' thread."""

    def __init__(
        self,
        topic: FeedbackTopic,
        name: str,
        slots: Mapping[str, FeedbackSlot],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`name` is the topic's; `slots` are by stream."""
        self._topic = topic
        self._slots = slots
        self._clock = clock
        self._book = Book(name)
        self._due_s = clock()
        self._counted = 0
        self._whole = False
        self._trouble = ""

    def look(self) -> None:
        """Follow the topic, if it is time to; what goes wrong there is said once, and stops nothing."""
        if self._clock() < self._due_s:
            return
        self._due_s = self._clock() + EVERY_S
        try:
            changed = False
            while arrived := self._topic.poll():
                for records in arrived:
                    changed |= bool(self._book.take(records.records))
                # Behind, all that is there is taken at once; what others write meanwhile waits for the next look.
                if self._whole:
                    break
            whole = self._topic.caught_up()
        except (ConfigError, TransientError) as error:
            self._say(f"what was said before goes on to count: {error}")
            return
        self._say("")
        metrics.FEEDBACK_UNREADABLE.inc(self._book.unreadable - self._counted)
        self._counted = self._book.unreadable
        if not whole or (self._whole and not changed):
            return
        self._whole = True
        for stream, slot in self._slots.items():
            words = self._book.of(stream)
            if slot.words is None or slot.words.name != words.name:
                said = about(stream=stream)
                logger.info("stream %s: feedback on incidents: %d", stream, len(words.said), extra=said)
                slot.words = words
            metrics.FEEDBACK.labels(stream).set(len(words.said))
        self._tell_of_others()

    def _tell_of_others(self) -> None:
        others = {each.stream for each in self._book.said.values()} - self._slots.keys()
        if others:
            logger.warning("feedback on streams that this worker does not read is left alone: %s", sorted(others))

    def _say(self, trouble: str) -> None:
        if trouble and trouble != self._trouble:
            logger.error("feedback: %s", trouble)
        self._trouble = trouble
