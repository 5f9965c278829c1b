"""The toy systems of Chapter 12: each against a law that it must obey, or an integration of its equations."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.integrate import solve_ivp

from dvae_lib.data.toy import (
    PendulumTask,
    bouncing_ball,
    dot_film,
    driven_pendulum,
    falling_ball,
    falling_path,
    growth_model,
    growth_step,
    moving_digits,
    pendulum_step,
    poisson_lds,
    rotating_digits,
)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


class TestDotFilm:
    def test_one_speed_is_a_triangle_wave(self):
        film = dot_film(4, 60, speeds=[0.11], noise_std=0.0, generator=seeded())
        position, velocity = film.z[..., 0].double(), film.z[..., 1].double()
        assert position.abs().max() <= 1
        torch.testing.assert_close(velocity.abs(), torch.full_like(velocity, 0.11), atol=1e-6, rtol=0)
        step = position[:, 1:] - position[:, :-1]
        straight = velocity[:, 1:] == velocity[:, :-1]
        torch.testing.assert_close(step[straight], velocity[:, 1:][straight], atol=1e-5, rtol=0)
        # Over a wall what is lost on one side is gained on the other: a period later the dot is where it was.
        whole = dot_film(2, 41, speeds=[0.1], noise_std=0.0, generator=seeded())
        torch.testing.assert_close(whole.z[:, 0, 0], whole.z[:, 40, 0], atol=1e-5, rtol=0)

    def test_the_brightest_pixel_is_where_the_dot_is(self):
        film = dot_film(5, 30, noise_std=0.0, generator=seeded())
        places = torch.linspace(-1, 1, 20)
        assert ((places[film.x.argmax(-1)] - film.z[..., 0]).abs() <= 1 / 19 + 1e-6).all()

    def test_rules_change_as_often_as_they_should(self):
        film = dot_film(400, 200, speeds=[0.0, 0.05, 0.1], switch=0.1, generator=seeded())
        rule = film.z[..., 2]
        changed = (rule[:, 1:] != rule[:, :-1]).double()
        assert abs(changed.mean().item() - 0.1) < 4 * math.sqrt(0.09 / changed.numel())
        assert stats.chisquare(torch.bincount(rule[:, 0].long(), minlength=3).numpy()).pvalue > 1e-3
        speeds = torch.tensor([0.0, 0.05, 0.1])[rule.long()]
        torch.testing.assert_close(film.z[..., 1].abs(), speeds)
        still = dot_film(3, 50, switch=0.0, generator=seeded()).z[..., 2]
        assert torch.equal(still, still[:, :1].expand_as(still))

    def test_refuses(self):
        with pytest.raises(ValueError, match="speeds must hold"):
            dot_film(1, 2, speeds=[])
        with pytest.raises(ValueError, match="switch must be a probability"):
            dot_film(1, 2, switch=1.5)


class TestRandomBounces:
    def test_between_walls_the_path_is_straight_at_constant_speed(self):
        film = bouncing_ball(20, 200, size=20, radius=2.0, speed=1.3, bounce="random", generator=seeded())
        position, velocity = film.z[..., :2], film.z[..., 2:]
        assert position.min() >= 2
        assert position.max() <= 18
        torch.testing.assert_close(velocity.norm(dim=-1), torch.full((20, 200), 1.3))
        same = (velocity[:, 1:] == velocity[:, :-1]).all(-1)
        assert 0.5 < same.double().mean() < 0.95
        torch.testing.assert_close((position[:, 1:] - position[:, :-1])[same], velocity[:, 1:][same], atol=1e-4, rtol=0)
        bounced = ~same
        longest = (position[:, 1:] - position[:, :-1]).norm(dim=-1)[bounced].max()
        assert longest <= 1.3 + 1e-5  # round a corner it gets less far

    def test_the_direction_after_a_wall_is_uniform_and_away_from_it(self):
        film = bouncing_ball(300, 120, size=40, radius=2.0, speed=1.0, bounce="random", generator=seeded())
        position, velocity = film.z[..., :2].double(), film.z[..., 2:].double()
        angles = []
        for axis in range(2):
            for wall, sign in ((2.0, 1.0), (38.0, -1.0)):
                # Only this wall is near, and it was the first frame after it.
                near = (position[:, 1:, axis] - wall).abs() < 1.01
                inner = ((position[:, 1:, 1 - axis] - 20).abs() < 15) & near
                turned = (velocity[:, 1:] != velocity[:, :-1]).any(-1) & inner
                away = sign * velocity[:, 1:, axis][turned]
                assert (away > 0).all()
                angles.append(torch.atan2(velocity[:, 1:, 1 - axis][turned], away))
        angle = torch.cat(angles).numpy()
        assert len(angle) > 1000
        assert stats.kstest(angle, stats.uniform(-math.pi / 2, math.pi).cdf).pvalue > 1e-3

    def test_elastic_ones_stay_as_they_were(self):
        """The same seed as ever gives the same film: random bounces draw nothing before the start."""
        film = bouncing_ball(2, 30, generator=seeded())
        again = bouncing_ball(2, 30, bounce="random", generator=seeded())
        torch.testing.assert_close(film.z[:, 0], again.z[:, 0])
        digits = moving_digits(2, 40, bounce="random", generator=seeded())
        torch.testing.assert_close(digits.z[..., 2:4].norm(dim=-1), torch.full((2, 40), 1.5))

    @pytest.mark.usefixtures("as_a_user")
    def test_refuses(self):
        with pytest.raises(ValueError, match='bounce must be "elastic" or "random"'):
            bouncing_ball(1, 2, bounce="soft")


class TestFallingBall:
    def test_energy_is_conserved(self):
        film = falling_ball(50, 100, size=32, speed=1.0, generator=seeded())
        z = film.z.double()
        energy = 0.5 * z[..., 2:4].square().sum(-1) + z[..., 4] * (30 - z[..., 1])
        torch.testing.assert_close(energy, energy[:, :1].expand_as(energy), atol=1e-4, rtol=0)
        assert z[..., 1].max() <= 30 + 1e-5
        assert z[..., :2].min() >= 2 - 1e-5
        gravity = z[..., 4]
        assert torch.equal(gravity, gravity[:, :1].expand_as(gravity))
        assert ((gravity >= 0.05 - 1e-6) & (gravity <= 0.5 + 1e-6)).all()

    def test_path_is_what_small_steps_give(self):
        """Newton's equation with a floor and walls, a thousand steps to a frame."""
        start = torch.tensor([[5.0, 6.0, 0.7, -0.5], [9.0, 12.0, -1.1, 0.3]], dtype=torch.float64)
        gravity = torch.tensor([0.2, 0.4], dtype=torch.float64)
        path = falling_path(start, gravity, 30, low=2.0, high=14.0)
        place, velocity = start[:, :2].clone(), start[:, 2:].clone()
        small = 1000
        for t in range(1, 30):
            for _ in range(small):
                place[:, 0] += velocity[:, 0] / small
                place[:, 1] += velocity[:, 1] / small + 0.5 * gravity / small**2
                velocity[:, 1] += gravity / small
                for axis, low in ((0, 2.0), (1, -math.inf)):
                    out = (place[:, axis] > 14.0) & (velocity[:, axis] > 0)
                    out |= (place[:, axis] < low) & (velocity[:, axis] < 0)
                    velocity[:, axis] = torch.where(out, -velocity[:, axis], velocity[:, axis])
            torch.testing.assert_close(path[:, t, :2], place, atol=0.02, rtol=0)
        torch.testing.assert_close(path[:, 0], start)

    def test_the_same_ball_on_another_planet(self):
        start = torch.tensor([8.0, 4.0, 0.3, 0.0])
        light, heavy = (falling_path(start, torch.tensor(g), 5, low=2.0, high=30.0) for g in (0.1, 0.4))
        torch.testing.assert_close(
            (heavy[:, 1] - 4) / (light[:, 1] - 4).clamp(min=1e-9), torch.tensor([0.0, 4, 4, 4, 4]).double()
        )
        torch.testing.assert_close(light[:, 0], heavy[:, 0])

    def test_a_ball_at_rest_on_the_floor_stays_there(self):
        start = torch.tensor([8.0, 14.0, 0.0, 0.0])
        path = falling_path(start, torch.tensor(0.3), 4, low=2.0, high=14.0)
        torch.testing.assert_close(path, start.double().expand(4, 4))

    def test_refuses(self):
        with pytest.raises(ValueError, match="gravity must be positive"):
            falling_path(torch.zeros(4), torch.tensor(0.0), 3, low=0.0, high=1.0)
        with pytest.raises(ValueError, match="starts outside the box"):
            falling_path(torch.tensor([0.0, 5.0, 0.0, 0.0]), torch.tensor(1.0), 3, low=0.0, high=1.0)
        with pytest.raises(ValueError, match="range of positive numbers"):
            falling_ball(1, 2, gravity=(0.5, 0.1))
        with pytest.raises(ValueError, match="larger than the image"):
            falling_ball(1, 2, size=4, radius=2.0)


