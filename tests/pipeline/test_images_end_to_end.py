"""A topic of images, as a user meets it: check, train, worker, dead letters, record, backtest, reduce."""

import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest

from pipeline.connectors.connection import Connection
from pipeline.connectors.kafka import history
from tests.commands import Running, committed, events, offkey, produce, wait_for
from tests.images import COLOURED, IMAGES, coloured, digits, jpeg, png, upside_down
from tests.pipeline.end_to_end import configured_for, create_topics

BOMB = 100_000
STRANGE = 12


def bomb() -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", BOMB, BOMB, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(10**6))) + chunk(b"IEND", b"")


BAD = {
    "wrong_size": bomb(),
    "wrong_mode": png(coloured()[0], COLOURED),
    "bad_image": png(digits()[0][0])[:-25],
    "not_image": jpeg(digits()[0][0]),
}


@pytest.fixture
def topics(embedded_broker: str, unique: Callable[[str], str]) -> dict[str, str]:
    return create_topics(embedded_broker, unique, "frames")


@pytest.fixture
def config(embedded_broker: str, topics: dict[str, str], tmp_path: Path) -> Path:
    stream = IMAGES.model_dump(mode="json", exclude_unset=True) | {"topic": topics["frames"]}
    recorder = {"port": 0, "file_age": 0.2}
    return configured_for(tmp_path, embedded_broker, topics, {"camera": stream}, recorder=recorder)


def test_the_path_of_a_user(embedded_broker: str, topics: dict[str, str], config: Path, tmp_path: Path) -> None:
    connection, (x_NF, _) = Connection(embedded_broker), digits()
    strange_NF = upside_down(x_NF[-STRANGE:])
    produce(connection, topics["frames"], [(None, png(x_F)) for x_F in x_NF[:1_000]])
    trained = offkey("train", str(config))
    assert trained.returncode == 0, trained.stderr
    assert "camera: convolutional on 1,000 records of 1 stream" in trained.stdout

    later = [*x_NF[1_000:1_500], *strange_NF]
    produce(
        connection,
        topics["frames"],
        [*((None, value) for value in BAD.values()), *((None, png(x_F)) for x_F in later)],
    )
    checked = {row["what"]: row for row in json.loads(offkey("check", "--json", str(config)).stdout)}
    said = checked["camera: records"]["found"]
    assert said.startswith("1,512 of the newest 1,516 decode; images: 8 x 8 pixels of 1 channel; rejected: ")
    assert all(f"{reason} 1" in said for reason in BAD)

    with Running(config) as worker, Running(config, "warning", "record") as recorder:
        wait_for(lambda: committed(embedded_broker, topics["group"]).get(topics["frames"]) == 1_516, worker)
        group = f"{topics['group']}-recorder"
        wait_for(lambda: committed(embedded_broker, group).get(topics["frames"]) == 1_516, recorder)
        assert (worker.end(), recorder.end()) == ("", "")
    live = events(connection, topics["alerts"])
    assert sum(alert["offset"] >= 1_504 for alert in live) >= 0.8 * STRANGE
    assert sum(alert["offset"] < 1_504 for alert in live) <= 25
    assert all(len(alert["features"]) == len(alert["pixels"]) == 16 for alert in live)
    letters = {
        dict(letter.headers)["__connect.errors.exception.class.name"].decode(): letter
        for letter in letters_of(connection, topics["dead"])
    }
    assert {f"offkey.{reason}": value for reason, value in BAD.items()} == {
        name: letter.value for name, letter in letters.items()
    }
    assert (
        f"{BOMB:,} x {BOMB:,}"
        in dict(letters["offkey.wrong_size"].headers)["__connect.errors.exception.message"].decode()
    )

    replayed = offkey("backtest", "--json", str(config), "--output", str(tmp_path / "replay"))
    assert replayed.returncode == 0, replayed.stderr
    (told,) = (tmp_path / "replay").rglob("alerts.jsonl")
    again = [json.loads(line)["data"] for line in told.read_text().splitlines()]
    assert [(each["offset"], each["score"]) for each in again] == [(each["offset"], each["score"]) for each in live]

    codes, back = tmp_path / "codes", tmp_path / "back"
    reduced = offkey("reduce", "--json", str(config), "camera", "--output", str(codes), "--dimensions", "8")
    assert reduced.returncode == 0, reduced.stderr
    report = json.loads(reduced.stdout)
    assert report["r2"] > report["r2_of_pca"] > 0.5
    assert (codes / "picture.png").read_bytes().startswith(b"\x89PNG")
    decoded = offkey("reduce", str(config), "camera", "--output", str(back), "--decode", str(codes))
    assert decoded.returncode == 0, decoded.stderr
    assert "1,512 images of 8 x 8 pixels of 1 channel from codes of 8 numbers" in decoded.stdout
    (part,) = back.rglob("*.parquet")
    table = pyarrow.parquet.read_table(part, columns=["offset", "pixels"])
    offsets, pixels = table["offset"].to_pylist(), table["pixels"].to_pylist()
    near_F = np.frombuffer(pixels[offsets.index(7)], np.uint8).astype(int)
    assert np.abs(near_F - x_NF[7]).mean() < np.abs(near_F - x_NF[8]).mean()


def letters_of(connection: Connection, topic: str) -> list[Any]:
    return [record for arrived in history(connection, topic, 1000) for record in arrived.records]
