"""What a stranger may hand to a model: refused at each door, by name, before anything is computed from it."""

import functools
import math

import pytest
import torch

from dvae_lib import SRNN, build_model
from dvae_lib.objectives import free_bits, importance_weighted, particle, vlb

pytestmark = pytest.mark.usefixtures("as_a_user")


@pytest.fixture
def srnn():
    torch.manual_seed(0)
    return SRNN(3, 2, observation="gamma", h_dim=4, g_dim=4)


def frames(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


MANY = {
    "vlb": functools.partial(vlb, num_samples=3),
    "importance_weighted": functools.partial(importance_weighted, num_samples=3),
    "importance_weighted_bound": functools.partial(SRNN.importance_weighted_bound, num_samples=3),
    "particle": functools.partial(particle, num_particles=3),
}


class TestObjectives:
    @pytest.mark.parametrize("objective", MANY.values(), ids=MANY)
    def test_sequences_are_looked_at_before_they_are_repeated(self, srnn, objective):
        # A batch that lacks a dimension becomes one that has them all when it is repeated.
        for x in (frames(5, 3), frames(3, 3), frames(1, 2, 5, 3)):
            with pytest.raises(ValueError, match=r"x must have shape \(batch, time, 3\)"):
                objective(srnn, x)

    @pytest.mark.parametrize("objective", MANY.values(), ids=MANY)
    def test_inputs_are_tensors(self, objective):
        driven = build_model("srnn", x_dim=3, z_dim=2, u_dim=2)
        with pytest.raises(TypeError, match=r"u must be a torch.Tensor; got list"):
            objective(driven, frames(2, 4, 3), [[1.0, 2.0]])

    def test_counts(self, srnn):
        x = frames(2, 4, 3)
        for wrong in (2.5, math.nan, True, "3"):
            for call in (
                lambda n=wrong: vlb(srnn, x, num_samples=n),
                lambda n=wrong: importance_weighted(srnn, x, num_samples=n),
                lambda n=wrong: importance_weighted(srnn, x, chunk_size=n),
                lambda n=wrong: particle(srnn, x, num_particles=n),
                lambda n=wrong: srnn.begin_proposals(x, num_particles=n),
                lambda n=wrong: srnn.filter(num_particles=n),
                lambda n=wrong: srnn.initial_state(n),
                lambda n=wrong: srnn.generate(n),
                lambda n=wrong: srnn.generate(3, n),
            ):
                with pytest.raises(ValueError, match=r"must be (a whole number|whole numbers); got"):
                    call()
        for call in (
            lambda: srnn.begin_proposals(x, num_particles=0),
            lambda: srnn.initial_state(0),
            lambda: srnn.initial_state(-1),
            lambda: srnn.filter(0),
        ):
            with pytest.raises(ValueError, match="must be at least 1; got"):
                call()

    def test_weights_and_prices(self, srnn):
        x = frames(2, 4, 3)
        for wrong in (math.nan, math.inf, -0.5):
            with pytest.raises(ValueError, match="beta must be 0 or more, and finite; got"):
                srnn.vlb(x, beta=wrong)
            with pytest.raises(ValueError, match="beta must be 0 or more, and finite; got"):
                free_bits(srnn, x, beta=wrong)
            with pytest.raises(ValueError, match="nats must be 0 or more, and finite; got"):
                free_bits(srnn, x, nats=wrong)
        for wrong in (math.nan, 1.5):
            with pytest.raises(ValueError, match="threshold must lie between 0 and 1; got"):
                particle(srnn, x, threshold=wrong)


class TestLatents:
    @pytest.mark.parametrize("dtype", [torch.float64, torch.int64, torch.bool, torch.complex64])
    def test_dtype(self, srnn, dtype):
        x, z = frames(2, 4, 3), torch.ones(2, 4, 2, dtype=dtype)
        state = srnn.initial_state(2)
        for call in (
            lambda: srnn.inference(x, latents={"z": z}),
            lambda: srnn.generation(x, {"z": z}),
            lambda: srnn.context(x, latents={"z": z}),
            lambda: srnn.step(state, x[:, 0], z_t=z[:, 0]),
        ):
            with pytest.raises(TypeError, match=rf"values of z are {dtype} on cpu, the model is torch.float32"):
                call()

    def test_of_the_whole_sequence(self):
        dsae = build_model("dsae", x_dim=3, z_dim=2, v_dim=2)
        with pytest.raises(TypeError, match=r"values of v are torch.float64"):
            dsae.initial_state(2, v=torch.zeros(2, 2).double())

    def test_dictionary(self, srnn):
        x = frames(2, 4, 3)
        for wrong in (x, "z", [x]):
            with pytest.raises(TypeError, match="latents must be a dictionary of tensors by name; got"):
                srnn.inference(x, latents=wrong)
            with pytest.raises(TypeError, match="latents must be a dictionary of tensors by name; got"):
                srnn.generation(x, wrong)

    def test_a_models_own_latents_pass_in_mixed_precision(self, srnn):
        x = frames(2, 4, 3)
        for model in (srnn, build_model("kvae", x_dim=3, z_dim=2, observation="gamma").bfloat16()):
            x = x.to(next(model.parameters()).dtype)
            with torch.autocast("cpu", torch.bfloat16):
                latents = {name: latent.sample for name, latent in model.inference(x).items()}
                assert torch.isfinite(model.generation(x, latents).observation.mean).all()


class TestFrames:
    """The doors through which single frames come in."""

    @pytest.fixture
    def doors(self, srnn):
        x = frames(2, 4, 3)
        context, proposing = srnn.begin_proposals(x)
        generating = srnn.initial_state(2)
        return {
            "x_prev": lambda x_t, **given: srnn.step(generating, x_t, **given),
            "x_t": lambda x_t, **given: srnn.propose(proposing, context.at(0), x_t, **given),
        }

    def test_frames(self, srnn, doors):
        watch = srnn.filter(2, num_particles=4)
        for name, door in (*doors.items(), ("x_t", watch.update)):
            for wrong in ([[1.0]], None):
                with pytest.raises(TypeError, match=f"{name} must be a torch.Tensor"):
                    door(wrong)
            for wrong in (frames(3), frames(2, 1, 3)):
                with pytest.raises(ValueError, match=rf"{name} must have shape \(batch, 3\)"):
                    door(wrong)
            with pytest.raises(ValueError, match=f"{name} must have vectors of size 3"):
                door(frames(2, 4))
            with pytest.raises(ValueError, match=f"{name} is not finite"):
                door(torch.full((2, 3), math.nan))
            with pytest.raises(TypeError, match=f"{name} is torch.float64"):
                door(frames(2, 3).double())
            with pytest.raises(ValueError, match="sequences"):
                door(frames(3, 3))

    def test_what_is_observed_has_a_probability(self, srnn, doors):
        watch = srnn.filter(2, num_particles=4)
        for door in (doors["x_t"], watch.update):
            with pytest.raises(ValueError, match="gives a probability to numbers of at least 0 only"):
                door(-frames(2, 3))
        assert watch.num_frames == 0
        assert torch.isfinite(watch.update(frames(2, 3)).score).all()

    def test_latents(self, doors):
        x_t, z_t = frames(2, 3), frames(2, 2)
        for door in doors.values():
            with pytest.raises(ValueError, match="the model's latent variables are z; got 'a'"):
                door(x_t, a_t=z_t)
            with pytest.raises(ValueError, match=r"values of z must have shape \(2, 2\)"):
                door(x_t, z_t=z_t[:, :1])
            with pytest.raises(ValueError, match="values of z are not finite"):
                door(x_t, z_t=z_t * math.nan)
            with pytest.raises(TypeError, match=r"z must be a torch.Tensor"):
                door(x_t, z_t=None)

    def test_inputs(self):
        driven = build_model("srnn", x_dim=3, z_dim=2, u_dim=2)
        x, u = frames(2, 4, 3), frames(2, 4, 2)
        context, state = driven.begin_proposals(x, u)
        for door in (
            lambda u_t: driven.step(driven.initial_state(2), x[:, 0], u_t),
            lambda u_t: driven.propose(state, context.at(0), x[:, 0], u_t),
            lambda u_t: driven.filter(2, num_particles=4).update(x[:, 0], u_t),
        ):
            with pytest.raises(TypeError, match=r"u_t must be a torch.Tensor"):
                door([[1.0, 2.0]])
            with pytest.raises(ValueError, match=r"expected u_t of shape \(2, 2\); got None"):
                door(None)
            with pytest.raises(ValueError, match="u_t is not finite"):
                door(u[:, 0] * math.nan)
        with pytest.raises(TypeError, match=r"u must be a torch.Tensor"):
            driven.generate(4, 2, u=[[1.0, 2.0]])

    def test_states_and_contexts(self, srnn):
        x = frames(2, 4, 3)
        context, state = srnn.begin_proposals(x, num_particles=3)
        with pytest.raises(ValueError, match=r"the frame has 2 sequences, but '.*' in the state is of shape"):
            srnn.propose(state, context.at(0), x[:, 0])
        with pytest.raises(ValueError, match=r"the frame has 6 sequences, but '.*' in the context 2: use context.at"):
            srnn.propose(state, context.at(0), x[:, 0].repeat(3, 1))
        with pytest.raises(ValueError, match="state holds no frame before"):
            srnn.propose(srnn.initial_state(2), context.at(0), x[:, 0])
        with pytest.raises(TypeError, match="state must be what initial_state or the step before has returned"):
            srnn.step(None, x[:, 0])
        with pytest.raises(ValueError, match="rows must be a multiple of the 2 sequences; got 5"):
            context.at(0, 5)

    def test_models_that_generate_all_frames_together_have_no_proposals(self):
        with pytest.raises(NotImplementedError, match="does not generate frame by frame"):
            build_model("rvae-noncausal", x_dim=3, z_dim=2).begin_proposals(frames(2, 4, 3))
