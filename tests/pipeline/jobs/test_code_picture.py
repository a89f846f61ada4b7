"""What the points of the picture of codes are coloured by."""

from pathlib import Path

import numpy as np
import pytest

from models.codes import Coder
from models.files import from_files
from pipeline.connectors.parquet import Coded
from pipeline.errors import ConfigError
from pipeline.jobs.blocks import Block
from pipeline.jobs.code_picture import colours
from pipeline.jobs.coding import read_files
from tests.reducing import drawn, model, run, write_rows

ROWS = 400


@pytest.fixture
def coder(tmp_path: Path) -> Coder:
    return Coder(from_files(read_files(model(tmp_path / "model"))))


@pytest.fixture
def sample() -> Block:
    x_NF = drawn(ROWS)
    # Each value is usual; together they are not.
    x_NF[:10] = np.random.default_rng(0).permuted(x_NF[:10], axis=0)
    x_NF[0] *= 1000
    return Block({"series": Coded(["a", "b"], np.arange(ROWS) % 2), "late": np.arange(ROWS) < 3}, x_NF)


def test_a_score_is_that_of_a_worker_that_serves_the_model(coder: Coder, sample: Block) -> None:
    score_S = colours(sample, coder, "score", np.zeros(ROWS))
    assert isinstance(score_S, np.ndarray)
    assert np.array_equal(score_S, np.minimum(coder.detector.score_rows(sample.values_NF), 100))
    assert score_S[0] == 100
    assert np.median(score_S[:10]) > 20 > np.quantile(score_S[10:], 0.95)


def test_a_column_is_taken_as_what_it_is(coder: Coder, sample: Block) -> None:
    error_S = np.linspace(0, 1, ROWS)
    assert colours(sample, coder, "series", error_S) is sample.columns["series"]
    late = colours(sample, coder, "late", error_S)
    assert isinstance(late, Coded)
    assert [late.names[code] for code in late.code_N[:4]] == ["late"] * 3 + ["not late"]
    assert np.array_equal(np.asarray(colours(sample, coder, "f2", error_S)), sample.values_NF[:, 2])
    assert np.allclose(np.asarray(colours(sample, coder, "error", error_S)), error_S, atol=1e-5)
    with pytest.raises(
        ConfigError, match="--color colour: there is no such column; there are score, error, series"
    ):
        colours(sample, coder, "colour", error_S)


def test_pictures_show_what_is_asked_for(tmp_path: Path) -> None:
    rows, made = write_rows(tmp_path / "rows.parquet", drawn(500)), model(tmp_path / "model")
    pictures = set()
    for colour in ("score", "error", "series", "f0"):
        run(rows, tmp_path / colour, made, picture=colour)
        pictures.add((tmp_path / colour / "picture.png").read_bytes())
    assert len(pictures) == 4
    assert all(content.startswith(b"\x89PNG") for content in pictures)
