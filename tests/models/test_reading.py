"""What networks read is a fixed transformation of the data: in every model, in every mode, and nothing else is."""

import json

import pytest
import torch
from torch import nn

from dvae_lib.data import SequenceDataset
from dvae_lib.graphs import verify_dependencies
from dvae_lib.models import DVAE, MODELS, SRNN, VAE, build_model
from dvae_lib.models.draws import LAST, Draws
from dvae_lib.models.reading import FLOOR, INPUTS
from dvae_lib.objectives import Latent, particle
from dvae_lib.testing import check_model

SHAPES = {"x_dim": 5, "z_dim": 3, "observation": "gamma"}
EVERY = [(name, options) for name, entry in MODELS.items() for options in entry.variants]
of_every_model = pytest.mark.parametrize(
    ("name", "options"), EVERY, ids=["-".join([name, *map(str, options.values())]) for name, options in EVERY]
)


def powers(batch=4, time=6, seed=1):
    return torch.empty(batch, time, 5, dtype=torch.float64).exponential_(generator=seeded(seed)) ** 3


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def make(name, **options):
    torch.manual_seed(0)
    model = build_model(name, inputs="log_power", **{**SHAPES, **MODELS[name].small, **options}).double()
    with torch.no_grad():
        model.reading.mean.normal_(generator=seeded(2))
        model.reading.scale.uniform_(0.5, 2.0, generator=seeded(3))
    return model


class Nothing(nn.Module):
    """Reads nothing at all, whatever the data are."""

    def forward(self, x):
        return torch.zeros_like(x)


@of_every_model
def test_all_laws_hold(name, options):
    check_model(make(name, **options))


@of_every_model
def test_equations_and_code_agree(name, options):
    model = make(name, **options)
    assert verify_dependencies(model).agrees
    if model.links.predictive:
        assert verify_dependencies(model, feedback=1.0).agrees


@of_every_model
def test_networks_see_the_data_through_it_alone(name, options):
    """With a reading that reads nothing, no door lets anything of the data to a network."""
    model, blind = make(name, **options), make(name, **options)
    blind._modules["reading"] = Nothing()
    one, other = powers(seed=4), powers(seed=5)
    assert not same(model, one, other)
    assert same(blind, one, other)


def same(model, one, other):
    """Whether two data sets lead to the same posteriors, conditionals and continuations."""
    inferred = [model.inference(x, generator=seeded()) for x in (one, other)]
    values = [{name: latent.sample for name, latent in latents.items()} for latents in inferred]
    outputs = [model(x, generator=seeded()) for x in (one, other)]
    found = [
        [*latents.values(), output.observation.mean, model.generation(x, given).observation.mean]
        for x, latents, given, output in zip((one, other), inferred, values, outputs, strict=True)
    ]
    for x, list_ in zip((one, other), found, strict=True):  # also of models with a bound of their own
        list_ += model.vlb(x, generator=seeded()).kl.values()
    if model.links.predictive:
        for x, given, list_ in zip((one, other), values, found, strict=True):
            list_.append(model.generation(x, given, feedback=0.5, generator=seeded()).observation.mean)
    for x, list_ in zip((one, other), found, strict=True):
        list_.append(model.generate(3, prefix=x, generator=seeded()).observation.mean)
        if model.is_causal and not model.infers_backwards:
            list_.append(particle_means(model, x))
        if model.has_proposal:
            list_.append(filtered(model, x))
    pairs = [(plain(a), plain(b)) for a, b in zip(*found, strict=True)]
    return all(torch.allclose(a, b) for a, b in pairs)


def plain(value):
    return value.posterior.mean if isinstance(value, Latent) else value


def particle_means(model, x):
    """The posterior of the first frame's latents by a proposal."""
    context, state = model.begin_proposals(x, generator=seeded())
    proposal = model.propose(state, context.at(0), x[:, 0], generator=seeded())
    following = model.propose(proposal.state, context.at(1), x[:, 1], generator=seeded())
    means = (latent.posterior.mean for latent in following.latents.values())  # none of a latent of the whole sequence
    return torch.cat([following.observation.mean, *means], -1)


def filtered(model, x):
    """What a filter expects of the second frame; the weights of a single particle do not depend on the data."""
    stream = model.filter(len(x), num_particles=1, generator=seeded())
    stream.update(x[:, 0])
    return stream.update(x[:, 1]).prediction.mean


@of_every_model
def test_steps_and_feedback_are_those_of_whole_sequences(name, options):
    """Fed with the true past, step by step, a model says what it says of the whole; fed back, it reads its own mean."""
    model, x = make(name, **options), powers()
    if not model.is_causal:
        pytest.skip("it generates all frames together")
    latents = {k: latent.sample for k, latent in model.inference(x, generator=seeded()).items()}
    whole, fed_back = (
        model.generation(x, latents, feedback=feedback).observation.mean
        for feedback in ((0.0, 1.0) if model.links.predictive else (0.0, 0.0))
    )
    for wanted, own in ((whole, False), (fed_back, model.links.predictive)):
        state = model.initial_state(len(x), **{k: latents[k] for k in model.sequence_latents})
        x_prev = torch.zeros_like(x[:, 0])
        for t in range(x.shape[1]):
            step = model.step(state, x_prev, **{f"{k}_t": latents[k][:, t] for k in model.frame_latents})
            torch.testing.assert_close(step.observation.mean, wanted[:, t])
            state, x_prev = step.state, step.observation.mean if own else x[:, t]


