"""Segments: cut, joined again, and what is refused."""

import pytest
import torch

from dvae_lib.data import cut_into_segments, join_segments


@pytest.mark.parametrize("shape", [(7, 4), (2, 7, 4), (3, 2, 7, 4)])
def test_segments_are_frames_one_after_the_other(shape):
    x = torch.randn(*shape)
    segments = cut_into_segments(x, 3)
    assert segments.shape == (*shape[:-2], 2, 12)
    assert torch.equal(segments[..., 1, 4:8], x[..., 4, :])
    assert torch.equal(join_segments(segments, 3), x[..., :6, :])


def test_what_is_shorter_than_a_segment_is_refused():
    with pytest.raises(ValueError, match="a segment has 8 frames, and the sequence has 7: leave it out"):
        cut_into_segments(torch.zeros(2, 7, 4), 8)
    assert cut_into_segments(torch.zeros(7, 4), 7).shape == (1, 28)


@pytest.mark.parametrize("frames", [0, -1, True])
def test_numbers_of_frames_that_make_no_segment(frames):
    with pytest.raises(ValueError, match="frames must be an integer of at least 1"):
        cut_into_segments(torch.zeros(7, 4), frames)
    with pytest.raises(ValueError, match="frames must be an integer of at least 1"):
        join_segments(torch.zeros(7, 4), frames)
    with pytest.raises(ValueError, match="multiple of its 3 frames long; got 4"):
        join_segments(torch.zeros(7, 4), 3)
