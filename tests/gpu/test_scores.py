"""Scores on the GPU are those of the CPU; the hot path copies nothing back but scores.

Errors agree within 1e-4. Scores may differ by 1e-3, which asks for more, not less: a score is the error, a
logarithm, times the slope of its tail, 30 to 530 for these detectors: 1e-3 of it is 2e-6 to 3e-5 of an error.
"""

import numpy as np
import pytest
import torch

from models import architectures
from models.by_series import BySeries
from models.crossing import captured
from models.files import from_files, to_files
from models.online_tail import SERIES_PACE, OnlineTail, quantiles
from pipeline.lanes import build_lane
from pipeline.protocols import PartitionRecords, TopicPartition
from tests.pipeline.test_streams import PLACES, records_of, run, scores
from tests.streams import (
    CPU,
    FEATURES,
    SERIES,
    feature_payloads,
    features_detector,
    series_detector,
    series_payloads,
    series_rows,
)

pytestmark = pytest.mark.gpu
GPU = torch.device("cuda")


@pytest.mark.parametrize("architecture", [*architectures.available(), "views"])
def test_a_detector_agrees_with_the_cpu(architecture: str) -> None:
    files = to_files(series_detector(architecture))
    z_BTF = torch.randn(512, 8, 2)
    here, there = from_files(files), from_files(files).to(GPU)
    there_BV = there.errors(z_BTF.to(GPU)).cpu()
    torch.testing.assert_close(there_BV, here.errors(z_BTF), atol=1e-4, rtol=1e-4)
    on_cpu, on_gpu = here.explain(z_BTF), there.explain(z_BTF.to(GPU))
    # Where two views are nearly as strange, either may explain the row.
    same_B = (on_gpu.band_BF.cpu() == on_cpu.band_BF).all(dim=1)
    assert same_B.double().mean() > 0.99
    expected_BF = on_gpu.expected_BF.cpu()
    torch.testing.assert_close(expected_BF[same_B], on_cpu.expected_BF[same_B], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("architecture", ["vanilla", "views"])
def test_scores_of_a_whole_series_agree_with_the_cpu(architecture: str) -> None:
    files = to_files(series_detector(architecture))
    x_NF = series_rows(["a"], 300, 5, {"a": [60, 200]})[0]
    delays = (0, 3, None)
    here, there = (from_files(files).to(device).score_series("a", x_NF, delays) for device in (CPU, GPU))
    for delay in delays:
        assert there[delay] == pytest.approx(here[delay], abs=1e-3, rel=1e-4)


@pytest.mark.parametrize(("architecture", "delay"), [("vanilla", 3), ("views", 0), ("views", 3)])
def test_views_and_delays_of_a_stream_agree_with_the_cpu(architecture: str, delay: int) -> None:
    """The rings live on the device, and a state moves from one to the other."""
    settings = SERIES.model_copy(update={"alerts": SERIES.alerts.model_copy(update={"delay": delay})})
    files, place, records = (
        to_files(series_detector(architecture)),
        PLACES["machines"],
        records_of(series_payloads(100)),
    )
    here, there, moved = (
        build_lane("machines", settings, from_files(files), "v1", device).pipeline for device in (CPU, GPU, GPU)
    )
    cpu_scores, cpu_alerts = run(here, place, records, [150])
    gpu_scores, gpu_alerts = run(there, place, records, [150])
    assert gpu_scores.keys() == cpu_scores.keys()
    assert list(gpu_scores.values()) == pytest.approx(list(cpu_scores.values()), abs=1e-3, rel=1e-4)
    assert [alert.id for alert in gpu_alerts] == [alert.id for alert in cpu_alerts]
    first = build_lane("machines", settings, from_files(files), "v1", CPU).pipeline
    run(first, place, records[:150], [])
    moved.restore(place, [first.snapshot(place)])
    after, _ = run(moved, place, records[150:], [])
    assert list(after.values()) == pytest.approx([cpu_scores[offset] for offset in after], abs=1e-3, rel=1e-4)


def test_levels_are_accepted_with_the_same_points_as_on_the_cpu() -> None:
    random = np.random.default_rng(0)
    surprise = random.exponential(4.3, (8, 600)) + 60 * (np.arange(600) > 200)
    surprise[:, 500:] -= 60
    slot_K = np.arange(8).repeat(600)
    found = []
    for device in (CPU, GPU):
        initial = dict.fromkeys("abcdefgh", quantiles(np.zeros(0), SERIES_PACE))
        tail = OnlineTail(device, SERIES_PACE, BySeries.of(initial), accepting=True)
        tail.begin(np.arange(8), list(initial))
        tail.accept_after(np.arange(8), np.full(8, 200.0))
        whole_K = torch.from_numpy(surprise.ravel()).float()
        found.append([each.cpu() for each in tail.follow(slot_K, whole_K.to(device))])
    (here, accepted), (there, accepted_there) = found
    torch.testing.assert_close(there, here, atol=1e-3, rtol=1e-4)
    assert accepted.any()
    assert torch.equal(accepted_there, accepted)


@pytest.mark.parametrize("stream", ["machines", "payments"])
def test_a_stream_agrees_with_the_cpu(stream: str) -> None:
    settings, detector, payloads = {
        "machines": (SERIES, series_detector(), series_payloads(100)),
        "payments": (FEATURES, features_detector(), feature_payloads()),
    }[stream]
    records = PartitionRecords(TopicPartition(settings.topic, 0), records_of(payloads))
    outcomes = [
        build_lane(stream, settings, from_files(to_files(detector)), "v1", device).pipeline.process([records])
        for device in (CPU, GPU)
    ]
    here, there = (scores([outcome]) for outcome in outcomes)
    assert here.keys() == there.keys()
    assert list(there.values()) == pytest.approx(list(here.values()), abs=1e-3, rel=1e-4)
    assert [alert.id for alert in outcomes[1].alerts] == [alert.id for alert in outcomes[0].alerts]


@pytest.mark.parametrize(("architecture", "delay"), [("vanilla", 0), ("recurrent", 0), ("views", 0), ("views", 3)])
def test_a_step_never_waits_for_the_gpu_but_for_its_scores(architecture: str, delay: int) -> None:
    """The library refuses what would make the host wait; scores come back by an event, which it leaves alone."""
    settings = SERIES.model_copy(update={"alerts": SERIES.alerts.model_copy(update={"delay": delay})})
    detector = from_files(to_files(series_detector(architecture)))
    pipeline = build_lane("machines", settings, detector, "v1", GPU).pipeline
    records, place, alerts = records_of(series_payloads(100)), PLACES["machines"], 0
    pipeline.process([PartitionRecords(place, records[:100])])
    torch.cuda.set_sync_debug_mode("error")
    try:
        for low in range(100, len(records), 37):
            alerts += len(pipeline.process([PartitionRecords(place, records[low : low + 37])]).alerts)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert alerts


def test_windows_are_read_as_one_graph(caplog: pytest.LogCaptureFixture) -> None:
    for architecture in (*architectures.available(), "views"):
        detector = from_files(to_files(series_detector(architecture))).to(GPU)
        read = captured(detector.errors, (64, 8, 2), GPU)
        z_BTF = torch.randn(64, 8, 2, device=GPU)
        torch.testing.assert_close(read(z_BTF), detector.errors(z_BTF), atol=1e-5, rtol=1e-5)
        assert read != detector.errors, caplog.text


def test_equal_runs_on_the_gpu_are_equal() -> None:
    records = PartitionRecords(TopicPartition("metrics", 0), records_of(series_payloads(100)))
    runs = [
        scores(
            [
                build_lane("machines", SERIES, from_files(to_files(series_detector())), "v1", GPU).pipeline.process(
                    [records]
                )
            ]
        )
        for _ in range(2)
    ]
    assert runs[0] == runs[1]
