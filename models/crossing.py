"""What crosses between the host and the device that scores, without making one wait for the other.

To a GPU arrays go by way of page-locked memory and in the order of its stream, so the host goes on at once. What
comes back is waited for once, together. On the CPU both look at the same memory, and nothing is copied.

What is done for every chunk, some dozen small kernels, goes to a GPU as one graph (CUDA graphs): launching them one
by one would take longer than they run.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

logger = logging.getLogger(__name__)

_WARM_UP = 3
"""Runs before a graph is captured: libraries choose their kernels in the first ones."""


def placed(array: npt.NDArray[Any], device: torch.device) -> Tensor:
    """Return an array's numbers on the device; neither may be changed while the other is in use."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)


def fetched(*tensors: Tensor) -> tuple[npt.NDArray[Any], ...]:
    """Return what tensors of one device hold, as soon as all of it is there."""
    if tensors[0].device.type == "cpu":
        return tuple(tensor.numpy() for tensor in tensors)
    here = [torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True) for tensor in tensors]
    for host, tensor in zip(here, tensors, strict=True):
        host.copy_(tensor, non_blocking=True)
    arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
    arrived.record()
    arrived.synchronize()
    return tuple(host.numpy() for host in here)


def captured(
    function: Callable[[Tensor], Tensor], shape: Sequence[int], device: torch.device
) -> Callable[[Tensor], Tensor]:
    """Return the function for tensors of one shape; on a GPU as a graph that is launched at once.

    One that asks the device while it runs cannot be a graph; that is said, and it is left as it is. Other threads
    may go on using the device meanwhile.
    """
    if device.type == "cpu":
        return function
    given = torch.zeros(tuple(shape), device=device)
    aside = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    graph = torch.cuda.CUDAGraph()
    aside.wait_stream(torch.cuda.current_stream(device))
    with torch.no_grad(), torch.cuda.stream(aside):
        for _ in range(_WARM_UP):
            function(given)
    torch.cuda.current_stream(device).wait_stream(aside)
    try:
        with torch.no_grad(), torch.cuda.graph(graph, capture_error_mode="thread_local"):
            found = function(given)
    except RuntimeError as error:
        logger.warning("no CUDA graph, so windows are read more slowly: %s", str(error).partition("\n")[0])
        return function

    def launch(tensor: Tensor) -> Tensor:
        given.copy_(tensor)
        graph.replay()
        return found.clone()

    return launch
