import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dvae_lib.enhancement.pieces import cross_faded, cuts, weights


@settings(deadline=None)
@given(length=st.integers(1, 500), longest=st.integers(4, 60), data=st.data())
def test_pieces_cover_the_recording_and_none_is_short(length, longest, data):
    overlap = data.draw(st.integers(1, longest // 4))
    places = cuts(length, longest, overlap)
    assert places[0][0] == 0
    assert places[-1][1] == length
    sizes = {stop - start for start, stop in places}
    assert len(sizes) == 1
    assert max(sizes) <= longest
    assert len(places) == 1 or min(sizes) > longest / 2
    assert all(before[1] - after[0] >= overlap for before, after in pairwise(places))
    assert len(places) == max(1, math.ceil((length - overlap) / (longest - overlap)))  # no more than it takes


@settings(deadline=None)
@given(length=st.integers(1, 300), longest=st.integers(4, 60), share=st.integers(4, 15))
def test_what_is_cut_and_joined_is_the_recording(length, longest, share):
    places = cuts(length, longest, max(1, longest // share))
    signal = torch.randn(2, length, dtype=torch.float64)
    parts = list(cross_faded((signal[:, start:stop] for start, stop in places), places))
    torch.testing.assert_close(torch.cat(parts, -1), signal)
    total = torch.zeros(length, dtype=torch.float64)
    for (start, stop), weight in zip(places, weights(places), strict=True):
        assert weight.min() >= 0
        total[start:stop] += weight
    torch.testing.assert_close(total, torch.ones(length, dtype=torch.float64))


def test_one_piece_gives_way_to_the_next_without_a_jump():
    places = [(0, 100), (60, 160)]
    ones, twos = torch.ones(100), torch.full((100,), 2.0)
    joined = torch.cat(list(cross_faded([ones, twos], places)))
    assert joined[:60].eq(1).all()
    assert joined[100:].eq(2).all()
    assert (joined.diff() >= 0).all()
    assert joined.diff().max() < 0.04
    assert joined[79:81].mean().item() == pytest.approx(1.5, abs=1e-6)
    np.testing.assert_allclose(joined[60:100] - 1, weights(places)[1][:40], atol=1e-6)


def test_an_overlap_needs_room():
    for longest, overlap in ((10, 3), (10, 0)):
        with pytest.raises(ValueError, match="at least four times as long"):
            cuts(100, longest, overlap)
