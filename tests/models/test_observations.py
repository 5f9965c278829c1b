"""Every observation family with every model: bounds, generation, and two steps of training."""

import pytest
import torch

from dvae_lib.distributions import observation_family
from dvae_lib.models import MODELS, build_model
from dvae_lib.testing import check_model

BY_COLUMN = "poisson, student_t*2, censored_gaussian(low=-1, high=2)"
FAMILIES = ("poisson", "negative_binomial", "laplace", "student_t", "categorical", "censored_gaussian", BY_COLUMN)


def data(observation, batch=3, time=5, dim=4):
    logits = torch.randn(batch, time, dim, generator=torch.Generator().manual_seed(1))
    if observation == "categorical":
        return torch.nn.functional.one_hot(logits.argmax(-1), dim).float()
    if observation == BY_COLUMN:
        return torch.cat([logits[..., :1].exp().round(), logits[..., 1:3], logits[..., 3:].clamp(-1, 2)], -1)
    if observation == "censored_gaussian":
        return logits.clamp(min=0)
    return logits.exp().round() if observation in ("poisson", "negative_binomial") else logits


def of(name, observation):
    torch.manual_seed(0)
    return build_model(name, x_dim=4, z_dim=2, observation=observation)


@pytest.mark.parametrize("observation", FAMILIES)
@pytest.mark.parametrize("name", MODELS)
def test_every_model_takes_every_family(name, observation):
    model, x = of(name, observation), data(observation)
    generator = torch.Generator().manual_seed(0)
    bound = model.vlb(x, generator=generator)
    assert bound.value.shape == (3,)
    bound.value.sum().backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    sample = model.generate(3, 2, generator=generator)
    assert isinstance(sample.observation, observation_family(observation))
    assert sample.x.shape == (2, 3, 4)
    assert torch.isfinite(sample.observation.log_prob(sample.x)).all()
    model.vlb(sample.x)  # what it generates it takes


@pytest.mark.parametrize("name", ["vae", "dkf"])
def test_two_steps_of_training_on_counts(name):
    """The bound on the data trained on rises, and the mean of what is generated moves towards that of the counts."""
    model, x = of(name, "poisson"), 3 * data("poisson")
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)

    def bound():
        return model.vlb(x, generator=torch.Generator().manual_seed(0)).value.mean()

    before = bound().item()
    for _ in range(2):
        optimiser.zero_grad()
        (-bound()).backward()
        optimiser.step()
    assert bound().item() > before
    assert torch.equal(model.reconstruct(x).sample().remainder(1), torch.zeros_like(x))


@pytest.mark.parametrize(("value", "shown"), [(-1.0, "-1"), (2.5, "2.5")])
def test_what_is_no_count_is_refused(value, shown):
    x = data("poisson")
    x[1, 2, 3] = value
    with pytest.raises(ValueError, match=rf"x\[1, 2, 3\] is {shown}.*'poisson' gives a probability to whole numbers"):
        of("vae", "poisson").vlb(x)


@pytest.mark.parametrize("name", ["vae", "srnn", "rvae-noncausal"])
def test_a_model_of_columns_obeys_all_laws(name):
    torch.manual_seed(0)
    observation = "student_t*2, laplace, gaussian_mixture(components=3)"  # of real numbers, which some laws need
    model = build_model(
        name, **{**MODELS[name].options, **MODELS[name].small}, x_dim=4, z_dim=2, observation=observation
    )
    check_model(model)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [(0, -1.0, r"x\[1, 2, 0\] is -1 .* to whole numbers of at least 0 only in column 0.*standardize=\[1, 2\]"),
     (0, 2.5, "whole numbers"), (3, 2.5, "numbers from -1 to 2 only in column 3")],
)  # fmt: skip
def test_what_does_not_fit_a_column_is_refused(place, value, message):
    x = data(BY_COLUMN)
    x[1, 2, place] = value
    with pytest.raises(ValueError, match=message):
        of("vae", BY_COLUMN).vlb(x)
    gap = torch.ones_like(x, dtype=torch.bool)
    gap[1, 2, place] = False
    assert of("vae", BY_COLUMN).vlb(x, observed=gap).value.isfinite().all()  # it is not looked at


def test_families_of_another_number_of_columns():
    with pytest.raises(ValueError, match="has 3 columns, Poisson of 1, Laplace of 2; the data have 4"):
        of("vae", "poisson, laplace*2")


def test_what_is_missing_of_a_column_changes_nothing_of_the_others():
    """Hidden entries of a count and of a number: whatever stands there, NaN too, the bound is the same."""
    model, x = of("srnn", BY_COLUMN), data(BY_COLUMN)
    seen = torch.rand(x.shape, generator=torch.Generator().manual_seed(2)) > 0.3
    found = [
        model.vlb(torch.where(seen, x, filling), observed=seen, generator=torch.Generator().manual_seed(0)).value
        for filling in (torch.nan, -7.5)
    ]
    assert torch.equal(*found)
