"""Files that hold no configuration, or hold it by rarer means of YAML: aliases, merges, marks."""

from importlib.resources import files
from pathlib import Path

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import load_settings
from pipeline.errors import ConfigError
from tests.pipeline.configurations import GOOD, check_one_clear_line, each_of, write

MISTAKES = [
    ("a: [", ":1: not YAML: expected the node content, but found '<stream end>'"),
    (GOOD + "device: \x01cpu\n", ":4: not YAML: the character 0x1 may not stand here; take it out"),
    ("\x00", ":1: not YAML: the character 0x0 may not stand here"),
    (GOOD + "[a, b]: 1\n", ":4: a list or mapping is no key; write a name before the colon"),
    (GOOD + "? {a: 1}\n: 1\n", ":4: a list or mapping is no key; write a name before the colon"),
    (GOOD + "1: x\n", ":4: the key '1' is no text for YAML; put quotes around it"),
    (GOOD + "~: x\n", ":4: the key '~' is no text for YAML; put quotes around it"),
    ("streams:\n  on:\n    topic: t\n", ":2: the key 'on' in streams is no text for YAML; put quotes around it"),
    (GOOD + "    ? \n    : 1\n", ":4: the key before the colon is empty in streams.machines; write a name there"),
    ("streams: &a\n  m: *a\n", ":1: streams.m holds itself by an alias; write its values out"),
    (GOOD + "    features: &f [*f]\n", ":4: streams.machines.features.0 holds itself by an alias"),
    ("a: " + "[" * 5000, ":1: lists or keys are nested too deep"),
    (GOOD + "    time: 2024-13-45\n", ":4: '2024-13-45' is no timestamp; mend it, or put quotes around it"),
    (GOOD + "    window: " + "9" * 5000, ":4: '99999"),
    (GOOD + "    window: !!int x\n", ":4: 'x' is no int; mend it, or put quotes around it"),
    (
        GOOD + "    window: !!python/object:os.system x\n",
        ":4: not YAML: could not determine a constructor for the tag",
    ),
    (GOOD + "---\n" + GOOD, ":4: not YAML: but found another document"),
    ("streams:\n\tm: 1\n", ":2: not YAML: found character '\\t' that cannot start any token"),
    ("", ": holds no settings; write some with: offkey init --force"),
    ("# nothing\n", ": holds no settings"),
    ("- 1\n", ": holds no settings"),
]


@each_of(MISTAKES)
def test_a_mistake_is_one_clear_line(text: str, said: str, tmp_path: Path) -> None:
    check_one_clear_line(tmp_path, text, said)


def test_aliases_may_not_unfold_without_end(tmp_path: Path) -> None:
    text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    for n in range(1, 20):
        text += f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n"
    with pytest.raises(ConfigError, match=r"more than 100,000 values, aliases unfolded; write fewer"):
        load_settings(write(tmp_path, text + GOOD))


def test_aliases_and_merges_are_taken(tmp_path: Path) -> None:
    text = (
        GOOD.replace("machines:", "machines: &first")
        + "    hold_points: 9\n  other:\n    <<: *first\n    topic: o\n"
    )
    settings = load_settings(write(tmp_path, text))
    assert (settings.streams["other"].topic, settings.streams["other"].hold_points) == ("o", 9)


@pytest.mark.parametrize("mark", [b"\xef\xbb\xbf", b""])
def test_a_byte_order_mark_is_no_mistake(mark: bytes, tmp_path: Path) -> None:
    path = tmp_path / "offkey.yaml"
    path.write_bytes(mark + GOOD.replace("\n", "\r\n").encode())
    assert load_settings(path).streams["machines"].topic == "metrics"


def test_a_file_that_cannot_be_read_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: is not there; write one with: offkey init"):
        load_settings(tmp_path / "none.yaml")
    with pytest.raises(
        ConfigError, match=r"cannot be read \(Is a directory\); name a file that this user may read"
    ):
        load_settings(tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"a: 1\n\xff\xfe")
    with pytest.raises(ConfigError, match=r"binary\.yaml:2: not UTF-8 text .*; save it as UTF-8"):
        load_settings(tmp_path / "binary.yaml")


@hypothesis.settings(max_examples=300, deadline=None)
@given(st.data())
def test_whatever_a_file_holds_is_settings_or_a_line_for_each_mistake(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    template = files("pipeline").joinpath("template.yaml").read_text()
    first = data.draw(st.integers(0, len(template)))
    last = data.draw(st.integers(first, min(first + 12, len(template))))
    odd = st.text(st.sampled_from("\x00\t\n :-?[]{}&*!|>'\"%@#~<,.019eaf_\ud7ff\ufeff"), max_size=12)
    path = tmp_path_factory.mktemp("any") / "offkey.yaml"
    path.write_text(template[:first] + data.draw(odd) + template[last:], "utf-8")
    try:
        load_settings(path)
    except ConfigError as error:
        for line in str(error).splitlines():
            assert line.startswith(f"{path}:")
            assert line.isprintable()
