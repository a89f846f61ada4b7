"""The watcher: looks whether a stream has another champion, loads it beside the records, and puts it in the slot.

What it puts there is whole by its hashes, made for what the configuration says, has read its golden batch on the
device as it did where it was made, and can take over the state of the stream's series. Whatever is wrong with it is
counted and said once, and the model that serves stays; it is loaded again after ever more looks, for loading takes
its part of the records' processor. From the slot each partition adopts it (`pipeline.adopting`).

Which version is in shadow is looked at too. It need not take over any state, so it may have another window.
"""

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from pipeline import metrics
from pipeline.errors import ConfigError, RegistryError, TransientError
from pipeline.logs import about
from pipeline.protocols import Registry
from pipeline.shadows import Shadows
from pipeline.stream_model import ModelSlot, StreamModel

logger = logging.getLogger(__name__)

_MOST_PASSED = 64


@dataclass
class _Refused:
    """A version that cannot serve here, or not beside the champion."""

    number: int
    """Of the entry that says it should."""
    times: int = 0
    passed: int = 0
    """Looks since it was tried last."""

    def is_due(self) -> bool:
        """Whether it is tried at this look: after one that was passed over, then two, four and so on."""
        self.passed += 1
        return self.passed > min(1 << (self.times - 1), _MOST_PASSED)


class _Tries:
    """Loads what one log of a stream names, and says once what is wrong with it."""

    def __init__(self, stream: str, count: Callable[[], object], without: Callable[[], str]) -> None:
        """`count` takes each time that a version cannot be had; `without` says what there is in its place."""
        self._stream, self._count, self._without = stream, count, without
        self._refused: _Refused | None = None
        self._said = ""

    def load(self, number: int, version: str, get: Callable[[str], StreamModel]) -> StreamModel | None:
        """Return a version; None: not yet, or not at all.

        Raises:
            TransientError: storage does not answer.
        """
        refused = self._refused
        if refused is None or refused.number != number:
            refused = _Refused(number)
        elif not refused.is_due():
            return None
        try:
            model = get(version)
        except TransientError:
            raise
        except Exception as error:
            # Also what is no error of ours, such as a device without memory for two: one that serves is there.
            refused.times, refused.passed = refused.times + 1, 0
            self._refused = refused
            self.refuse(error, version)
            return None
        self.settle()
        return model

    def settle(self) -> None:
        """Note that nothing is wrong."""
        self._refused, self._said = None, ""

    def refuse(self, error: Exception, version: str | None = None) -> None:
        """Count and say what is wrong, with a version where that is known."""
        self._count()
        told = str(error) if isinstance(error, RegistryError | ConfigError) else f"{type(error).__name__}: {error}"
        self.say(f"{self._without()}: {told}", logging.ERROR, version)

    def say(self, text: str, level: int, version: str | None = None) -> None:
        """Log a line that was not the last one."""
        if self._said != text:
            said = about(stream=self._stream) if version is None else about(stream=self._stream, version=version)
            logger.log(level, "stream %s: %s", self._stream, text, extra=said)
        self._said = text


class Watcher:
    """Keeps the slots of a worker's streams up to the registry's log, and to the one of versions in shadow."""

    def __init__(self, slots: Mapping[str, ModelSlot], registry: Registry, shadows: Shadows | None = None) -> None:
        """`slots` are by stream; without `shadows` no version is ever in shadow."""
        self._slots = slots
        self._registry = registry
        self._shadows = shadows
        self._champions = {
            name: _Tries(name, metrics.MODEL_LOADS_FAILED.labels(name).inc, partial(_stays, slot))
            for name, slot in slots.items()
        }
        self._shadowed = {
            name: _Tries(name, metrics.SHADOW_FAILED.labels(name).inc, lambda: "no model is in shadow")
            for name in slots
        }

    def look(self) -> None:
        """Look once, at every stream. What goes wrong stops nothing, and is tried again."""
        for stream, slot in self._slots.items():
            try:
                self._follow(stream, slot)
            except (ConfigError, TransientError) as error:
                # A right that is missing may be given; this thread ends for nothing.
                text = f"whether there is a new model is not known: {error}"
                self._champions[stream].say(text, logging.WARNING)
            try:
                self._follow_shadow(stream, slot)
            except (ConfigError, TransientError) as error:
                self._shadowed[stream].say(f"what is in shadow is not known: {error}", logging.WARNING)

    def begin(self, every_s: float) -> threading.Event:
        """Look again and again on a thread that keeps no process alive, until what this returns is set."""
        ended = threading.Event()

        def run() -> None:
            while not ended.wait(every_s):
                self.look()

        threading.Thread(target=run, name="watcher", daemon=True).start()
        return ended

    def _follow(self, stream: str, slot: ModelSlot) -> None:
        """Have the slot hold the champion; raises as storage does, where it does not answer or gives no right."""
        tries = self._champions[stream]
        try:
            champion = self._registry.champion(stream)
        except RegistryError as error:
            return tries.refuse(error)
        if champion is None or champion.version == slot.champion.version:
            return tries.settle()
        model = tries.load(champion.number, champion.version, slot.of)
        if model is not None:
            slot.champion = model
            metrics.MODEL_PROMOTED.labels(stream).set(champion.promoted_ms / 1000)
            said = about(stream=stream, version=champion.version)
            logger.info("stream %s: model %s is loaded; partitions adopt it", stream, champion.version, extra=said)

    def _follow_shadow(self, stream: str, slot: ModelSlot) -> None:
        """Have the slot hold the version in shadow; raises as `_follow`."""
        if self._shadows is None:
            return
        tries = self._shadowed[stream]
        try:
            appointed = self._shadows.appointed(stream)
        except RegistryError as error:
            slot.shadow = None
            return tries.refuse(error)
        # One that has been promoted since is beside nothing.
        version = appointed.version if appointed else ""
        if appointed is None or version in ("", slot.champion.version):
            slot.shadow = None
            return tries.settle()
        if slot.shadow is None or slot.shadow.version != version:
            slot.shadow = None
            slot.shadow = tries.load(appointed.number, version, slot.beside)


def _stays(slot: ModelSlot) -> str:
    return f"model {slot.champion.version} stays"
