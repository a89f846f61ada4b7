"""Who runs a command, and when: the only readings of a clock that can be set, and of the user's name."""

import getpass
import platform
from datetime import UTC, datetime


def now() -> datetime:
    return datetime.now(UTC)


def now_ms() -> int:
    return int(now().timestamp() * 1000)


def who() -> str:
    """Return user@machine for the log; a container may have no name for its user."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = ""
    return f"{user}@{platform.node()}"
