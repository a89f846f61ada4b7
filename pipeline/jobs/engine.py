"""What runs the functions of the offline commands on several processes or machines, and what it is asked to run.

An engine decides where a function runs and nothing else: what it comes to is the same as here.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, Protocol

import torch

Work = Callable[[Any], Iterator[Any]]
"""From one item to what is made of it, which may be several things."""


class Task(Protocol):
    """Work as it travels: a copy of it goes to each process, which opens it once, and keeps what it opens."""

    def opened(self, device: torch.device) -> Work:
        """Return the work, ready to be done on a device. It may raise an OffkeyError, and so may the work."""


class Engine(Protocol):
    """Processes that work at the same time."""

    def keep(self, item: Any) -> Any:
        """Have the engine hold an item, which then takes no memory here; return what stands for it."""

    def map(self, task: Task, items: Sequence[Any]) -> Generator[Any, None, None]:
        """Yield what is made of items that it keeps, in their order; to be closed.

        Raises:
            TransientError: a process has ended more often than it is started again.
            OffkeyError: what the work has raised.
        """
