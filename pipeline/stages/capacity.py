"""How an array of one row a slot grows: by a sixteenth, so that little of a million rows lies unused."""

_LEAST = 64


def grown(capacity: int, wanted: int) -> int:
    """Return the capacity of an array that has to hold so many slots."""
    return capacity if wanted <= capacity else max(wanted, capacity + capacity // 16, _LEAST)
