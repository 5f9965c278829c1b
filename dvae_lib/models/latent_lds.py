r"""What models with linear-Gaussian dynamics and a Gaussian chain as their posterior share (Section 12.1)."""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor, nn
from torch.distributions import Distribution
from torch.nn import functional as F

from dvae_lib.devices import uncast
from dvae_lib.distributions import FullGaussian
from dvae_lib.models.base import DVAE, Context, Draws, Given, Inferred, Lengths, Past, State, Values, noise
from dvae_lib.networks import MLP, ObservationHead
from dvae_lib.objectives import VLB, Generated, Latent, frame_mask
from dvae_lib.objectives.missing import Observed, as_observed
from dvae_lib.objectives.terms import frame_log_prob
from dvae_lib.statespace import GaussianChain

__all__ = ["LatentLDS", "LinearDynamics", "lower_triangular", "seen_frames"]


class LinearDynamics(nn.Module):
    r"""A linear-Gaussian chain of states with learned parameters, Eq. (3.16).

    .. math::
        \mathbf{z}_1 \sim \mathcal{N}(\boldsymbol\mu_1 + B \mathbf{u}_1, \Lambda_1), \qquad
        \mathbf{z}_t \sim \mathcal{N}(A \mathbf{z}_{t-1} + B \mathbf{u}_t, \Lambda)

    It starts as a slowly changing state of unit variance. Covariances are held by the logarithms of the diagonals of
    their Cholesky factors and by what stands below, so that every value of the parameters is a model.

    Arguments:
        z_dim: Size L of the state.
        u_dim: Size of the input vectors.
    """

    def __init__(self, z_dim: int, u_dim: int = 0) -> None:
        super().__init__()
        self.A = nn.Parameter(0.9 * torch.eye(z_dim) + 0.05 * torch.randn(z_dim, z_dim))
        self.B = nn.Parameter(0.1 * torch.randn(z_dim, u_dim)) if u_dim else None
        self.mu_1 = nn.Parameter(torch.zeros(z_dim))
        self.root = nn.Parameter(0.5 * math.log(1 - 0.9**2) * torch.eye(z_dim))
        self.root_1 = nn.Parameter(torch.zeros(z_dim, z_dim))

    @torch.no_grad()
    def assign(self, **parameters: Tensor) -> None:
        """Set parameters to known values: A, B, mu_1, and the covariances Lambda and Lambda_1.

        Raises:
            ValueError: There is no such parameter, or a value has another shape.
        """
        roots = {"Lambda": "root", "Lambda_1": "root_1"}
        for name, value in parameters.items():
            parameter = getattr(self, roots.get(name, name), None)
            if name not in ("A", "B", "mu_1", *roots) or parameter is None or parameter.shape != value.shape:
                wanted = {n: tuple(p.shape) for n, p in self.named_parameters()}
                raise ValueError(f"{name} of shape {tuple(value.shape)} is no parameter of these: {wanted}")
            if name in roots:
                factor = torch.linalg.cholesky(value)
                value = factor.tril(-1) + torch.diag_embed(factor.diagonal().log())
            parameter.copy_(value)

    @property
    def Lambda(self) -> Float[Tensor, "z_dim z_dim"]:  # noqa: N802
        """The covariance of the state noise."""
        return self.factor(self.root) @ self.factor(self.root).mT

    @property
    def Lambda_1(self) -> Float[Tensor, "z_dim z_dim"]:  # noqa: N802
        """The covariance of the first state."""
        return self.factor(self.root_1) @ self.factor(self.root_1).mT

    @staticmethod
    def factor(root: Float[Tensor, "z_dim z_dim"]) -> Float[Tensor, "z_dim z_dim"]:
        """The Cholesky factor that a parameter holds, in single precision at least."""
        root = root.to(torch.promote_types(root.dtype, torch.float32))
        return root.tril(-1) + torch.diag_embed(root.diagonal().exp())

    def chain(
        self, batch_size: int, num_steps: int, u: Tensor | None = None, lengths: Tensor | None = None
    ) -> GaussianChain:
        r"""The prior :math:`p(\mathbf{z}_{1:T} | \mathbf{u}_{1:T})` of sequences that are driven by u."""
        first, later = self.factor(self.root_1), self.factor(self.root)
        offset = F.pad(self.mu_1.to(later.dtype)[None], (0, 0, 0, num_steps - 1)).expand(batch_size, -1, -1)
        if u is not None:
            offset = offset + self._driven(u)
        transition = self.A.to(later.dtype).expand(1, num_steps, -1, -1)
        factor = torch.cat([first[None], later.expand(num_steps - 1, -1, -1)])[None]
        return GaussianChain(transition, offset, factor, lengths=lengths, validate_args=False)

    def next(
        self, z_prev: Float[Tensor, "batch z_dim"], first: Float[Tensor, "batch 1"], u_t: Tensor | None
    ) -> FullGaussian:
        r""":math:`p(\mathbf{z}_t | \mathbf{z}_{t-1}, \mathbf{u}_t)`, or that of the first state where `first` is 1."""
        later = self.factor(self.root)
        mean = torch.where(first == 1, self.mu_1.to(z_prev), z_prev @ self.A.to(z_prev).mT)
        if u_t is not None:
            mean = mean + self._driven(u_t).to(z_prev)
        factor = torch.where(first[..., None] == 1, self.factor(self.root_1), later)
        return FullGaussian(mean, factor)

    def _driven(self, u: Tensor) -> Tensor:
        assert self.B is not None
        return u.to(self.factor(self.root)) @ self.B.to(self.factor(self.root)).mT