class TestGrowthModel:
    def test_residuals_have_the_variances_it_says(self):
        data = growth_model(4000, 12, generator=seeded())
        z, x = data.z[..., 0].double(), data.x[..., 0].double()
        for t in range(2, 13):
            drift = z[:, t - 2] / 2 + 25 * z[:, t - 2] / (1 + z[:, t - 2] ** 2) + 8 * math.cos(1.2 * t)
            torch.testing.assert_close(growth_step(z[:, t - 2], t), drift)
            assert stats.kstest((z[:, t - 1] - drift).numpy(), stats.norm(0, math.sqrt(10)).cdf).pvalue > 1e-4
        assert stats.kstest((x - z.square() / 20).flatten().numpy(), stats.norm.cdf).pvalue > 1e-3
        assert stats.kstest(z[:, 0].numpy(), stats.norm(0, math.sqrt(5)).cdf).pvalue > 1e-3

    def test_the_sign_is_hidden(self):
        """The observations of a state and of its mirror image have the same law."""
        data = growth_model(1, 3, observation_variance=0.0, generator=seeded())
        torch.testing.assert_close(data.x, data.z.square() / 20)


class TestPoissonLDS:
    def test_counts_have_the_mean_they_should_at_every_frame(self):
        data = poisson_lds(20_000, 6, rate=1.5, x_dim=5, generator=seeded())
        assert (data.x == data.x.round()).all()
        assert data.x.min() >= 0
        mean = data.x.double().mean(0)
        error = data.x.double().std(0) / math.sqrt(20_000)
        assert ((mean - 1.5).abs() < 4.5 * error).all()

    def test_counts_vary_as_a_mixture_of_poisson_distributions(self):
        """Var[x] = E[rate] + Var[rate], and Var[rate] of a log-normal rate is known."""
        data = poisson_lds(40_000, 2, x_dim=4, generator=seeded())
        variance = ((data.C @ data.Lambda_1) * data.C).sum(-1).double()
        expected = 1 + (variance.exp() - 1)
        torch.testing.assert_close(data.x[:, 1].double().var(0), expected, rtol=0.1, atol=0)

    def test_states_are_stationary_and_drive_the_rates(self):
        data = poisson_lds(20_000, 8, generator=seeded())
        for t in (0, 7):
            torch.testing.assert_close(torch.cov(data.z[:, t].T), data.Lambda_1, atol=0.05, rtol=0)
        torch.testing.assert_close(data.A @ data.Lambda_1 @ data.A.T + data.Lambda, data.Lambda_1)
        torch.testing.assert_close(data.lograte, data.z @ data.C.T + data.d)

    def test_sizes_follow_the_matrices(self):
        data = poisson_lds(2, 3, A=0.8 * torch.eye(1), C=torch.ones(7, 1), Lambda=4 * torch.eye(1), generator=seeded())
        assert data.x.shape == (2, 3, 7)
        torch.testing.assert_close(data.Lambda_1, torch.tensor([[4 / 0.36]]))

    def test_refuses(self):
        with pytest.raises(ValueError, match="rate is a mean count"):
            poisson_lds(1, 2, rate=0.0)
        with pytest.raises(ValueError, match="not stable"):
            poisson_lds(1, 2, A=torch.eye(2))


