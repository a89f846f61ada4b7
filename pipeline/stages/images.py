"""Raw records of images -> one columnar `Batch` and a list of rejects.

A record holds one image or, of tensors, several, all of the size that the stream asks for. It is taken or rejected
as a whole. Its time is its Kafka timestamp, and it belongs to no series.

Legend: N images, F values of each.
"""

from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np

from models.arrays import FloatArray
from pipeline.formats.fields import Fields, ImageFormat, Malformed
from pipeline.protocols import PartitionRecords
from pipeline.stages.decode import REASONS, Batch, Candidates, Decoder, Reject, cut_up, places, unreadable

VALUES_AT_ONCE = 2**22
"""Most values of a poll that are in memory together: in 64 bits, where they are scaled, they are 32 MiB."""


class ImageDecoder(Decoder):
    """Decodes records of images."""

    def __init__(self, images: ImageFormat, values: int, **rules: Any) -> None:
        """`values` are those of one image; `rules` are those of `Decoder`."""
        super().__init__(Fields(()), stateless=True, **rules)
        self._images = images
        self._values = values

    def decode(self, arrived: PartitionRecords) -> tuple[Batch, list[Reject]]:
        """Decode consecutive records of one partition."""
        rejects: list[Reject] = []
        row, parts = list[int](), [np.empty((0, self._values), np.uint8)]
        for index, record in enumerate(arrived.records):
            value = record.value
            try:
                if not value or len(value) > self._max_record_bytes:
                    raise unreadable(value, self._max_record_bytes)
                found_NF = self._images.decode(value)
            except Malformed as error:
                rejects.append(Reject(arrived.partition, record, index, error.reason, str(error)))
                continue
            row.append(index)
            parts.append(found_NF)
        count_P = [len(part) for part in parts[1:]]
        row_N = np.repeat(np.array(row, np.int64), count_P)
        inner_N = np.concatenate([np.zeros(0, np.int64), *(np.arange(count) for count in count_P)])
        # Values of one byte are numbers: of the rules it is those of times that are left.
        no_value_N0 = np.zeros((len(row_N), 0))
        unusable, time_ms_N = self._judge(arrived, Candidates(row_N, no_value_N0, no_value_N0 > 0, None))
        bad_N = np.zeros(len(row_N), np.bool_)
        for reason, which_N in unusable.items():
            first = np.flatnonzero(which_N & ~bad_N & (inner_N == 0)).tolist()
            for index in row_N[first].tolist():
                rejects.append(Reject(arrived.partition, arrived.records[index], index, reason, REASONS[reason]))
            bad_N |= which_N
        rejects.sort(key=lambda reject: reject.row)
        # They stay in one byte as far as they go: what reckons with them makes 64 bits of it.
        values_NF = cast(FloatArray, np.concatenate(parts))
        if bad_N.any():
            good_N = ~bad_N
            values_NF, time_ms_N = values_NF[good_N], time_ms_N[good_N]
            row_N, inner_N = row_N[good_N], inner_N[good_N]
        code_N = np.zeros(len(row_N), np.int64)
        place_N = places(arrived.records, row_N)
        return Batch(arrived.partition, [""], time_ms_N, values_NF, row_N, *place_N, inner_N, code_N), rejects

    def split(self, arrived: Sequence[PartitionRecords]) -> Iterator[Sequence[PartitionRecords]]:
        """Cut a poll into parts of `VALUES_AT_ONCE` values or one record."""
        return cut_up(arrived, self._images.count, max(1, VALUES_AT_ONCE // self._values))
