"""Letters as lines of JSON, there and back; every mistake in an edited file has its line."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.connectors.memory import MemoryRecord
from pipeline.errors import ConfigError
from pipeline.letters.lines import line_of, read_repairs, sha256_of
from pipeline.letters.replay import plan
from pipeline.letters.report import printable, shown
from pipeline.letters.tally import Kind
from pipeline.protocols import TopicPartition
from pipeline.stages.dead_letters import Letter, letter
from tests.pipeline.letters.desks import BEGIN_MS, TOPIC, Desk, rejected, unread

BYTES = st.none() | st.binary(max_size=40) | st.text(max_size=20).map(lambda text: text.encode())


def made(key: bytes | None, value: bytes | None, offset: int = 7) -> Letter:
    message = rejected(3, key=key, value=value)
    found = letter(TopicPartition(TOPIC, 1), MemoryRecord(offset, BEGIN_MS, key, value, message.headers))
    assert found is not None
    return found


@given(key=BYTES, value=BYTES)
def test_a_line_holds_the_bytes_of_its_letter(
    tmp_path_factory: pytest.TempPathFactory, key: bytes | None, value: bytes | None
) -> None:
    path = tmp_path_factory.mktemp("lines") / "edited"
    own = made(key, value)
    line = line_of(own, "machines")
    assert "\n" not in line
    path.write_text(line + "\n")
    repairs = read_repairs(path, TOPIC)
    assert repairs[1, 7].sha256 == sha256_of(own)
    assert repairs[1, 7].apply(made(b"other", b"other")) == (key, value)


@given(one=st.tuples(BYTES, BYTES), other=st.tuples(BYTES, BYTES))
def test_other_bytes_have_another_hash(
    one: tuple[bytes | None, bytes | None], other: tuple[bytes | None, bytes | None]
) -> None:
    assert (sha256_of(made(*one)) == sha256_of(made(*other))) == (one == other)


def test_what_is_left_out_stays(tmp_path: Path) -> None:
    path, own = tmp_path / "edited", made(b"k", b"v")
    path.write_text(json.dumps({"letter": "dead/1@7", "sha256": sha256_of(own), "value": "new"}))
    assert read_repairs(path, TOPIC)[1, 7].apply(own) == (b"k", b"new")


LINE: dict[str, Any] = {"letter": "dead/1@7", "sha256": "0", "value": "x"}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "is no JSON"),
        ("[]", "is no JSON object"),
        (LINE | {"valeu": "x"}, "'valeu' is no field; did you mean 'value'?"),
        ({"letter": "dead/1@7", "value": "x"}, "'sha256' is missing"),
        ({"sha256": "0", "value": "x"}, "'letter' is missing"),
        (LINE | {"letter": "other/1@7"}, "'other/1@7' is no letter of dead; write dead/PARTITION@OFFSET"),
        (LINE | {"letter": "dead/1"}, "is no letter of dead"),
        (LINE | {"letter": "dead/-1@7"}, "is no letter of dead"),
        (LINE | {"value": {"cpu": 1}}, "'value' is dict; it takes text or null: put its JSON in quotes"),
        (LINE | {"value_base64": "eA=="}, "has both 'value' and 'value_base64'; keep one"),
        (LINE | {"key_base64": "%"}, "'key_base64' is no base64"),
        (LINE | {"key_base64": None}, "'key_base64' is no base64"),
        (LINE | {"key": "\ud800"}, "'key' holds half a character"),
    ],
)
def test_a_mistake_in_a_line_is_named_with_its_place(tmp_path: Path, line: Any, said: str) -> None:
    path = tmp_path / "edited"
    text = line if isinstance(line, str) else json.dumps(line)
    path.write_text(f"\n{line_of(made(b'k', b'v', 8), 'machines')}\n{text}\n")
    with pytest.raises(ConfigError) as raised:
        read_repairs(path, TOPIC)
    (only,) = str(raised.value).splitlines()
    assert only.startswith(f"{path}:3: ")
    assert said in only


def test_mistakes_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "edited"
    with pytest.raises(ConfigError, match="cannot be read"):
        read_repairs(path, TOPIC)
    path.write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="not UTF-8"):
        read_repairs(path, TOPIC)
    path.write_text('{"topic": "dead", "letters": 0, "foreign": 0}\n')
    with pytest.raises(ConfigError, match="holds no letter"):
        read_repairs(path, TOPIC)
    path.write_text(f"{json.dumps(LINE)}\n{json.dumps(LINE)}\n")
    with pytest.raises(ConfigError, match=r":2: dead/1@7 is in line 1 too; keep one"):
        read_repairs(path, TOPIC)


def test_a_line_that_matches_no_letter_is_refused(tmp_path: Path) -> None:
    desk, path = Desk(), tmp_path / "edited"
    desk.write(rejected(0), 1)
    desk.write(rejected(1, reason="empty"), 1)
    desk.write(rejected(2), 1)
    own = list(desk.plan().letters(desk.log))
    lines = [json.loads(line_of(each, "machines")) for each in own]
    lines.append(lines[0] | {"letter": "dead/0@9"})
    lines[2]["sha256"] = "0"
    path.write_text("\n".join(map(json.dumps, lines)))
    repairs = read_repairs(path, TOPIC)

    def wanted(kind: Kind) -> bool:
        return kind.reason == "not_json"

    with pytest.raises(ConfigError) as raised:
        plan(desk.log, wanted, unread, repairs, path)
    assert str(raised.value).splitlines() == [
        f"{path}:2: the letter is one of metrics, empty, which is not asked for; take out the line",
        f"{path}:3: dead/1@2 has other bytes than those that were listed; list the letters again",
        f"{path}:4: partition 0 has no letter of offkey at 9; list the letters again",
    ]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "null"),
        (b"", "(empty)"),
        (b'{"cpu": 1}', '{"cpu": 1}'),
        (b"\x1b[31m\x00\n", "\\x1b[31m\\x00\\n"),
        (b"\xff\xfe", "\\xff\\xfe"),
        ("\u202e\u00e4".encode(), "\\u202e\u00e4"),
        (b"x" * 120, "x" * 120),
        (b"x" * 121, "x" * 120 + "... (121 bytes)"),
        ("\U0001f600".encode() * 200, "\U0001f600" * 120 + "... (800 bytes)"),
    ],
)
def test_bytes_are_shown_printable_and_short(content: bytes | None, said: str) -> None:
    assert shown(content) == said


@given(st.text())
def test_nothing_unprintable_is_left(text: str) -> None:
    assert printable(text).isprintable()
