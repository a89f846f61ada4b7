"""Memory that goes back to the system when it is freed, where the C library is glibc.

glibc takes each large piece of memory from the system by itself and gives it back when it is freed. But with each
one it raises the size from which on it does so, up to 32 MiB; what is smaller then comes from heaps that it shrinks
at their end only. A worker reads its state in pieces of some MiB and seldom needs as large ones again: of a million
series it kept 40 to 60 MB for nothing.
"""

import ctypes

_MMAP_THRESHOLD = -3
"""`M_MMAP_THRESHOLD` of malloc.h; set, it stays."""
_LARGE_BYTES = 1 << 20
"""More than the arrays of a poll, which come and go all the time."""


def give_back_large_pieces() -> None:
    """Have every piece from 1 MiB on go back when it is freed; for a process that only runs a worker."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _LARGE_BYTES)
