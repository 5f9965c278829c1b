"""The numbers that all models gave before their public methods moved to the base class: they are the same numbers."""

import json

import pytest
import recorded
import torch

KNOWN = json.loads(recorded.FILE.read_text(encoding="utf-8"))
CASES = {label: (name, options) for label, name, options in recorded.cases()}


def test_every_variant_was_recorded():
    assert set(KNOWN) == set(CASES)
    assert sum(map(len, KNOWN.values())) == 805


@pytest.mark.parametrize("label", CASES)
def test_numbers_are_those_recorded(label):
    """In double precision, of which other processors and versions of torch may round the last digits otherwise."""
    found = recorded.numbers(recorded.make(*CASES[label]))
    assert found.keys() == KNOWN[label].keys()
    for name, value in found.items():
        size, *sums = recorded.summary(value)
        assert size == KNOWN[label][name][0], name
        expected = torch.tensor(KNOWN[label][name][1:], dtype=torch.float64)
        torch.testing.assert_close(torch.tensor(sums, dtype=torch.float64), expected, rtol=1e-9, atol=1e-9, msg=name)
