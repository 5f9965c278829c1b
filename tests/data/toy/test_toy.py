import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from dvae_lib.data.toy import (
    TOYS,
    bouncing_ball,
    linear_gaussian,
    load_toy,
    moving_digits,
    pendulum,
    pendulum_images,
    pendulum_step,
    random_stable_matrix,
)
from dvae_lib.data.toy.pendulum import GRAVITY


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


class TestLinearGaussian:
    def test_moments_are_those_of_the_system(self):
        A = torch.tensor([[0.9, 0.3], [-0.2, 0.7]], dtype=torch.float64)
        C = torch.tensor([[1.0, 0.5], [0.0, 2.0], [1.0, -1.0]], dtype=torch.float64)
        Lambda = torch.tensor([[0.5, 0.2], [0.2, 0.3]], dtype=torch.float64)
        Sigma = torch.diag(torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64))
        data = linear_gaussian(20_000, 3, A=A, C=C, Lambda=Lambda, Sigma=Sigma, generator=seeded())
        assert data.x.dtype == torch.float64
        residual_z = (data.z[:, 1:] - data.z[:, :-1] @ A.T).flatten(0, 1)
        residual_x = (data.x - data.z @ C.T).flatten(0, 1)
        torch.testing.assert_close(torch.cov(residual_z.T), Lambda, atol=0.02, rtol=0)
        torch.testing.assert_close(torch.cov(residual_x.T), Sigma, atol=0.01, rtol=0)

    def test_the_law_of_the_states_does_not_change(self):
        data = linear_gaussian(20_000, 12, generator=seeded(), dtype=torch.float64)
        torch.testing.assert_close(data.Lambda_1, data.A @ data.Lambda_1 @ data.A.T + data.Lambda)
        for t in (0, 11):
            torch.testing.assert_close(torch.cov(data.z[:, t].T), data.Lambda_1, atol=0.06, rtol=0.05)

    def test_noise_in_one_direction_only(self):
        Lambda = torch.tensor([[1.0, 1.0], [1.0, 1.0]])
        data = linear_gaussian(5, 4, A=0.5 * torch.eye(2), Lambda=Lambda, generator=seeded())
        step = data.z[:, 1:] - 0.5 * data.z[:, :-1]
        torch.testing.assert_close(step[..., 0], step[..., 1])

    def test_growing_system_starts_at_unit_variance(self):
        data = linear_gaussian(2, 4, A=1.1 * torch.eye(2), generator=seeded())
        torch.testing.assert_close(data.Lambda_1, torch.eye(2))

    def test_refuses_what_is_no_covariance(self):
        for bad in (torch.tensor([[1.0, 2.0], [2.0, 1.0]]), torch.tensor([[1.0, 0.5], [0.0, 1.0]])):
            with pytest.raises(ValueError, match="a covariance must be symmetric"):
                linear_gaussian(2, 4, Lambda=bad, generator=seeded())

    @pytest.mark.parametrize("dim", [1, 2, 7])
    def test_spectral_radius(self, dim):
        matrix = random_stable_matrix(dim, radius=0.8, generator=seeded(), dtype=torch.float64)
        assert torch.linalg.eigvals(matrix).abs().max().item() == pytest.approx(0.8)
        with pytest.raises(ValueError, match="radius"):
            random_stable_matrix(dim, radius=0.0)


class TestPendulum:
    def test_step_solves_the_equation(self):
        start = np.array([2.5, -1.0])
        exact = solve_ivp(
            lambda _, s: [s[1], -GRAVITY / 0.7 * math.sin(s[0]) - 0.3 * s[1]],
            (0, 1.0),
            start,
            rtol=1e-11,
            atol=1e-12,
        ).y[:, -1]
        state = torch.tensor(start)
        for _ in range(20):
            state = pendulum_step(state, dt=0.05, length=0.7, damping=0.3)
        np.testing.assert_allclose(state.numpy(), exact, atol=2e-4)

    def test_one_step_is_as_exact_as_it_says(self):
        start = torch.tensor([1.5, 0.5], dtype=torch.float64)
        fine = start
        for _ in range(100):
            fine = pendulum_step(fine, dt=0.0005)
        assert (pendulum_step(start) - fine).abs()[0] < 1e-6

    def test_energy_is_kept_without_friction(self):
        swing = pendulum(3, 200, damping=0.0, process_std=0.0, generator=seeded())
        energy = swing.z[..., 1] ** 2 / 2 - GRAVITY * swing.z[..., 0].cos()
        torch.testing.assert_close(energy, energy[:, :1].expand_as(energy), atol=2e-3, rtol=0)

    def test_observation_is_the_bob(self):
        swing = pendulum(2, 30, observation_std=0.0, length=1.3, generator=seeded())
        torch.testing.assert_close(swing.x.norm(dim=-1), torch.full((2, 30), 1.3))
        torch.testing.assert_close(torch.atan2(swing.x[..., 0], -swing.x[..., 1]).sin(), swing.z[..., 0].sin())

    def test_film_shows_the_bob(self):
        angle = torch.tensor([0.0, math.pi / 2, math.pi])
        rows, columns = zip(*((f.sum(1), f.sum(0)) for f in pendulum_images(angle, size=16)), strict=True)
        centre = torch.arange(16) + 0.5
        where = [
            ((c * centre).sum() / c.sum(), (r * centre).sum() / r.sum()) for c, r in zip(columns, rows, strict=True)
        ]
        torch.testing.assert_close(torch.tensor(where), torch.tensor([[8.0, 14.0], [14.0, 8.0], [8.0, 2.0]]))


