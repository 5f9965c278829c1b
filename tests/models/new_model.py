r"""A tutor of a smaller kind: the previous frame and a latent chain make the next frame."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from dvae_lib.graphs import DependencySpec
from dvae_lib.models.base import DVAE, Context, Draws, Given, Past, State
from dvae_lib.models.registry import register
from dvae_lib.networks import MLP, GaussianHead, ObservationHead, Recurrence, shift
from dvae_lib.objectives import Generated

__all__ = ["ShortMemory"]


@register("short-memory", chapter=99, small={"h_dim": 4}, speech={"h_dim": 64})
class ShortMemory(DVAE):
    r""":math:`p(\mathbf{x}_t | \mathbf{z}_t, \mathbf{x}_{t-1}) \, p(\mathbf{z}_t | \mathbf{z}_{t-1})`.

    Arguments:
        x_dim: Size of the observed vectors.
        z_dim: Size of the latent vectors.
        observation: The family of :math:`p(\mathbf{x}_t | \cdot)`.
        h_dim: Size of all hidden layers.
    """

    spec = DependencySpec(
        generation="z_t ~ z_{t-1} \n x_t ~ z_t, x_{t-1}",
        inference="g_t <- x_t, g_{t+1} \n z_t ~ z_{t-1}, x_{t-1}, g_t",
    )

    def __init__(self, x_dim: int, z_dim: int, *, observation: str = "gaussian", h_dim: int = 32) -> None:
        super().__init__(x_dim, z_dim, observation=observation)
        self.d_z = nn.Sequential(MLP(z_dim, [h_dim]), GaussianHead(h_dim, z_dim))
        self.d_x = nn.Sequential(MLP(z_dim + x_dim, [h_dim]), ObservationHead(h_dim, x_dim, observation))
        self.e_g = Recurrence(x_dim, h_dim, backward=True)
        self.e_z = nn.Sequential(MLP(z_dim + x_dim + h_dim, [h_dim]), GaussianHead(h_dim, z_dim))

    def _context(self, x: Tensor, u: Tensor | None, lengths: Tensor | None, draws: Draws, past: Past) -> Context:
        return Context({"seen": torch.cat([past.shift("x", x), past.run("g", self.e_g, x, lengths)], -1)})

    def _propose(self, name: str, context: Mapping[str, Tensor], known: Mapping[str, Tensor]):
        return self.e_z(torch.cat([known["z_prev"], context["seen"]], -1))

    def _generate(self, x, latents, u, lengths, states) -> Generated:
        z = latents["z"]
        return Generated({"z": self.d_z(shift(z))}, self.d_x(torch.cat([z, shift(x)], -1)))

    def _initial_state(self, batch_size: int, draws: Given) -> State:
        return {"z": next(self.parameters()).new_zeros(batch_size, self.z_dim)}

    def _step(self, state: State, x_prev: Tensor, u_t: Tensor | None, draws: Given):
        z = draws("z", self.d_z(state["z"]), z_prev=state["z"])
        return self.d_x(torch.cat([z, x_prev], -1)), {"z": z}
