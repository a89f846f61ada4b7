"""The worlds that contract tests run in."""

from collections.abc import Callable, Iterator

import pytest

from tests.contracts.worlds import World, in_memory, on_kafka


def _opened(request: pytest.FixtureRequest, unique: Callable[[str], str], partitions: int) -> Iterator[World]:
    kind = request.param
    if kind == "twin":
        made = in_memory(unique, partitions)
    else:
        made = on_kafka(kind, request.getfixturevalue(f"{kind}_broker"), unique, partitions)
    yield made
    made.close()


@pytest.fixture(params=["twin", "embedded", "apache"])
def world(request: pytest.FixtureRequest, unique: Callable[[str], str]) -> Iterator[World]:
    """Its topic has one partition."""
    yield from _opened(request, unique, 1)


@pytest.fixture(params=["twin", "embedded", "apache"])
def wide_world(request: pytest.FixtureRequest, unique: Callable[[str], str]) -> Iterator[World]:
    """Its topic has two partitions."""
    yield from _opened(request, unique, 2)
