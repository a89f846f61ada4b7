"""How another process is started that runs `offkey`, too."""

import logging
import os
import sys


def own_program() -> list[str]:
    """Return Python's arguments for `offkey` with our log level; the words of a command follow them.

    It imports what we do: of the folder that we are called from only if we did.
    """
    isolated = [] if {"", os.getcwd()} & set(sys.path) else ["-P"]
    level = logging.getLevelName(logging.getLogger().level).lower()
    return [*isolated, "-c", "from pipeline.cli import main; main()", "--log-level", level]
