"""Scores on the GPU are those of the CPU; the hot path copies nothing back but scores."""

import pytest
import torch

from models import architectures
from models.files import from_files, to_files
from pipeline.lanes import build_lane
from pipeline.protocols import PartitionRecords, TopicPartition
from tests.pipeline.test_streams import records_of, scores
from tests.streams import (
    CPU,
    FEATURES,
    SERIES,
    feature_payloads,
    features_detector,
    series_detector,
    series_payloads,
)

pytestmark = pytest.mark.gpu
GPU = torch.device("cuda")


@pytest.mark.parametrize("architecture", architectures.available())
def test_a_detector_agrees_with_the_cpu(architecture: str) -> None:
    files = to_files(series_detector(architecture))
    z_BTF = torch.randn(512, 8, 2)
    with torch.no_grad():
        here = from_files(files).read(z_BTF)
        there = from_files(files).to(GPU).read(z_BTF.to(GPU))
    torch.testing.assert_close(there.error_BV.cpu(), here.error_BV, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(there.expected_BF.cpu(), here.expected_BF, atol=1e-4, rtol=1e-4)


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