class TestRotatingDigits:
    def test_a_digit_turned_by_nothing_or_by_a_quarter_is_exact(self):
        from sklearn.datasets import load_digits

        film = rotating_digits(6, 1, missing=0.0, generator=seeded())
        assert film.observed.all()
        still = rotating_digits(40, 3, turn=0.0, drift=0.0, generator=seeded())
        torch.testing.assert_close(still.x[:, 0], still.x[:, 2])
        assert torch.equal(still.z[:, 0], still.z[:, 2])
        from dvae_lib.data.toy.rotating_digits import _rotated

        images = torch.as_tensor(load_digits().images[:5] / 16, dtype=torch.float32)
        angles = torch.tensor([0.0, math.pi / 2, math.pi, 2 * math.pi]).expand(5, 4)
        turned = _rotated(images, angles)
        torch.testing.assert_close(turned[:, 0], images, atol=1e-6, rtol=0)
        torch.testing.assert_close(turned[:, 1], images.rot90(1, (-2, -1)), atol=1e-5, rtol=0)
        torch.testing.assert_close(turned[:, 2], images.rot90(2, (-2, -1)), atol=1e-5, rtol=0)
        torch.testing.assert_close(turned[:, 3], images, atol=1e-5, rtol=0)

    def test_the_share_of_missing_pixels_and_of_bright_ones_among_them(self):
        film = rotating_digits(300, 10, missing=0.6, bright=1.5, generator=seeded())
        missing = ~film.observed
        assert missing.double().mean().item() == pytest.approx(0.6, abs=0.005)
        bright = film.x > 0.5
        ratio = missing[bright].double().mean() / missing[~bright].double().mean()
        assert ratio.item() == pytest.approx(1.5, abs=0.02)

    def test_speeds_change_slowly(self):
        film = rotating_digits(3000, 10, turn=0.3, drift=0.05, generator=seeded())
        angle = film.z[..., 0].double()
        speed = angle.diff(dim=1)
        assert speed[:, 0].std().item() == pytest.approx(math.sqrt(0.3**2 + 0.05**2), rel=0.05)
        assert speed.diff(dim=1).std().item() == pytest.approx(0.05, rel=0.03)
        classes = film.z[..., 1]
        assert torch.equal(classes, classes[:, :1].expand_as(classes))
        assert set(classes[:, 0].tolist()) == set(range(10))

    def test_refuses(self):
        with pytest.raises(ValueError, match=r"share in \[0, 1\)"):
            rotating_digits(1, 2, missing=1.0)
        with pytest.raises(ValueError, match="cannot be had"):
            rotating_digits(5, 2, missing=0.9, bright=4.0, generator=seeded())


