"""A topic of Arrow records, as a user meets it: check, train, worker, a kill, dead letters by row."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.connectors.connection import Connection
from pipeline.connectors.kafka import history
from tests.arrows import arrow_of, rows_of, stream_of
from tests.commands import Running, events, metrics_of, offkey, only_line, produce, wait_for
from tests.pipeline.end_to_end import configured_for, create_topics
from tests.streams import Payload, series_payloads


@pytest.fixture
def topics(any_broker: str, unique: Callable[[str], str]) -> dict[str, str]:
    return create_topics(any_broker, unique, "metrics")


@pytest.fixture
def config(any_broker: str, topics: dict[str, str], tmp_path: Path) -> Path:
    stream = {
        "topic": topics["metrics"],
        "format": "arrow",
        "series": ["host"],
        "time": "ts",
        "window": 8,
        "model": {
            "architecture": "vanilla",
            "hidden": 8,
            "max_epochs": 2,
            "batch_windows": 256,
            "learning_rate": 2e-3,
        },
        "alerts": {"budget": "1 per day"},
    }
    kafka, worker = {"max_poll_records": 2}, {"checkpoint_every": 0.2}
    return configured_for(tmp_path, any_broker, topics, {"machines": stream}, kafka=kafka, worker=worker)


def scored(config: Path, at_least: int) -> bool:
    try:
        lines = metrics_of(config).splitlines()
    except OSError:
        return False
    return sum(float(line.split()[-1]) for line in lines if line.startswith("offkey_records_total")) >= at_least


def without(row: int, record: Payload) -> Payload:
    """Take the value of a feature from one row."""
    table = pa.ipc.open_stream(record[1] or b"").read_all()
    mem = table.column("mem").to_pylist()
    mem[row] = None
    table = table.set_column(table.schema.get_field_index("mem"), "mem", pa.array(mem, pa.float64()))
    return None, stream_of(*table.combine_chunks().to_batches())


def test_the_path_of_a_user(any_broker: str, topics: dict[str, str], config: Path) -> None:
    connection = Connection(any_broker)
    produce(connection, topics["metrics"], arrow_of(series_payloads(300, seed=7), range(0, 1200, 100)))
    few = offkey("train", "--json", str(config), "--max-records", "400")
    # Rows, not records; a broker may begin a little before what is asked for.
    assert 400 <= json.loads(few.stdout)["records"] < 1200
    assert json.loads(few.stdout)["features"] == ["cpu", "mem"]
    trained = offkey("train", str(config), "--max-records", "5000")
    assert trained.returncode == 0, trained.stderr
    assert "machines: vanilla on 1,200 records of 4 series, 2 features" in trained.stdout

    later = [(key, json.loads(value or b"")) for key, value in series_payloads(330, seed=7)[1200:]]
    for n, (_, row) in enumerate(later):
        row["cpu"] += 100 * (n // 4 == 20)
    records = arrow_of([(key, json.dumps(row).encode()) for key, row in later], [30, 60])
    produce(connection, topics["metrics"], [without(5, records[0]), (b"key", b"nonsense"), *records[1:]])
    checked = offkey("check", "--json", str(config))
    assert checked.returncode == 0, checked.stdout
    (records_row,) = (row for row in json.loads(checked.stdout) if row["what"] == "machines: records")
    assert records_row["found"].startswith("1,319 of the newest 1,321 rows decode; features: cpu, mem")
    assert "missing_field 1" in records_row["found"]
    assert "not_arrow 1" in records_row["found"]

    with Running(config) as first:
        wait_for(lambda: scored(config, 6), first)
        first.process.send_signal(signal.SIGKILL)
        first.process.wait()
    with Running(config) as second:
        wait_for(lambda: len(opened_at(15, connection, topics["alerts"])) >= 4, second)
        wait_for(lambda: len(letters(connection, topics["dead"])) >= 2, second)
        assert second.end() == ""

    # The twentieth point of four series, or the next: row 20 and on of a record that is behind twelve and three.
    found = opened_at(15, connection, topics["alerts"])
    for n, name in enumerate(("a", "b", "c", "new")):
        assert found[name] in (20 + n, 24 + n)
    row, whole = letters(connection, topics["dead"])
    assert (row.headers["__connect.errors.row"], row.headers["__connect.errors.offset"]) == (b"5", b"12")
    assert rows_of(row.value)[0]["mem"] is None
    assert (whole.value, "__connect.errors.row" in whole.headers) == (b"nonsense", False)


def opened_at(offset: int, connection: Connection, topic: str) -> dict[str, int]:
    """Return the rows of the record at this offset that opened an incident, by their series."""
    opening = (each for each in events(connection, topic) if each["state"] == "opened")
    return {each["series"]: each["row"] for each in opening if each["offset"] == offset}


class Letter:
    def __init__(self, value: bytes, headers: dict[str, bytes]) -> None:
        self.value = value
        self.headers = headers


def letters(connection: Connection, topic: str) -> list[Letter]:
    """Return the dead letters, each once though a killed worker may have sent it twice."""
    found: dict[tuple[bytes, bytes | None], Letter] = {}
    for arrived in history(connection, topic, 1000):
        for record in arrived.records:
            headers = dict(record.headers)
            place = headers["__connect.errors.offset"], headers.get("__connect.errors.row")
            found.setdefault(place, Letter(record.value or b"", headers))
    return list(found.values())


def test_a_topic_of_json_is_told_as_what_it_is(any_broker: str, topics: dict[str, str], config: Path) -> None:
    produce(Connection(any_broker), topics["metrics"], series_payloads(20))
    trained = offkey("train", str(config))
    assert trained.returncode != 0
    said = only_line(trained.stderr)
    assert "no sampled record can be read as arrow" in said
    assert "the stream's `format`" in said


def test_without_pyarrow_the_remedy_is_told(config: Path) -> None:
    code = (
        "import sys; sys.modules['pyarrow'] = None; sys.argv[0] = 'offkey'; from pipeline.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "train", str(config)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2
    assert "`format: arrow` needs pyarrow, which is not installed: pip install 'offkey[arrow]'" in only_line(
        done.stderr
    )
