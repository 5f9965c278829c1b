r"""The Kalman variational autoencoder (Chapter 6): a linear-Gaussian state-space model inside a VAE.

Fraccaro, Kamronn, Paquet and Winther (2017), "A disentangled recognition and nonlinear dynamics model for
unsupervised learning".
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.distributions import Distribution, MultivariateNormal

from dvae_lib.devices import uncast
from dvae_lib.distributions import DiagonalGaussian
from dvae_lib.graphs import DependencySpec
from dvae_lib.models.base import DVAE, Context, Draws, Given, Inferred, Lengths, Past, State, Values, noise
from dvae_lib.models.registry import register
from dvae_lib.networks import MLP, GaussianHead, ObservationHead, shift
from dvae_lib.objectives import VLB, Generated, Latent, frame_mask
from dvae_lib.objectives.missing import Observed, as_observed
from dvae_lib.objectives.terms import frame_log_prob
from dvae_lib.statespace import GaussianChain, LinearGaussianSSM, kalman_filter, kalman_smoother, log_likelihood
from dvae_lib.statespace.series import Series, as_mask

__all__ = ["KVAE", "Interpolation"]

SPECS = {
    "time-invariant": DependencySpec(
        generation="""
            z_t ~ z_{t-1}, u_t              # (6.2)
            a_t ~ z_t                       # (6.4)
            x_t ~ a_t                       # (6.6)
        """,
        inference="""
            a_t ~ x_t                       # (6.14)
            z_t ~ z_{t-1}, a_{t:T}, u_{t:T} # (6.12)
        """,
    ),
    # w_t is the state of the network behind the mixture's weights.
    "mixed": DependencySpec(
        generation="""
            w_t <- a_{t-1}, w_{t-1}
            z_t ~ z_{t-1}, u_t, w_t         # (6.2)
            a_t ~ z_t, w_t                  # (6.4)
            x_t ~ a_t                       # (6.6)
        """,
        inference="""
            a_t ~ x_t                       # (6.14)
            z_t ~ z_{t-1}, a_{1:T}, u_{t:T} # (6.12)
        """,
    ),
}


class Interpolation(NamedTuple):
    """Films with their gaps filled: p(x_t | a_t) at the estimated features, and those features."""

    observation: Distribution
    a: Float[Tensor, "batch time a_dim"]


@register("kvae", chapter=6, variants=[{"mixture": 1}, {"mixture": 3}], small={"weights_dim": 6})
class KVAE(DVAE):
    r"""Features a_t of every frame from a VAE; their dynamics from a Kalman smoother.

    .. math::
        p_\theta(\mathbf{x}_{1:T}, \mathbf{a}_{1:T}, \mathbf{z}_{1:T} | \mathbf{u}_{1:T}) = \prod_{t=1}^T
        p_{\theta_x}(\mathbf{x}_t | \mathbf{a}_t) \, p_{\theta_a}(\mathbf{a}_t | \mathbf{z}_t) \,
        p_{\theta_z}(\mathbf{z}_t | \mathbf{z}_{t-1}, \mathbf{u}_t)

    Eqs. (6.1)-(6.7) generate; Eqs. (6.12)-(6.15) infer, where p(z | a) is exact. Of the bound (6.18) only the
    features are sampled: since :math:`p(\mathbf{a}, \mathbf{z}) / p(\mathbf{z} | \mathbf{a}) = p(\mathbf{a})` for
    every z, the Kalman filter's likelihood stands for the whole dynamical part, without variance.

    With several mixture components the matrices of frame t are averages of as many sets, weighted by an LSTM
    that has read :math:`\mathbf{a}_{1:t-1}`. The filter stays exact: given the past features they are known.

    Arguments:
        x_dim: Size F of the observed vectors.
        z_dim: Size L of the state.
        a_dim: Size of the features.
        observation: The family of :math:`p(\mathbf{x}_t | \mathbf{a}_t)`.
        u_dim: Size of the input vectors, which drive the state.
        mixture: Number of sets of matrices; 1 is the time-invariant model.
        encoder: Sizes of the hidden layers of :math:`e_a` (Tanh).
        decoder: Sizes of the hidden layers of :math:`d_x` (Tanh).
        weights_dim: Size of the state of the LSTM that computes the mixture's weights.

    Example:
        >>> model = KVAE(x_dim=256, z_dim=4, a_dim=2, observation="bernoulli")
        >>> film = (torch.rand(3, 20, 256) > 0.9).float()
        >>> seen = torch.arange(20) % 5 < 3
        >>> model.interpolate(film, seen.expand(3, 20)).observation.mean.shape
        torch.Size([3, 20, 256])
    """

    spec = SPECS["time-invariant"].undriven()

    def __init__(
        self,
        x_dim: int,
        z_dim: int,
        *,
        a_dim: int = 2,
        observation: str = "gaussian",
        u_dim: int = 0,
        mixture: int = 1,
        encoder: Sequence[int] = (128,),
        decoder: Sequence[int] = (128,),
        weights_dim: int = 50,
    ) -> None:
        super().__init__(x_dim, z_dim, observation=observation, u_dim=u_dim)
        for name, size in (("a_dim", a_dim), ("mixture", mixture)):
            if size < 1:
                raise ValueError(f"{name} must be at least 1; got {size}")
        self.a_dim, self.mixture = a_dim, mixture
        spec = SPECS["mixed" if mixture > 1 else "time-invariant"]
        self.spec = spec if u_dim else spec.undriven()
        # The VAE between x_t and a_t
        self.d_x = MLP(a_dim, decoder)
        self.x_head = ObservationHead(self.d_x.out_dim, x_dim, observation)
        self.e_a = MLP(x_dim, encoder)
        self.a_head = GaussianHead(self.e_a.out_dim, a_dim)
        # The state-space model between a_t and z_t, started near a slowly changing state. The noise of both
        # equations is diagonal and does not change with time (Section 6.1).
        self.dynamics = nn.ParameterDict(
            {
                "A": torch.eye(z_dim).repeat(mixture, 1, 1) + 0.05 * torch.randn(mixture, z_dim, z_dim),
                "C": torch.randn(mixture, a_dim, z_dim) / math.sqrt(z_dim),
                "mu_1": torch.zeros(z_dim),
                "logvar_z": torch.full((z_dim,), math.log(0.02)),
                "logvar_a": torch.full((a_dim,), math.log(0.03)),
                "logvar_1": torch.zeros(z_dim),
            }
        )
        if u_dim:
            self.dynamics["B"] = 0.1 * torch.randn(mixture, z_dim, u_dim)
        self.weights_network = nn.LSTM(a_dim, weights_dim, batch_first=True) if mixture > 1 else None
        self.weights_head = nn.Linear(weights_dim, mixture) if mixture > 1 else None

    # ---------------------------------------------------------------- the dynamics

    def state_space(self, a: Float[Tensor, "batch time a_dim"]) -> LinearGaussianSSM:
        r"""The linear-Gaussian model that the features follow, Eqs. (6.1)-(6.4) with (3.16)-(3.17).

        Arguments:
            a: The features, whose past decides the matrices of a mixture; otherwise unused.
        """
        return self._ssm(self._weights(a))

    def _ssm(self, weights: Float[Tensor, "*batch mixture"] | None) -> LinearGaussianSSM:
        """The model for given mixture weights, one set of matrices for each."""

        def mixed(name: str) -> Tensor:
            bank = self.dynamics[name].to(self._precision)
            mixture: Tensor = bank[0] if weights is None else torch.tensordot(weights, bank, 1)
            return mixture

        noise = {
            name: torch.diag(self.dynamics[f"logvar_{name}"].to(self._precision).exp()) for name in ("z", "a", "1")
        }
        mu_1 = self.dynamics["mu_1"].to(self._precision)
        # A mixture has one model a sequence: the batch dimension of mu_1 says so.
        start = mu_1 if weights is None else mu_1.expand(*weights.shape[:-2], -1)
        return LinearGaussianSSM(
            mixed("A"),
            mixed("C"),
            noise["z"],
            noise["a"],
            mu_1=start,
            Lambda_1=noise["1"],
            B=mixed("B") if self.u_dim else None,
            validate_args=False,
        )

    def _weights(self, a: Tensor) -> Tensor | None:
        """The weights of the mixture at each frame, from the features before it."""
        if self.weights_network is None or self.weights_head is None:
            return None
        past = shift(a).to(self.dynamics["mu_1"].dtype)
        weights: Tensor = self.weights_head(self.weights_network(past)[0]).softmax(-1)
        return weights.to(self._precision)

    # Sums and factorisations of covariances want single precision at least, also where the networks around them
    # are trained in a shorter one. Features and states have it; layers are given what their weights have.

    @property
    def _precision(self) -> torch.dtype:
        return torch.promote_types(self.dynamics["mu_1"].dtype, torch.float32)

    def _encoded(self, x: Tensor) -> DiagonalGaussian:
        """The posterior of the features (6.14)."""
        q_a: DiagonalGaussian = self.a_head(self.e_a(x))  # (6.15)
        return DiagonalGaussian(*(parameter.to(self._precision) for parameter in q_a.parameters))

    def _full(self, value: Tensor | None) -> Tensor | None:
        return None if value is None else value.to(self._precision)

    # ---------------------------------------------------------------- the contract

    def _infer(self, x: Tensor, u: Tensor | None, lengths: Tensor | None, draws: Draws) -> Inferred:
        r"""The encoder :math:`q_\phi(\mathbf{a}_t | \mathbf{x}_t)` (6.14), then the exact posterior of z (6.12).

        The latter is given in the order of the chain rule, as
        :math:`p(\mathbf{z}_t | \mathbf{z}_{t-1}, \mathbf{a}_{t:T}, \mathbf{u}_{t:T})`.

        Of a frame of which nothing was observed the features are unknown to the smoother, and come from the state, by
        (6.4). With a mixture, whose matrices need all features, they are drawn in turn from what the filter expects of
        them, given those before, with the diagonal of its covariance.
        """
        values = {name: value.to(self._precision) for name, value in draws.given.items()}
        given = Draws(values, draws.how, draws.generator, draws.observed)
        known = self._known(draws.observed)
        a = given("a", self._encoded(x)) if draws.observed is None else self._features_in_turn(x, u, given)
        with uncast(x.device):
            ssm, mask = self.state_space(a.sample), _both(frame_mask(lengths, x.shape[1]), known)
            smoothed = kalman_smoother(ssm, a.sample, self._full(u), mask=mask)
            chain = GaussianChain.from_moments(*smoothed)
            z = given.given.get("z")
            if z is None:
                z = chain.rsample(noise=draws.noise(smoothed.mean))
            q_z = chain.conditionals(z)
            if known is not None:
                p_a = self._features((ssm.stepwise("C") @ z[..., None]).squeeze(-1))
                parameters = zip(a.posterior.parameters, p_a.parameters, strict=True)  # type: ignore[attr-defined]
                q_a = DiagonalGaussian(*(torch.where(known[..., None], q, p) for q, p in parameters))
                a = Latent(torch.where(known[..., None], a.sample, given("a", p_a).sample), q_a)
        return Inferred({"a": a, "z": Latent(z, q_z)})

    def _features_in_turn(self, x: Tensor, u: Tensor | None, draws: Draws) -> Latent:
        """The features of frames with gaps: of a mixture, those of blank frames from the filter's predictions."""
        q_a, seen = self._encoded(x), draws.observed
        if self.mixture == 1 or seen is None or bool(seen.any(-1).all()):
            return draws("a", q_a)
        values = _InTurn(q_a, seen.any(-1), draws.noise(q_a.mean), draws.given.get("a"))
        with uncast(x.device):
            state = self._filter_initial_state(len(x), values)
            for t in range(x.shape[1]):
                _, state = self._filter_step(state, x[:, t], None if u is None else u[:, t], values)
        return values.latent

    def _known(self, observed: Tensor | None) -> Tensor | None:
        """The frames whose features the state-space model is told; None where it is told all."""
        return None if observed is None or self.mixture > 1 else observed.any(-1)

    def _generate(
        self, x: Tensor, latents: Values, u: Tensor | None, lengths: Tensor | None, states: Values
    ) -> Generated:
        r"""The state (6.2), the features (6.4) and the frames (6.6), for all frames at once."""
        a, z = latents["a"].to(self._precision), latents["z"].to(self._precision)
        with uncast(x.device):
            ssm = self.state_space(a)
            state = (ssm.stepwise("A") @ shift(z)[..., None]).squeeze(-1)
            state = torch.cat([ssm.mu_1.expand_as(z[:, 0])[:, None], state[:, 1:]], 1)
            if u is not None:
                state = state + (ssm.stepwise("B") @ u.to(self._precision)[..., None]).squeeze(-1)
            logvar_1, logvar_z = self.dynamics["logvar_1"], self.dynamics["logvar_z"]
            logvar = torch.cat([logvar_1[None], logvar_z.expand(z.shape[1] - 1, -1)]).to(self._precision)
            p_z = DiagonalGaussian(state, logvar.expand_as(state))  # (6.2)
            p_a = self._features((ssm.stepwise("C") @ z[..., None]).squeeze(-1))  # (6.4)
        return Generated({"z": p_z, "a": p_a}, self._observation(a))  # (6.6)

    def _features(self, mean: Tensor) -> DiagonalGaussian:
        return DiagonalGaussian(mean, self.dynamics["logvar_a"].to(self._precision).expand_as(mean))

    def _observation(self, a: Tensor) -> Distribution:
        observation: Distribution = self.x_head(self.d_x(a.to(self.dynamics["mu_1"].dtype)))  # (6.5)
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
        kl: Literal["analytic", "sampled"] = "analytic",
        generator: Generator | None = None,
    ) -> VLB:
        r"""The bound (6.18), with the state integrated out by the Kalman filter.

        .. math::
            \mathcal{L} = \mathbb{E}_{q_\phi(\mathbf{a} | \mathbf{x})}\big[\log p(\mathbf{x} | \mathbf{a})
            - \log q_\phi(\mathbf{a} | \mathbf{x}) + \log p(\mathbf{a} | \mathbf{u})\big]

        Features and state share one KL term, ``kl["a, z"]`` of shape ``(B,)``. With one sample it may be
        negative. "analytic" and "sampled" are the same: the features are sampled, the state never. Features of frames
        of which nothing was observed are integrated out with it; of a mixture, they are sampled.
        """
        x, u, lengths = self.admit(x, u, lengths, feedback, observed)
        mask, seen = frame_mask(lengths, x.shape[1]), as_observed(observed, x)
        read = self.read(x, seen)
        if seen is None:
            encoded = self._encoded(read)
            q_a: Distribution = encoded
            a = encoded.mean + encoded.stddev * noise(encoded.mean, "sample", generator)
        else:
            features = self._features_in_turn(read, u, Draws(generator=generator, observed=seen))
            a, q_a = features.sample, features.posterior
        frames = torch.stack([frame_log_prob(self._observation(a), x, mask, seen).to(a.dtype), q_a.log_prob(a)])
        mask = _both(mask, self._known(seen))
        if mask is not None:
            frames = torch.where(mask, frames, 0.0)
        reconstruction, log_q = frames.sum(-1)
        with uncast(x.device):
            log_p = log_likelihood(self.state_space(a), a, self._full(u), mask=mask)
        term = log_q - log_p
        return VLB(reconstruction - beta * term, reconstruction, {"a, z": term}, beta=beta)

    def _initial_state(self, batch_size: int, draws: Given) -> State:
        parameter = self.dynamics["mu_1"]
        z = parameter.new_zeros(batch_size, self.z_dim, dtype=self._precision)
        state = {"z": z, "begun": parameter.new_zeros(batch_size, 1)}
        if self.weights_network is not None:
            size = self.weights_network.hidden_size
            state["a"] = z.new_zeros(batch_size, self.a_dim)
            state["h"], state["c"] = parameter.new_zeros(2, batch_size, size)
        return state

    def _step(self, state: State, x_prev: Tensor, u_t: Tensor | None, draws: Given) -> tuple[Distribution, State]:
        ssm, following = self._next_matrices(state)
        first = state["begun"] == 0
        mean = self._predicted(ssm, state["z"], first, u_t)
        logvar = torch.where(first, self.dynamics["logvar_1"], self.dynamics["logvar_z"]).to(mean)
        z = draws("z", DiagonalGaussian(mean, logvar))  # (6.2)
        a = draws("a", self._features((ssm.stepwise("C")[..., 0, :, :] @ z[..., None]).squeeze(-1)))  # (6.4)
        if following:
            following["a"] = a
        return self._observation(a), {**following, "z": z, "begun": torch.ones_like(state["begun"])}  # (6.6)

    def _next_matrices(self, state: State) -> tuple[LinearGaussianSSM, State]:
        """The matrices of the next frame; of a mixture, also the state of the network behind its weights."""
        if self.weights_network is None or self.weights_head is None:
            return self._ssm(None), {}
        past = state["a"].to(state["h"].dtype)
        out, (h, c) = self.weights_network(past[:, None], (state["h"][None], state["c"][None]))
        weights = self.weights_head(out).softmax(-1).to(self._precision)
        return self._ssm(weights), {"h": h[0], "c": c[0]}

    @staticmethod
    def _predicted(ssm: LinearGaussianSSM, z: Tensor, first: Tensor, u_t: Tensor | None) -> Tensor:
        """The mean of the next state, given the one before, or its mean."""
        mean = (ssm.stepwise("A")[..., 0, :, :] @ z[..., None]).squeeze(-1)
        mean = torch.where(first, ssm.mu_1, mean)
        if u_t is not None:
            mean = mean + (ssm.stepwise("B")[..., 0, :, :] @ u_t.to(mean)[..., None]).squeeze(-1)
        return mean

    # ---------------------------------------------------------------- filtering: the state is integrated out

    # Particles carry the features alone, and the Kalman filter's mean and covariance of the state given them.

    def _context(self, x: Tensor, u: Tensor | None, lengths: Tensor | None, draws: Draws, past: Past) -> Context:
        q_a = self._encoded(x)
        return Context({"mean": q_a.mean, "logvar": q_a.logvar})

    def _propose(self, name: str, context: Values, known: Values) -> Distribution:
        return DiagonalGaussian(context["mean"], context["logvar"])  # (6.14)

    def _filter_initial_state(self, batch_size: int, draws: Given) -> State:
        state = self._initial_state(batch_size, draws)
        z = state.pop("z")
        return {**state, "mean": z, "covariance": z.new_zeros(batch_size, self.z_dim, self.z_dim)}

    def _filter_step(
        self, state: State, x_prev: Tensor, u_t: Tensor | None, draws: Given
    ) -> tuple[Distribution, State]:
        with uncast(x_prev.device):
            ssm, following = self._next_matrices(state)
            A, C = (ssm.stepwise(name)[..., 0, :, :] for name in ("A", "C"))
            first = state["begun"] == 0
            mean = self._predicted(ssm, state["mean"], first, u_t)
            moved = A @ state["covariance"] @ A.mT + ssm.stepwise("Lambda")[..., 0, :, :]
            covariance = torch.where(first[..., None], ssm.Lambda_1, moved)
            Sigma = ssm.stepwise("Sigma")[..., 0, :, :]
            expected = (C @ mean[..., None]).squeeze(-1)
            spread = C @ covariance @ C.mT + Sigma
            a = draws("a", MultivariateNormal(expected, spread, validate_args=False))
            gain = torch.linalg.solve(spread, C @ covariance).mT
            unseen = draws.unseen("a")
            if unseen is not None and self.mixture == 1:  # nothing is learned from features that are only a draw
                gain = torch.where(unseen[:, None, None], 0.0, gain)
            mean = mean + (gain @ (a - expected)[..., None]).squeeze(-1)
            left = torch.eye(self.z_dim, dtype=gain.dtype, device=gain.device) - gain @ C
            covariance = left @ covariance @ left.mT + gain @ Sigma @ gain.mT
        if following:
            following["a"] = a
        following |= {"mean": mean, "covariance": covariance, "begun": torch.ones_like(state["begun"])}
        return self._observation(a), following

    def _filtered(self, state: State) -> dict[str, tuple[Tensor, Tensor]]:
        return {"z": (state["mean"], state["covariance"].diagonal(dim1=-2, dim2=-1))}

    # ---------------------------------------------------------------- what the model was made for

    @torch.no_grad()
    def interpolate(
        self,
        x: Float[Tensor, "batch time x_dim"],
        observed: Series,
        u: Float[Tensor, "batch time u_dim"] | None = None,
        *,
        method: Literal["smooth", "filter"] = "smooth",
    ) -> Interpolation:
        """Fill in missing frames from what the dynamics say of their features, without a random draw.

        For samples of what is missing, and for frames of which a part was observed, see `impute`.

        Arguments:
            x: The sequences; what stands in missing frames is not looked at.
            observed: True where a frame is there, `(B, T)`; a tensor or an array.
            u: The input sequences of a driven model.
            method: "smooth" uses the frames before and after a gap, "filter" only those before.

        Returns:
            p(x_t | a_t) for all frames, at the posterior mean of the features: in observed frames that of the
            encoder, in missing ones that of the state-space model.

        Raises:
            TypeError: Where `observed` is not boolean.
            ValueError: Where the shape of `observed` or the name of the method is another.
        """
        if method not in ("smooth", "filter"):
            raise ValueError(f"method must be 'smooth' or 'filter'; got {method!r}")
        observed = as_mask(observed, x.device)
        if observed.shape != x.shape[:2]:
            raise ValueError(f"observed must have shape {tuple(x.shape[:2])}, by frame; got {tuple(observed.shape)}")
        x = torch.where(observed[..., None], x, x.new_zeros(()))
        self.check(x, u)
        encoded, u = self._encoded(self.read(x)).mean, self._full(u)
        a = torch.where(observed[..., None], encoded, encoded.new_zeros(()))
        # The weights of a mixture look at past features, missing ones among them, for which the filter's estimates
        # stand in. Each round makes one more of every run of missing frames right, hence the number of rounds.
        for _ in range(_longest_gap(observed) if self.mixture > 1 else 0):
            filtered = kalman_filter(self.state_space(a), a, u, mask=observed)
            a = self._filled(a, observed, filtered.mean)
        estimate = kalman_filter if method == "filter" else kalman_smoother
        a = self._filled(a, observed, estimate(self.state_space(a), a, u, mask=observed).mean)
        return Interpolation(self._observation(a), a)

    def _filled(self, a: Tensor, observed: Tensor, z: Tensor) -> Tensor:
        """The features, with what the states say of the missing ones."""
        estimated = (self.state_space(a).stepwise("C") @ z[..., None]).squeeze(-1)
        return torch.where(observed[..., None], a, estimated)


