"""The check of code against equations finds planted errors of each kind, and raises no false alarm."""

from types import SimpleNamespace

import pytest
import review_specs as review
import torch
from review_specs import MODELS
from torch import nn
from torch.distributions import Bernoulli, MultivariateNormal, Normal

from dvae_lib.graphs import DependencySpec, Edge, verify_dependencies


class Declared(nn.Module):
    """A model that computes with one spec and declares another (the same, unless an error is planted).

    Every parent acts through a linear layer shared over time, so that what depends on what is plain to see.
    """

    x_dim, u_dim, sizes = 3, 2, {"x": 3, "u": 2, "v": 4}

    def __init__(self, actual, declared=None, activation=torch.tanh, observation=Normal, full_covariance=False):
        super().__init__()
        self.spec, self.actual = declared or actual, actual
        self.activation, self.observation, self.full_covariance = activation, observation, full_covariance
        if not self.spec.used_inputs:
            self.u_dim = 0
        self.layers = nn.ModuleDict()
        for process in ("generation", "inference"):
            for child, parents in actual.compact_references(process).items():
                for parent in parents:
                    name = child.removesuffix("_t")
                    key = f"{process}-{parent.name}-{name}"
                    self.layers[key] = nn.Linear(self.size(parent.name), 2 * self.size(name))

    def size(self, name):
        return self.sizes.get(name, 2)

    def distribution(self, process, name, values, num_steps, batch):
        frames = []
        graph = self.actual.unroll(num_steps, process)
        for t in range(1, num_steps + 1) if self.actual.is_framewise(name) else (None,):
            total = torch.zeros(batch, 2 * self.size(name), dtype=values["x"].dtype)
            for i, (parent, time) in enumerate(sorted(graph.pred[name, t], key=str)):
                value = values[parent] if time is None else values[parent][:, time - 1]
                total = total + self.activation(self.layers[f"{process}-{parent}-{name}"](value)) / (1 + i)
            frames.append(total)
        mean, spread = (torch.stack(frames, 1) if self.actual.is_framewise(name) else frames[0]).chunk(2, -1)
        if name == "x" and self.observation is Bernoulli:
            return Bernoulli(logits=mean)
        if self.full_covariance and name == "z":
            factor = torch.diag_embed(spread.exp()) + torch.tril(mean[..., None] * spread[..., None, :], -1)
            return MultivariateNormal(mean, covariance_matrix=factor @ factor.mT)
        family = self.observation if self.observation is WithoutMoments else Normal
        return family(mean, spread.exp())

    def inference(self, x, u=None, *, latents=None):
        values = {"x": x, "u": u}
        drawn = {}
        shapes = {n: x.shape[:2] if self.spec.is_framewise(n) else x.shape[:1] for n in self.spec.latents}
        for name in self.spec.latents:
            given = (latents or {}).get(name)
            size = (*shapes[name], self.size(name))
            values[name] = torch.randn(size, dtype=x.dtype) if given is None else given
        for name in self.spec.latents:
            posterior = self.distribution("inference", name, values, x.shape[1], len(x))
            drawn[name] = SimpleNamespace(sample=values[name], posterior=posterior)
        return drawn

    def generation(self, x, latents, u=None):
        values = {"x": x, "u": u, **latents}
        found = {n: self.distribution("generation", n, values, x.shape[1], len(x)) for n in ("x", *latents)}
        return SimpleNamespace(observation=found.pop("x"), prior=found)


def edges(text: str) -> set[Edge]:
    """``"inference x_2 z_1, ..."`` as edges."""
    found = set()
    for line in text.split(","):
        process, *nodes = line.split()
        parent, child = ((n.split("_")[0], int(n.split("_")[1]) if "_" in n else None) for n in nodes)
        found.add(Edge(process, parent, child))
    return found


@pytest.mark.parametrize("spec", MODELS.values(), ids=MODELS)
def test_code_that_follows_its_spec_passes(spec):
    torch.manual_seed(0)
    report = verify_dependencies(Declared(spec), num_steps=4)
    assert report.agrees, str(report)
    assert report == (frozenset(), frozenset())
    assert str(report) == "equations and code agree"


