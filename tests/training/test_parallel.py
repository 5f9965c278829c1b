import pytest
import torch
from torch import Generator

from dvae_lib.data.sequences import SequenceDataset
from dvae_lib.models import MODELS, build_model
from dvae_lib.training.parallel import Share, SharedNoise, load_share, training_fabric


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
@pytest.mark.parametrize("total", [1, 2, 5, 6, 128])
def test_shares_are_all_rows_once(total, world_size):
    shares = [Share.of(total, rank, world_size) for rank in range(world_size)]
    rows = [i for s in shares if s.weight for i in range(s.start, s.stop)]
    assert rows == list(range(total))
    assert all(s.stop > s.start for s in shares)
    sizes = [s.stop - s.start for s in shares if s.weight]
    assert max(sizes) - min(sizes) <= 1


def draws(rows, generator):
    """Everything that a model may draw, batch first."""
    probability = torch.linspace(0, 1, 5).expand(rows, 5)
    return [
        torch.randn(rows, 4, 3, generator=generator),
        torch.randn((rows, 3), generator=generator, dtype=torch.float64),
        torch.rand(size=(rows,), generator=generator),
        torch.empty(rows, 2).exponential_(generator=generator),
        torch.empty(rows, 2).normal_(1.0, 2.0, generator=generator),
        torch.zeros(rows, 2).uniform_(generator=generator),
        torch.bernoulli(probability, generator=generator),
        torch.normal(probability, probability + 1, generator=generator),
        *(torch.randn(rows, 2, generator=generator) for _ in range(5)),  # a recursion
    ]


@pytest.mark.parametrize(("total", "world_size"), [(8, 2), (7, 2), (1, 2), (7, 3)])
def test_every_process_draws_its_rows_of_what_one_process_draws(total, world_size):
    whole = draws(total, Generator().manual_seed(1))
    for rank in range(world_size):
        share = Share.of(total, rank, world_size)
        generator = Generator().manual_seed(1)
        with SharedNoise(generator, share):
            mine = draws(share.stop - share.start, generator)
        for drawn, wanted in zip(mine, whole, strict=True):
            assert torch.equal(drawn, wanted[share.start : share.stop])


def test_several_samples_of_the_batch():
    whole = torch.randn(3 * 5, 2, generator=Generator().manual_seed(1)).unflatten(0, (3, 5))
    generator, share = Generator().manual_seed(1), Share.of(5, 1, 2)
    with SharedNoise(generator, share):
        mine = torch.randn(3 * 3, 2, generator=generator).unflatten(0, (3, 3))
    assert torch.equal(mine, whole[:, 2:])


def test_draws_without_the_generator_are_left_alone():
    with SharedNoise(Generator(), Share.of(4, 0, 2)):
        torch.manual_seed(0)
        other = torch.randn(3, 3)
        own = torch.randn(3, 3, generator=Generator().manual_seed(0))
    torch.manual_seed(0)
    assert torch.equal(other, torch.randn(3, 3))
    assert torch.equal(own, other)


def test_noise_that_does_not_have_the_batch_first():
    generator = Generator()
    with SharedNoise(generator, Share.of(8, 0, 2)), pytest.raises(ValueError, match="batch as its first dimension"):
        torch.randn(3, 4, generator=generator)


def test_shares_are_padded_like_the_whole_batch():
    data = SequenceDataset(
        [torch.full((n, 2), float(n)) for n in (2, 2, 5, 3)], inputs=[torch.ones(n, 1) for n in (2, 2, 5, 3)]
    )
    indices = torch.tensor([0, 1, 2, 3])
    whole = data.batch(indices)
    for rank in range(2):
        share = Share.of(4, rank, 2)
        mine = load_share(data, indices, share)
        for got, wanted in zip(mine, whole, strict=True):
            assert torch.equal(got, wanted[share.start : share.stop])
    assert load_share(data, torch.tensor([0, 1]), Share.of(2, 0, 1)).lengths is None


def test_precision_with_loss_scaling_is_refused():
    with pytest.raises(ValueError, match="bf16-mixed"):
        training_fabric("cpu", precision="16-mixed")


@pytest.mark.parametrize("feedback", [0.0, 0.5])
@pytest.mark.parametrize("name", MODELS)
def test_every_model_gives_its_rows_of_what_one_process_gives(name, feedback):
    """In particular every model draws its noise with the batch first."""
    torch.manual_seed(0)
    model = build_model(name, x_dim=3, z_dim=2).eval()
    x, lengths = torch.rand(5, 7, 3), torch.tensor([7, 3, 7, 5, 6])

    def vlb(rows, generator):
        return model.vlb(x[rows], lengths=lengths[rows], feedback=feedback, num_samples=2, generator=generator).value

    try:
        whole = vlb(slice(None), Generator().manual_seed(1))
    except ValueError:
        pytest.skip("generates without feedback")
    for rank in range(2):
        share, generator = Share.of(5, rank, 2), Generator().manual_seed(1)
        with SharedNoise(generator, share):
            rows = slice(share.start, share.stop)
            torch.testing.assert_close(vlb(rows, generator), whole[rows], rtol=1e-4, atol=1e-4)
