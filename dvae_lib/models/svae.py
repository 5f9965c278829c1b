r"""The structured variational autoencoder with a latent linear dynamical system (Section 12.1).

Johnson, Duvenaud, Wiltschko, Datta and Adams (2016), "Composing graphical models with neural networks for structured
representations and fast inference".
"""

from collections.abc import Sequence

from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from dvae_lib.graphs import DependencySpec
from dvae_lib.models.latent_lds import LatentLDS, seen_frames
from dvae_lib.models.registry import register
from dvae_lib.networks import MLP
from dvae_lib.objectives.missing import Observed
from dvae_lib.statespace import GaussianChain

__all__ = ["SVAE"]

SPEC = DependencySpec(
    generation="""
        z_t ~ z_{t-1}, u_t              # (3.16)
        x_t ~ z_t                       # (3.12)
    """,
    # r_t stands for the potential of a frame.
    inference="""
        r_t <- x_t
        z_t ~ z_{t-1}, r_{t:T}, u_{t:T}
    """,
)


@register("svae", chapter=12.1, small={"encoder": (8,), "decoder": (8,)})
class SVAE(LatentLDS):
    r"""Linear dynamics behind a network, inferred by the dynamics themselves: prior times potentials of frames.

    .. math::
        q_\phi(\mathbf{z}_{1:T} | \mathbf{x}_{1:T}) \propto p_{\theta_z}(\mathbf{z}_{1:T}) \prod_{t=1}^T
        \exp\big(\mathbf{h}_t^\top \mathbf{z}_t - \tfrac12 \mathbf{z}_t^\top J_t \mathbf{z}_t\big)

    A network makes :math:`\mathbf{h}_t` and the positive diagonal :math:`J_t` of the frame :math:`\mathbf{x}_t`
    alone. The rest of inference is exact: prior and posterior share :math:`A` and :math:`\Lambda`. A frame that is
    missing has no potential, so gaps need no training of their own.

    The paper is Bayesian in the dynamics as well; here they are point estimates, as everything is in the review.

    Arguments:
        x_dim: Size F of the observed vectors.
        z_dim: Size L of the states.
        observation: The family of :math:`p(\mathbf{x}_t | \mathbf{z}_t)`.
        u_dim: Size of the input vectors, which drive the states.
        encoder: Sizes of the hidden layers of the recognition network :math:`e_x` (Tanh).
        decoder: Sizes of the hidden layers of :math:`d_x` (Tanh).

    Example:
        >>> import torch
        >>> model = SVAE(x_dim=20, z_dim=4)
        >>> model.vlb(torch.zeros(3, 50, 20)).kl["z"].shape
        torch.Size([3, 50])
    """

    spec = SPEC.undriven()

    def __init__(
        self,
        x_dim: int,
        z_dim: int,
        *,
        observation: str = "gaussian",
        u_dim: int = 0,
        encoder: Sequence[int] = (64,),
        decoder: Sequence[int] = (64,),
    ) -> None:
        super().__init__(x_dim, z_dim, observation=observation, u_dim=u_dim, decoder=tuple(decoder))
        self.spec = SPEC if self.u_dim else SPEC.undriven()
        self.e_x = MLP(x_dim, encoder)
        self.potential = nn.Linear(self.e_x.out_dim, 2 * self.z_dim)

    def potentials(
        self, x: Float[Tensor, "batch time x_dim"]
    ) -> tuple[Float[Tensor, "batch time z_dim"], Float[Tensor, "batch time z_dim"]]:
        """What each frame says of its state by itself: the diagonal of the precision J_t, and h_t."""
        h, raw = self.potential(self.e_x(x)).chunk(2, -1)
        return self._full(F.softplus(raw)), self._full(h)

    def posterior(
        self,
        x: Float[Tensor, "batch time x_dim"],
        u: Float[Tensor, "batch time u_dim"] | None = None,
        lengths: Int[Tensor, " batch"] | None = None,
        observed: Observed | None = None,
    ) -> GaussianChain:
        """See `LatentLDS.posterior`."""
        prior = self.dynamics.chain(len(x), x.shape[1], u, lengths)
        return prior.condition(*self.potentials(x), mask=seen_frames(observed, x)).chain
