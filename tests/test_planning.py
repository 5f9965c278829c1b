"""The cross-entropy method on functions whose maximum is known, and imagined rewards against ones computed by hand."""

import pytest
import torch

from dvae_lib import GRNN, RSSM
from dvae_lib.models.draws import split_state
from dvae_lib.planning import Planner, cross_entropy_method, imagined_return


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def reward(frame):
    return frame.mean[..., -1]


TARGET = torch.tensor([[[0.5], [-0.2], [0.9]], [[-0.6], [0.1], [0.0]]])


def quadratic(actions):
    """Of two problems, each with its own best actions, which depend on one another."""
    off = (actions - TARGET[:, None]).squeeze(-1)
    return -off.square().sum(-1) - 0.8 * off[..., 0] * off[..., 1]


def test_the_maximum_of_a_quadratic_is_found():
    search = {"candidates": 200, "elites": 20, "generator": seeded()}
    plan = cross_entropy_method(quadratic, torch.zeros(2, 3, 1), iterations=20, **search)
    torch.testing.assert_close(plan.mean, TARGET, rtol=0, atol=0.01)
    assert (plan.std < 0.01).all()
    assert (plan.value > -1e-3).all()


def test_iterations_improve_and_limits_hold():
    values = [
        cross_entropy_method(quadratic, torch.zeros(2, 3, 1), iterations=n, generator=seeded()).value.mean()
        for n in (1, 3, 9)
    ]
    assert values[0] < values[1] < values[2] < 0
    plan = cross_entropy_method(
        lambda a: a.sum((-1, -2)), torch.zeros(1, 4, 2), limit=0.7, iterations=15, generator=seeded()
    )
    torch.testing.assert_close(plan.mean, torch.full((1, 4, 2), 0.7), rtol=0, atol=0.01)


def test_one_iteration_written_out():
    """Mean and standard deviation of the best of the first Gaussian's samples."""
    start = torch.full((1, 2, 1), 0.3)
    plan = cross_entropy_method(
        lambda a: -a[..., 0, 0], start, std=2.0, candidates=7, elites=3, iterations=1, generator=seeded(4)
    )
    actions = 0.3 + 2.0 * torch.randn(1, 7, 2, 1, generator=seeded(4))
    best = actions[0, actions[0, :, 0, 0].argsort()[:3]]
    torch.testing.assert_close(plan.mean[0], best.mean(0))
    torch.testing.assert_close(plan.std[0], best.std(0, unbiased=False))
    torch.testing.assert_close(plan.value[0], -best[:, 0, 0].mean())


def test_wrong_searches_are_refused():
    start = torch.zeros(1, 2, 1)
    for options in ({"elites": 0}, {"candidates": 5, "elites": 6}, {"iterations": 0}):
        with pytest.raises(ValueError, match="expected 1 <= elites <= candidates"):
            cross_entropy_method(quadratic, start, **options)
    with pytest.raises(ValueError, match=r"expected scores of shape \(1, 100\); got \(1,\)"):
        cross_entropy_method(lambda actions: actions.sum((-1, -2, -3)), start)


def trained_on_nothing(kind):
    torch.manual_seed(0)
    if kind == "rnn":
        return GRNN(3, 8, u_dim=2).double()
    return RSSM(3, 2, u_dim=2, kind=kind, h_dim=8, prior=(8,), decoder=(8,), encoder=(8,), head=(8,)).double()


@pytest.mark.parametrize("kind", ["rssm", "ssm", "rnn"])
def test_imagined_rewards_are_those_of_steps_taken_one_by_one(kind):
    """Of models that draw nothing: the variance of the prior is as good as zero."""
    model = trained_on_nothing(kind)
    if kind != "rnn":
        with torch.no_grad():
            model.prior_head.linear.weight[2:] = 0
            model.prior_head.linear.bias[2:] = -80
    belief = model.filter(2, num_particles=1, generator=seeded())
    x, u = (torch.randn(2, 4, size, generator=seeded(1), dtype=torch.float64) for size in (3, 2))
    for t in range(4):
        belief.update(x[:, t], u[:, t])
    actions = torch.randn(2, 5, 3, 2, generator=seeded(2), dtype=torch.float64)
    before = {name: value.clone() for name, value in belief.state.items()}
    found = imagined_return(belief, actions, reward, generator=seeded(3))
    assert all(torch.equal(belief.state[name], value) for name, value in before.items())
    for b in range(2):
        for i in range(5):
            state, _, x_prev = split_state({name: value[b : b + 1] for name, value in belief.state.items()})
            total = 0.0
            for t in range(3):
                out = model.step(state, x_prev, actions[b, i, t : t + 1])
                state, x_prev = out.state, out.observation.mean
                total = total + x_prev[0, -1]
            torch.testing.assert_close(found[b, i], total, rtol=0, atol=1e-9)


def test_candidates_start_from_particles_by_their_weights():
    model = trained_on_nothing("rssm")
    belief = model.filter(2, num_particles=3, generator=seeded())
    belief.update(torch.zeros(2, 3).double(), torch.zeros(2, 2).double())
    belief.weights = torch.full_like(belief.weights, -torch.inf)
    belief.weights[1, 0] = belief.weights[2, 1] = 0.0
    started = []
    step = model.step
    model.step = lambda state, *rest, **options: (started.append(state["z"]), step(state, *rest, **options))[1]
    imagined_return(belief, torch.zeros(2, 4, 1, 2).double(), reward, generator=seeded())
    expected = torch.cat([belief.state["z"][row].expand(4, -1) for row in (1 * 2 + 0, 2 * 2 + 1)])
    assert torch.equal(started[0], expected)
    with pytest.raises(ValueError, match="expected actions of size 2 for 2 sequences"):
        imagined_return(belief, torch.zeros(1, 4, 1, 2).double(), reward)


def test_a_planner_starts_from_the_plan_before():
    model = trained_on_nothing("rssm").float()
    planner = Planner(model, reward, batch_size=2, horizon=4, generator=seeded(), candidates=5, elites=2, limit=1.0)
    plan = planner.act(torch.zeros(2, 3), torch.zeros(2, 2))
    assert plan.mean.shape == (2, 4, 2)
    assert planner.belief.num_frames == 1
    expected = torch.cat([plan.mean[:, 1:], torch.zeros(2, 1, 2)], 1)
    assert torch.equal(planner._start, expected)
    planner.act(torch.ones(2, 3), plan.mean[:, 0])
    assert planner.belief.num_frames == 2


def test_a_planner_makes_rewards_larger():
    """A world that is the model: one entry, which the action moves at once."""
    model = RSSM(1, 1, u_dim=1, kind="ssm", prior=(), decoder=(), encoder=(), head=())
    with torch.no_grad():
        for linear in (model.prior_head.linear, model.x_head.linear, model.z_head.linear):
            linear.weight.zero_()
            linear.bias.fill_(-10.0)
            linear.bias[0] = 0.0
        model.prior_head.linear.weight[0, 0] = 1.0  # z_t = u_t
        model.x_head.linear.weight[0, 0] = 1.0  # x_t = z_t
    planner = Planner(
        model, lambda frame: -(frame.mean[:, 0] - 0.4).square(), horizon=2, iterations=12, generator=seeded()
    )
    plan = planner.act(torch.zeros(1, 1), torch.zeros(1, 1))
    torch.testing.assert_close(plan.mean, torch.full((1, 2, 1), 0.4), rtol=0, atol=0.02)
