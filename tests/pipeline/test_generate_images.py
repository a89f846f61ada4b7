"""`offkey generate` on a stream of images, and variations of one record: as users run it, and refused."""

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from models.arrays import FloatArray
from models.files import to_files
from models.spec import ImageShape
from pipeline.connectors.snapshots import StoredSnapshots
from pipeline.connectors.storage import ObjectStorage
from pipeline.protocols import OffsetRange
from tests.commands import configured, only_line
from tests.generating import Run, runner
from tests.images import COLOURED, IMAGES, SHAPE, Pixels, coloured, digits, image_detector
from tests.snapshots import rows_of
from tests.streams import BEGIN_MS, FEATURES, feature_rows

LEARNED = 400


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Snapshots of digits in grey, of digits in colour, and of records of three features."""
    camera = IMAGES.model_dump(mode="json", exclude_unset=True)
    colour = {**camera, "topic": "colours", "format": "arrow", "image": COLOURED._asdict()}
    payments = FEATURES.model_dump(mode="json", exclude_unset=True)
    path = configured(tmp_path, streams={"camera": camera, "colour": colour, "payments": payments})
    keep(tmp_path, "camera", digits()[0][:LEARNED], SHAPE)
    keep(tmp_path, "colour", coloured()[:100], COLOURED)
    keep(tmp_path, "payments", np.round(feature_rows(300, 3), 1), None)
    return path


def keep(folder: Path, stream: str, x_NF: Pixels | FloatArray, shape: ImageShape | None) -> None:
    names = ("a", "b", "c") if shape is None else shape.names
    time_ms = BEGIN_MS + 1000 * np.arange(len(x_NF))
    made = rows_of(cast(FloatArray, x_NF[:, None]), time_ms, None, names)
    if shape is not None:
        made = replace(made, image=shape)
    storage = ObjectStorage((folder / "storage").as_uri())
    StoredSnapshots(storage).write(stream, made, OffsetRange(0, len(x_NF)), int(time_ms[-1]))


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], config: Path) -> Run:
    return runner(monkeypatch, capsys, config, epochs=3)


def pixels_of(path: Path) -> tuple[Any, FloatArray]:
    """Return a file's table, and its images in grey, x_NF."""
    table = pyarrow.parquet.read_table(path)
    images = [Image.open(io.BytesIO(value)) for value in table["image"].to_pylist()]
    assert {image.format for image in images} == {"PNG"}
    return table, np.stack([np.asarray(image, np.float64).reshape(-1) for image in images])


