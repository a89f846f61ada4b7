"""Objects on a folder, and what is said where storage cannot be used."""

import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipeline.connectors.storage import ObjectStorage
from pipeline.errors import ConfigError, TransientError


@pytest.fixture
def storage(tmp_path: Path) -> ObjectStorage:
    return ObjectStorage((tmp_path / "made" / "on the way").as_uri())


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
