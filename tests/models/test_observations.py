"""Every observation family with every model: bounds, generation, and two steps of training."""

import pytest
import torch

from dvae_lib.distributions import OBSERVATIONS
from dvae_lib.models import MODELS, build_model

FAMILIES = ("poisson", "negative_binomial", "laplace", "student_t", "categorical")


def data(observation, batch=3, time=5, dim=4):
    logits = torch.randn(batch, time, dim, generator=torch.Generator().manual_seed(1))
    if observation == "categorical":
        return torch.nn.functional.one_hot(logits.argmax(-1), dim).float()
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
    assert isinstance(sample.observation, OBSERVATIONS[observation])
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
