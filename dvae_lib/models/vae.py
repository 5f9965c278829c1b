r"""The variational autoencoder (Chapter 2): frames independent of each other.

Kingma and Welling (2014), "Auto-encoding variational Bayes"; Rezende, Mohamed and Wierstra (2014),
"Stochastic backpropagation and approximate inference in deep generative models".
"""

from collections.abc import Mapping, Sequence

from jaxtyping import Float, Int
from torch import Generator, Tensor

from dvae_lib.distributions import standard_normal
from dvae_lib.graphs import DependencySpec
from dvae_lib.models.base import DVAE, Draw, State, StepOutput, noise
from dvae_lib.networks import MLP, GaussianHead, ObservationHead
from dvae_lib.objectives import Generated, Latent

__all__ = ["VAE"]


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

    def inference(
        self,
        x: Float[Tensor, "batch time x_dim"],
        u: Tensor | None = None,
        *,
        lengths: Int[Tensor, " batch"] | None = None,
        latents: Mapping[str, Tensor] | None = None,
        draw: Draw = "sample",
        generator: Generator | None = None,
    ) -> dict[str, Latent]:
        r"""The encoder :math:`q_\phi(\mathbf{z}_t | \mathbf{x}_t)` for every frame, Eqs. (2.18)-(2.20)."""
        q_z = self.z_head(self.e_z(x))  # (2.20), (2.18)
        z = (latents or {}).get("z")
        if z is None:
            z = q_z.mean + q_z.stddev * noise(q_z.mean, draw, generator)  # (2.24)
        return {"z": Latent(z, q_z)}

    def generation(
        self,
        x: Float[Tensor, "batch time x_dim"],
        latents: Mapping[str, Tensor],
        u: Tensor | None = None,
        *,
        lengths: Int[Tensor, " batch"] | None = None,
    ) -> Generated:
        r"""The prior (2.2) and the decoder :math:`p_\theta(\mathbf{x}_t | \mathbf{z}_t)`, Eqs. (2.3)-(2.5)."""
        z = latents["z"]
        return Generated({"z": standard_normal(z)}, self.x_head(self.d_x(z)))

    def initial_state(self, batch_size: int) -> State:
        """Nothing is carried from frame to frame."""
        return {}

    def step(
        self,
        state: State,
        x_prev: Float[Tensor, "batch x_dim"],
        u_t: Tensor | None = None,
        *,
        z_t: Float[Tensor, "batch z_dim"] | None = None,
        generator: Generator | None = None,
    ) -> StepOutput:
        """One frame: z_t from the prior (2.2), then the decoder (2.3)."""
        prior = standard_normal(x_prev.new_zeros(x_prev.shape[0], self.z_dim))
        z_t = prior.sample(generator=generator) if z_t is None else z_t
        return StepOutput(prior, z_t, self.x_head(self.d_x(z_t)), state)

    def _independent_parts(self, weights: Float[Tensor, "samples batch time"]) -> Float[Tensor, "samples batch time"]:
        """Every frame by itself, which makes the importance-weighted bound of a sequence much tighter."""
        return weights