class _InTurn(Given):
    """Features frame by frame: from the encoder; where nothing was observed, from what the filter expects."""

    def __init__(self, encoded: DiagonalGaussian, seen: Tensor, epsilon: Tensor, given: Tensor | None) -> None:
        super().__init__()
        self.encoded, self.seen, self.epsilon, self.fixed = encoded, seen, epsilon, given
        self.frames: list[tuple[Tensor, Tensor, Tensor]] = []

    def __call__(self, name: str, prior: Distribution, **known: Tensor) -> Tensor:
        """The features of the next frame."""
        t, seen = len(self.frames), self.seen[:, len(self.frames), None]
        mean = torch.where(seen, self.encoded.mean[:, t], prior.mean)
        logvar = torch.where(seen, self.encoded.logvar[:, t], prior.variance.log())
        drawn = mean + (0.5 * logvar).exp() * self.epsilon[:, t]
        value = drawn if self.fixed is None else self.fixed[:, t]
        self.frames.append((value, mean, logvar))
        return value

    @property
    def latent(self) -> Latent:
        """The features of all frames, with their posterior."""
        value, mean, logvar = (torch.stack(parts, 1) for parts in zip(*self.frames, strict=True))
        return Latent(value, DiagonalGaussian(mean, logvar))


def _both(mask: Tensor | None, other: Tensor | None) -> Tensor | None:
    """Where both masks say so; None says so everywhere."""
    return other if mask is None else mask if other is None else mask & other


def _longest_gap(observed: Tensor) -> int:
    longest = run = 0
    for missing in (~observed).any(0).tolist():
        run = run + 1 if missing else 0
        longest = max(longest, run)
    return longest
