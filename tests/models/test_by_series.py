import numpy as np
import pytest

from models.by_series import BySeries


def test_rows_are_found_by_name_and_unknown_ones_replaced() -> None:
    table = BySeries({"b": 1, "a": 0}, np.array([[1.0, 2.0], [3.0, 4.0]]))
    assert dict(table) == {"b": (3.0, 4.0), "a": (1.0, 2.0)}
    np.testing.assert_array_equal(table.take(["c", "a", "b"], (9.0, 8.0)), [[9, 8], [1, 2], [3, 4]])


def test_a_table_made_of_rows_keeps_them() -> None:
    rows = {"b": (3.0, 4.0), "a": (1.0, 2.0)}
    assert BySeries.of(rows) == rows


def test_an_empty_table_knows_nobody() -> None:
    table = BySeries.of({})
    assert len(table) == 0
    np.testing.assert_array_equal(table.take(["a"], (1.0, 2.0, 3.0)), [[1, 2, 3]])
    assert table.take([], (1.0, 2.0)).shape == (0, 2)


def test_as_many_rows_as_names() -> None:
    with pytest.raises(ValueError, match="there are 2 rows for 1 series"):
        BySeries({"a": 0}, np.zeros((2, 3)))
