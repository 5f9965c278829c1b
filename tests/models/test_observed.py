"""Gaps in the data: what is let in, what counts, and the truth of linear-Gaussian models."""

import math

import pytest
import torch

from dvae_lib import SRNN, VAE, build_model
from dvae_lib.distributions import neutral_of
from dvae_lib.objectives import free_bits, importance_weighted, particle, vlb

pytestmark = pytest.mark.usefixtures("as_a_user")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def frames(*shape, seed=0):
    return torch.randn(*shape, generator=seeded(seed))


SEEN = torch.tensor([[True, True, False, True], [True, False, True, True]])


@pytest.fixture
def srnn():
    torch.manual_seed(0)
    return SRNN(3, 2, h_dim=4, g_dim=4)


CALLS = {
    "vlb": lambda m, x, seen: vlb(m, x, observed=seen, num_samples=2),
    "free_bits": lambda m, x, seen: free_bits(m, x, observed=seen),
    "importance_weighted": lambda m, x, seen: importance_weighted(m, x, observed=seen),
    "importance_weighted_bound": lambda m, x, seen: m.importance_weighted_bound(x, observed=seen, num_samples=2),
    "particle": lambda m, x, seen: particle(m, x, observed=seen),
    "smc_bound": lambda m, x, seen: m.smc_bound(x, observed=seen, num_particles=2),
    "forward": lambda m, x, seen: m(x, observed=seen),
    "inference": lambda m, x, seen: m.inference(x, observed=seen),
    "generation": lambda m, x, seen: m.generation(x, {"z": frames(2, 4, 2)}, observed=seen),
    "rollout": lambda m, x, seen: m.rollout(x, {"z": frames(2, 4, 2)}, observed=seen),
    "context": lambda m, x, seen: m.context(x, observed=seen),
    "reconstruct": lambda m, x, seen: m.reconstruct(x, observed=seen),
    "generate": lambda m, x, seen: m.generate(2, prefix=x, observed=seen),
    "impute": lambda m, x, seen: m.impute(x, seen, num_samples=2),
}


class TestDoors:
    @pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
    def test_refused_at_every_door(self, srnn, call):
        x = frames(2, 4, 3)
        with pytest.raises(TypeError, match=r"observed must be boolean.*; got torch.float32: use observed.bool\(\)"):
            call(srnn, x, SEEN.float())
        with pytest.raises(ValueError, match=r"observed must have the shape of .*\(2, 4, 3\).*\(2, 4\); got \(2, 3\)"):
            call(srnn, x, SEEN[:, 1:])
        with pytest.raises(ValueError, match="nothing was observed of sequence 1: there is nothing to infer from"):
            call(srnn, x, torch.tensor([[True], [False]]).expand(2, 4))
        spoiled = x.clone()
        spoiled[1, 2, 0] = math.nan
        with pytest.raises(ValueError, match=r"is not finite: .*\[1, 2, 0\] is nan"):
            call(srnn, spoiled, SEEN)
        spoiled[0, 2], spoiled[1, 1] = math.nan, math.inf
        call(srnn, spoiled, SEEN & ~spoiled[..., 0].isnan())

    def test_masks_as_people_have_them(self, srnn):
        x = frames(2, 4, 3)
        known = srnn.vlb(x, observed=SEEN, generator=seeded()).value
        for same in (SEEN.numpy(), SEEN.tolist(), SEEN[..., None].expand(2, 4, 3)):
            assert torch.equal(srnn.vlb(x, observed=same, generator=seeded()).value, known)

    def test_frames_beyond_a_sequences_end_do_not_count_as_observed(self, srnn):
        with pytest.raises(ValueError, match="nothing was observed of sequence 0"):
            srnn.vlb(frames(2, 4, 3), observed=[[False, False, True, True], [True] * 4], lengths=[2, 4])

    def test_frames_of_a_stream(self, srnn):
        watch = srnn.filter(2, num_particles=3)
        x_t = frames(2, 3)
        with pytest.raises(TypeError, match="observed must be boolean"):
            watch.update(x_t, observed=torch.ones(2))
        with pytest.raises(ValueError, match=r"the shape of x_t, \(2, 3\), or of its frames, \(2,\)"):
            watch.update(x_t, observed=torch.ones(3, dtype=torch.bool))
        with pytest.raises(ValueError, match="x_t is not finite"):
            watch.update(x_t / 0, observed=torch.tensor([True, False]))
        assert watch.num_frames == 0

    def test_without_a_prefix_there_is_nothing_observed(self, srnn):
        with pytest.raises(ValueError, match="observed says what was observed of a prefix, and there is none"):
            srnn.generate(3, observed=SEEN)

    def test_the_entries_of_a_class_are_one_variable(self):
        model = VAE(3, 2, observation="categorical")
        x = torch.eye(3)[torch.tensor([[0, 1, 2, 0], [1, 1, 0, 2]])]
        entries = SEEN[..., None].expand(2, 4, 3).clone()
        assert torch.isfinite(model.vlb(x, observed=entries).value).all()
        entries[1, 3, 0] = False
        with pytest.raises(ValueError, match=r"a part of frame \[1, 3\] was observed, but the entries"):
            model.vlb(x, observed=entries)
        with pytest.raises(ValueError, match=r"a part of frame \[1\] was observed"):
            model.filter(2).update(x[:, 3], observed=entries[:, 3])

    def test_a_bound_that_was_written_before_there_were_masks(self):
        class Old(VAE):
            def single_sample_bound(self, x, u=None, *, lengths=None, **options):
                return super().single_sample_bound(x, u, lengths=lengths, **options)

        model, x = Old(3, 2), frames(2, 4, 3)
        assert torch.isfinite(model.vlb(x).value).all()
        with pytest.raises(NotImplementedError, match="Old writes single_sample_bound without `observed`"):
            model.vlb(x, observed=SEEN)


@pytest.mark.parametrize("observation", ["gamma", "bernoulli", "poisson", "negative_binomial", "categorical"])
def test_families_read_a_value_of_their_own_in_place_of_a_gap(observation):
    torch.manual_seed(0)
    model = build_model("vrnn", x_dim=3, z_dim=2, observation=observation)
    x = model.generate(4, 2, generator=seeded()).x
    assert neutral_of(observation) == {"gamma": 1.0, "categorical": 0.0}.get(observation, 0.5)
    hidden = torch.where(SEEN[..., None], x, math.nan)
    filled = torch.where(SEEN[..., None], x, neutral_of(observation))
    assert torch.equal(model.admit(hidden, observed=SEEN)[0], filled)
    for objective in (vlb, importance_weighted, particle):
        value = objective(model, hidden, observed=SEEN, generator=seeded()).value
        value.sum().backward()
        assert torch.isfinite(value).all()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
