"""An engine that works in this process, on copies, as other processes would have them: the twin of Ray's."""

import pickle
from collections.abc import Generator, Sequence
from typing import Any

import torch

from pipeline.jobs.engine import Task


class Copies:
    """See `pipeline.jobs.engine.Engine`; each item meets a copy of the work that was just opened."""

    def keep(self, item: Any) -> bytes:
        return pickle.dumps(item)

    def map(self, task: Task, items: Sequence[bytes]) -> Generator[Any, None, None]:
        packed = pickle.dumps(task)
        for item in items:
            for made in pickle.loads(packed).opened(torch.device("cpu"))(pickle.loads(item)):
                yield pickle.loads(pickle.dumps(made))