DKF_LINES = review.SSM_GENERATION
PLANTED = {
    "one edge too few at generation": (
        DependencySpec("z_t ~\nx_t ~ z_t", "z_t ~ z_{t-1}, x_{t:T}"),
        DependencySpec(DKF_LINES, "z_t ~ z_{t-1}, x_{t:T}"),
        "generation z_1 z_2, generation z_2 z_3",
        None,
    ),
    "one edge too many at generation": (
        DependencySpec("z_t ~ z_{t-1}\nx_t ~ z_t, x_{t-1}", "z_t ~ z_{t-1}, x_{t:T}"),
        DependencySpec(DKF_LINES, "z_t ~ z_{t-1}, x_{t:T}"),
        None,
        "generation x_1 x_2, generation x_2 x_3",
    ),
    "one edge too few at inference": (
        DependencySpec(DKF_LINES, "z_t ~ z_{t-1}, x_t, x_{t+2:T}"),
        DependencySpec(DKF_LINES, "z_t ~ z_{t-1}, x_{t:T}"),
        "inference x_2 z_1, inference x_3 z_2",
        None,
    ),
    "one edge too many at inference": (
        DependencySpec(DKF_LINES, "z_t ~ z_{t-1}, x_{1:T}"),
        DependencySpec(DKF_LINES, "z_t ~ z_{t-1}, x_{t:T}"),
        None,
        "inference x_1 z_2, inference x_1 z_3, inference x_2 z_3",
    ),
    "too few and too many, with a sequence-level variable": (
        DependencySpec("v ~\nz_t ~ z_{t-1}\nx_t ~ z_t, v", "v ~ x_1\nz_t ~ x_t, v"),
        DependencySpec("v ~\nz_t ~ z_{t-1}\nx_t ~ z_t", "v ~ x_{1:T}\nz_t ~ x_t"),
        "inference x_2 v, inference x_3 v",
        "generation v x_1, generation v x_2, generation v x_3, inference v z_1, inference v z_2, inference v z_3",
    ),
    "an input that is forgotten": (
        DependencySpec("z_t ~ z_{t-1}\nx_t ~ z_t, u_t", "z_t ~ x_t"),
        DependencySpec("z_t ~ z_{t-1}, u_t\nx_t ~ z_t, u_t", "z_t ~ x_t"),
        "generation u_1 z_1, generation u_2 z_2, generation u_3 z_3",
        None,
    ),
}


@pytest.mark.parametrize(("actual", "declared", "missing", "extra"), PLANTED.values(), ids=PLANTED)
def test_planted_errors_are_found(actual, declared, missing, extra):
    torch.manual_seed(0)
    report = verify_dependencies(Declared(actual, declared), num_steps=3)
    assert report.missing == (edges(missing) if missing else set())
    assert report.extra == (edges(extra) if extra else set())
    assert not report.agrees
    assert ("the code lacks them" in str(report)) == bool(missing)
    assert ("the spec has them not" in str(report)) == bool(extra)


def test_every_single_wrong_edge_is_seen():
    """For each model, take one reference out of the code, and then out of the spec."""
    torch.manual_seed(0)
    for name in ("KVAE", "SRNN", "DSAE, full", "VRAE", "DVBF", "two levels"):
        spec = MODELS[name]
        flat = {p: spec.compact_references(p) for p in ("generation", "inference")}

        def block(process, flat=flat, drop=None):
            return "\n".join(
                f"{child} ~ " + ", ".join(str(p) for p in parents if (process, child, p) != drop)
                for child, parents in flat[process].items()
            )

        whole = DependencySpec(block("generation"), block("inference"))
        for drop in [(p, c, r) for p in flat for c, parents in flat[p].items() for r in parents]:
            less = DependencySpec(block("generation", drop=drop), block("inference", drop=drop))
            if less.used_inputs != whole.used_inputs:
                continue
            lacking = verify_dependencies(Declared(less, whole), num_steps=3, draws=1)
            surplus = verify_dependencies(Declared(whole, less), num_steps=3, draws=1)
            assert lacking.missing, drop
            assert not lacking.extra, drop
            assert lacking.missing == surplus.extra, drop
            assert {(e.process, e.parent[0], e.child[0]) for e in lacking.missing} == {
                (drop[0], drop[2].name, drop[1].removesuffix("_t"))
            }