def test_images_come_out_as_records_with_their_faults_and_how_true_they_are(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code, said, err = run("camera", "--output", str(out), "--rows", "120", "--inject", "6", "--seed", "3")
    assert code == 0, err
    assert "camera: 120 images of 8 x 8 pixels of 1 channel, in" in said
    assert "camera: like 320 of 400 images; trained for it" in said
    table, made_NF = pixels_of(out / "images.parquet")
    assert table.column_names == ["label", "image"]
    label_N = np.array(table["label"])
    labels = [json.loads(line) for line in (out / "anomalies.jsonl").read_text().splitlines()]
    assert [each["fault"] for each in labels].count("cover") == 2
    assert sorted(each["begin"] for each in labels) == np.flatnonzero(label_N).tolist()
    # The same ones without faults differ there, within the rows and columns that are told, and nowhere else.
    plain = tmp_path / "plain"
    assert run("camera", "--output", str(plain), "--rows", "100", "--seed", "3", "--no-report")[0] == 0
    usual_NF = pixels_of(plain / "images.parquet")[1]
    differ_NF = made_NF[:100] != usual_NF
    assert np.flatnonzero(differ_NF.any(axis=1)).tolist() == np.flatnonzero(label_N[:100]).tolist()
    for each in labels:
        if each["begin"] < 100:
            where = np.argwhere(differ_NF[each["begin"]].reshape(8, 8))
            assert np.stack([where.min(axis=0), where.max(axis=0)], axis=1).tolist() == [
                each["rows"],
                each["columns"],
            ]
    assert not (plain / "anomalies.jsonl").exists()
    # Dark where digits are always dark, and as bright as they are.
    x_NF = digits()[0][:LEARNED].astype(np.float64)
    assert np.abs(usual_NF.mean(axis=0) - x_NF.mean(axis=0)).mean() < 12
    assert np.corrcoef(usual_NF.std(axis=0), x_NF.std(axis=0))[0, 1] > 0.95
    copies = {x_F.tobytes() for x_F in x_NF}
    assert not [x_F for x_F in usual_NF if x_F.tobytes() in copies]
    fidelity = json.loads((out / "report.json").read_text())["fidelity"]
    assert fidelity["of"] == "images"
    assert "mean of rows 0-1, columns 2-3" in fidelity["marginals"]
    assert fidelity["privacy"]["copies"] == 0
    assert 0.5 * fidelity["privacy"]["median_among_training"] < fidelity["privacy"]["median"] < 60
    assert fidelity["two_sample"]["auroc"] < 0.95
    assert "data:image/png;base64," in (out / "report.html").read_text()


def test_a_stream_of_tensors_gets_tensors(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code, _, err = run("colour", "--output", str(out), "--rows", "20", "--no-report")
    assert code == 0, err
    column = pyarrow.parquet.read_table(out / "images.parquet")["image"].combine_chunks()
    x_NHWC = pyarrow.ExtensionArray.from_storage(column.type, column.storage).to_numpy_ndarray()
    assert (x_NHWC.shape, x_NHWC.dtype) == ((20, 8, 8, 3), np.uint8)
    # The third channel is the first one turned about, in what was learned and in what was made.
    assert np.corrcoef(x_NHWC[..., 0].ravel(), x_NHWC[..., 2].ravel())[0, 1] < -0.8


def test_variations_of_one_image_lie_around_it(run: Run, tmp_path: Path) -> None:
    x_F = digits()[0][7].astype(np.float64)
    off = []
    for strength in ("0", "0.5", "2"):
        out = tmp_path / strength
        asked = ["--like", "0/7", "--variations", "8", "--strength", strength, "--no-report"]
        code, said, err = run("camera", "--output", str(out), *asked)
        assert code == 0, err
        assert f"camera: 8 variations of image 0/7, strength {strength}, " in said
        table, varied_NF = pixels_of(out / "variations.parquet")
        assert table.column_names == ["variation", "label", "image"]
        off.append(float(np.abs(varied_NF - x_F).mean()))
    assert off[0] == 0 < off[1] < off[2]


def test_variations_of_one_record_lie_around_it_on_the_grid(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    asked = ["--like", "0/12/0", "--variations", "5", "--strength", "0.3", "--no-report"]
    code, said, err = run("payments", "--output", str(out), *asked)
    assert code == 0, err
    assert "payments: 5 variations of record 0/12/0, strength 0.3" in said
    table = pyarrow.parquet.read_table(out / "variations.parquet").to_pydict()
    assert list(table) == ["variation", "label", "a", "b", "c"]
    own_NF = np.round(feature_rows(300, 3), 1)
    off_N = np.array(table["a"]) - own_NF[12, 0]
    assert 0 < np.abs(off_N).mean() < 0.5 * own_NF[:, 0].std()
    assert np.allclose(np.array(table["a"]) * 10, np.rint(np.array(table["a"]) * 10))
    file = tmp_path / "rows.parquet"
    pyarrow.parquet.write_table(pyarrow.table(dict(zip("abc", own_NF.T, strict=True))), file)
    other = ["--input", str(file), "--like", "rows.parquet/12", *asked[2:]]
    assert run("payments", "--output", str(tmp_path / "of_file"), *other)[0] == 0
    again = pyarrow.parquet.read_table(tmp_path / "of_file" / "variations.parquet").to_pydict()
    assert np.abs(np.array(again["a"]) - own_NF[12, 0]).mean() < 0.5 * own_NF[:, 0].std()


REFUSED = [
    ("camera", ["--like", "0/9999"], "--like 0/9999: stream camera has no such record"),
    ("camera", ["--like", "seven"], "--like seven: name a record of these rows as PARTITION/OFFSET/ROW, in whole"),
    ("camera", ["--at", "1h"], "--at: records of `kind: images` belong to no series; leave it out; --like names"),
    ("camera", ["--inject", "1", "--fault", "spike"], "--fault spike: images have cover, noise, shade"),
    ("camera", ["--inject", "1", "--points", "2"], "--points 2: a record of `kind: images` is judged by itself"),
    ("camera", ["--like", "0/7", "--inject", "1"], "--inject: variations take no anomalies; leave --like or"),
    ("camera", ["--like", "0/7", "--rows", "5"], "--rows: variations are as long as what is varied"),
]


@pytest.mark.parametrize(("stream", "options", "text"), REFUSED, ids=[each[2][:24] for each in REFUSED])
def test_mistakes_are_one_line(run: Run, tmp_path: Path, stream: str, options: list[str], text: str) -> None:
    code, _, err = run(stream, "--output", str(tmp_path / "out"), *options)
    assert code == 2
    assert only_line(err).startswith(text)
    assert not list(tmp_path.glob("*out*"))


def test_a_model_that_cannot_sample_is_refused_with_what_to_do(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for name, content in to_files(image_detector()).items():
        (folder / name).write_bytes(content)
    code, _, err = run("camera", "--output", str(tmp_path / "out"), "--model", str(folder))
    assert code == 2
    assert "a convolutional model cannot sample; leave it out, and a variational one is trained" in only_line(err)
    code, _, err = run("colour", "--output", str(tmp_path / "out"), "--model", str(folder))
    assert code == 2
    assert "it is for images of 8 x 8 pixels of 1 channel, and these are of 8 x 8 pixels of 3 channels" in err
