"""Every error that offkey raises on purpose, named by what the caller does about it.

    OffkeyError
    ├── ConfigError          the user's mistake: refuse to start, exit 2
    │   └── Refused          Kafka does not let us in, or is not who it should be: at the start, exit 1; once it
    │                        has let us in, as TransientError
    ├── RecordError          a record that cannot be worked on and may not be lost: stop, exit 1
    ├── TransientError       the outside world is away: retry with backoff until a deadline, then exit 1
    │   ├── DeliveryError    an alert or dead letter was not confirmed: restore state, then retry
    │   ├── ReceiverAway     a receiver of alerts did not take one: retry, for so long as the configuration says
    │   └── AssignmentLost   a partition moved while we worked on it: restore state, no retry of the commit
    ├── RegistryError        no usable model version, or another writer was first: go on with the one there is,
    │   │                    exit 1 where there is none
    │   └── PromotionLost    the log of promotions has gone on since it was read: nothing was written, decide anew
    ├── CheckpointError      a checkpoint is gone, damaged or of an unknown format: take the one before it
    ├── ProcessError         a process of several cannot start, or did not end well: end them all with its status
    └── SnapshotError        too little usable data to train on, or a snapshot's file has another schema: no new
        │                    version, exit 1
        └── SnapshotDamaged  one cannot be read: the recorder reads its records again, where they are still held

Exceptions of client libraries are translated where they are raised, in `pipeline.connectors`, with
`raise ... from`. Whatever is not in this tree is a bug: the process dies and uncommitted work is replayed.
"""


class OffkeyError(Exception):
    """Base of the tree; its text is one line for people: the thing and the remedy."""

    exit_code = 1


class ConfigError(OffkeyError):
    """A setting, a file or a right is missing or wrong, and only the user can mend it."""

    exit_code = 2


class Refused(ConfigError):
    """Kafka refuses who we are, or its certificate does not hold: the same try fails again until someone acts.

    Who acts need not be here: a token is renewed, a broker has not read its users yet. So whoever starts what has
    ended may start it again, which they do not at the status of other mistakes.
    """

    exit_code = 1


class RecordError(OffkeyError):
    """A record can be neither scored nor dead-lettered, or too many in a row were rejected."""


class TransientError(OffkeyError):
    """Something outside did not answer; the same call may succeed later."""


class DeliveryError(TransientError):
    """A published message was not confirmed by the broker."""


class ReceiverAway(TransientError):
    """A receiver of alerts gave no answer, or one that another try may change."""

    def __init__(self, text: str, retry_after_s: float | None = None) -> None:
        super().__init__(text)
        self.retry_after_s = retry_after_s
        """How long it asks to be left alone."""


class AssignmentLost(TransientError):
    """A commit came from a member that no longer owns the partition."""


class RegistryError(OffkeyError):
    """A model version is missing, not complete or damaged, or its name or number was taken by another writer."""


class PromotionLost(RegistryError):
    """Another writer has taken the next number of a stream's log."""


class CheckpointError(OffkeyError):
    """A checkpoint's bytes cannot be read; whether what they hold fits is for the worker to tell."""


class SnapshotError(OffkeyError):
    """Too few usable records to train on or to compare models on, or no field that is a number in all of them.

    Or a file of a snapshot holds other columns than are asked for.
    """


class SnapshotDamaged(SnapshotError):
    """A file of a snapshot is damaged, cut off or gone."""


class ProcessError(OffkeyError):
    """One of the processes of `offkey worker --processes` cannot start, or did not end as it should."""

    def __init__(self, text: str, exit_code: int) -> None:
        super().__init__(text)
        self.exit_code = exit_code