def test_dead_units_and_zero_weights_are_no_false_alarm():
    torch.manual_seed(0)
    model = Declared(review.DKF, activation=torch.relu)
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    assert verify_dependencies(model).agrees
    assert all(not parameter.any() for parameter in model.parameters())  # the model itself is left alone


def test_full_covariances_count():
    """A dependency that only the covariance shows."""

    class CovarianceOnly(Declared):
        def distribution(self, process, name, values, num_steps, batch):
            found = super().distribution(process, name, values, num_steps, batch)
            if isinstance(found, MultivariateNormal):
                return MultivariateNormal(torch.zeros_like(found.mean), covariance_matrix=found.covariance_matrix)
            return found

    torch.manual_seed(0)
    assert verify_dependencies(Declared(review.KVAE, full_covariance=True)).agrees
    assert verify_dependencies(CovarianceOnly(review.KVAE, full_covariance=True)).agrees


def test_other_observations():
    torch.manual_seed(0)
    assert verify_dependencies(Declared(review.VRNN, observation=Bernoulli)).agrees


def test_an_undriven_model_is_read_without_its_inputs():
    model = Declared(review.KVAE_UNDRIVEN, review.KVAE)
    model.u_dim = 0
    assert verify_dependencies(model).agrees


def test_numerical_noise_is_no_dependency():
    class Noisy(Declared):
        def generation(self, x, latents, u=None):
            found = super().generation(x, latents, u)
            return SimpleNamespace(
                prior=found.prior, observation=Normal(found.observation.mean + 1e-14 * x.sum(1, keepdim=True), 1.0)
            )

    assert verify_dependencies(Noisy(review.DKF)).agrees


def test_a_weak_dependency_is_a_dependency():
    class Leaking(Declared):
        def generation(self, x, latents, u=None):
            found = super().generation(x, latents, u)
            return SimpleNamespace(
                prior=found.prior, observation=Normal(found.observation.mean + 1e-6 * x.roll(1, 1), 1.0)
            )

    report = verify_dependencies(Leaking(review.DKF), num_steps=3)
    assert report.extra == edges("generation x_3 x_1, generation x_1 x_2, generation x_2 x_3")


class RecurrentVAE(nn.Module):
    """A VRNN in a few lines, with generation mode; ``leak`` lets the true past through while feeding back."""

    x_dim, z_dim = 3, 2
    spec = review.VRNN

    def __init__(self, leak=False):
        super().__init__()
        self.leak = leak
        self.cell = nn.GRUCell(5, 6)
        self.prior, self.decoder, self.encoder = nn.Linear(6, 2), nn.Linear(8, 3), nn.Linear(9, 2)

    def run(self, x, z_given, feedback, step):
        h = x.new_zeros(len(x), 6)
        x_prev, z_prev = x.new_zeros(len(x), 3), x.new_zeros(len(x), 2)
        frames = []
        for t in range(x.shape[1]):
            h = self.cell(torch.cat([x_prev, z_prev], -1), h)
            z_prev, output, parameters = step(h, t, z_given)
            x_prev = output if feedback else x[:, t]
            if self.leak and t == 0:
                x_prev = x[:, t]
            frames.append(parameters)
        return [torch.stack(parameter, 1) for parameter in zip(*frames, strict=True)]

    def inference(self, x, u=None, *, latents=None):
        def step(h, t, given):
            mean = self.encoder(torch.cat([h, x[:, t]], -1))
            z = torch.randn_like(mean) if given is None else given[:, t]
            return z, None, (z, mean)

        z, mean = self.run(x, (latents or {}).get("z"), False, step)
        return {"z": SimpleNamespace(sample=z, posterior=Normal(mean, 1.0))}

    def generation(self, x, latents, u=None, *, feedback=0.0):
        def step(h, t, given):
            output = torch.tanh(self.decoder(torch.cat([h, given[:, t]], -1)))
            return given[:, t], output, (self.prior(h), output)

        prior, output = self.run(x, latents["z"], bool(feedback), step)
        return SimpleNamespace(prior={"z": Normal(prior, 1.0)}, observation=Normal(output, 1.0))


def test_generation_mode():
    torch.manual_seed(0)
    assert verify_dependencies(RecurrentVAE()).agrees
    assert verify_dependencies(RecurrentVAE(), feedback=1.0).agrees


