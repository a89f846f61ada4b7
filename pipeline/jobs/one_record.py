"""One record of an input, found by what names it: the partition and the offset, or the file and its row there.

Legend: F features.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from models.arrays import FloatArray
from pipeline.connectors.parquet import Coded
from pipeline.errors import ConfigError
from pipeline.jobs.blocks import Block

_PLACE, _WHERE = ("partition", "offset", "row"), ("file", "file_row")


class OneRecord:
    """Looks out for the record as blocks go by."""

    def __init__(self, option: str, text: str, names: Sequence[str]) -> None:
        """Take what a user has written, `PARTITION/OFFSET`, or `PARTITION/OFFSET/ROW`; of files `FILE/ROW`.

        Args:
            option: it was written behind.
            names: of the input's columns.

        Raises:
            ConfigError: it names no record of such an input.
        """
        self._said = f"{option} {text}"
        self.found_F: FloatArray | None = None
        place = [name for name in _PLACE if name in names]
        self._wanted: Mapping[str, Any]
        if "offset" in place:
            how = "/".join(name.upper() for name in place)
            given = text.split("/")
            if len(given) == len(place) - 1 and place[-1] == "row":
                given.append("0")
            self._wanted = dict(zip(place, map(self._number, given), strict=False))
            if len(given) != len(place) or None in self._wanted.values():
                raise ConfigError(f"{self._said}: name a record of these rows as {how}, in whole numbers")
        else:
            file, _, row = text.rpartition("/")
            self._wanted = {"file": file, "file_row": self._number(row)}
            if not file or self._wanted["file_row"] is None:
                raise ConfigError(
                    f"{self._said}: name a record of these files as FILE/ROW, its rows counted from 0"
                )

    def look_at(self, block: Block) -> None:
        matching_N = np.ones(len(block), np.bool_)
        for name, wanted in self._wanted.items():
            column = block.columns[name]
            if isinstance(column, Coded):
                code = list(column.names).index(wanted) if wanted in column.names else -1
                matching_N &= column.code_N == code
            else:
                matching_N &= column == wanted
        if matching_N.any():
            self.found_F = block.values_NF[int(matching_N.argmax())].copy()

    def record(self, what: str) -> FloatArray:
        """Return the record.

        Raises:
            ConfigError: it was not there, or lacks a number.
        """
        if self.found_F is None:
            raise ConfigError(f"{self._said}: {what} has no such record; ask for more time, or see its columns")
        if not Block({}, self.found_F[None]).usable_N[0]:
            raise ConfigError(f"{self._said}: this record lacks a number for some feature; name another one")
        return self.found_F

    @staticmethod
    def _number(text: str) -> int | None:
        return int(text) if text.isascii() and text.isdigit() else None
