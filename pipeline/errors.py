"""Every error that offkey raises on purpose, named by what the caller does about it.

    OffkeyError
    ├── ConfigError          the user's mistake: refuse to start, exit 2
    ├── RecordError          a record that cannot be worked on and may not be lost: stop, exit 1
    ├── TransientError       the outside world is away: retry with backoff until a deadline, then exit 1
    │   ├── DeliveryError    an alert or dead letter was not confirmed: restore state, then retry
    │   └── AssignmentLost   a partition moved while we worked on it: restore state, no retry of the commit
    ├── RegistryError        no usable model version: keep the current one; without one, exit 1
    ├── CheckpointError      a checkpoint is damaged or unknown: take the one before it
    └── SnapshotError        no usable training data: skip this training, exit 1

Exceptions of client libraries are translated where they are raised, in `pipeline.connectors`, with
`raise ... from`. Whatever is not in this tree is a bug: the process dies and uncommitted work is replayed.
"""


class OffkeyError(Exception):
    """Base of the tree; its text is one line for people: the thing and the remedy."""

    exit_code = 1


class ConfigError(OffkeyError):
    """A setting, a file or a right is missing or wrong, and only the user can mend it."""

    exit_code = 2


class RecordError(OffkeyError):
    """A record can be neither scored nor dead-lettered, or too many in a row were rejected."""


class TransientError(OffkeyError):
    """Something outside did not answer; the same call may succeed later."""


class DeliveryError(TransientError):
    """A published message was not confirmed by the broker."""


class AssignmentLost(TransientError):
    """A commit came from a member that no longer owns the partition."""


class RegistryError(OffkeyError):
    """A model version is missing, damaged, or made for other records."""


class CheckpointError(OffkeyError):
    """A checkpoint cannot be read or is of another stream, topic or model shape."""


class SnapshotError(OffkeyError):
    """There is no data to train on, or it cannot be read."""
