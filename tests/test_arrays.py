"""Numbers as people have them, as tensors: compared with what NumPy says the values are."""

import array
from decimal import Decimal

import numpy as np
import pytest
import torch

from dvae_lib.arrays import as_tensor, whole_number

VALUES = np.array([[0, 1, 2], [3, 4, 5]])


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("kind", ["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16"])
def test_every_width_and_byte_order(kind: str, order: str) -> None:
    given = VALUES.astype(order + kind)
    got = as_tensor(given)
    np.testing.assert_array_equal(got.to(torch.complex128).numpy(), VALUES)
    # What comes out can be computed with.
    assert got.abs().sum() == VALUES.sum()


def test_wide_floats_and_booleans() -> None:
    assert as_tensor(VALUES.astype(np.longdouble)).dtype == torch.float64
    assert as_tensor(VALUES.astype(np.clongdouble)).dtype == torch.complex128
    assert as_tensor(VALUES > 2).dtype == torch.bool


def test_unsigned_integers_keep_their_values() -> None:
    assert as_tensor(np.array([65_535], np.uint16)).tolist() == [65_535]
    assert as_tensor(np.array([2**32 - 1], np.uint32)).tolist() == [2**32 - 1]
    assert as_tensor(np.array([2**63], np.uint64)).tolist() == [2.0**63]
    assert as_tensor(torch.tensor([65_535], dtype=torch.uint16)).dtype == torch.int32


def test_strides_and_read_only_memory() -> None:
    frozen = VALUES.astype(float)
    frozen.flags.writeable = False
    for given in (VALUES[::-1], VALUES[:, ::-1], VALUES.T, VALUES[:, ::2], np.broadcast_to(VALUES, (4, 2, 3)), frozen):
        np.testing.assert_array_equal(as_tensor(given).numpy(), given)


def test_memory_is_shared_where_it_can_be() -> None:
    given = np.zeros(3)
    got = as_tensor(given)
    got[0] = 1.0
    assert given[0] == 1.0
    tensor = torch.zeros(3)
    assert as_tensor(tensor) is tensor


def test_lists_and_other_arrays() -> None:
    assert as_tensor([[1, 2], [3, 4]]).tolist() == [[1, 2], [3, 4]]
    assert as_tensor((1.5, 2.5)).tolist() == [1.5, 2.5]
    assert as_tensor(array.array("d", [1.0, 2.0])).tolist() == [1.0, 2.0]
    assert as_tensor([Decimal("1.5"), Decimal(2)]).tolist() == [1.5, 2.0]
    assert as_tensor([torch.ones(2), torch.zeros(2)]).tolist() == [[1.0, 1.0], [0.0, 0.0]]
    assert as_tensor(3.5).ndim == 0


@pytest.mark.parametrize("wrap", [lambda m: m, lambda m: [m, m]], ids=["array", "list of arrays"])
def test_masked_values_are_refused_or_missing(wrap: object) -> None:
    given = wrap(np.ma.masked_equal([[1.0, 2.0], [3.0, -9999.0]], -9999.0))  # type: ignore[operator]
    with pytest.raises(ValueError, match=r"Walk holds \d masked value\(s\), the first at .*1, 1\]"):
        as_tensor(given, "Walk")
    missing = as_tensor(given, masked="nan").isnan()
    assert missing[..., 1, 1].all()
    assert missing.sum() == missing[..., 1, 1].numel()


def test_masked_integers_become_missing_floats() -> None:
    got = as_tensor(np.ma.masked_equal(np.array([1, 7], np.int16), 7), masked="nan")
    assert got[0] == 1
    assert got[1].isnan()
    assert as_tensor(np.ma.masked_equal(np.array([1, 7], np.int16), 8)).tolist() == [1, 7]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["a", "b"], "texts"),
        ([["1.5"]], "texts"),
        (np.array(["2024-01-01"], dtype="M8[s]"), "times"),
        (np.zeros(2, dtype=[("a", "f4"), ("b", "f4")]), "fields a, b"),
        ([[1, 2], [3]], "not an array of numbers"),
        (object(), "not an array of numbers"),
        (None, "not an array of numbers"),
        ({"a": 1}, "not an array of numbers"),
    ],
)
def test_what_is_no_array_of_numbers_is_named(given: object, message: str) -> None:
    with pytest.raises(TypeError, match=f"(?s)^Force .*{message}"):
        as_tensor(given, "Force")


def test_tables_of_pandas() -> None:
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame({"a": [1, 2], "b": [0.5, 1.5]}, index=[3, 7])
    assert as_tensor(table).tolist() == [[1.0, 0.5], [2.0, 1.5]]
    assert as_tensor(table["a"]).tolist() == [1, 2]
    missing = pandas.DataFrame({"a": pandas.array([1, None], dtype="Int64"), "b": [0.5, 1.5]})
    assert as_tensor(missing)[1].isnan().tolist() == [True, False]
    with pytest.raises(TypeError, match="'when'"):
        as_tensor(table.assign(when=pandas.date_range("2024", periods=2)))
    with pytest.raises(TypeError, match="texts"):
        as_tensor(pandas.DataFrame({"a": [1, 2], "who": ["x", "y"]}, dtype=object))


@pytest.mark.parametrize("wrong", [2.0, True, "3", None, torch.tensor(3)])
def test_what_counts_is_whole(wrong: object) -> None:
    with pytest.raises(ValueError, match="horizon must be a whole number, got"):
        whole_number(wrong, "horizon", 1)
    with pytest.raises(ValueError, match="horizon must be at least 1, got 0"):
        whole_number(np.int8(0), "horizon", 1)
