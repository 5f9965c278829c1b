r"""The variational autoencoder (Chapter 2): frames independent of each other.

Kingma and Welling (2014), "Auto-encoding variational Bayes"; Rezende, Mohamed and Wierstra (2014),
"Stochastic backpropagation and approximate inference in deep generative models".
"""

from collections.abc import Sequence

from torch import Tensor
from torch.distributions import Distribution

from dvae_lib.distributions import standard_normal
from dvae_lib.graphs import DependencySpec
from dvae_lib.models.base import DVAE, Context, Draws, Given, Past, State, Values
from dvae_lib.models.registry import register
from dvae_lib.networks import MLP, GaussianHead, ObservationHead
from dvae_lib.objectives import Generated

__all__ = ["VAE"]


@register(
    "vae", chapter=2, speech={"encoder": (128,), "decoder": (128,)}, motion={"encoder": (128,), "decoder": (128,)}
)
class VAE(DVAE):
    r"""A latent vector per frame, drawn independently; the decoder knows nothing of other frames.

    .. math::
        p_\theta(\mathbf{x}_{1:T}, \mathbf{z}_{1:T}) = \prod_{t=1}^T
        p_{\theta_x}(\mathbf{x}_t | \mathbf{z}_t) \, \mathcal{N}(\mathbf{z}_t; \mathbf{0}_L, \mathbf{I}_L)

    Eqs. (2.1)-(2.5) generate, Eqs. (2.18)-(2.20) infer. Frames being independent, a batch of vectors is a
    batch of sequences of one frame each.

    Arguments:
        x_dim: Size F of the observed vectors.
        z_dim: Size L of the latent vectors.
        observation: The family of :math:`p(\mathbf{x}_t | \mathbf{z}_t)`.
        u_dim: Must be 0: the equations have no input.
        encoder: Sizes of the encoder's hidden layers (Tanh).
        decoder: Sizes of the decoder's hidden layers (Tanh).

    Example:
        >>> import torch
        >>> model = VAE(x_dim=513, z_dim=16, observation="gamma")
        >>> model.vlb(torch.rand(2, 50, 513)).value.shape
        torch.Size([2])
    """

    spec = DependencySpec(
        generation="""
            z_t ~               # (2.2)
            x_t ~ z_t           # (2.3)
        """,
        inference="""
            z_t ~ x_t           # (2.18)
        """,
    )

    def __init__(
        self,
        x_dim: int,
        z_dim: int,
        *,
        observation: str = "gaussian",
        u_dim: int = 0,
        encoder: Sequence[int] = (128,),
        decoder: Sequence[int] = (128,),
    ) -> None:
        if u_dim:
            raise ValueError(f"the VAE's equations have no input u: u_dim must be 0; got {u_dim}")
        super().__init__(x_dim, z_dim, observation=observation)
        self.d_x = MLP(z_dim, decoder)
        self.x_head = ObservationHead(self.d_x.out_dim, x_dim, observation)
        self.e_z = MLP(x_dim, encoder)
        self.z_head = GaussianHead(self.e_z.out_dim, z_dim)

    def _context(self, x: Tensor, u: Tensor | None, lengths: Tensor | None, draws: Draws, past: Past) -> Context:
        return Context({"known": self.e_z(x)})

    def _propose(self, name: str, context: Values, known: Values) -> Distribution:
        posterior: Distribution = self.z_head(context["known"])  # (2.18), (2.20)
        return posterior

    def _generate(
        self, x: Tensor, latents: Values, u: Tensor | None, lengths: Tensor | None, states: Values
    ) -> Generated:
        z = latents["z"]
        return Generated({"z": standard_normal(z)}, self.x_head(self.d_x(z)))  # (2.2), (2.3)-(2.5)

    def _initial_state(self, batch_size: int, draws: Given) -> State:
        return {}

    def _step(self, state: State, x_prev: Tensor, u_t: Tensor | None, draws: Given) -> tuple[Distribution, State]:
        z = draws("z", standard_normal(x_prev.new_zeros(x_prev.shape[0], self.z_dim)))  # (2.2)
        return self.x_head(self.d_x(z)), state  # (2.3)
