r"""The Gaussian-process variational autoencoder, GP-VAE (Section 12.3): latent vectors that move smoothly.

Fortuin, Baranchuk, Rätsch and Mandt (2020), "GP-VAE: Deep probabilistic time series imputation".
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution, MultivariateNormal
from torch.nn import functional as F

from dvae_lib.distributions import DiagonalGaussian, FactorisedDistribution
from dvae_lib.graphs import DependencySpec
from dvae_lib.models.base import DVAE, Context, Draws, Given, Inferred, Past, State, Values
from dvae_lib.models.registry import register
from dvae_lib.networks import MLP, ObservationHead, shift
from dvae_lib.objectives import Generated, Latent, frame_mask
from dvae_lib.statespace import GaussianChain
from dvae_lib.statespace.gaussian_process import GaussianProcess, GaussianSequence

__all__ = ["GPVAE"]

OUTPUTS = {"mean_field": 2, "chain": 3, "exact": 2}
"""How many numbers the inference network puts out for each entry of a latent vector, by the posterior's family."""


@lru_cache(maxsize=32)
def _spec(markov: bool, posterior: str, reach: int) -> DependencySpec:
    """Who depends on whom, with `reach` frames on each side of the one that the inference network looks at."""

    def seen(first: int, last: str) -> str:
        start = f"t-{first}" if first else "t"
        return f"x_{{{start}:{last}}}" if start != last else "x_t"

    before = "z_{t-1}" if markov else "z_{1:t-1}"
    ahead = f"t+{reach}" if reach else "t"
    inference = {
        "mean_field": seen(reach, ahead),
        "chain": f"z_{{t-1}}, {seen(reach + 1, ahead)}",  # the mean of the frame before is one of what it sees, too
        "exact": f"{before}, {seen(reach, 'T')}",
    }
    return DependencySpec(f"z_t ~ {before}\nx_t ~ z_t", f"z_t ~ {inference[posterior]}")