def test_a_leak_of_the_true_past_is_found_in_generation_mode():
    torch.manual_seed(0)
    report = verify_dependencies(RecurrentVAE(leak=True), num_steps=3, feedback=1.0)
    assert verify_dependencies(RecurrentVAE(leak=True), num_steps=3).agrees
    assert {edge.parent for edge in report.extra} == {("x", 1)}
    assert not {edge for edge in report.extra if edge.process == "inference"}


def test_a_model_without_latent_variables():
    torch.manual_seed(0)
    spec = review.PREDICTIVE_GRNN
    assert verify_dependencies(Declared(spec), num_steps=4).agrees
    report = verify_dependencies(Declared(DependencySpec("x_t ~ x_{t-1}"), spec), num_steps=3)
    assert report == (edges("generation x_1 x_3"), frozenset())


class SequenceVAE(nn.Module):
    """A latent vector for the whole sequence and a decoder that hears itself: no latent of it has frames."""

    x_dim, z_dim = 3, 2
    spec = review.VRAE

    def __init__(self):
        super().__init__()
        self.cell, self.decoder = nn.GRUCell(3 + 2, 6), nn.Linear(6, 3)
        self.encoder = nn.GRU(3, 2, batch_first=True)

    def inference(self, x, u=None, *, latents=None):
        mean = self.encoder(x)[0][:, -1]
        v = (latents or {}).get("v", mean)
        return {"v": SimpleNamespace(sample=v, posterior=Normal(mean, 1.0))}

    def generation(self, x, latents, u=None, *, feedback=0.0):
        h, x_prev, frames = x.new_zeros(len(x), 6), x.new_zeros(len(x), 3), []
        for t in range(x.shape[1]):
            h = self.cell(torch.cat([x_prev, latents["v"]], -1), h)
            frames.append(torch.tanh(self.decoder(h)))
            x_prev = frames[-1] if feedback else x[:, t]
        prior = Normal(torch.zeros_like(latents["v"]), 1.0)
        return SimpleNamespace(prior={"v": prior}, observation=Normal(torch.stack(frames, 1), 1.0))


@pytest.mark.parametrize("feedback", [0.0, 1.0])
def test_generation_mode_of_a_model_whose_only_latent_is_the_sequences(feedback):
    torch.manual_seed(0)
    assert verify_dependencies(SequenceVAE(), feedback=feedback).agrees
    assert set(SequenceVAE.spec.generation_mode().compact()["x_t"]) == {"v"}


def test_bad_input(as_a_user):
    model = Declared(review.DKF)
    with pytest.raises(ValueError, match="at least 2"):
        verify_dependencies(model, num_steps=1)
    with pytest.raises(ValueError, match=r"0 .teacher forcing. or 1"):
        verify_dependencies(model, feedback=0.5)
    with pytest.raises(ValueError, match="takes no feedback"):
        verify_dependencies(model, feedback=1.0)
    with pytest.raises(TypeError, match=r"torch\.nn\.Module"):
        verify_dependencies(review.DKF)
    with pytest.raises(TypeError, match="has no spec, x_dim"):
        verify_dependencies(nn.Linear(2, 2))

    class Short(Declared):
        def inference(self, x, u=None, *, latents=None):
            found = super().inference(x, u, latents=latents)
            return {name: SimpleNamespace(sample=v.sample[:, 1:], posterior=v.posterior) for name, v in found.items()}

    with pytest.raises(ValueError, match="samples of z of shape"):
        verify_dependencies(Short(review.DKF))

    class Other(Declared):
        def inference(self, x, u=None, *, latents=None):
            return {"y": super().inference(x, u)["z"]}

    with pytest.raises(ValueError, match="the spec's latent variables are"):
        verify_dependencies(Other(review.DKF))


class WithoutMoments(Normal):
    """A distribution of which nothing but draws is known."""

    @property
    def mean(self):
        raise NotImplementedError

    @property
    def variance(self):
        raise NotImplementedError


def test_of_a_distribution_without_moments_a_draw_is_differentiated():
    spec = MODELS["DKF"].undriven()
    model = Declared(spec, observation=WithoutMoments)
    assert verify_dependencies(model).agrees
    planted = DependencySpec(spec.generation, "z_t ~ x_t").undriven()
    assert not verify_dependencies(Declared(planted, spec, observation=WithoutMoments)).agrees