class TestBouncingBall:
    def test_path_is_what_walking_step_by_step_gives(self):
        """Reflection by hand, in small steps between the hits, against the folded line."""
        film = bouncing_ball(5, 60, size=24, radius=3.0, speed=2.7, generator=seeded(3))
        for z in film.z.double():
            place, velocity = z[0, :2].clone(), z[0, 2:].clone()
            for t in range(1, 60):
                for axis in range(2):
                    target = place[axis] + velocity[axis]
                    if target < 3.0:
                        target, velocity[axis] = 6.0 - target, -velocity[axis]
                    elif target > 21.0:
                        target, velocity[axis] = 42.0 - target, -velocity[axis]
                    place[axis] = target
                torch.testing.assert_close(z[t, :2], place, atol=1e-3, rtol=0)
                torch.testing.assert_close(z[t, 2:], velocity, atol=1e-3, rtol=0)

    def test_film_shows_the_ball(self):
        film = bouncing_ball(4, 30, size=32, radius=3.0, generator=seeded())
        images = film.x.reshape(4, 30, 32, 32)
        assert images.min() >= 0
        assert images.max() <= 1
        centre = torch.arange(32) + 0.5
        mass = images.sum((2, 3))
        torch.testing.assert_close(mass, torch.full((4, 30), math.pi * 9), rtol=0.03, atol=0)
        seen = torch.stack(((images.sum(2) * centre).sum(-1), (images.sum(3) * centre).sum(-1)), -1) / mass[..., None]
        torch.testing.assert_close(seen, film.z[..., :2], atol=0.05, rtol=0)

    def test_ball_too_large(self):
        with pytest.raises(ValueError, match="larger than the image"):
            bouncing_ball(1, 2, size=8, radius=4.0)


class TestMovingDigits:
    def test_digit_moves_as_its_state_says(self):
        film = moving_digits(3, 20, generator=seeded())
        images = film.x.reshape(3, 20, 32, 32)
        assert 0 <= images.min() < images.max() <= 1
        centre = torch.arange(32) + 0.5
        mass = images.sum((2, 3))
        seen = torch.stack(((images.sum(2) * centre).sum(-1), (images.sum(3) * centre).sum(-1)), -1) / mass[..., None]
        drift = seen - film.z[..., :2]
        # The ink's middle is not the digit's, but it keeps its distance from it.
        torch.testing.assert_close(drift, drift.mean(1, keepdim=True).expand_as(drift), atol=0.2, rtol=0)

    def test_digit_at_rest_on_the_grid_is_the_digit_twice_as_large(self):
        from sklearn.datasets import load_digits

        film = moving_digits(1, 2, size=16, digit_size=15, speed=0.0, generator=seeded())
        assert film.z.shape == (1, 2, 5)
        assert film.z[0, 0, 4] in range(10)
        assert load_digits().target.max() == 9
        torch.testing.assert_close(film.x[0, 0], film.x[0, 1])

    def test_two_digits(self):
        film = moving_digits(2, 5, num_digits=2, generator=seeded())
        assert film.z.shape == (2, 5, 2 * 4 + 2)


@pytest.mark.parametrize("name", TOYS)
def test_same_seed_same_corpus(name):
    one, same, other = (load_toy(name, num_sequences=20, num_steps=6, seed=seed) for seed in (1, 1, 2))
    assert [len(part) for part in one] == [16, 2, 2]
    for a, b in zip(one, same, strict=True):
        assert torch.equal(a.batch(range(len(a))).x, b.batch(range(len(b))).x)
    assert not torch.equal(one.train[0], other.train[0])
    assert one.train.standardizer is None


def test_unknown_system():
    with pytest.raises(ValueError, match=r"no toy system 'lorenz'; there are .*linear-gaussian, pendulum"):
        load_toy("lorenz")
