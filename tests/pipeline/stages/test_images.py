"""Records of images become columns of bytes; a bad one is rejected alone, its bytes untouched."""

from typing import Any

import numpy as np
import pytest

from pipeline.fields import decoder_of
from pipeline.protocols import PartitionRecords
from pipeline.stages import dead_letters
from pipeline.stages.images import VALUES_AT_ONCE, ImageDecoder
from tests.images import COLOURED, IMAGES, SHAPE, coloured, digits, jpeg, png, tensors
from tests.records import NOW_MS, PLACE, Record, arrived, record

X_NF = digits()[0]
BAD = {
    "tombstone": record(None),
    "empty": record(b""),
    "too_large": record(png(X_NF[0]) + bytes(2_000_000)),
    "not_image": record(b"hello"),
    "bad_image": record(png(X_NF[0])[:-30]),
    "wrong_size": record(png(X_NF[0][:48], SHAPE._replace(width=6))),
    "wrong_mode": record(png(coloured()[0], COLOURED)),
    "bad_time": record(png(X_NF[0]), timestamp=-1),
}


def decoder(**changes: Any) -> ImageDecoder:
    found = decoder_of(IMAGES.model_copy(update=changes), SHAPE.names)
    assert isinstance(found, ImageDecoder)
    return found


def test_good_images_are_rows_of_bytes() -> None:
    records = arrived([record(png(x_F), key=None, timestamp=NOW_MS + n) for n, x_F in enumerate(X_NF[:9])])
    batch, rejects = decoder().decode(records)
    assert not rejects
    assert batch.values_NF.dtype == np.uint8
    assert np.array_equal(batch.values_NF, X_NF[:9])
    assert batch.time_ms_N.tolist() == [NOW_MS + n for n in range(9)]
    assert set(batch.series_of_rows) == {""}


@pytest.mark.parametrize("reason", BAD)
def test_a_bad_record_is_rejected_alone(reason: str) -> None:
    good = record(png(X_NF[1]))
    batch, (reject,) = decoder().decode(arrived([good, BAD[reason], good]))
    assert batch.offset_N.tolist() == [0, 2]
    assert (reject.reason, reject.record.offset) == (reason, 1)
    letter = dead_letters.message(reject, "dead")
    assert letter.value == BAD[reason].value
    assert dict(letter.headers)["__connect.errors.exception.class.name"] == f"offkey.{reason}".encode()


def test_a_record_of_tensors_is_taken_or_rejected_as_a_whole() -> None:
    good = [record(tensors(X_NF[:3])), record(tensors(X_NF[3:5]), timestamp=-1), record(tensors(X_NF[5:9]))]
    batch, rejects = decoder(format="arrow").decode(arrived(good))
    assert [(reject.reason, reject.row, reject.inner) for reject in rejects] == [("bad_time", 1, None)]
    assert np.array_equal(batch.values_NF, np.concatenate([X_NF[:3], X_NF[5:9]]))
    assert batch.offset_N.tolist() == [0, 0, 0, 2, 2, 2, 2]
    assert batch.place_in_record_N.tolist() == [0, 1, 2, 0, 1, 2, 3]


def test_jpegs_are_decoded() -> None:
    batch, rejects = decoder(format="jpeg").decode(arrived([record(jpeg(X_NF[0])), record(png(X_NF[0]))]))
    assert len(batch) == 1
    assert rejects[0].text == "it is no JPEG; it looks like PNG, set `format: png`"


def test_a_poll_is_cut_so_that_memory_holds_its_pixels() -> None:
    each: list[Record] = [record(tensors(X_NF[:1000]))] * 200
    polled = [arrived(each), PartitionRecords(PLACE._replace(partition=1), arrived(each).records)]
    parts = list(decoder(format="arrow").split(polled))
    assert len(parts) == 400 * 1000 * SHAPE.values // VALUES_AT_ONCE + 1 > 6
    held = [[record.offset for records in part for record in records.records] for part in parts]
    assert [offset for offsets in held for offset in offsets] == [*range(200), *range(200)]
    assert max(map(len, held)) * 1000 * SHAPE.values <= VALUES_AT_ONCE
