r"""A slow latent level that an input refreshes, above one that moves in every frame: Chapter 14e."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dvae_lib.distributions import DiagonalGaussian
from dvae_lib.graphs import DependencySpec
from dvae_lib.models import DVAE
from dvae_lib.models.draws import Draws, Inferred
from dvae_lib.networks import MLP, GaussianHead, ObservationHead, Recurrence, shift
from dvae_lib.objectives import Generated, Latent

__all__ = ["Clockwork", "TwoClocks", "ticking"]

CLOCK = DependencySpec(
    """
    b_t ~ s_{t-1}, u_t
    s_t <- b_t, s_{t-1}, u_t
    z_t ~ z_{t-1}, s_t
    x_t ~ z_t, s_t
    """,
    """
    g_t <- x_t, u_t, g_{t+1}
    b_t ~ s_{t-1}, z_{t-1}, u_t, g_t
    z_t ~ z_{t-1}, s_t, g_t
    """,
)


def ticking(num_sequences: int, num_frames: int, period: int) -> Float[Tensor, "batch time 1"]:
    """The input of a clock that refreshes the slow level in the first frame, and every so many frames.

    Arguments:
        num_sequences: Number of sequences.
        num_frames: Their length.
        period: Frames from one refreshment to the next; 1 is no clock at all.

    Example:
        >>> ticking(1, 5, 2)[0, :, 0]
        tensor([1., 0., 1., 0., 1.])
    """
    u = torch.zeros(num_sequences, num_frames, 1)
    u[:, ::period] = 1
    return u


def _gaussian(in_dim: int, out_dim: int, h_dim: int) -> nn.Module:
    return nn.Sequential(MLP(in_dim, [h_dim]), GaussianHead(h_dim, out_dim))


class TwoClocks(DVAE):
    r"""The generation by a slow level, held between the ticks of an input, and a fast one, Eq. (14.e.7).

    .. math::
        \mathbf{s}_t = u_t \mathbf{b}_t + (1 - u_t) \mathbf{s}_{t-1}, \qquad
        \mathbf{z}_t \sim p(\mathbf{z}_t | \mathbf{z}_{t-1}, \mathbf{s}_t), \qquad
        \mathbf{x}_t \sim p(\mathbf{x}_t | \mathbf{z}_t, \mathbf{s}_t)

    with :math:`\mathbf{b}_t \sim p(\mathbf{b}_t | \mathbf{s}_{t-1})` where :math:`u_t = 1`. `Clockwork` infers.

    Arguments:
        x_dim: Size of the observed vectors.
        z_dim: Size of the fast level.
        b_dim: Size of the slow level.
        u_dim: 1, the clock.
        h_dim: Size of all hidden layers and of the recurrent network.
        observation: The family of :math:`p(\mathbf{x}_t | \mathbf{z}_t, \mathbf{s}_t)`.
    """

    spec = CLOCK

    def __init__(
        self,
        x_dim: int,
        z_dim: int = 1,
        *,
        b_dim: int = 1,
        u_dim: int = 1,
        h_dim: int = 16,
        observation: str = "gaussian",
    ) -> None:
        super().__init__(x_dim, z_dim, u_dim=u_dim, observation=observation)
        self.b_dim = b_dim
        self.d_b = _gaussian(b_dim, b_dim, h_dim)
        self.d_z = _gaussian(z_dim + b_dim, z_dim, h_dim)
        self.d_x = nn.Sequential(MLP(z_dim + b_dim, [h_dim, h_dim]), ObservationHead(h_dim, x_dim, observation))
        self.e_g = Recurrence(x_dim + u_dim, h_dim, cell="gru", backward=True)
        self.e_b = _gaussian(b_dim + z_dim + h_dim, b_dim, h_dim)
        self.e_z = _gaussian(z_dim + b_dim + h_dim, z_dim, h_dim)

    def refreshed(self, p: DiagonalGaussian, u: Tensor) -> DiagonalGaussian:
        """A Gaussian where u_t = 1; where u_t = 0 a standard normal, which nobody looks at."""
        return DiagonalGaussian(u * p.mean, u * p.logvar)

    def hold(self, b: Float[Tensor, "batch time b_dim"], u: Tensor) -> Float[Tensor, "batch time b_dim"]:
        r"""The slow level :math:`\mathbf{s}_{1:T}` of values :math:`\mathbf{b}_{1:T}`."""
        s = [torch.zeros_like(b[:, 0])]
        for b_t, u_t in zip(b.unbind(1), u.unbind(1), strict=True):
            s.append(u_t * b_t + (1 - u_t) * s[-1])
        return torch.stack(s[1:], 1)

    def _generate(
        self,
        x: Tensor,
        latents: Mapping[str, Tensor],
        u: Tensor | None,
        lengths: Tensor | None,
        states: Mapping[str, Tensor],
    ) -> Generated:
        assert u is not None
        z, s = latents["z"], self.hold(latents["b"], u)
        prior_b = self.refreshed(self.d_b(shift(s)), u)
        prior_z = self.d_z(torch.cat([shift(z), s], -1))
        return Generated({"b": prior_b, "z": prior_z}, self.d_x(torch.cat([z, s], -1)))


class Clockwork(TwoClocks):
    """`TwoClocks`, inferred frame by frame, b_t before z_t; see there for the arguments."""

    def _infer(self, x: Tensor, u: Tensor | None, lengths: Tensor | None, draws: Draws) -> Inferred:
        assert u is not None
        g = self.e_g(torch.cat([x, u], -1), lengths)
        epsilon = draws.noise(g.new_empty(*g.shape[:2], self.b_dim + self.z_dim))
        s, z = (g.new_zeros(len(g), size) for size in (self.b_dim, self.z_dim))
        found = []
        for t in range(x.shape[1]):
            e_b, e_z = epsilon[:, t].split([self.b_dim, self.z_dim], -1)
            q_b = self.refreshed(self.e_b(torch.cat([s, z, g[:, t]], -1)), u[:, t])
            b = draws.given["b"][:, t] if "b" in draws.given else q_b.mean + q_b.stddev * e_b
            s = u[:, t] * b + (1 - u[:, t]) * s
            q_z = self.e_z(torch.cat([z, s, g[:, t]], -1))
            z = draws.given["z"][:, t] if "z" in draws.given else q_z.mean + q_z.stddev * e_z
            found.append((b, q_b.mean, q_b.logvar, z, q_z.mean, q_z.logvar))
        b, b_mean, b_logvar, z, z_mean, z_logvar = (torch.stack(column, 1) for column in zip(*found, strict=True))
        q_b, q_z = DiagonalGaussian(b_mean, b_logvar), DiagonalGaussian(z_mean, z_logvar)
        return Inferred({"b": Latent(b, q_b), "z": Latent(z, q_z)})
