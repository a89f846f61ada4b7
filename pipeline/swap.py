"""The watcher: looks whether a stream has another champion, loads it beside the records, and puts it in the slot.

What it puts there is whole by its hashes, made for what the configuration says, has read its golden batch on the
device as it did where it was made, and can take over the state of the stream's series. Anything else is counted and
said once, and the model that serves stays. From the slot each partition adopts it (`pipeline.adopting`).
"""

import logging
import threading
from collections.abc import Mapping

from pipeline import metrics
from pipeline.errors import ConfigError, RegistryError, TransientError
from pipeline.protocols import Registry
from pipeline.stream_model import ModelSlot

logger = logging.getLogger(__name__)


class Watcher:
    """Keeps the slots of a worker's streams up to the registry's log."""

    def __init__(self, slots: Mapping[str, ModelSlot], registry: Registry) -> None:
        """`slots` are by stream."""
        self._slots = slots
        self._registry = registry
        self._said: dict[str, str] = {}
        """What was said of a stream last; "" once it is well."""

    def look(self) -> None:
        """Look once, at every stream. What goes wrong stops nothing, and is tried again at the next look."""
        for stream, slot in self._slots.items():
            try:
                self._follow(stream, slot)
            except (RegistryError, ConfigError) as error:
                metrics.MODEL_LOADS_FAILED.labels(stream).inc()
                self._say(stream, f"model {slot.champion.version} stays: {error}", logging.ERROR)
            except TransientError as error:
                self._say(stream, f"whether there is a new model is not known: {error}", logging.WARNING)
            else:
                self._said[stream] = ""

    def begin(self, every_s: float) -> threading.Event:
        """Look again and again on a thread that keeps no process alive, until what this returns is set."""
        ended = threading.Event()

        def run() -> None:
            while not ended.wait(every_s):
                self.look()

        threading.Thread(target=run, name="watcher", daemon=True).start()
        return ended

    def _follow(self, stream: str, slot: ModelSlot) -> None:
        champion = self._registry.champion(stream)
        if champion is None or champion.version == slot.champion.version:
            return
        slot.champion = slot.of(champion.version)
        metrics.MODEL_PROMOTED.labels(stream).set(champion.promoted_ms / 1000)
        logger.info("stream %s: model %s is loaded; partitions adopt it", stream, champion.version)

    def _say(self, stream: str, text: str, level: int) -> None:
        if self._said.get(stream) != text:
            logger.log(level, "stream %s: %s", stream, text)
        self._said[stream] = text
