"""A stream of images from records to alerts: what is strange is found, where it is is told, polls do not matter."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.evaluation import auroc
from models.files import from_files, to_files
from models.fitting import fit_detector
from models.plan import plan_of
from models.spec import ImageShape, ModelSpec
from pipeline.errors import ConfigError
from pipeline.feedback import Feedback
from pipeline.incident_log import deviation_of
from pipeline.lanes import read_version
from pipeline.protocols import ModelVersion, PartitionRecords
from pipeline.stages.alerts import Alert
from pipeline.stages.scoring import images_at_once
from tests.images import IMAGES, SHAPE, Pixels, digits, image_detector, image_lane, png, upside_down
from tests.records import PLACE, Record
from tests.streams import BEGIN_MS, CPU

USUAL, STRANGE = digits()[0][1_200:1_600], upside_down(digits()[0][1_600:1_640])


def records_of(x_NF: Pixels) -> list[Record]:
    return [Record(n, BEGIN_MS + 1000 * n, None, png(x_F)) for n, x_F in enumerate(x_NF)]


def spoiled(row: int, column: int = 0) -> Pixels:
    """Return a usual image with a spot that does not belong."""
    x_HW: Pixels = USUAL[5].copy().reshape(8, 8)
    x_HW[row : row + 4, column : column + 2] = 255
    return x_HW.reshape(1, -1)


def run(records: Sequence[Record], cuts: Sequence[int] = ()) -> tuple[list[float], list[Alert]]:
    pipeline = image_lane().pipeline
    edges = sorted({0, len(records), *(cut for cut in cuts if cut < len(records))})
    outcomes = [pipeline.process([PartitionRecords(PLACE, records[a:b])]) for a, b in pairwise(edges)]
    scores = [score for outcome in outcomes for score in outcome.scored.score_M.tolist()]
    return scores, [alert for outcome in outcomes for alert in outcome.alerts]


def test_strange_images_are_told_from_usual_ones() -> None:
    """None of them was seen in training; upside down they are as bright on the whole as many are."""
    scores, alerts = run(records_of(np.concatenate([USUAL, STRANGE])))
    strange_N = np.arange(len(scores)) >= len(USUAL)
    assert auroc(strange_N, np.array(scores)) > 0.99
    assert len({alert.offset for alert in alerts if alert.offset >= len(USUAL)}) > 0.9 * len(STRANGE)
    assert sum(alert.offset < len(USUAL) for alert in alerts) <= 8


def test_an_alert_tells_where_and_stays_small() -> None:
    _, (alert,) = run(records_of(np.concatenate([USUAL[:5], spoiled(4)])))
    assert (alert.offset, alert.series) == (5, "")
    assert len(msgspec.json.encode(alert)) < 5_000
    (one, other), view = list(alert.features)[:2], next(iter(alert.features.values()))
    assert {one, other} == {"rows 4-5, columns 0-1", "rows 6-7, columns 0-1"}
    assert (view.observed, view.share > 0.2) == (255.0, True)
    assert view.expected < 150
    assert sum(each.share for each in alert.features.values()) == pytest.approx(1, abs=1e-3)
    assert not isinstance(alert.pixels, msgspec.UnsetType)
    assert {(each.row, each.column) for each in alert.pixels[:6]} <= {
        (row, n) for row in range(4, 8) for n in (0, 1)
    }


@settings(max_examples=8, deadline=None)
@given(cuts=st.lists(st.integers(1, 119), max_size=6))
def test_polls_do_not_matter(cuts: list[int]) -> None:
    records = records_of(np.concatenate([USUAL[:100], STRANGE[:20]]))
    assert run(records, cuts) == run(records)


def test_chunks_of_large_images_are_of_fewer() -> None:
    sizes = [ImageShape(8, 8, 1), ImageShape(128, 128, 1), ImageShape(295, 295, 3), ImageShape(512, 512, 1)]
    assert [images_at_once(size, CPU) for size in sizes] == [32, 32, 2, 2]
    assert [images_at_once(size, torch.device("cuda")) for size in sizes] == [256, 256, 16, 16]


def test_files_give_the_same_scores_and_say_little() -> None:
    files = to_files(image_detector())
    assert b"column" not in files["manifest.json"]
    again = from_files(files)
    assert again.spec == ModelSpec("images", SHAPE.names, 1, SHAPE)
    x_NF: Any = USUAL[:50]
    assert np.array_equal(again.score_rows(x_NF), image_detector().score_rows(x_NF))


def test_a_model_of_another_size_is_refused() -> None:
    model = ModelVersion("camera", "v1", to_files(image_detector()))
    larger = IMAGES.model_copy(update={"image": IMAGES.image.model_copy(update={"width": 16})})  # type: ignore[union-attr]
    with pytest.raises(ConfigError) as caught:
        read_version(model, larger)
    assert "images of 64 values, up to row7.column7" in str(caught.value)
    assert len(str(caught.value)) < 300


def test_feedback_knows_the_place_of_a_false_alarm() -> None:
    """An image like the one that was marked is excused; one that is strange elsewhere is not."""
    records = records_of(np.concatenate([spoiled(4), spoiled(4), spoiled(0)]))
    pipeline = image_lane().pipeline
    (marked,) = pipeline.process([PartitionRecords(PLACE, records[:1])]).alerts
    said = Feedback(
        *(1, marked.incident, "false_alarm", "ann@desk", BEGIN_MS, "camera", "", *PLACE, BEGIN_MS, BEGIN_MS),
        *(marked.score, marked.threshold, [deviation_of(marked.features, 0)]),
    )
    pipeline.adopt_feedback(PLACE, 1, {marked.incident: said})
    told = pipeline.process([PartitionRecords(PLACE, records[1:])])
    assert [alert.offset for alert in told.alerts] == [2]
    assert told.excused == 1


@pytest.mark.parametrize(
    ("kind", "image", "features"),
    [("images", None, ("a",)), ("features", SHAPE, SHAPE.names), ("images", SHAPE, ("a",))],
)
def test_a_spec_has_a_size_where_it_is_of_images(
    kind: Any, image: ImageShape | None, features: tuple[str, ...]
) -> None:
    with pytest.raises(ValueError, match="images"):
        ModelSpec(kind, features, 1, image)


def test_other_architectures_read_images_too() -> None:
    x_NF: Any = digits()[0][:300]
    columns = {"": (BEGIN_MS + np.arange(300), x_NF)}
    for name in ("linear", "variational"):
        plan = plan_of("images", SHAPE.values, name, {"max_epochs": 1})
        detector = fit_detector("images", SHAPE.names, plan, columns, device=CPU, image=SHAPE)
        strange: Any = upside_down(digits()[0][300:340])
        assert np.median(detector.score_rows(strange)) > np.median(detector.score_rows(x_NF)) + 10
    with pytest.raises(ValueError, match="recurrent takes series"):
        fit_detector(
            "images", SHAPE.names, plan_of("images", 64, "recurrent", {}), columns, device=CPU, image=SHAPE
        )
