"""One suite for `ObjectStorage`: on a folder, a bucket of moto's, and the loopback store that fails on command.

And what is said where storage cannot be used.
"""

import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from pipeline.connectors.storage import ObjectStorage
from pipeline.errors import ConfigError, TransientError
from tests.buckets import PAGE, MotoServer
from tests.chaos.object_store import LoopbackStore


@pytest.fixture(params=["folder", "bucket", "loopback"])
def storage(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ObjectStorage]:
    if request.param == "folder":
        yield ObjectStorage((tmp_path / "made" / "on the way").as_uri())
    elif request.param == "bucket":
        yield ObjectStorage(request.getfixturevalue("bucket"))
    else:
        with closing(LoopbackStore()) as store:
            for name, text in store.environment.items():
                monkeypatch.setenv(name, text)
            yield ObjectStorage(store.url)


@pytest.mark.parametrize("name", ["plain", "a/b/c", "with space/x", "prozent%2Fzeichen", "ümläut", "a..b/#1+~"])
def test_what_is_put_is_got_and_listed(storage: ObjectStorage, name: str) -> None:
    storage.put(f"folder/{name}", b"first")
    storage.put(f"folder/{name}", b"second")
    assert storage.get(f"folder/{name}") == b"second"
    assert storage.list("folder") == [f"folder/{name}"]
    storage.delete(f"folder/{name}")
    assert storage.get(f"folder/{name}") is None
    assert storage.list("folder") == []


def test_sizes_are_those_of_the_content(storage: ObjectStorage) -> None:
    storage.put("folder/a", b"four")
    storage.put("folder/b/c", b"")
    storage.put("other/d", b"x")
    assert storage.sizes("folder") == {"folder/a": 4, "folder/b/c": 0}


def test_a_folder_is_not_listed_by_the_start_of_its_name(storage: ObjectStorage) -> None:
    storage.put("models/web/1", b"")
    storage.put("models/web-2/1", b"")
    assert storage.list("models/web") == ["models/web/1"]


def test_what_is_not_there_can_be_deleted_and_listed(storage: ObjectStorage) -> None:
    storage.delete("never")
    assert storage.list("never") == []


def test_a_part_of_an_object_is_read_alone(storage: ObjectStorage) -> None:
    storage.put("a", bytes(range(200)))
    assert storage.get_range("a", 0, 64) == bytes(range(64))
    assert storage.get_range("a", 150, 200) == bytes(range(150, 200))
    assert storage.get_range("never", 0, 1) is None


def test_size_and_time_are_told_without_the_content(storage: ObjectStorage) -> None:
    storage.put("a", b"12345")
    stat = storage.stat("a")
    assert stat is not None
    assert stat.size_bytes == 5
    assert stat.written_ms > 1_600_000_000_000
    assert storage.stat("never") is None


def test_more_objects_than_a_page_are_all_listed(storage: ObjectStorage) -> None:
    """A bucket lists a thousand at a time, this one so many as the server is told."""
    names = [f"many/{number:04d}" for number in range(2 * PAGE + 3)]
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(lambda name: storage.create(name, b""), names))
    assert storage.list("many") == names


def test_of_many_who_create_one_wins_and_its_content_stays(storage: ObjectStorage) -> None:
    won: list[int] = []
    together = threading.Barrier(8)

    def create(number: int) -> None:
        together.wait(10)
        if storage.create("log/1", b"%d" % number):
            won.append(number)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(won) == 1
    assert storage.get("log/1") == b"%d" % won[0]


@pytest.mark.parametrize(
    "url", ["/var/lib/offkey", "relative", "file://relative", "memory:///", "ftp://host/x", ""]
)
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(ConfigError, match=r"neither file:///folder nor s3://bucket/prefix"):
        ObjectStorage(url)


def test_storage_that_cannot_be_opened_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(ConfigError, match="cannot be opened"):
        ObjectStorage((tmp_path / "file" / "sub").as_uri())


@contextmanager
def nobody() -> Iterator[None]:
    """Root may write everywhere: be another user for the length of a test."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def test_no_right_to_write_is_a_config_error() -> None:
    with tempfile.TemporaryDirectory() as folder:  # pytest's own folders are closed to other users.
        storage = ObjectStorage(Path(folder).as_uri())
        Path(folder).chmod(0o555)
        with nobody(), pytest.raises(ConfigError, match="no right to write x"):
            storage.put("x", b"")


def test_an_object_store_that_does_not_answer_is_given_up_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT": "http://127.0.0.1:1",
        "AWS_ALLOW_HTTP": "true",
    }.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(TransientError, match=r"storage s3://bucket/prefix: cannot read x .*3 retries"):
        ObjectStorage("s3://bucket/prefix").get("x")


def test_a_bucket_that_is_not_there_is_told_and_is_no_empty_one(bucket: str) -> None:
    storage = ObjectStorage("s3://not-made/prefix")
    asked: list[Callable[[], object]] = [
        lambda: storage.get("x"),
        lambda: storage.get_range("x", 0, 1),
        lambda: storage.put("x", b""),
        lambda: storage.create("x", b""),
        lambda: storage.list("x"),
        lambda: storage.delete("x"),
    ]
    for ask in asked:
        with pytest.raises(
            ConfigError,
            match=r"^storage s3://not-made/prefix: there is no such bucket; create it, or set `storage`",
        ):
            ask()
    assert ObjectStorage(bucket).get("x") is None


@pytest.fixture
def rights(moto_server: MotoServer) -> Iterator[None]:
    """Have the server look at who asks, for the length of a test."""
    yield
    moto_server.ask_for_rights(False)


@pytest.mark.usefixtures("rights")
def test_a_user_who_may_only_read_is_told_what_is_missing(
    bucket: str, moto_server: MotoServer, monkeypatch: pytest.MonkeyPatch, unique: Callable[[str], str]
) -> None:
    ObjectStorage(bucket).put("a", b"kept")
    for name, text in moto_server.user(unique("reader"), ["s3:GetObject", "s3:ListBucket"]).items():
        monkeypatch.setenv(name, text)
    moto_server.ask_for_rights(True)
    storage = ObjectStorage(bucket)
    assert storage.get("a") == b"kept"
    for write in (lambda: storage.put("a", b""), lambda: storage.create("b", b"")):
        with pytest.raises(ConfigError, match=r"no right to write [ab] .*; grant it or set `storage`"):
            write()
    with pytest.raises(ConfigError, match="no right to delete a"):
        storage.delete("a")
    assert storage.get("a") == b"kept"


@pytest.mark.usefixtures("rights")
def test_unknown_keys_are_told(bucket: str, moto_server: MotoServer) -> None:
    moto_server.ask_for_rights(True)
    storage = ObjectStorage(bucket)
    with pytest.raises(ConfigError, match="no right to read a"):
        storage.get("a")
    with pytest.raises(ConfigError, match="no right to list a"):
        storage.list("a")