class TestPendulumTask:
    def test_a_step_under_torque_solves_the_equation(self):
        task = PendulumTask(length=0.8, damping=0.3, max_torque=5.0)
        z, torque = torch.tensor([2.0, -1.0], dtype=torch.float64), torch.tensor([1.7], dtype=torch.float64)
        exact = solve_ivp(
            lambda _, s: [s[1], -9.81 / 0.8 * math.sin(s[0]) - 0.3 * s[1] + 1.7 / 0.64],
            (0, task.dt),
            z.numpy(),
            rtol=1e-11,
            atol=1e-12,
        ).y[:, -1]
        following, reward = task.step(z, torque)
        np.testing.assert_allclose(following.numpy(), exact, atol=1e-5)
        assert reward.item() == pytest.approx(-math.cos(exact[0]) - 0.001 * 1.7**2, abs=1e-5)

    def test_without_torque_it_is_the_pendulum_and_its_work_is_its_energy(self):
        task = PendulumTask(damping=0.0, max_torque=3.0)
        z = torch.tensor([[1.0, 0.5], [3.0, -0.2]], dtype=torch.float64)
        torch.testing.assert_close(task.step(z, torch.zeros(2, 1).double())[0], pendulum_step(z, damping=0.0))
        torque = torch.full((2, 1), 2.5, dtype=torch.float64)
        energy = lambda z: 0.5 * z[..., 1] ** 2 - 9.81 * z[..., 0].cos()  # noqa: E731
        after, _ = task.step(z, torque)
        torch.testing.assert_close(energy(after) - energy(z), 2.5 * (after - z)[..., 0], atol=1e-4, rtol=0)

    def test_torque_is_cut_off_and_too_weak_to_lift_at_once(self):
        task = PendulumTask()
        z = torch.zeros(1, 2)
        torch.testing.assert_close(task.step(z, torch.tensor([[99.0]])), task.step(z, torch.tensor([[4.0]])))
        for _ in range(task.num_steps):
            z, _ = task.step(z, torch.tensor([[99.0]]))
            assert not task.is_up(z).any()

    def test_pushing_with_the_swing_gets_it_up(self):
        """Energy pumping, the classical solution: the task can be solved within an episode."""
        task = PendulumTask()
        z, best = task.reset(5, generator=seeded()), torch.full((5,), -1.0)
        for _ in range(task.num_steps):
            energy = 0.5 * z[:, 1:] ** 2 - 9.81 * z[:, :1].cos()
            push = torch.where(energy < 9.81, task.max_torque * torch.where(z[:, 1:] >= 0, 1.0, -1.0), 0.0)
            z, reward = task.step(z, push)
            best = torch.maximum(best, reward)
        assert best.min() > 0.9

    def test_episodes_driven_at_random(self):
        data = driven_pendulum(200, 60, generator=seeded())
        assert data.x.shape == (200, 60, 3)
        assert data.u.shape == (200, 60, 1)
        assert data.u[:, 0].abs().max() == 0
        assert data.u.abs().max() <= 4.0
        task = PendulumTask(observation_std=0.02)
        following, reward = task.step(data.z[:, :-1], data.u[:, 1:])
        torch.testing.assert_close(following, data.z[:, 1:])
        torch.testing.assert_close(reward, data.reward[:, 1:])
        assert data.reward.max() <= 1
        residual = data.x - task.__class__().observe(data.z)
        assert residual.std().item() == pytest.approx(0.02, rel=0.02)
        inner = data.u[:, 2:, 0][data.u[:, 2:].squeeze(-1).abs() < 3.9]
        assert inner.std() > 1

    def test_planning_can_differentiate(self):
        torque = torch.zeros(3, 1, requires_grad=True)
        _, reward = PendulumTask().step(torch.tensor([[1.0, 0.0]]).expand(3, 2), torque)
        assert (torch.autograd.grad(reward.sum(), torque)[0] > 0).all()

    def test_refuses(self):
        with pytest.raises(ValueError, match="max_torque must be positive"):
            PendulumTask(max_torque=0.0)
        with pytest.raises(ValueError, match="hold must lie between"):
            driven_pendulum(1, 2, hold=1.0)
