r"""Black-box inference for state-space models: Gaussian posteriors with a block-tridiagonal precision (Section 12.1).

Archer, Park, Buesing, Cunningham and Paninski (2015), "Black box variational inference for state space models".
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from dvae_lib.graphs import DependencySpec
from dvae_lib.models.latent_lds import LatentLDS, LinearDynamics, lower_triangular, seen_frames
from dvae_lib.models.registry import choose_spec, register
from dvae_lib.networks import MLP, append_input
from dvae_lib.objectives.missing import Observed
from dvae_lib.statespace import GaussianChain

__all__ = ["BlackBoxSSM"]

GENERATION = """
    z_t ~ z_{t-1}, u_t      # (3.16)
    x_t ~ z_t               # (3.12)
"""
SPECS = {
    name: DependencySpec(GENERATION, inference)
    for name, inference in {
        "product": "r_t <- x_t \n z_t ~ z_{t-1}, r_{t:T}, u_{t:T}",
        "free forward": "z_t ~ z_{t-1}, x_{t-1:t}, u_{t-1:t}",
        "free backward": "z_t ~ z_{t+1}, x_{t:t+1}, u_{t:t+1}",
        "mean_field": "z_t ~ x_t, u_t",
    }.items()
}
POSTERIORS = ("product", "free", "mean_field")


@register(
    "black-box",
    chapter=12.1,
    variants=[
        {"posterior": "product"},
        {"posterior": "free", "direction": "forward"},
        {"posterior": "free", "direction": "backward"},
        {"posterior": "mean_field"},
    ],
    small={"encoder": (8,), "decoder": (8,)},
)
class BlackBoxSSM(LatentLDS):
    r"""A linear state-space model with any observation model, and one of three Gaussian posteriors for it.

    All are :math:`q_\phi(\mathbf{z}_{1:T} | \mathbf{x}_{1:T}) = \mathcal{N}(\boldsymbol\mu, V)` with parameters that
    networks compute, and a :math:`V^{-1}` that couples neighbours at most, so that sampling, density and divergence
    cost O(T L^3):

    - "product": a linear chain of its own, with its own :math:`A, \Lambda`, times potentials of single frames of
      precision :math:`R_t R_t^\top` and mean :math:`\mathbf{m}_t`, both networks of :math:`\mathbf{x}_t`;
    - "free": :math:`V^{-1} = K K^\top`, where the blocks of the bidiagonal K are networks of a frame and of two
      neighbouring frames, and :math:`\boldsymbol\mu_t` one of the frame;
    - "mean_field": every frame by itself, with a full covariance.

    Arguments:
        x_dim: Size F of the observed vectors.
        z_dim: Size L of the states.
        observation: The family of :math:`p(\mathbf{x}_t | \mathbf{z}_t)`, such as "gaussian" or "poisson".
        u_dim: Size of the input vectors, which drive the states and enter every inference model.
        posterior: "product", "free" or "mean_field".
        direction: Of the free posterior: "backward" (K lower-bidiagonal, as in the paper) or "forward" (upper). The
            others have no such choice.
        encoder: Sizes of the hidden layers of the recognition network :math:`e_x` (Tanh).
        decoder: Sizes of the hidden layers of :math:`d_x` (Tanh); none makes the model a generalised linear one, such
            as the Poisson LDS.

    Example:
        >>> import torch
        >>> neurons = BlackBoxSSM(x_dim=30, z_dim=2, observation="poisson", decoder=())
        >>> neurons.vlb(torch.ones(3, 50, 30)).kl["z"].shape
        torch.Size([3, 50])
    """

    spec = SPECS["product"].undriven()

    def __init__(
        self,
        x_dim: int,
        z_dim: int,
        *,
        observation: str = "gaussian",
        u_dim: int = 0,
        posterior: str = "product",
        direction: Literal["forward", "backward"] = "backward",
        encoder: Sequence[int] = (64,),
        decoder: Sequence[int] = (64,),
    ) -> None:
        super().__init__(x_dim, z_dim, observation=observation, u_dim=u_dim, decoder=tuple(decoder))
        if posterior not in POSTERIORS:
            raise ValueError(f"posterior must be one of {', '.join(POSTERIORS)}; got {posterior!r}")
        if direction not in ("forward", "backward"):
            raise ValueError(f"direction must be 'forward' or 'backward'; got {direction!r}")
        self.family, self.direction = posterior, direction if posterior == "free" else "forward"
        self.spec = choose_spec(SPECS, self.u_dim, posterior=f"free {direction}" if posterior == "free" else posterior)
        product = posterior == "product"
        self.e_x = MLP(x_dim if product else x_dim + self.u_dim, encoder)
        features = self.e_x.out_dim
        self.m_head = nn.Linear(features, self.z_dim)
        self.root_head = nn.Linear(features, self.z_dim**2)
        self.own_dynamics = LinearDynamics(self.z_dim, self.u_dim) if product else None
        self.coupling_head = None
        if posterior == "free":
            self.coupling_head = nn.Linear(2 * features, self.z_dim**2)
        with torch.no_grad():  # it starts near matrices of one: no precision near zero, no chain that grows
            for head in filter(None, (self.root_head, self.coupling_head)):
                head.weight.mul_(0.1)
                head.bias.zero_()
            self.root_head.bias.copy_(math.log(math.e - 1) * torch.eye(self.z_dim).flatten())  # softplus^{-1}(1)

    def posterior(
        self,
        x: Float[Tensor, "batch time x_dim"],
        u: Float[Tensor, "batch time u_dim"] | None = None,
        lengths: Int[Tensor, " batch"] | None = None,
        observed: Observed | None = None,
    ) -> GaussianChain:
        """See `LatentLDS.posterior`."""
        features = self.e_x(x if self.own_dynamics is not None else append_input(x, u))
        mean, root = self._full(self.m_head(features)), lower_triangular(self._full(self.root_head(features)))
        if self.own_dynamics is not None:
            precision, seen = root @ root.mT, seen_frames(observed, x)
            prior = self.own_dynamics.chain(len(x), x.shape[1], u, lengths)
            return prior.condition(precision, (precision @ mean[..., None]).squeeze(-1), mask=seen).chain
        if self.coupling_head is not None:
            neighbours = torch.cat([features[:, :-1], features[:, 1:]], -1)
            coupling = self._full(self.coupling_head(neighbours)).unflatten(-1, (self.z_dim, self.z_dim))
            return GaussianChain.from_bidiagonal_factor(mean, root, coupling, direction=self.direction, lengths=lengths)
        return GaussianChain(torch.zeros_like(root), mean, root, lengths=lengths, validate_args=False)
