"""Parts that are damaged, missing or of something else: what rests on them is refused, and the one before taken."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.connectors.checkpoints import StoredCheckpoints
from pipeline.connectors.memory import MemoryCheckpoints
from pipeline.connectors.storage import ObjectStorage
from pipeline.protocols import TopicPartition
from tests.contracts.chains import FOLDER, Run, found

DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "a byte short": lambda content: content[:-1],
    "half": lambda content: content[: len(content) // 2],
    "cut in its head": lambda content: content[:40],
    "empty": lambda content: b"",
    "a bit of the head": lambda content: content[:20] + bytes([content[20] ^ 1]) + content[21:],
    "a bit of the hash": lambda content: content[:40] + bytes([content[40] ^ 1]) + content[41:],
    "a bit of an array": lambda content: content[:70] + bytes([content[70] ^ 1]) + content[71:],
    "a bit at the end": lambda content: content[:-1] + bytes([content[-1] ^ 1]),
    "something else": lambda content: b"x" * len(content),
    "a byte too many": lambda content: content + b"x",
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
@pytest.mark.parametrize(("which", "left"), [(0, [5, 6]), (1, [10]), (2, [10, 20]), (3, [10, 20, 30])])
def test_a_damaged_part_takes_with_it_what_rests_on_it(
    which: int, left: list[int], damage: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    storage = ObjectStorage(tmp_path.as_uri())
    checkpoints = StoredCheckpoints(storage)
    Run(checkpoints).write(5, 6)
    Run(checkpoints).write(10, 20, 30, 40)
    name = storage.list(FOLDER)[2 + which]
    storage.put(name, damage(storage.get(name) or b""))
    assert found(checkpoints) == left
    assert caplog.text.count(f"checkpoint {name} is refused, the one before is taken: it") == 1


@pytest.mark.parametrize(("which", "left"), [(0, [5, 6]), (1, [10]), (2, [10, 20])])
def test_a_missing_part_takes_with_it_what_rests_on_it(
    which: int, left: list[int], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    storage = ObjectStorage(tmp_path.as_uri())
    checkpoints = StoredCheckpoints(storage)
    Run(checkpoints).write(5, 6)
    Run(checkpoints).write(10, 20, 30, 40)
    names = storage.list(FOLDER)[2:]
    storage.delete(names[which])
    assert found(checkpoints) == left
    said = f"checkpoint {names[which + 1]} is refused, the one before is taken: part 00000{which + 1}, on which it"
    assert said in caplog.text


def test_a_part_of_another_topic_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    """Someone has copied a folder."""
    checkpoints = MemoryCheckpoints()
    Run(checkpoints).write(10)
    Run(checkpoints, place=TopicPartition("others", 3)).write(20)
    (name,) = checkpoints.storage.list("checkpoints/machines/others")
    content = checkpoints.storage.objects[name]
    copied = name.replace("/others/", "/metrics/").replace("000000000001", "000000000002")
    checkpoints.storage.put(copied, content)
    assert found(checkpoints) == [10]
    assert f"{copied} is refused, the one before is taken: it is of stream machines, others/3" in caplog.text


def test_a_part_under_another_name_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    checkpoints = MemoryCheckpoints()
    Run(checkpoints).write(10, 20)
    _, later = checkpoints.storage.list(FOLDER)
    checkpoints.storage.put(later.replace("-20", "-60"), checkpoints.storage.objects.pop(later))
    assert found(checkpoints) == [10]
    assert "it was written as" in caplog.text


def test_the_parts_of_one_state_are_of_one_topic_and_shape() -> None:
    checkpoints = MemoryCheckpoints()
    run = Run(checkpoints)
    run.write(10)
    run.topic_id = "t2"
    run.write(20)
    assert found(checkpoints) == [10]
