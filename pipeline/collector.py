"""Python's cycle collector, kept out of the way of the records."""

import gc


def quiet_collector() -> None:
    """Have it look seldom: for a process that does nothing but run until it is stopped.

    Nothing on a record's path makes reference cycles, but a poll's thousands of tuples would have the collector
    walk all objects several times a batch.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 50)
