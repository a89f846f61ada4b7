"""The training loop: AdamW on the architecture's loss, judged by the last part of the time.

The learning rate stands still for half of the training and falls to zero over the other half, which costs
nothing and brings different seeds nearer to one another ("warm-up, stable, decay": Hu et al., "MiniCPM", 2024).
Early stopping (Prechelt, "Early Stopping - But When?", 1998) works by that schedule: when more batches bring little
at the full rate, half of the training is over. The rate falls over as many epochs as there were, which takes off
what standing still cannot, and the training ends.

Training data hold anomalies, and an autoencoder learns to reconstruct those that come often. So each batch leaves
out the windows that it explains worst: a trimmed loss, as in least trimmed squares (Rousseeuw, "Least Median of
Squares Regression", 1984); robust autoencoders go further (Zhou and Paffenroth, "Anomaly Detection with Robust Deep
Autoencoders", KDD 2017). It begins when something has been learned: what is normal and rare looks as bad as an
anomaly at first, and would never be. Long after, what recurs has been learned, too.

Several processes may share the work (`models.ranks`): they go through the very batches that one would, and come to
its weights but for rounding.

Legend: B batch, T steps, F features, N windows.
"""

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from models.architectures import WARM_UP
from models.arrays import BoolArray, IntArray
from models.dataset import Windows
from models.images import OfImages
from models.ranks import ALONE, Ranks
from models.resume import Course, Unfinished, packed, put_back
from models.views import View


@dataclass(frozen=True)
class TrainingConfig:
    """How long and how fast to learn."""

    seed: int = 0
    """Of what is drawn: first weights, the order of windows, noise."""
    max_epochs: int = 8
    """Times that the training goes through its windows, at most."""
    max_seconds: float = 60.0
    """How long it lasts at most, all views of a model together."""
    patience: int = 100
    """Batches at the full learning rate that may bring less than `least_gain`; then it falls, and training ends.

    Counted at the ends of epochs: those of a short series hold too few batches to say what more would bring."""
    least_gain: float = 0.05
    """What they have to take off the least held-out loss so far, as a share of it; 0: anything."""
    batch_windows: int = 64
    """Windows of one step."""
    epoch_windows: int = 40_000
    """Most windows of an epoch, drawn anew each time: a bound for streams of thousands of series."""
    least_epoch_windows: int = 0
    """Fewest windows of an epoch: it goes through a small training set several times."""
    learning_rate: float = 4e-3
    """Of the first half; over the other it falls to nothing."""
    weight_decay: float = 1e-4
    """How strongly weights are drawn to nothing (AdamW)."""
    trimmed: float = 0.05
    """Share of each batch's windows, those of largest loss, that nothing is learned from; 0 learns from all.

    A larger one would also leave out what is normal and takes an hour a day."""
    trimmed_from: float = 0.15
    """Share of the training in which nothing is left out yet."""

    mixed_precision: Literal["auto", "always", "never"] = "auto"
    """Reckon losses in bfloat16 where it does no harm, beside weights in float32. auto: on a GPU."""

    def __post_init__(self) -> None:
        for share in ("trimmed", "least_gain"):
            if not getattr(self, share) < 1:
                raise ValueError(f"option {share!r} is {getattr(self, share)}; it takes a share below 1")


@dataclass(frozen=True)
class Trained:
    """What came of a training."""

    epochs: int
    held_out_loss: float
    """Of the weights that were kept."""


_SOLVED_WINDOWS, _SOLVED_VALUES = 8_000, 2**25
_READ_WINDOWS, _READ_VALUES, _LEAST_READ = 1024, 2**23, 16
"""Read at once where nothing is learned: so many windows, or fewer that hold so many values."""
_READ_OF_IMAGES = 2**20
"""Values of images: a convolution makes some hundred numbers of each."""


