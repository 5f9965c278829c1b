import pytest
import torch

from dvae_lib.data import SequenceDataset, Standardizer, marks, same_marks, seen_before


def walks(number: int, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(20 + i, 3, generator=generator, dtype=torch.float64).cumsum(0) for i in range(number)]


@pytest.mark.parametrize("length", [None, 8])
def test_recordings_are_known_again_by_their_values(length):
    trained, new = walks(30), walks(10, seed=1)
    # As UTM coordinates are: without standardisation all of them would look alike.
    trained, new = [x + 5e6 for x in trained], [x + 5e6 for x in new]
    block = torch.cat(trained)
    standardizer = Standardizer.fit([block])
    data = SequenceDataset(trained, sequence_length=length, standardizer=standardizer, dtype=torch.float64)
    assert len(marks(data)) == 30  # one for each recording, however it was cut
    mixed = [trained[3], new[0], trained[29], *new[1:]]
    other = SequenceDataset(mixed, standardizer=standardizer, dtype=torch.float64)
    assert seen_before(other, marks(data), length) == [True, False, True, *[False] * 9]
    assert seen_before(other, [], length) == [False] * 12


def test_another_machine_rounds_otherwise():
    data = SequenceDataset(walks(5))
    near = [[number * (1 + 2e-6) for number in mark] for mark in marks(data)]
    assert seen_before(data, near, None) == [True] * 5
    assert same_marks(near, marks(data))
    assert not same_marks(near[:4], marks(data))
    assert not same_marks(near[::-1], marks(data))


def test_a_part_of_the_sequences():
    data = SequenceDataset(walks(5), names=list("abcde"), sequence_length=8)
    some = data.select([0, 3])
    assert some.names == (data.names[0], data.names[3])
    assert torch.equal(some[1], data[3])
    assert (len(some), some.num_frames) == (2, 16)
    for wrong in ([], [-1], [len(data)]):
        with pytest.raises(ValueError, match="Indices lie between"):
            data.select(wrong)
