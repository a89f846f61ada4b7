"""`offkey train --nproc N`: the same command in N processes, which train together (`models.ranks`).

What torchrun does is done by its own parts: an agent starts the processes, looks at them, and ends all of them when
one has ended badly. The processes of one machine find one another through a file and talk over the loopback
interface, so nothing listens to the network. Those of several machines are started by torchrun itself, on each of
them: `torchrun --nnodes 2 --nproc-per-node 4 --rdzv-backend c10d --rdzv-endpoint HOST:PORT --no-python offkey train
CONFIG`; they talk as torchrun has it.

The first process is the command as it is alone: it reads, trains, and stores the model. The others have a share of
each batch, and write nothing. A process that ends because another one did says nothing: who ended first has.
"""

import logging
import os
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from models.helping import help_training
from models.ranks import ALONE, PeerLost, ProcessGroup, Ranks
from pipeline.cores import cores
from pipeline.errors import ConfigError, ProcessError
from pipeline.own_program import own_program

logger = logging.getLogger(__name__)

_MEETING = "TRAINING_OF_OFFKEY"
"""Names the file through which processes find one another that `launch` has started; it is no setting."""
_PEER_LOST = 75
"""Status of a process that ends because another one did."""
_GRACE_S = 60.0
_PATIENCE = timedelta(days=30)
"""How long a process waits for another: the first one reads a topic in the meantime. One that ends is noticed."""


def is_launched() -> bool:
    """Tell whether this is one of several processes, which torchrun or `launch` has started."""
    return dist.is_torchelastic_launched()


def check_count(count: int, device: torch.device) -> None:
    """See that so many processes can train on this machine.

    Raises:
        ConfigError: each would need a GPU of its own, and there are fewer.
    """
    if device.type == "cuda" and count > (there := torch.cuda.device_count()):
        raise ConfigError(
            f"--nproc {count}: each process takes a GPU, and torch finds {there}; ask for {there} at most, or set "
            "`device: cpu`"
        )
    if not dist.is_available():
        raise ConfigError(f"--nproc {count}: this build of torch has no torch.distributed; leave --nproc out")


def launch(arguments: Sequence[str], count: int) -> None:
    """Run offkey with these arguments in so many processes; return when all have ended well.

    Raises:
        ProcessError: one has not, or a signal has stopped them.
    """
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # What the agent logs of an end is told here in one line.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory(prefix="offkey-training-") as name, _tied():
        folder = Path(name)
        os.environ |= _environment(count, folder / "processes")
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=count,
            run_id="offkey",
            rdzv_backend="c10d",
            rdzv_endpoint=str(folder / "agent"),
            rdzv_configs={"store_type": "file"},
            max_restarts=0,
            local_addr="127.0.0.1",
            signals_to_handle="SIGTERM,SIGINT",
        )
        try:
            elastic_launch(config, sys.executable)(*own_program(), *arguments)
        except ChildFailedError as error:
            raise _ended({rank: failure.exitcode for rank, failure in error.failures.items()}) from error
        except SignalException as error:
            raise ProcessError(
                "stopped; the same command goes on with the training where it was", 128 + int(error.sigval)
            ) from error


def _environment(count: int, meeting: Path) -> dict[str, str]:
    """Return what the processes find in their environment; what the user has set goes before."""
    loopback = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), "lo")
    wanted = {
        "OMP_NUM_THREADS": str(max(1, cores() // count)),
        "GLOO_SOCKET_IFNAME": loopback,
        "NCCL_SOCKET_IFNAME": loopback,
        "PYTHONUNBUFFERED": "1",
    }
    # Not the store of the agent: it would listen on every interface.
    kept = {name: os.environ.get(name, text) for name, text in wanted.items()}
    return {**kept, "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1", _MEETING: str(meeting)}


def _ended(status: dict[int, int]) -> ProcessError | SystemExit:
    """Return how to end after processes that have failed, by rank; a signal's number is negative."""
    # The agent ends those that are left, and tells of them, too.
    first = {rank: code for rank, code in status.items() if code not in (_PEER_LOST, -signal.SIGTERM)} or status
    rank, code = min(first.items())
    if code < 0:
        return ProcessError(
            f"process {rank} of the training was ended by {signal.Signals(-code).name}, and the others with it; "
            "the same command goes on where the training was",
            128 - code,
        )
    if code == _PEER_LOST:
        return ProcessError(
            "processes of the training have lost one another (--log-level debug tells how); the same command goes "
            "on with it",
            1,
        )
    # It has said why.
    return SystemExit(code)


@contextmanager
def _tied() -> Iterator[None]:
    """Have the processes see the end of this one, however that comes: their standard input ends with it."""
    before, (reading, writing) = os.dup(0), os.pipe()
    try:
        os.dup2(reading, 0)
        yield
    finally:
        os.dup2(before, 0)
        for each in (before, reading, writing):
            os.close(each)


@contextmanager
def joined(device: torch.device, count: int | None) -> Iterator[Ranks]:
    """Give the processes that train together, of which this is one; it is alone where none were started.

    Those that are not the first train beside it in here, and end.

    Args:
        count: how many were asked for; None: as many as there are.

    Raises:
        ConfigError: other processes were started than were asked for.
    """
    if not is_launched():
        yield ALONE
        return
    if count is not None and count != int(os.environ["LOCAL_WORLD_SIZE"]):
        raise ConfigError(f"--nproc {count}: torchrun has started {os.environ['LOCAL_WORLD_SIZE']}; leave it out")
    if (meeting := os.environ.get(_MEETING)) is not None:
        threading.Thread(target=_end_with_input, name="launcher", daemon=True).start()
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
        init_method="env://" if meeting is None else f"file://{meeting}",
        rank=rank,
        world_size=world_size,
        timeout=_PATIENCE,
    )
    ranks = ProcessGroup()
    try:
        if rank:
            # The first one is told by whoever stops them, and ends all.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            help_training(ranks, device)
            sys.exit(0)
        yield ranks
        ranks.broadcast(None)
    except PeerLost as error:
        logger.debug("%s", error)
        # The agent ends us, once it has seen who ended first and why; that one may take a while to end.
        threading.Event().wait(_GRACE_S)
        sys.exit(_PEER_LOST)
    finally:
        dist.destroy_process_group()


def _end_with_input() -> None:
    while os.read(0, 1024):
        pass
    os._exit(1)
