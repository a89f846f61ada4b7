"""Processes that train one network together, each with its share of every batch.

All of them go through the same batches in the same order, draw the same random numbers, and reckon the loss of
their own windows; gradients and losses are put together, so the weights stay the same in each of them and are those
of one process but for rounding. The first process leads: it reads rows, starts networks, keeps the clock, writes
what is kept. The others train beside it (`helping.help_training`) and write nothing.

That is data parallelism as in Li et al., "PyTorch Distributed: Experiences on Accelerating Data Parallel Training"
(VLDB 2020), with one exchange a batch in the place of buckets: the networks here are small.

Legend: B windows of a batch, N windows of all processes.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class PeerLost(RuntimeError):
    """Another process of the training has ended: nothing goes on without it, and it has said why."""


class Ranks:
    """One process, which is alone; the base of those that are not."""

    rank = 0
    """0 is the first process."""
    world_size = 1

    def share(self, count: int) -> slice:
        """Return which of so many windows are this process's own."""
        return slice(count * self.rank // self.world_size, count * (self.rank + 1) // self.world_size)

    def all_gather(self, own_B: Tensor, count: int) -> Tensor:
        """Return the `count` numbers of all processes, given those of this one's share; without their gradients."""
        return own_B.detach()

    def add_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Have every process hold the sum of all processes' gradients."""

    def broadcast_float(self, value: float) -> float:
        """Return the first process's value."""
        return value

    def broadcast(self, what: Any = None) -> Any:
        """Return what the first process tells all of them; `what` is it where this is the first."""
        return what


ALONE = Ranks()


class ProcessGroup(Ranks):
    """One of several processes, once torch's process group is there."""

    def __init__(self) -> None:
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()

    def all_gather(self, own_B: Tensor, count: int) -> Tensor:
        # Shares differ by a window, and adding zeros rounds nothing.
        all_N = own_B.new_zeros(count)
        all_N[self.share(count)] = own_B.detach()
        _exchanged(lambda: dist.all_reduce(all_N))
        return all_N

    def add_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        each = list(parameters)
        own = [torch.zeros_like(one) if one.grad is None else one.grad for one in each]
        flat = torch.cat([gradient.flatten() for gradient in own])
        _exchanged(lambda: dist.all_reduce(flat))
        for one, part in zip(each, torch.split(flat, [one.numel() for one in each]), strict=True):
            one.grad = part.view_as(one)

    def broadcast_float(self, value: float) -> float:
        held = torch.tensor(value, dtype=torch.float64)
        _exchanged(lambda: dist.broadcast(held, 0))
        return float(held)

    def broadcast(self, what: Any = None) -> Any:
        box = [what]
        _exchanged(lambda: dist.broadcast_object_list(box, 0, device=torch.device("cpu")))
        return box[0]


def _exchanged(exchange: Callable[[], Any]) -> None:
    try:
        exchange()
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise PeerLost(f"another process of the training has ended ({str(error).splitlines()[0]})") from error