def test_what_is_missing_is_read_as_the_models_own_output():
    """Later frames look back on it through the same transformation: in whole sequences, and frame by frame."""
    model, x = make("srnn"), powers()
    seen = torch.rand(x.shape, generator=seeded(7)) < 0.7
    seen[:, 2] = False
    output = model(x, observed=seen, draw="mean")
    z, state, x_prev = output.latents["z"].sample, model.initial_state(len(x)), torch.zeros_like(x[:, 0])
    for t in range(x.shape[1]):
        step = model.step(state, x_prev, z_t=z[:, t])
        torch.testing.assert_close(step.observation.mean, output.observation.mean[:, t])
        state, x_prev = step.state, torch.where(seen[:, t], x[:, t], step.observation.mean)
    context, state = model.begin_proposals(x, observed=seen)
    read, gaps = model.read(x[:, 0], seen[:, 0]), seen[:, 0]
    proposal = model._proposal(state, context.at(0), read, None, {}, "mean", None, gaps)
    filled = torch.where(gaps, x[:, 0], proposal.observation.mean)
    torch.testing.assert_close(proposal.state[LAST], model.read(filled))


def test_networks_read_zeros_in_place_of_what_is_missing():
    model, x = make("srnn"), powers()
    seen = torch.rand(x.shape, generator=seeded(7)) < 0.7
    assert (model.read(x, seen)[~seen] == 0).all()
    assert torch.equal(model.read(x, seen)[seen], model.read(x)[seen])


def test_the_likelihood_sees_the_powers():
    """The bound is that of a model that is given the transformed data, with the powers' own density."""
    model, x = make("vae"), powers()
    other = build_model("vae", **{**SHAPES, **MODELS["vae"].small, "observation": "gaussian"}).double()
    other.e_z.load_state_dict(model.e_z.state_dict())
    other.z_head.load_state_dict(model.z_head.state_dict())
    by_hand = ((x + FLOOR).log() - model.reading.mean) / model.reading.scale
    found, wanted = (m.inference(data)["z"].posterior for m, data in ((model, x), (other, by_hand)))
    torch.testing.assert_close(found.mean, wanted.mean)
    output = model(x, generator=seeded())
    variance = output.observation.logvar.exp()
    by_hand = (-variance.log() - x / variance).sum((1, 2))
    torch.testing.assert_close(model.vlb(x, generator=seeded()).reconstruction, by_hand)


def test_a_frame_of_zeros_is_no_frame():
    model = make("srnn")
    x = powers()
    x[:, 2] = 0
    assert (model.read(x)[:, 2] == 0).all()
    x[:, 2, 0] = 1e-300  # one entry with power: a frame, whose other entries are as quiet as can be
    quiet = (torch.tensor(FLOOR).double().log() - model.reading.mean) / model.reading.scale
    torch.testing.assert_close(model.read(x)[:, 2], quiet.expand(len(x), -1))


def test_means_and_deviations_are_those_of_the_training_part():
    train = SequenceDataset([powers(1, n, seed=n)[0].float() for n in (3, 5, 9)])
    model = SRNN(**SHAPES)
    model.read_as("log_power", train)
    frames = torch.cat([train[i] for i in range(3)]).double()
    read = model.read(frames.float()).double()
    torch.testing.assert_close(read.mean(0), torch.zeros(5, dtype=torch.float64), atol=1e-5, rtol=0)
    torch.testing.assert_close(read.std(0, correction=0), torch.ones(5, dtype=torch.float64), atol=1e-5, rtol=0)
    model.read_as("power")
    assert model.inputs == "power"
    assert model.read(frames) is frames


def test_it_is_saved_with_the_weights_and_only_where_there_is_one(tmp_path):
    model = make("srnn").float()
    folder = model.save_pretrained(tmp_path / "log")
    loaded = DVAE.from_pretrained(folder)
    assert loaded.inputs == "log_power"
    x = powers().float()
    assert torch.equal(*(m.vlb(x, generator=seeded()).value for m in (model, loaded)))
    plain_model = SRNN(**SHAPES)
    assert "inputs" not in json.loads(plain_model.configuration())
    assert not any(name.startswith("reading") for name in plain_model.state_dict())
    assert DVAE.from_pretrained(plain_model.save_pretrained(tmp_path / "plain")).inputs == "power"


def test_what_cannot_be_read_is_refused():
    with pytest.raises(ValueError, match=r"inputs must be one of power, log_power; got 'loud'"):
        VAE(**SHAPES).read_as("loud")
    with pytest.raises(ValueError, match="takes logarithms"):
        VAE(5, 2).read_as("log_power")

    class Own(VAE):
        def inference(self, x, u=None, *, lengths=None, latents=None, draw="sample", generator=None):
            return self._assigned(super()._infer(x, u, lengths, Draws(latents, draw, generator)).latents)

    with pytest.raises(NotImplementedError, match="Own writes inference itself"):
        Own(**SHAPES).read_as("log_power")
    assert set(INPUTS) == {"power", "log_power"}


def test_particles_weigh_the_powers():
    """Without resampling one particle is the sampled bound: the density is that of the powers."""
    model, x = make("vrnn"), powers(1).repeat(300, 1, 1)
    one = particle(model, x, num_particles=1, threshold=0.0, generator=seeded()).value
    other = model.vlb(x, kl="sampled", generator=seeded(4)).value
    error = (one.var() / len(one) + other.var() / len(other)).sqrt()
    assert (one.mean() - other.mean()).abs() < 5 * error
