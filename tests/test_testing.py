"""The laws find what is wrong: a model broken in one place breaks the law that speaks of it."""

import pytest
import torch

from dvae_lib import DSAE, SRNN, VAE, VRNN
from dvae_lib.models.base import Inferred
from dvae_lib.networks import shift
from dvae_lib.objectives import Generated, Latent, variational_lower_bound
from dvae_lib.testing import LAWS, check_model

SMALL = {"feature_x": (4,), "h_dim": 4, "prior": (4,), "decoder": (4,), "encoder": (4,), "g_dim": 4, "head": (4,)}


class LooksAhead(SRNN):
    def _generate(self, x, latents, u, lengths, states):
        return super()._generate(x.roll(-1, 1), latents, u, lengths, {})


class ForgetsTheState(SRNN):
    def _step(self, state, x_prev, u_t, draws):
        return super()._step({**state, "z": torch.zeros_like(state["z"])}, x_prev, u_t, draws)


class ProposesFromThePrior(VRNN):
    def _propose(self, name, context, known):
        return super()._propose(name, {"known": torch.zeros_like(context["known"])}, known)


class HandsOnAnotherState(SRNN):
    def _infer(self, x, u, lengths, draws):
        latents, states = super()._infer(x, u, lengths, draws)
        return Inferred(latents, {"h": 2 * states["h"]})

    _context, _propose = SRNN._context, SRNN._propose


class DrawsFromTheGlobalState(VAE):
    def _infer(self, x, u, lengths, draws):
        q = self.z_head(self.e_z(x))
        return Inferred({"z": Latent(draws.given.get("z", q.mean + q.stddev * torch.randn_like(q.mean)), q)})


class ReadsPadding(SRNN):
    def _context(self, x, u, lengths, draws, past):
        return super()._context(x, u, None, draws, past)


class IgnoresWhatIsGiven(VAE):
    def _infer(self, x, u, lengths, draws):
        draws.given = {}
        return super()._infer(x, u, lengths, draws)


class ConstantKL(VAE):
    def _generate(self, x, latents, u, lengths, states):
        prior, observation = super()._generate(x, latents, u, lengths, states)
        return Generated({"z": prior["z"].expand(prior["z"].batch_shape)}, observation[:, :1].expand(x.shape[:2]))


class ReadsWhatIsHidden(VAE):
    def admit(self, x, u=None, lengths=None, feedback=0.0, observed=None):
        super().admit(x, u, lengths, feedback, observed)
        return x.nan_to_num(3.0), u, lengths


class CountsWhatIsHidden(VAE):
    def single_sample_bound(self, x, u=None, *, observed=None, lengths=None, kl="analytic", **options):
        output = self(x, u, observed=observed, lengths=lengths, generator=options["generator"])
        return variational_lower_bound(output, x, lengths=lengths, kl=kl)


class FiltersWhatIsHidden(VRNN):
    def _admit_frame(self, x_t, u_t, observed):
        return super()._admit_frame(x_t, u_t, observed)[0], None


class MakesUpWhatWasObserved(VAE):
    def _imputed(self, *known):
        mean, draw, weight = super()._imputed(*known)
        return mean, draw + 1, weight


BROKEN = [
    (LooksAhead, SMALL, "the code depends on what the spec says"),
    (LooksAhead, SMALL, "steps are what the pass over whole sequences says"),
    (ForgetsTheState, SMALL, "steps are what the pass over whole sequences says"),
    (ProposesFromThePrior, {"h_dim": 4}, "the code depends on what the spec says"),
    (HandsOnAnotherState, SMALL, "what inference hands on to generation"),
    (DrawsFromTheGlobalState, {}, "the generator decides everything"),
    (ReadsPadding, SMALL, "a padded batch gives what each sequence gives alone"),
    (IgnoresWhatIsGiven, {}, "a frame's posterior, drawn in turn"),
    (ConstantKL, {}, "the code depends on what the spec says"),
    (ReadsWhatIsHidden, {}, "what stands where nothing was observed"),
    (CountsWhatIsHidden, {}, "the bound counts what was observed"),
    (FiltersWhatIsHidden, {"h_dim": 4}, "a filter predicts through a gap"),
    (MakesUpWhatWasObserved, {}, "what is filled in is the model's"),
]


@pytest.mark.parametrize(("cls", "options", "words"), BROKEN)
def test_a_broken_model_breaks_the_law_that_speaks_of_it(cls, options, words):
    torch.manual_seed(0)
    law = next(name for name in LAWS if name.startswith(words))
    check_model(cls.__mro__[1](3, 2, **options), laws=[law])
    with pytest.raises(AssertionError, match=f"{cls.__name__} breaks 1 of 1 laws:\n- {words}"):
        check_model(cls(3, 2, **options), laws=[law])


def test_a_model_of_ones_own_needs_nothing_but_the_two_directions():
    class Plain(SRNN):
        def inference(self, x, u=None, *, lengths=None, latents=None, draw="sample", generator=None):
            return super().inference(x, u, lengths=lengths, latents=latents, draw=draw, generator=generator)

        def generation(self, x, latents, u=None, *, lengths=None):
            h, _ = self.d_h(self.phi_x(shift(x)))
            return Generated({"z": self._prior(shift(latents["z"]), h)}, self._observe(latents["z"], h))

    torch.manual_seed(0)
    verdicts = check_model(Plain(3, 2, **SMALL), laws=[name for name in LAWS if not name.startswith("the doors")])
    assert verdicts["proposals, frame by frame, are the inference of whole sequences"].startswith("does not apply")
    assert "holds" in verdicts.values()


def test_the_model_and_the_global_state_are_left_alone():
    torch.manual_seed(0)
    model = DSAE(3, 2, h_dim=4, decoder=(4,), g_dim=4)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    verdicts = check_model(model)
    assert set(verdicts) == set(LAWS)
    assert torch.equal(state, torch.get_rng_state())
    assert model.training
    for name, value in model.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, before[name])


def test_refusals():
    model = VAE(3, 2)
    with pytest.raises(ValueError, match="no law is called 'gravity'"):
        check_model(model, laws=["gravity"])
    with pytest.raises(ValueError, match="four sequences of six frames"):
        check_model(model, torch.zeros(2, 6, 3))