@register(
    "gpvae",
    chapter=12.6,
    variants=[
        {},
        {"sign": "positive"},
        {"posterior": "mean_field", "kernel": "rbf"},
        {"posterior": "exact"},
        {"posterior": "exact", "kernel": "matern12"},
        {"kernel": "matern32", "window": 1},
    ],
    small={"encoder": (8,), "decoder": (8,)},
)
class GPVAE(DVAE):
    r"""A VAE of frames whose latent vectors are, entry by entry, a Gaussian process over time.

    .. math::
        p_\theta(\mathbf{x}_{1:T}, \mathbf{z}_{1:T}) = \prod_{l=1}^L \mathcal{N}(z_{1:T,l}; \mathbf{0}, \mathbf{K})
        \prod_{t=1}^T p_{\theta_x}(\mathbf{x}_t | \mathbf{z}_t)

    The covariance :math:`\mathbf{K}` of the L independent scalar processes comes from a kernel
    (`dvae_lib.statespace.gaussian_process`) and is not learned; by the chain rule it says
    :math:`p(\mathbf{z}_t | \mathbf{z}_{1:t-1})`. With the kernel of Matérn-1/2 it is a first-order Markov chain. A
    frame alone has the prior of a VAE.

    Posteriors, all with a network that reads a window of frames:

    - "chain": :math:`q_\phi(\mathbf{z}_t | \mathbf{z}_{t-1}, \cdot) = \mathcal{N}(\mathbf{m}_t + \mathbf{F}_t
      (\mathbf{z}_{t-1} - \mathbf{m}_{t-1}), \mathbf{S}_t)`, diagonal :math:`\mathbf{F}_t` and :math:`\mathbf{S}_t`,
      the paper's Gaussian with a bidiagonal factor of the precision. The sign of :math:`\mathbf{F}_t` is free, or, with
      ``sign="positive"``, the factor is that of the authors' program, whose entries are all positive, so that
      :math:`\mathbf{F}_t < 0`: neighbours are always negatively correlated;
    - "mean_field": no :math:`\mathbf{F}_t`;
    - "exact": :math:`q_\phi(\mathbf{z}_{1:T} | \mathbf{x}_{1:T}) \propto p(\mathbf{z}_{1:T}) \prod_t
      \exp(\mathbf{h}_t^T \mathbf{z}_t - \tfrac12 \mathbf{z}_t^T \mathbf{J}_t \mathbf{z}_t)`, diagonal
      :math:`\mathbf{J}_t`: the structure of the exact posterior, and the posterior itself where the decoder is linear
      with orthogonal columns and Gaussian noise, and the network says so. It costs O(T^3) for each sequence and entry;
      with "matern12" O(T).

    Sequences may be of any length, and generation goes on without an end, at a cost per frame that grows with all
    frames so far; with "matern12" it does not grow.

    Arguments:
        x_dim: Size F of the observed vectors.
        z_dim: Size L of the latent vectors.
        observation: The family of :math:`p(\mathbf{x}_t | \mathbf{z}_t)`.
        u_dim: Must be 0: the equations have no input.
        kernel: "cauchy", "rbf", "matern12" or "matern32".
        length_scale: In frames; one for all entries, or one for each.
        nugget: Share of the prior's variance that is independent from frame to frame; see `GaussianProcess`.
        posterior: "chain", "mean_field" or "exact".
        sign: Of the factor of the chain's precision: "free" or "positive".
        window: How many frames the inference network sees around each, an odd number. By default 3, and 1 where the
            posterior is "exact": a potential speaks of its own frame.
        encoder: Sizes of the inference network's hidden layers (Tanh).
        decoder: Sizes of the decoder's hidden layers (Tanh).

    Example:
        >>> model = GPVAE(x_dim=64, z_dim=4, observation="bernoulli")
        >>> film = (torch.rand(2, 10, 64) > 0.5).float()
        >>> model.vlb(film).kl["z"].shape
        torch.Size([2, 10])
        >>> model.generate(5, prefix=film).x.shape
        torch.Size([2, 5, 64])
    """

    spec = _spec(False, "chain", 1)

    def __init__(
        self,
        x_dim: int,
        z_dim: int,
        *,
        observation: str = "gaussian",
        u_dim: int = 0,
        kernel: str = "cauchy",
        length_scale: float | Sequence[float] = 2.0,
        nugget: float | None = None,
        posterior: str = "chain",
        sign: str = "free",
        window: int | None = None,
        encoder: Sequence[int] = (128,),
        decoder: Sequence[int] = (128,),
    ) -> None:
        if u_dim:
            raise ValueError(f"the GP-VAE's equations have no input u: u_dim must be 0; got {u_dim}")
        super().__init__(x_dim, z_dim, observation=observation)
        for name, value, known in (("posterior", posterior, OUTPUTS), ("sign", sign, ("free", "positive"))):
            if value not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}; got {value!r}")
        if sign == "positive" and posterior != "chain":
            raise ValueError(f"sign='positive' is of the posterior 'chain'; got posterior={posterior!r}")
        window = (1 if posterior == "exact" else 3) if window is None else window
        if isinstance(window, bool) or not isinstance(window, int) or window < 1 or window % 2 == 0:
            raise ValueError(f"window must be an odd number of frames; got {window!r}")
        self.process = GaussianProcess(kernel, length_scale, nugget)
        if len(self.process.length_scales) not in (1, z_dim):
            raise ValueError(
                f"length_scale must be one number or {z_dim}, one for each entry of z; "
                f"got {len(self.process.length_scales)}"
            )
        self.posterior, self.sign, self.window = posterior, sign, window
        self.spec = _spec(self.process.markov, posterior, window // 2)
        # p(x_t | z_t)
        self.d_x = MLP(z_dim, decoder)
        self.x_head = ObservationHead(self.d_x.out_dim, x_dim, observation)
        # q(z_t | .)
        hidden = MLP(window * x_dim, encoder)
        self.e_z = nn.Sequential(*hidden, nn.Linear(hidden.out_dim, OUTPUTS[posterior] * z_dim))

    # ---------------------------------------------------------------- inference

    def _context(self, x: Tensor, u: Tensor | None, lengths: Tensor | None, draws: Draws, past: Past) -> Context:
        output = self._read(x, past)
        first, second, *third = output[:, -x.shape[1] :].chunk(OUTPUTS[self.posterior], -1)
        if self.posterior == "exact":
            said = frame_mask(lengths, x.shape[1])
            if draws.observed is not None:
                some = draws.observed.any(-1)
                said = some if said is None else some & said
            return Context(self._after_potentials(first, F.softplus(second), said, past))
        if self.posterior == "mean_field":
            return Context({"offset": first, "logvar": second})
        transition, logvar = third[0], second
        if self.sign == "positive":  # the factor's entries of the frame itself, and between it and the one before
            own = 1 + F.softplus(second)
            transition, logvar = -F.softplus(third[0]) / own, -2 * own.log()
        before = shift(output[..., : self.z_dim])[:, -x.shape[1] :]
        return Context({"transition": transition, "offset": first - transition * before, "logvar": logvar})

    def _read(self, x: Tensor, past: Past) -> Float[Tensor, "batch known outputs"]:
        """What the network makes of each frame and its neighbours; of a stream, also of frames before the chunk.

        Zeros stand for neighbours that are not there. Of the frame before the chunk more is known now than before.
        """
        reach = self.window // 2
        known = torch.cat([past.carried.get("x", x[:, :0]), x], 1)
        if past.streaming:
            past.carried["x"] = known[:, -reach - 1 :]
        seen = F.pad(known, (0, 0, reach, reach)).unfold(1, self.window, 1).flatten(2)
        output: Tensor = self.e_z(seen)
        return output.to(self._precision)

    def _after_potentials(
        self, information: Tensor, precision: Tensor, said: Tensor | None, past: Past
    ) -> dict[str, Tensor]:
        """The conditionals of the prior times the potentials of those frames that are there and were observed."""
        if said is not None:
            zero = information.new_zeros(())
            information, precision = (torch.where(said[..., None], v, zero) for v in (information, precision))
        # The frames of a stream before this chunk: given what they are, their potentials say nothing of later ones.
        begun = past.carried.get("begun", information[:, :0, :0])
        if past.streaming:
            past.carried["begun"] = torch.cat([begun, information[..., :0]], 1)
        start = min(begun.shape[1], 1) if self.process.markov else begun.shape[1]
        information, precision = (F.pad(v, (0, 0, start, 0)) for v in (information, precision))
        found = self.process.after(precision, information).sequence
        if isinstance(found, GaussianChain):
            frames = {"transition": found.transition, "logvar": 2 * found.factor.log()}
        else:
            frames = {"weights": found.weights, "logvar": 2 * found.stddev.log()}
        frames["offset"] = found.offset
        return {name: value[:, start:] for name, value in frames.items()}

    def _propose(self, name: str, context: Values, known: Values) -> Distribution:
        mean = context["offset"]
        if "transition" in context:
            mean = mean + context["transition"] * known["z_prev"]
        elif "weights" in context:
            past = known["past"]
            mean = mean + (context["weights"][..., : past.shape[1]] * past.mT).sum(-1)
        return DiagonalGaussian(mean, context["logvar"])

    def _infer(self, x: Tensor, u: Tensor | None, lengths: Tensor | None, draws: Draws) -> Inferred:
        frames = self._context(x, u, lengths, draws, Past()).frames
        if self.posterior == "mean_field":
            return Inferred({"z": draws("z", self._propose("z", frames, {}))})
        q = _sequence(frames)
        z = draws.given.get("z")
        if z is None:
            z = q.rsample(noise=draws.noise(frames["offset"]))
        return Inferred({"z": Latent(z, q.conditionals(z.to(self._precision)))})

    def trajectories(self, x: Float[Tensor, "batch time x_dim"]) -> MultivariateNormal:
        r"""The posterior :math:`q_\phi(z_{1:T,l} | \mathbf{x}_{1:T})` of each entry over all frames, jointly.

        Its batch shape is `(B, L)`, its event shape `(T,)`: means, standard deviations for bands, covariances.

        Raises:
            ValueError, TypeError: See `check`.
        """
        x, _, _ = self.admit(x)
        frames = self._context(self.read(x), None, None, Draws(), Past()).frames
        if self.posterior == "mean_field":
            frames = {**frames, "transition": torch.zeros_like(frames["offset"])}
        q = _sequence(frames)
        return (GaussianSequence.from_chain(q) if isinstance(q, GaussianChain) else q).trajectories()

    # ---------------------------------------------------------------- generation

    @property
    def _precision(self) -> torch.dtype:
        """At least single precision: covariances want it where the networks are trained in a shorter one."""
        return torch.promote_types(next(self.parameters()).dtype, torch.float32)

    def _generate(
        self, x: Tensor, latents: Values, u: Tensor | None, lengths: Tensor | None, states: Values
    ) -> Generated:
        z = latents["z"].to(self._precision)
        prior = self.process.prior(z.shape[1], z).conditionals(z)
        return Generated({"z": prior}, self._observe(z))

    def _observe(self, z: Float[Tensor, "*batch z_dim"]) -> FactorisedDistribution:
        observation: FactorisedDistribution = self.x_head(self.d_x(z.to(next(self.parameters()).dtype)))
        return observation

    def _initial_state(self, batch_size: int, draws: Given) -> State:
        parameter = next(self.parameters())
        return {"past": parameter.new_zeros(batch_size, 0, self.z_dim, dtype=self._precision)}

    def _step(self, state: State, x_prev: Tensor, u_t: Tensor | None, draws: Given) -> tuple[Distribution, State]:
        past = state["past"]
        z_prev = past[:, -1] if past.shape[1] else past.new_zeros(past.shape[0], self.z_dim)
        z = draws("z", self.process.following(past), z_prev=z_prev, past=past)
        kept = past[:, :0] if self.process.markov else past
        return self._observe(z), {"past": torch.cat([kept, z[:, None]], 1)}


def _sequence(frames: Mapping[str, Tensor]) -> GaussianChain | GaussianSequence:
    """All frames' conditionals as one Gaussian."""
    stddev = (0.5 * frames["logvar"]).exp()
    if "weights" in frames:
        return GaussianSequence(frames["weights"], frames["offset"], stddev)
    return GaussianChain(frames["transition"], frames["offset"], stddev, validate_args=False)