def lower_triangular(output: Float[Tensor, "*batch entries"]) -> Float[Tensor, "*batch z_dim z_dim"]:
    """Lower-triangular matrices with a positive diagonal, from L^2 numbers each."""
    size = math.isqrt(output.shape[-1])
    matrix = output.unflatten(-1, (size, size))
    lower: Tensor = matrix.tril(-1) + torch.diag_embed(F.softplus(matrix.diagonal(dim1=-2, dim2=-1)))
    return lower


def seen_frames(observed: Observed | None, x: Float[Tensor, "batch time x_dim"]) -> Bool[Tensor, "batch time"] | None:
    """The frames of which something was observed; None where that is all."""
    entries = as_observed(observed, x)
    return None if entries is None else entries.any(-1)


class LatentLDS(DVAE):
    r"""A latent linear dynamical system that networks look at, and a posterior that is one Gaussian over all states.

    .. math::
        p_\theta(\mathbf{x}_{1:T}, \mathbf{z}_{1:T} | \mathbf{u}_{1:T}) = \prod_{t=1}^T
        p_{\theta_x}(\mathbf{x}_t | \mathbf{z}_t) \, p_{\theta_z}(\mathbf{z}_t | \mathbf{z}_{t-1}, \mathbf{u}_t)

    A subclass writes `posterior`, a `GaussianChain`. Its conditionals along the sample are the posteriors of the
    contract, and the KL divergence between the two chains is exact, whatever was sampled.

    Arguments:
        x_dim: Size F of the observed vectors.
        z_dim: Size L of the states.
        observation: The family of :math:`p(\mathbf{x}_t | \mathbf{z}_t)`.
        u_dim: Size of the input vectors, which drive the states.
        decoder: Sizes of the hidden layers of :math:`d_x` (Tanh).
    """

    def __init__(self, x_dim: int, z_dim: int, *, observation: str, u_dim: int, decoder: tuple[int, ...]) -> None:
        super().__init__(x_dim, z_dim, observation=observation, u_dim=u_dim)
        self.dynamics = LinearDynamics(self.z_dim, self.u_dim)
        self.d_x = MLP(self.z_dim, decoder)
        self.x_head = ObservationHead(self.d_x.out_dim, x_dim, observation)

    def posterior(
        self,
        x: Float[Tensor, "batch time x_dim"],
        u: Float[Tensor, "batch time u_dim"] | None = None,
        lengths: Int[Tensor, " batch"] | None = None,
        observed: Observed | None = None,
    ) -> GaussianChain:
        r"""The chain :math:`q_\phi(\mathbf{z}_{1:T} | \mathbf{x}_{1:T}, \mathbf{u}_{1:T})`.

        Arguments:
            x: The observed sequences, as networks read them: `read(x)` where that is a transformation.
            u: The input sequences of a driven model.
            lengths: The sequences' lengths in a padded batch.
            observed: What was observed, by frame or by entry. A frame of which that is nothing has no potential, in
                families that are made of such.
        """
        raise NotImplementedError(f"{type(self).__name__} needs posterior: the chain q(z_1:T | x_1:T)")

    # Products and factorisations of covariances want single precision at least, also where the networks around them
    # are trained in a shorter one. States have it; layers are given what their weights have.

    @property
    def _precision(self) -> torch.dtype:
        return torch.promote_types(self.dynamics.A.dtype, torch.float32)

    def _full(self, value: Tensor) -> Tensor:
        return value.to(self._precision)

    def _chains(
        self, x: Tensor, u: Tensor | None, lengths: Tensor | None, observed: Tensor | None
    ) -> tuple[GaussianChain, GaussianChain]:
        """Posterior and prior of whole sequences, in the direction of the former.

        Turning the prior round is safe; a posterior that is not trained yet may be all but singular.
        """
        q, p = self.posterior(x, u, lengths, observed), self.dynamics.chain(len(x), x.shape[1], u, lengths)
        return q, p if p.direction == q.direction else p.reversed()

    def _infer(self, x: Tensor, u: Tensor | None, lengths: Tensor | None, draws: Draws) -> Inferred:
        with uncast(x.device):
            q = self.posterior(x, u, lengths, draws.observed)
            z = draws.given.get("z")
            z = q.rsample(noise=draws.noise(q.offset)) if z is None else self._full(z)
            return Inferred({"z": Latent(z, q.conditionals(z))})

    def _generate(
        self, x: Tensor, latents: Values, u: Tensor | None, lengths: Tensor | None, states: Values
    ) -> Generated:
        z = self._full(latents["z"])
        with uncast(x.device):
            prior = self.dynamics.chain(len(x), x.shape[1], u).conditionals(z)  # (3.16)
        return Generated({"z": prior}, self._observation(z))

    def _observation(self, z: Tensor) -> Distribution:
        observation: Distribution = self.x_head(self.d_x(z.to(self.dynamics.A.dtype)))  # (3.12)
        return observation

    def single_sample_bound(
        self,
        x: Float[Tensor, "batch time x_dim"],
        u: Float[Tensor, "batch time u_dim"] | None = None,
        *,
        lengths: Lengths | None = None,
        observed: Observed | None = None,
        beta: float = 1.0,
        feedback: float = 0.0,
        kl: str = "analytic",
        generator: Generator | None = None,
    ) -> VLB:
        r"""The bound with the divergence of the two chains in closed form.

        .. math::
            \mathcal{L} = \mathbb{E}_{q_\phi(\mathbf{z}_{1:T} | \mathbf{x}_{1:T})}
            \big[\log p_\theta(\mathbf{x}_{1:T} | \mathbf{z}_{1:T})\big]
            - D_\mathrm{KL}\big(q_\phi(\mathbf{z}_{1:T} | \mathbf{x}_{1:T}) \,\|\, p_\theta(\mathbf{z}_{1:T})\big)

        The terms of its frames, ``kl["z"]`` of shape ``(B, T)``, are those of the chain rule in the direction of q,
        each an expectation over the neighbour: they have no variance. "sampled" takes the log-ratio at the sample.
        """
        x, u, lengths = self.admit(x, u, lengths, feedback, observed)
        entries = as_observed(observed, x)
        with uncast(x.device):
            q, p = self._chains(self.read(x, entries), u, lengths, entries)
            z = q.rsample(noise=noise(q.offset, "sample", generator))
            term = q.kl_per_frame(p) if kl == "analytic" else q.log_prob_per_frame(z) - p.log_prob_per_frame(z)
        seen = frame_log_prob(self._observation(z), x, frame_mask(lengths, x.shape[1]), entries).sum(1)
        return VLB(seen - beta * term.sum(1), seen, {"z": term}, beta=beta)

    # ---------------------------------------------------------------- frame by frame

    def _initial_state(self, batch_size: int, draws: Given) -> State:
        z = self.dynamics.mu_1.new_zeros(batch_size, self.z_dim, dtype=self._precision)
        return {"z": z, "first": z.new_ones(batch_size, 1)}

    def _step(self, state: State, x_prev: Tensor, u_t: Tensor | None, draws: Given) -> tuple[Distribution, State]:
        with uncast(x_prev.device):
            prior = self.dynamics.next(state["z"], state["first"], u_t)
        z = self._full(draws("z", prior, z_prev=state["z"]))
        return self._observation(z), {"z": z, "first": torch.zeros_like(state["first"])}

    def _context(self, x: Tensor, u: Tensor | None, lengths: Tensor | None, draws: Draws, past: Past) -> Context:
        """The conditionals of the chain. Those of a chunk of a stream follow upon the last frame of the one before."""
        skip = int("x" in past.carried)
        before = past.shift("x", x)[:, :skip]
        x = torch.cat([before, x], 1)
        if u is not None:
            u = torch.cat([past.shift("u", u)[:, :skip], u], 1)
        observed = draws.observed
        if observed is not None:  # of the frame before, what z_t is conditioned on has been decided
            observed = torch.cat([torch.ones_like(observed[:, :skip]), observed], 1)
        with uncast(x.device):
            q = self.posterior(x, u, lengths, observed)
        parameters = {"transition": q.transition, "offset": q.offset, "factor": q.factor}
        return Context({name: value[:, skip:] for name, value in parameters.items()})

    def _propose(self, name: str, context: Values, known: Values) -> Distribution:
        mean = context["offset"]
        if "z_prev" in known:  # of independent frames it is not asked for
            mean = mean + (context["transition"] @ known["z_prev"][..., None]).squeeze(-1)
        return FullGaussian(mean, context["factor"])
