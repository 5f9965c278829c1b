"""Learned updates and variational filtering: what the filter's structure allows is reached, and learning helps."""

import pytest
import torch
from torch import Generator

from dvae_lib import DKF, DSAE, MODELS, RVAE, VRNN, build_model
from dvae_lib.experiments.inference_gaps import InferredLinear, greedy_filter_bound
from dvae_lib.experiments.scalar_models import LinearModel
from dvae_lib.inference import NaturalGradient, UpdateNetwork, iterate, learn_update, variational_filter


def _seeded(seed=0):
    return Generator().manual_seed(seed)


def test_a_converged_filter_has_the_bound_of_the_greedy_filter():
    """Closed form: each frame's own part of the bound asks for p(z_t | z_{t-1}, x_t)."""
    model = LinearModel(0.9).double()
    x = model.generate(8, 4, generator=_seeded()).x.detach()
    weights = variational_filter(model, x, iterations=25, inner_samples=16, num_samples=2000, generator=_seeded(1))
    error = weights.std(0) / 2000**0.5
    # A gradient from sixteen draws never quite rests: what it costs is second-order in its noise.
    assert ((weights.mean(0) - greedy_filter_bound(model, x)).abs() < 4 * error + 0.03).all()


def test_of_one_frame_the_greedy_filter_is_exact():
    model = LinearModel(0.9).double()
    x = torch.tensor([[[1.7]], [[-0.4]]], dtype=torch.float64)
    weights = variational_filter(model, x, iterations=200, update=NaturalGradient(0.3), generator=_seeded())
    assert (weights.mean(0) - greedy_filter_bound(model, x)).abs().max() < 1e-4
    assert weights.std(0).max() < 1e-3  # at the exact posterior all weights are one number


def _causal():
    for name, entry in MODELS.items():
        spec = entry.cls.spec
        if spec.latents and all(spec.is_framewise(latent) for latent in spec.latents):
            yield name


@pytest.mark.parametrize("name", [n for n in _causal() if n not in ("switching", "gpvae", "svae", "black-box")])
def test_it_filters_with_any_causal_model(name):
    """Whatever its inference model is: only steps are taken. More updates know more."""
    torch.manual_seed(0)
    entry = MODELS[name]
    if not build_model(name, x_dim=3, z_dim=2, **entry.small).is_causal:
        pytest.skip("it is not causal, and says so: below")
    model = build_model(name, x_dim=3, z_dim=2, **entry.small)
    x = 0.5 + 0.2 * torch.rand(2, 4, 3, generator=_seeded())
    u = torch.randn(2, 4, model.u_dim) if model.u_dim else None
    weights = [
        variational_filter(model, x, u, iterations=k, update=NaturalGradient(0.3), num_samples=200, generator=_seeded())
        for k in (1, 15)
    ]
    assert weights[0].shape == (200, 2)
    error = (weights[0].std(0) + weights[1].std(0)) / 200**0.5
    assert (weights[1].mean(0) > weights[0].mean(0) - 4 * error).all()


def test_what_cannot_be_filtered_says_which_can():
    with pytest.raises(NotImplementedError, match=r"RVAE generates all frames together: .* such as .*VRNN"):
        variational_filter(RVAE(3, 2, generation_model="noncausal"), torch.zeros(1, 3, 3))
    with pytest.raises(NotImplementedError, match=r"DSAE has a latent of the whole sequence \(v\)"):
        variational_filter(DSAE(3, 2), torch.zeros(1, 3, 3))


def test_padding_counts_for_nothing():
    torch.manual_seed(0)
    model = VRNN(3, 2).double()
    x = torch.randn(1, 3, 3, generator=_seeded(), dtype=torch.float64)
    padded = torch.cat([x, torch.full((1, 2, 3), 7.0, dtype=torch.float64)], 1)
    options = {"iterations": 3, "num_samples": 1, "inner_samples": 2}
    alone = variational_filter(model, x, generator=_seeded(), **options)
    beside = variational_filter(model, padded, lengths=[3], generator=_seeded(), **options)
    assert torch.allclose(alone, beside)


def test_an_update_network_that_is_new_keeps_the_estimate_nearly():
    torch.manual_seed(0)
    moves = torch.randn(5, 7, 4)
    assert (UpdateNetwork(2)(moves, torch.randn(5, 7, 4)) - moves).abs().max() < 0.5


@pytest.mark.parametrize(("along", "start"), [("sequence", "prior"), ("frames", "prior")])
def test_a_learned_update_helps_on_sequences_it_was_not_trained_on(along, start):
    torch.manual_seed(0)
    model, update = LinearModel(0.9), UpdateNetwork(1, hidden=16)
    x, new = (model.generate(6, 32, generator=_seeded(seed)).x.detach() for seed in (0, 1))

    def bound():
        if along == "frames":
            return variational_filter(model, new, update=update, iterations=3, generator=_seeded(2)).mean()
        return iterate(model, new, update=update, iterations=3, start=start, generator=_seeded(2)).vlb(50).mean()

    before, weights = bound(), [w.clone() for w in model.parameters()]
    values = learn_update(
        model, update, x, along=along, start=start, iterations=3, steps=60, learning_rate=1e-2, generator=_seeded(3)
    )
    assert len(values) == 60
    assert bound() > before + 0.5
    assert all(torch.equal(a, b) for a, b in zip(weights, model.parameters(), strict=True))


def test_iterating_never_falls_below_the_amortised_bound():
    torch.manual_seed(0)
    model = InferredLinear()
    x = model.generate(5, 4, generator=_seeded()).x.detach()
    refined = iterate(model, x, generator=_seeded())
    assert (refined.value >= refined.start).all()
    assert (refined.value > refined.start).any()
    assert refined.history.shape == (6, 4)


def test_bad_options_are_refused():
    x = torch.zeros(1, 3, 3)
    with pytest.raises(ValueError, match=r"rate must lie in \(0, 1\]; got 0.0"):
        NaturalGradient(0.0)
    with pytest.raises(ValueError, match=r"along must be 'sequence' or 'frames'; got 'time'"):
        learn_update(DKF(3, 2), UpdateNetwork(2), x, along="time")
    with pytest.raises(ValueError, match=r"iterations.* must be at least 1"):
        variational_filter(DKF(3, 2), x, iterations=0)
