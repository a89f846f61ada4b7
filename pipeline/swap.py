"""The watcher: looks whether a stream has another champion, loads it beside the records, and puts it in the slot.

What it puts there is whole by its hashes, made for what the configuration says, has read its golden batch on the
device as it did where it was made, and can take over the state of the stream's series. Whatever is wrong with it is
counted and said once, and the model that serves stays; it is loaded again after ever more looks, for loading takes
its part of the records' processor. From the slot each partition adopts it (`pipeline.adopting`).
"""

import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass

from pipeline import metrics
from pipeline.errors import ConfigError, RegistryError, TransientError
from pipeline.protocols import Registry
from pipeline.stream_model import ModelSlot

logger = logging.getLogger(__name__)

_MOST_PASSED = 64


@dataclass
class _Refused:
    """A champion that cannot serve here."""

    number: int
    """Of its promotion."""
    times: int = 0
    passed: int = 0
    """Looks since it was tried last."""

    def is_due(self) -> bool:
        """Whether it is tried at this look: after one that was passed over, then two, four and so on."""
        self.passed += 1
        return self.passed > min(1 << (self.times - 1), _MOST_PASSED)


class Watcher:
    """Keeps the slots of a worker's streams up to the registry's log."""

    def __init__(self, slots: Mapping[str, ModelSlot], registry: Registry) -> None:
        """`slots` are by stream."""
        self._slots = slots
        self._registry = registry
        self._refused: dict[str, _Refused] = {}
        """By stream."""
        self._said: dict[str, str] = {}
        """What was said of a stream last; "" once it is well."""

    def look(self) -> None:
        """Look once, at every stream. What goes wrong stops nothing, and is tried again."""
        for stream, slot in self._slots.items():
            try:
                self._follow(stream, slot)
            except TransientError as error:
                self._say(stream, f"whether there is a new model is not known: {error}", logging.WARNING)

    def begin(self, every_s: float) -> threading.Event:
        """Look again and again on a thread that keeps no process alive, until what this returns is set."""
        ended = threading.Event()

        def run() -> None:
            while not ended.wait(every_s):
                self.look()

        threading.Thread(target=run, name="watcher", daemon=True).start()
        return ended

    def _follow(self, stream: str, slot: ModelSlot) -> None:
        """Have the slot hold the champion; raises TransientError where storage does not answer."""
        try:
            champion = self._registry.champion(stream)
        except RegistryError as error:
            return self._refuse(stream, slot, error)
        if champion is None or champion.version == slot.champion.version:
            self._said[stream] = ""
            return
        refused = self._refused.get(stream)
        if refused is None or refused.number != champion.number:
            refused = _Refused(champion.number)
        elif not refused.is_due():
            return
        try:
            slot.champion = slot.of(champion.version)
        except TransientError:
            raise
        except Exception as error:
            # Also what is no error of ours, such as a device without memory for two: one that serves is there.
            refused.times, refused.passed = refused.times + 1, 0
            self._refused[stream] = refused
            return self._refuse(stream, slot, error)
        self._refused.pop(stream, None)
        self._said[stream] = ""
        metrics.MODEL_PROMOTED.labels(stream).set(champion.promoted_ms / 1000)
        logger.info("stream %s: model %s is loaded; partitions adopt it", stream, champion.version)

    def _refuse(self, stream: str, slot: ModelSlot, error: Exception) -> None:
        metrics.MODEL_LOADS_FAILED.labels(stream).inc()
        told = str(error) if isinstance(error, RegistryError | ConfigError) else f"{type(error).__name__}: {error}"
        self._say(stream, f"model {slot.champion.version} stays: {told}", logging.ERROR)

    def _say(self, stream: str, text: str, level: int) -> None:
        if self._said.get(stream) != text:
            logger.log(level, "stream %s: %s", stream, text)
        self._said[stream] = text
