"""What is built from a configuration: the default's views, and every option written out."""

from typing import Any

import pytest

from models.plan import plan_of
from models.views import ViewConfig


def test_the_default_is_three_views_of_a_linear_autoencoder() -> None:
    plan = plan_of("series", 5, "default", {})
    assert [(view.window, view.inputs, view.judged, view.measure) for view in plan.views] == [
        (50, "values", 50, "features"),
        (50, "centred", 50, "whole"),
        (32, "values and differences", 3, "features"),
    ]
    assert [view.fade for view in plan.views] == [0.05, 0.05, 0.1]
    assert [view.offset for view in plan.views] == [0.4, 0.8, 0.0]
    assert {view.architecture for view in plan.views} == {"linear"}
    assert plan.window == 50


def test_one_feature_is_looked_at_longer_and_forgotten_more_slowly() -> None:
    one, many = plan_of("series", 1, "default", {}), plan_of("series", 2, "default", {})
    assert [view.window for view in one.views] == [50, 128, 32]
    assert [view.judged for view in one.views] == [50, 128, 3]
    assert [view.offset for view in one.views] == [0.0, 0.0, 0.0]
    for alone, among in zip(one.views, many.views, strict=True):
        assert alone.fade is not None
        assert among.fade is not None
        assert alone.fade < among.fade
    assert one.window == 128


@pytest.mark.parametrize(
    ("architecture", "network", "inputs"),
    [("default", "denoising", "compressed"), ("linear", "linear", "values")],
)
def test_records_of_features_have_one_view_without_a_memory(architecture: str, network: str, inputs: str) -> None:
    (view,) = plan_of("features", 3, architecture, {}).views
    assert (view.architecture, view.window, view.inputs, view.judged, view.fade) == (network, 1, inputs, 1, None)


@pytest.mark.parametrize(
    ("architecture", "options", "written"),
    [
        ("default", {}, {"latent": 16}),
        ("default", {"latent": 5}, {"latent": 5}),
        ("default", {"network": "vanilla", "hidden": 9}, {"hidden": 9, "latent": 8}),
        ("vanilla", {"latent": 3}, {"hidden": 64, "latent": 3}),
    ],
)
def test_options_are_written_out(architecture: str, options: dict[str, Any], written: dict[str, Any]) -> None:
    plan = plan_of("series", 2, architecture, {**options, "seed": 7, "max_epochs": 2})
    assert [dict(view.options) for view in plan.views] == [written] * len(plan.views)
    assert (plan.training.seed, plan.training.max_epochs) == (7, 2)


def test_what_is_left_out_of_a_view_is_as_for_a_single_architecture() -> None:
    (single,) = plan_of("series", 2, "linear", {"latent": 3}, 9).views
    chosen = plan_of("series", 2, "default", {"latent": 3}, views=[{"window": 9}, {"window": 2}]).views
    assert chosen[0] == single
    assert chosen[1].judged == 2
    (other,) = plan_of("series", 2, "default", {}, views=[{"window": 9, "architecture": "recurrent"}]).views
    assert other.architecture == "recurrent"


@pytest.mark.parametrize("window", [None, 2, 64])
def test_a_named_architecture_is_one_view_of_its_window(window: int | None) -> None:
    plan = plan_of("series", 2, "vanilla", {}, window)
    assert plan.window == plan.views[0].window == (window or 32)
    assert len(plan.views) == 1


@pytest.mark.parametrize("judged", [0, 5])
def test_a_view_judges_rows_that_it_sees(judged: int) -> None:
    with pytest.raises(ValueError, match=f"a view of 4 rows judges 1 to 4 of them, not {judged}"):
        ViewConfig("linear", {}, 4, judged=judged)


@pytest.mark.parametrize(("key", "value"), [("inputs", "raw"), ("measure", "all")])
def test_a_view_takes_known_kinds_only(key: str, value: str) -> None:
    with pytest.raises(ValueError, match=f"{key} '{value}' is none of: "):
        ViewConfig("linear", {}, 4, **{key: value})  # type: ignore[arg-type]


def test_a_view_with_an_unknown_key_names_the_nearest_one() -> None:
    with pytest.raises(ValueError, match="a view has no key 'ofset'; did you mean 'offset'"):
        plan_of("series", 2, "default", {}, views=[{"window": 8, "ofset": 1.0}])


@pytest.mark.parametrize("architecture", ["default", "vanilla"])
def test_features_train_more_slowly_unless_somebody_says_otherwise(architecture: str) -> None:
    series, features = (plan_of(kind, 2, architecture, {}).training for kind in ("series", "features"))
    assert (features.batch_windows, features.learning_rate) == (4 * series.batch_windows, series.learning_rate / 2)
    assert features.patience > features.max_epochs * features.epoch_windows
    assert plan_of("features", 2, architecture, {"batch_windows": 64}).training.batch_windows == 64


def test_batches_of_large_images_are_of_fewer() -> None:
    """What a convolution makes of one of 512 x 512, with its gradients, is 160 MiB."""
    batches = [plan_of("images", side**2, "default", {}).training.batch_windows for side in (8, 128, 256, 512)]
    assert batches == [64, 64, 32, 8]
    assert plan_of("images", 512**2, "default", {"batch_windows": 64}).training.batch_windows == 64
