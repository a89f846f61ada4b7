"""Ray Data as an engine of the offline commands: the one place that knows Ray.

Items lie in Ray's object store, and their numbers are a data set, which `map_batches` maps by actors that open the
work once, and keep a model, one for each processor or, where there are GPUs, one for each GPU. An item says which
rows of the input to read; the rows themselves never pass through Ray, and what comes back is bytes: so Ray's
blocks, which are cut and joined by size, have no say in what a part holds.

Where RAY_ADDRESS names a cluster it is used; offkey, of this version, and what it reads must be there on each node.
Otherwise Ray is started on this machine, on the loopback interface and without its dashboard, and ends with the
command.
"""

import ctypes
import logging
import os
import pickle
import signal
import sys
import warnings
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Any

import numpy as np
import torch

from pipeline.connectors.ray_tries import Tries
from pipeline.cores import cores
from pipeline.errors import ConfigError, OffkeyError, TransientError
from pipeline.jobs.engine import Task
from pipeline.stopping import SIGNALS

# Read as it is imported. It counts its users on the internet unless told not to, and tells them of its inner life.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
if not os.environ.get("RAY_ADDRESS"):
    # The name is of the systems where that is so by default: the loopback interface alone.
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")

try:
    import ray
    import ray.data
    import ray.exceptions
except ModuleNotFoundError as error:
    raise ConfigError(
        "--engine ray needs Ray, which is not installed: pip install 'offkey[ray]', or take --engine local"
    ) from error

logger = logging.getLogger(__name__)

_TRIES = 3
"""So often an item is begun whose actors die; Ray starts them again without end."""
_STORE_BYTES = 512 * 2**20
"""Of the object store of a Ray that is started here: some parts and what is carried to each; it spills to disk."""
_LOST = (ray.exceptions.RayActorError, ray.exceptions.RaySystemError, ray.exceptions.ObjectLostError)
_PR_SET_PDEATHSIG = 1
_NUMBER, _MADE = "item", "made"


class RayEngine:
    """See `pipeline.jobs.engine.Engine`."""

    def __init__(self, device: str) -> None:
        """`device` is that of the configuration: `auto`, `cpu` or `cuda`.

        Raises:
            ConfigError: cuda is asked for, and Ray has no GPU.
        """
        there = ray.cluster_resources()
        gpus = 0 if device == "cpu" else int(there.get("GPU", 0))
        if device == "cuda" and not gpus:
            raise ConfigError("device: cuda is asked for, but Ray has no GPU; set `device: cpu` or `auto`")
        self.device = torch.device("cuda" if gpus else "cpu")
        self.actors = gpus or max(1, int(there.get("CPU", 1)))

    def keep(self, item: Any) -> Any:
        return ray.put(pickle.dumps(item))

    def map(self, task: Task, items: Sequence[Any]) -> Generator[Any, None, None]:
        if not items:
            return
        # Held here, and not by an actor: one that is started again has to find it.
        packed, tries = ray.put(pickle.dumps(task)), ray.remote(num_cpus=0)(Tries).remote()
        # Of numbers this process makes a data set by itself; of what Ray holds, tasks of its own do.
        numbers = ray.data.from_items(list(range(len(items))), override_num_blocks=len(items))
        made = numbers.map_batches(
            _Actor,
            fn_constructor_args=([packed], list(items), tries, self.device.type),
            batch_size=1,
            batch_format="numpy",
            compute=ray.data.ActorPoolStrategy(size=min(self.actors, len(items))),
            num_cpus=0 if self.device.type == "cuda" else 1,
            num_gpus=1 if self.device.type == "cuda" else None,
        )
        made.context.execution_options.preserve_order = True
        made.context.print_on_execution_start = False
        try:
            for row in made.iter_rows():
                found = pickle.loads(row[_MADE])
                if isinstance(found, OffkeyError):
                    raise found
                yield found
        except _LOST as error:
            raise TransientError(
                f"--engine ray: Ray has lost a process or a node ({str(error).splitlines()[0]}); see that its "
                "nodes are there, or take --engine local"
            ) from error


class _Actor:
    """A process that has opened its work."""

    def __init__(self, task: list[Any], items: list[Any], tries: Any, device: str) -> None:
        """The task and items in lists, or Ray would hand over what they stand for."""
        # Beside as many others as there are processors; scores of a worker are those of one thread, too.
        torch.set_num_threads(1)
        _end_with_parent()
        self._task, self._items, self._tries, self._device = task, items, tries, torch.device(device)
        self._work: Any = None

    def __call__(self, batch: dict[str, Any]) -> Iterator[dict[str, Any]]:
        (number,) = batch[_NUMBER]
        try:
            if ray.get(self._tries.begin.remote(int(number))) > _TRIES:
                raise TransientError(
                    f"--engine ray: the process of Ray has died {_TRIES} times at the same work, as where memory "
                    "is short; make room, or take --engine local"
                )
            if self._work is None:
                self._work = pickle.loads(ray.get(self._task[0])).opened(self._device)
            for made in self._work(pickle.loads(ray.get(self._items[number]))):
                yield {_MADE: _column(pickle.dumps(made))}
        except OffkeyError as error:
            # What is foreseen is a value: an exception would come back in Ray's words.
            yield {_MADE: _column(pickle.dumps(error))}


def _end_with_parent() -> None:
    """Have the kernel end this process with the one of Ray that started it: some would stay, asleep for ever."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _column(content: bytes) -> Any:
    column = np.empty(1, object)
    column[0] = content
    return column


@contextmanager
def opened_engine(device: str) -> Iterator[RayEngine]:
    """Give the engine, on a Ray that is there or is started, and that ends with the block if it was.

    What is printed within goes to standard error: Ray prints there, too.

    Raises:
        ConfigError: cuda is asked for, and Ray has no GPU.
        TransientError: Ray cannot be started, or reached.
    """
    started = not ray.is_initialized()
    if started:
        _start()
    try:
        ray.data.DataContext.get_current().enable_progress_bars = False
        with redirect_stdout(sys.stderr):
            yield RayEngine(device)
    finally:
        if started:
            # That what was at work ends is no news.
            with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
                ray.shutdown()


@contextmanager
def _unheard() -> Iterator[None]:
    """Keep from the terminal what Ray's libraries say, which no level of logging does; errors are raised."""
    with open(os.devnull, "wb") as nowhere, os.fdopen(os.dup(2), "wb") as before:
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(before.fileno(), 2)


def _start() -> None:
    # It takes SIGTERM for itself, and would end this process in the middle of a write.
    before = {number: signal.getsignal(number) for number in SIGNALS}
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    here: dict[str, Any] = {"include_dashboard": False, "object_store_memory": _STORE_BYTES}
    here |= {"num_cpus": cores(), "_node_ip_address": "127.0.0.1"}
    try:
        with warnings.catch_warnings():
            # Of what its next versions will do.
            warnings.simplefilter("ignore", FutureWarning)
            if os.environ.get("RAY_ADDRESS"):
                ray.init(**quiet)
            else:
                with _unheard():
                    ray.init("local", **here, **quiet)
    except Exception as error:
        # Of a node that was too slow to start, it raises that class itself.
        where = os.environ.get("RAY_ADDRESS", "this machine")
        raise TransientError(
            f"--engine ray: Ray cannot be had on {where} ({str(error).splitlines()[0]}); mend that, or take "
            "--engine local"
        ) from error
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    logging.getLogger("ray").setLevel(logging.ERROR)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