def train(
    view: View,
    windows: Windows,
    learning_N: IntArray,
    stopping_N: IntArray,
    config: TrainingConfig,
    progress: Callable[[float], None] = lambda share: None,
    unfinished: Unfinished | None = None,
    part: str = "",
    clock: Callable[[], float] = time.monotonic,
    ranks: Ranks = ALONE,
) -> Trained:
    """Fit the view's network on the learning windows; keep the weights that did best on the stopping ones.

    Where more than half of `max_seconds` is used, the weights depend on the speed of the machine. A network with a
    closed form is solved on a sample of all windows.

    Args:
        unfinished: where the training is kept while it lasts, under the name `part`.
        ranks: the processes that train it together; each is called with the same windows and configuration.

    Raises:
        ValueError: there are more processes than windows to a batch.
    """
    device = view.step_F.device
    random = np.random.default_rng(config.seed)
    if view.network.closed_form:
        return _solved(view, windows, learning_N, stopping_N, random)
    optimizer = torch.optim.AdamW(
        view.network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
    )
    mixed = {"auto": device.type == "cuda", "always": True, "never": False}[config.mixed_precision]
    rounds = max(1, math.ceil(config.least_epoch_windows / max(len(learning_N), 1)))
    epoch_windows = max(config.epoch_windows, config.least_epoch_windows)
    held_out_N = random.permutation(stopping_N)[: config.epoch_windows // 4]
    # What has to do better than where it started on all that it learns from is judged by all.
    robust = config.trimmed > 0 or not view.network.starts
    course = unfinished.restore(part, view.network, optimizer, random) if unfinished else None
    if course is None:
        course = Course(config.max_epochs)
        if view.network.starts and not ranks.rank:
            _start(view, windows, learning_N, config)
            course.best = copy.deepcopy(view.network.state_dict())
            course.lowest = held_out_loss(view, windows, held_out_N, robust)
    if ranks.world_size > 1:
        # Where the first process stands, wherever it has that from, all go on.
        state = None if ranks.rank else packed(course, view.network, optimizer, random)
        course = put_back(ranks.broadcast(state), view.network, optimizer, random)
    started_s = clock() - course.seconds

    def done(epochs: float) -> float:
        # Time is left out of it until it presses, so that a training with time to spare can be repeated to the bit.
        seconds = (clock() - started_s) / max(config.max_seconds, 1e-9)
        return ranks.broadcast_float(min(max(epochs / course.planned, seconds if seconds > 0.5 else 0.0), 1.0))

    while not course.over:
        view.train()
        drawn = [windows.drawn(learning_N, epoch_windows, random) for _ in range(rounds)]
        chosen_N = np.concatenate(drawn)[:epoch_windows]
        batches = np.array_split(chosen_N, max(1, len(chosen_N) // config.batch_windows))
        if (least := min(map(len, batches))) < ranks.world_size:
            raise ValueError(
                f"{ranks.world_size} processes cannot share batches of {least} windows; train with fewer of them"
            )
        for batch, chosen_B in enumerate(batches):
            share = done(course.epochs + batch / len(batches))
            if share == 1:
                break
            optimizer.param_groups[0]["lr"] = config.learning_rate * min(1.0, 2 * (1 - share))
            z_BTF = torch.from_numpy(windows.take(chosen_B)).to(device)
            with torch.autocast(device.type, torch.bfloat16, enabled=mixed):
                loss_B = losses(view, z_BTF, share, ranks)
            trimmed = config.trimmed if share > config.trimmed_from else 0.0
            loss = trimmed_part(loss_B, trimmed, len(z_BTF), ranks)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            ranks.add_gradients(view.network.parameters())
            nn.utils.clip_grad_norm_(view.network.parameters(), 1.0)
            optimizer.step()
        course.epochs += 1
        held_out, share = held_out_loss(view, windows, held_out_N, robust, ranks), done(course.epochs)
        if held_out <= course.lowest or not course.best:
            course.best = copy.deepcopy(view.network.state_dict())
            # While a loss is warmed up, the reconstruction is better than it may stay.
            course.lowest = held_out if share > WARM_UP or view.network.starts else math.inf
        if len(held_out_N):
            course.gained(held_out, len(batches), config.least_gain)
        if share < 0.5 and course.waited >= config.patience:
            course.planned = 2 * course.epochs
        course.seconds, course.over = clock() - started_s, share == 1
        if unfinished:
            unfinished.save(part, course, view.network, optimizer, random)
        progress(share)
    view.network.load_state_dict(course.best)
    view.eval()
    progress(1.0)
    return Trained(course.epochs, course.lowest)


def losses(view: View, z_BTF: Tensor, done: float, ranks: Ranks = ALONE) -> Tensor:
    """Return what the view's network has to make small for each window of this process's share, loss_B.

    Raises:
        ValueError: the architecture gives anything else, such as one loss for the batch.
    """
    x_BTC, own = view.inputs(z_BTF), ranks.share(len(z_BTF))
    loss_B: Tensor = view.network.loss(x_BTC, done) if ranks is ALONE else view.network.loss_of(x_BTC, own, done)
    if loss_B.shape != (own.stop - own.start,):
        raise ValueError(
            f"architecture {view.config.architecture}: `loss` returned shape {tuple(loss_B.shape)} for "
            f"{own.stop - own.start} windows; it takes one value for each of them"
        )
    return loss_B


def trimmed_mean(loss_B: Tensor, trimmed: float) -> Tensor:
    """Return the mean of the windows' losses without the largest ones, `trimmed` being their share."""
    return loss_B.float().topk(len(loss_B) - int(trimmed * len(loss_B)), largest=False).values.mean()


def trimmed_part(loss_B: Tensor, trimmed: float, count: int, ranks: Ranks) -> Tensor:
    """Return this process's part of the trimmed mean over the `count` windows of all: the parts add up to it."""
    if ranks is ALONE:
        return trimmed_mean(loss_B, trimmed)
    own, loss_B, kept = ranks.share(count), loss_B.float(), count - int(trimmed * count)
    kept_N = ranks.all_gather(loss_B, count).argsort(stable=True)[:kept]
    return loss_B[kept_N[(own.start <= kept_N) & (kept_N < own.stop)] - own.start].sum() / kept


def _start(view: View, windows: Windows, learning_N: IntArray, config: TrainingConfig) -> None:
    """Give the network what it starts from, which training has to do better than."""
    random = np.random.default_rng(config.seed)
    drawn_N = np.sort(windows.drawn(learning_N, _most_started(view), random))
    view.network.start(view.inputs(torch.from_numpy(windows.take(drawn_N)).to(view.step_F.device)))


_TRIMMED, _TRIM_NEIGHBOUR_SHARE = 0.02, 0.08
"""Share of the windows that no network learns from, and which neighbour they are far from."""


@torch.no_grad()
def store_and_trim(view: View, windows: Windows, seed: int) -> BoolArray:
    """Store a sample of the windows in the view; tell for each window whether a network should learn from it.

    An autoencoder learns to reconstruct the very anomalies that its training holds. Those that lie farthest from
    all others are left out. What is stored is not: the k-th neighbour takes no notice of a few.
    """
    assert view.nearest is not None
    count = len(windows.start_N)
    chosen_S = np.random.default_rng(seed).permutation(count)[: view.config.stored]
    view.store(torch.from_numpy(windows.take(chosen_S)).to(view.step_F.device))
    far_N = []
    for chosen_B in _read_at_once(view, np.arange(count)):
        x_BD = view.inputs(torch.from_numpy(windows.take(chosen_B)).to(view.step_F.device)).flatten(1)
        # A stored window is the nearest one to itself.
        each = [view.nearest.squared(x_BD, _TRIM_NEIGHBOUR_SHARE, own).sum(dim=1).cpu().numpy() for own in (0, 1)]
        far_N.append(np.where(np.isin(chosen_B, chosen_S), each[1], each[0]))
    distance_N = np.concatenate(far_N)
    usual_N: BoolArray = distance_N <= np.quantile(distance_N, 1 - _TRIMMED)
    return usual_N


def _solved(
    view: View, windows: Windows, learning_N: IntArray, stopping_N: IntArray, random: np.random.Generator
) -> Trained:
    solve(view, windows, np.concatenate([learning_N, stopping_N]), random)
    return Trained(0, held_out_loss(view, windows, random.permutation(stopping_N)[: _most_solved(view)]))


def solve(view: View, windows: Windows, chosen_N: IntArray, random: np.random.Generator) -> None:
    """Give the view's network its closed form for these windows, or for as many of them as memory allows."""
    drawn_N = np.sort(windows.drawn(chosen_N, _most_solved(view), random))
    view.network.solve(view.inputs(torch.from_numpy(windows.take(drawn_N)).to(view.step_F.device)))
    view.eval()


def _read_at_once(view: View, chosen_N: IntArray) -> list[IntArray]:
    """Return these windows part by part, each such that memory holds what a network makes of it."""
    values = len(view.usual_C) * view.config.window
    is_image = isinstance(view.network, OfImages)
    fit = max(1, _READ_OF_IMAGES // values) if is_image else max(_LEAST_READ, _READ_VALUES // values)
    return np.array_split(chosen_N, max(1, len(chosen_N) // min(_READ_WINDOWS, fit)))


def _most_started(view: View) -> int:
    return max(2, _SOLVED_VALUES // (len(view.usual_C) * view.config.window))


def _most_solved(view: View) -> int:
    return min(_SOLVED_WINDOWS, _most_started(view))


@torch.no_grad()
def held_out_loss(
    view: View, windows: Windows, chosen_N: IntArray, robust: bool = True, ranks: Ranks = ALONE
) -> float:
    """Return the median of the windows' mean squared errors: a few anomalies do not decide when to stop.

    Not robust: the mean, where all windows count that are learned from.
    """
    view.eval()
    losses = []
    for chosen_B in _read_at_once(view, chosen_N[ranks.share(len(chosen_N))]):
        x_BTC = view.inputs(torch.from_numpy(windows.take(chosen_B)).to(view.step_F.device))
        losses.append((view.network(x_BTC) - x_BTC).square().mean(dim=(1, 2)))
    loss_N = ranks.all_gather(torch.cat(losses), len(chosen_N))
    return float(loss_N.median() if robust else loss_N.mean()) if len(chosen_N) else 0.0
