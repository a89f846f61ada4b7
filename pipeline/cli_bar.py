"""The progress bar of a training."""

import contextlib
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def training_bar(stream: str, hidden: bool) -> Iterator[Callable[[str, float], None]]:
    """Show how far the training of a stream is, on standard error, if that is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("training {task.description}"), BarColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=hidden or not console.is_terminal) as bar:
        task = bar.add_task(stream, total=1.0)
        yield lambda _, share: bar.update(task, completed=share)
