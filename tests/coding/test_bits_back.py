"""Lossless coding: what comes out is what went in, and the file is as long as the bound says."""

import math

import numpy as np
import pytest
import torch
from damage import check_refusals

from dvae_lib import DKF, DSAE, GRNN, RSSM, RVAE, SRNN, VAE, VRNN, build_model
from dvae_lib.coding import CodecError, compress, decompress, encode
from dvae_lib.coding.bits_back import BitStack
from dvae_lib.coding.grids import Grid
from dvae_lib.distributions import DiagonalGaussian

KINDS = {
    "vae": lambda **o: VAE(5, 3, **o),
    "dkf": lambda **o: DKF(5, 3, **o),
    "vrnn": lambda **o: VRNN(5, 3, h_dim=8, **o),
    "srnn-smoother": lambda **o: SRNN(5, 3, h_dim=8, **o),
    "srnn-filter": lambda **o: SRNN(5, 3, h_dim=8, inference_model="filter", **o),
    "rvae-causal": lambda **o: RVAE(5, 3, generation_model="causal", **o),
    "rssm": lambda **o: RSSM(5, 3, h_dim=8, **o),
    "dsae": lambda **o: DSAE(5, 3, **o),
}


def made(name: str, observation: str = "bernoulli", scale: float = 1.0):
    torch.manual_seed(3)
    model = KINDS[name](observation=observation).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(scale)
    return model


def rolls(*lengths: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [(torch.rand(n, 5, generator=generator) < 0.3).float() for n in lengths]


@pytest.mark.parametrize("name", KINDS)
def test_sequences_come_back_bit_for_bit(name):
    model, sequences = made(name), rolls(12, 1, 7)
    found = decompress(model, compress(model, sequences).data)
    assert [f.dtype for f in found] == [torch.float32] * 3
    assert all(torch.equal(a, b) for a, b in zip(sequences, found, strict=True))


def test_counts_come_back_and_cost_what_the_bound_says():
    model = made("vae", "poisson", 1.0)
    counts = [torch.poisson(torch.full((60, 5), 2.0), generator=torch.Generator().manual_seed(1))]
    file = compress(model, counts)
    assert torch.equal(decompress(model, file.data)[0], counts[0])
    assert file.net_bits == pytest.approx(file.bound_bits, rel=0.01)


@pytest.mark.parametrize("name", ["vae", "vrnn", "dkf", "dsae"])
def test_the_file_is_as_long_as_the_bound(name):
    """Within one per cent, at the very latents, and against the bound as the model computes it, over many samples."""
    model, sequences = made(name), rolls(150, 150)
    file = compress(model, sequences, step=0.25)
    assert file.bits == file.initial_bits + file.header_bits + file.net_bits
    assert file.net_bits == pytest.approx(file.bound_bits, rel=0.01)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        bounds = [model.vlb(torch.stack(sequences), generator=generator).value.sum() for _ in range(30)]
    bits = -torch.stack(bounds) / math.log(2)
    spread = float(bits.std())  # that of one sample, which the file is
    assert abs(file.net_bits - float(bits.mean())) < 0.01 * file.net_bits + 3 * spread


def test_frames_of_a_static_model_lend_each_other_their_bits():
    sequences = rolls(80)
    alone, whole = compress(made("vae"), sequences), compress(made("dkf"), sequences)
    assert alone.initial_bits <= 32 * 4
    assert whole.initial_bits > 5 * alone.initial_bits


def test_a_coarse_grid_lends_less():
    model, sequences = made("vrnn"), rolls(60)
    fine, coarse = compress(model, sequences, step=0.25), compress(model, sequences, step=4.0)
    assert coarse.initial_bits < fine.initial_bits / 2


def test_what_was_lent_is_given_back():
    """The decoder ends with the random words that the encoder began with, and nothing else."""
    from dvae_lib.coding import bits_back

    model, sequences = made("dkf"), rolls(20, 9)
    file = compress(model, sequences, seed=7)
    stacks = []

    class Kept(BitStack):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            stacks.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bits_back, "BitStack", Kept)
        decompress(model, file.data)
    random = np.random.default_rng(7).integers(1, 2**32, file.initial_bits // 32, dtype=np.uint32)
    # Each was put under those that were there.
    left = stacks[0].coder.get_compressed()
    assert sorted(left.tolist()) == sorted(random.tolist())


def test_entries_of_different_reach_leave_the_stack_as_they_came():
    """They have entropy models of their own, which are pushed in the reverse order."""
    zeros = torch.zeros(1, 4, dtype=torch.float64)
    around, grid = DiagonalGaussian(zeros, zeros), Grid(torch.tensor([0.01, 0.1, 1.0, 3.0]))
    codes = list(grid.codes(around, around))
    assert len(codes) > 1
    stack = BitStack(np.arange(1, 9, dtype=np.uint32))
    for symbols in (np.array([3, -2, 1, 0], np.int32), np.array([-40, 9, 0, 1], np.int32)):
        stack.push(symbols, codes)
    assert stack.pop(codes, 4).tolist() == [-40, 9, 0, 1]
    assert stack.pop(codes, 4).tolist() == [3, -2, 1, 0]


def test_a_stream_cut_anywhere_and_any_changed_byte_are_refused():
    model = made("vrnn")
    check_refusals(lambda data: decompress(model, data), compress(model, rolls(2, 1)).data)
    lossy = encode(VAE(5, 3).eval(), torch.zeros(4, 5)).data
    with pytest.raises(CodecError, match="got a file that holds a sequence coded by its latents"):
        decompress(model, lossy)


def test_what_cannot_be_coded_is_said():
    x = rolls(4)
    with pytest.raises(NotImplementedError, match="take a causal model"):
        compress(RVAE(5, 2, generation_model="noncausal", observation="bernoulli"), x)
    with pytest.raises(NotImplementedError, match="undriven"):
        compress(VRNN(5, 2, u_dim=1, observation="bernoulli"), x)
    with pytest.raises(NotImplementedError, match="FullGaussian"):
        compress(build_model("black-box", x_dim=5, z_dim=2, observation="bernoulli"), x)
    with pytest.raises(NotImplementedError, match="integrated out"):
        compress(build_model("kvae", x_dim=5, z_dim=2, observation="bernoulli"), x)
    with pytest.raises(NotImplementedError, match="no latent variable"):
        compress(GRNN(5, observation="bernoulli"), x)
    with pytest.raises(NotImplementedError, match="zeros and ones, or counts"):
        compress(VAE(5, 2), x)
    with pytest.raises(ValueError, match="sequence 1 holds values that are not whole"):
        compress(made("vae"), [x[0], 0.5 * torch.ones(3, 5)])
    with pytest.raises(ValueError, match="no sequences"):
        compress(made("vae"), [])
    with pytest.raises(ValueError, match="step must be positive"):
        compress(made("vae"), x, step=0.0)
    with pytest.raises(CodecError, match="of another model"):
        decompress(made("vae", scale=1.1), compress(made("vae"), x).data)
