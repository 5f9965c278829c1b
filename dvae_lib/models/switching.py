r"""The switching state-space model (Section 12.1): one of several linear dynamics at a time, seen through a network.

Johnson, Duvenaud, Wiltschko, Datta and Adams (2016), "Composing graphical models with neural networks for structured
representations and fast inference"; Linderman et al. (2017), "Bayesian learning and inference in recurrent switching
linear dynamical systems"; Dong, Seybold, Murphy and Bui (2020), "Collapsed amortized variational inference for
switching nonlinear dynamical systems".
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor, nn
from torch.distributions import Distribution
from torch.nn import functional as F

from dvae_lib.devices import uncast
from dvae_lib.distributions import DiagonalGaussian, OneHotCategorical
from dvae_lib.graphs import DependencySpec
from dvae_lib.models.base import DVAE, Context, Draw, Draws, Given, Inferred, Lengths, Past, State, Values
from dvae_lib.models.regime_fitting import best_dynamics, first_clusters, known_states
from dvae_lib.models.registry import register
from dvae_lib.networks import MLP, GaussianHead, ObservationHead, Recurrence, append_input, sample_chain, shift
from dvae_lib.objectives import VLB, Generated, Latent, frame_mask
from dvae_lib.objectives.missing import Observed, as_observed
from dvae_lib.objectives.terms import check_counts, check_weight, frame_log_prob
from dvae_lib.statespace import (
    HiddenMarkovModel,
    hmm_log_likelihood,
    hmm_posterior,
    hmm_sample_posterior,
    hmm_smoother,
    viterbi,
)

__all__ = ["Regimes", "SwitchingSSM", "balanced_bound"]

INFERENCE = """
    g_t <- x_t, u_t, g_{t+1}
    z_t ~  z_{t-1}, g_t
    s_t ~  s_{t-1}, z_{t-1:T}, u_{t:T}
"""
SPECS = {
    False: DependencySpec("s_t ~ s_{t-1} \n z_t ~ z_{t-1}, s_t, u_t \n x_t ~ z_t", INFERENCE),
    True: DependencySpec("s_t ~ s_{t-1}, z_{t-1} \n z_t ~ z_{t-1}, s_t, u_t \n x_t ~ z_t", INFERENCE),
}
"""Without and with an influence of the state on the switches ("recurrent")."""

# What stands for the logarithm of zero where it is multiplied with the entries of s_{t-1}, zeros among them.
LEAST = -1e30


class Regimes(NamedTuple):
    """Which regime each frame is in.

    Attributes:
        marginals: p(s_t = k | z_{1:T}) at the inferred states, `(B, T, K)`.
        path: The most probable sequence of regimes (Viterbi), `(B, T)`, numbered from 0.
        z: The states at which both are, `(B, T, z_dim)`.
    """

    marginals: Float[Tensor, "batch time regimes"]
    path: Int[Tensor, "batch time"]
    z: Float[Tensor, "batch time z_dim"]


class RegimeMixture(Distribution):
    r"""What is expected of the next state while its regime is not known: :math:`\sum_k w_k \mathcal{N}_k`.

    Arguments:
        log_weights: :math:`\log w_k`, `(*batch, K)`.
        components: The Gaussians, of batch shape `(*batch, K)`.
    """

    def __init__(self, log_weights: Tensor, components: DiagonalGaussian) -> None:
        super().__init__(log_weights.shape[:-1], components.event_shape, validate_args=False)
        self.weights, self.components = OneHotCategorical(log_weights), components

    @property
    def mean(self) -> Tensor:
        """The mean of the mixture."""
        return (self.weights.mean[..., None] * self.components.mean).sum(-2)

    def log_prob(self, value: Tensor) -> Tensor:
        """The log-density, in nats."""
        values = torch.broadcast_tensors(value[..., None, :], self.components.mean)[0]
        return (self.weights.log_probabilities + self.components.log_prob(values)).logsumexp(-1)

    def sample(self, sample_shape: Sequence[int] = (), *, generator: Generator | None = None) -> Tensor:
        """A sample through which no gradient flows."""
        chosen = self.weights.sample(sample_shape, generator=generator)
        return (chosen[..., None] * self.components.sample(sample_shape, generator=generator)).sum(-2)


@register(
    "switching",
    chapter=12.2,
    variants=[{}, {"recurrent": True, "regimes": 3}],
    small={"g_dim": 8, "encoder": (8,), "decoder": (8,)},
)
class SwitchingSSM(DVAE):
    r"""A Markov chain of regimes; in each, linear dynamics of a state; a network makes frames of the states.

    .. math::
        p_\theta(\mathbf{x}, \mathbf{z}, \mathbf{s}) = \prod_{t=1}^T p(\mathbf{x}_t | \mathbf{z}_t) \,
        \mathcal{N}(\mathbf{z}_t; A_{s_t} \mathbf{z}_{t-1} + B_{s_t} \mathbf{u}_t + \mathbf{b}_{s_t}, \Lambda_{s_t})\,
        p(s_t | s_{t-1} [, \mathbf{z}_{t-1}])

    The first state has a mean and a variance of its own in each regime, in place of
    :math:`A_{s_1} \mathbf{z}_0 + \mathbf{b}_{s_1}` and :math:`\Lambda_{s_1}`; all covariances are diagonal. Regimes are
    vectors :math:`\mathbf{s}_t` with a single one. A network infers the states; given them the regimes have an exact
    posterior, and the bound has them summed out (the forward algorithm, in :math:`O(T K^2)`):

    .. math::
        \mathcal{L} = \mathbb{E}_{q_\phi(\mathbf{z} | \mathbf{x})}\big[\log p(\mathbf{x} | \mathbf{z})
        - \log q_\phi(\mathbf{z} | \mathbf{x}) + \log \textstyle\sum_{\mathbf{s}} p(\mathbf{z}, \mathbf{s})\big]

    Arguments:
        x_dim: Size F of the observed vectors.
        z_dim: Size L of the state.
        regimes: Number K of regimes. With one, s is constant, and this is a linear-Gaussian model seen through a
            network.
        recurrent: Whether the place that a state has reached has a say in the next switch: logits are then linear in
            :math:`\mathbf{z}_{t-1}`.
        observation: The family of :math:`p(\mathbf{x}_t | \mathbf{z}_t)`.
        u_dim: Size of the input vectors, which drive the state.
        encoder: Sizes of the layers before the recurrent network (Tanh).
        decoder: Sizes of the hidden layers of :math:`d_x` (Tanh).
        g_dim: Size of the recurrent network's internal state.
        head: Sizes of the hidden layers of :math:`e_z` (Tanh).
        cell: "lstm", "gru" or "rnn".

    Example:
        >>> model = SwitchingSSM(x_dim=16, z_dim=2, regimes=3)
        >>> model.regimes(torch.zeros(4, 10, 16)).marginals.shape
        torch.Size([4, 10, 3])
    """

    spec = SPECS[False].undriven()

    def __init__(
        self,
        x_dim: int,
        z_dim: int,
        *,
        regimes: int = 2,
        recurrent: bool = False,
        observation: str = "gaussian",
        u_dim: int = 0,
        encoder: Sequence[int] = (128,),
        decoder: Sequence[int] = (128,),
        g_dim: int = 128,
        head: Sequence[int] = (),
        cell: str = "lstm",
    ) -> None:
        super().__init__(x_dim, z_dim, observation=observation, u_dim=u_dim)
        if isinstance(regimes, bool) or not isinstance(regimes, int) or regimes < 1:
            raise ValueError(f"regimes must be an integer of at least 1; got {regimes!r}")
        self.spec = SPECS[bool(recurrent)] if u_dim else SPECS[bool(recurrent)].undriven()
        self.s_dim, self.recurrent = regimes, bool(recurrent)
        # p(x_t | z_t)
        self.d_x = MLP(z_dim, decoder)
        self.x_head = ObservationHead(self.d_x.out_dim, x_dim, observation)
        # p(s_t | .) and p(z_t | .): at first regimes last, no two are the same, and each could explain most changes of
        # the state, so that none is out of the game before it has learned anything.
        self.dynamics = nn.ParameterDict(
            {
                "A": torch.eye(z_dim).repeat(regimes, 1, 1) + 0.05 * torch.randn(regimes, z_dim, z_dim),
                "b": 0.1 * torch.randn(regimes, z_dim),
                "logvar": torch.zeros(regimes, z_dim),
                "mu_1": 0.1 * torch.randn(regimes, z_dim),
                "logvar_1": torch.zeros(regimes, z_dim),
                "initial": torch.zeros(regimes),
                "transition": 2.0 * torch.eye(regimes),
            }
        )
        if u_dim:
            self.dynamics["B"] = 0.1 * torch.randn(regimes, z_dim, u_dim)
        if recurrent:
            self.dynamics["place"] = 0.1 * torch.randn(regimes, regimes, z_dim)
        # q(z_t | .), the smoother of the deep Kalman filter
        self.encoder = MLP(x_dim + u_dim, encoder)
        self.e_g = Recurrence(self.encoder.out_dim, g_dim, cell=cell, backward=True)
        self.combiner = MLP(z_dim, [g_dim])
        self.e_z = MLP(g_dim, head)
        self.z_head = GaussianHead(self.e_z.out_dim, z_dim)

    # ---------------------------------------------------------------- the dynamics

    # Log-densities of long sequences are sums of which small differences count: they want single precision at least,
    # also where the networks around them are trained in a shorter one.

    def _full(self, value: Tensor) -> Tensor:
        return value.to(torch.promote_types(value.dtype, torch.float32))

    def _weights(self, name: str) -> Tensor:
        return self._full(self.dynamics[name])

    def _driven(self, mean: Tensor, logvar: Tensor, u: Tensor | None) -> DiagonalGaussian:
        """Gaussians of batch shape `(..., K)`, moved by the input."""
        if u is not None:
            mean = mean + torch.einsum("kij,...j->...ki", self._weights("B"), self._full(u))
        return DiagonalGaussian(mean, logvar.expand_as(mean))

    def _moved(self, z_prev: Tensor, u: Tensor | None) -> DiagonalGaussian:
        """p(z_t | z_{t-1}, s_t = k) for every k, not of the first frame; of batch shape `(..., K)`."""
        mean = torch.einsum("kij,...j->...ki", self._weights("A"), self._full(z_prev)) + self._weights("b")
        return self._driven(mean, self._weights("logvar"), u)

    def _begun(self, batch_size: int, u_1: Tensor | None) -> DiagonalGaussian:
        """p(z_1 | s_1 = k) for every k, of batch shape `(B, K)`."""
        mean = self._weights("mu_1").expand(batch_size, -1, -1)
        return self._driven(mean, self._weights("logvar_1"), u_1)

    def _dynamics(self, z: Tensor, u: Tensor | None) -> DiagonalGaussian:
        """p(z_t | z_{t-1}, s_t = k) of all frames and every k, of batch shape `(B, T, K)`."""
        first = self._begun(len(z), None if u is None else u[:, 0])
        later = self._moved(z[:, :-1], None if u is None else u[:, 1:])
        both = zip(first.parameters, later.parameters, strict=True)
        return DiagonalGaussian(*(torch.cat([one[:, None], others], 1) for one, others in both))

    def _switches(self, z_prev: Tensor) -> Tensor:
        """log p(s_t | s_{t-1}, z_{t-1}), s_{t-1} by rows: `(K, K)`, or `(..., K, K)` where it depends on the place."""
        scores = self._weights("transition")
        if self.recurrent:
            scores = scores + torch.einsum("jkl,...l->...jk", self._weights("place"), self._full(z_prev))
        return scores.log_softmax(-1)

    def _prior_chain(self, z: Tensor) -> HiddenMarkovModel:
        """The law of the regimes, as far as it follows from their own past and from the places."""
        initial = self._weights("initial").log_softmax(-1)
        switches = self._switches(shift(z))
        if self.recurrent:  # one model for each sequence
            initial = initial.expand(len(z), -1)
        return HiddenMarkovModel(initial, switches, validate_args=False)

    @staticmethod
    def _next_regime(s: Tensor, chain: HiddenMarkovModel) -> OneHotCategorical:
        """The conditionals of a chain along a sequence of regimes, `(B, T, K)`."""
        first, steps = chain.log_initial.clamp(min=LEAST), chain.log_transition.clamp(min=LEAST)
        if not chain.per_step:
            steps = steps[..., None, :, :].expand(s.shape[1], -1, -1)
        # Linear in s_{t-1}: of the row of the transitions that its single one chooses.
        later = (s[:, :-1, None].to(steps) @ steps[..., 1:, :, :]).squeeze(-2)
        return OneHotCategorical(
            torch.cat([first.expand(len(s), 1, -1) if first.ndim == 1 else first[:, None], later], 1)
        )

    # ---------------------------------------------------------------- the contract

    def _context(self, x: Tensor, u: Tensor | None, lengths: Tensor | None, draws: Draws, past: Past) -> Context:
        features = self.encoder(append_input(x, u))
        return Context({"observed": past.run("g", self.e_g, features, lengths) / 2})

    def _propose(self, name: str, context: Values, known: Values) -> Distribution:
        posterior: Distribution = self.z_head(self.e_z(self._combine(known["z_prev"], context["observed"])))
        return posterior

    def _combine(self, z_prev: Tensor, observed: Tensor) -> Tensor:
        """The mean of a Tanh layer on z_{t-1} and of g_t, as Eq. (5.5)."""
        dtype = self.z_head.linear.weight.dtype  # that of a filter's states may be a longer one
        return torch.add(observed, self.combiner(z_prev.to(dtype)), alpha=0.5)

    def recursion(
        self, observed: Float[Tensor, "batch time g_dim"], epsilon: Float[Tensor, "batch time z_dim"]
    ) -> tuple[Tensor, ...]:
        """The loop: all z_t, and the outputs that hold mean and log-variance of q(z_t | .)."""
        at_t = observed.unbind(1)

        def parameters(t: int, z_prev: Tensor) -> Tensor:
            output: Tensor = self.z_head.linear(self.e_z(self._combine(z_prev, at_t[t])))
            return output

        return sample_chain(parameters, epsilon)

    def _states(self, x: Tensor, u: Tensor | None, lengths: Tensor | None, draws: Draws) -> Latent:
        r"""The smoother :math:`q_\phi(\mathbf{z}_t | \mathbf{z}_{t-1}, \mathbf{x}_{t:T})`."""
        frames = self._context(x, u, lengths, draws, Past()).frames
        if "z" in draws.given:
            return draws("z", self._propose("z", frames, {"z_prev": shift(draws.given["z"])}))
        latent: Latent = self.sample_recursively(draws, frames["observed"])[0]
        return latent

    def _infer(self, x: Tensor, u: Tensor | None, lengths: Tensor | None, draws: Draws) -> Inferred:
        r"""The states by a network; then the regimes by the exact :math:`p(s_t | s_{t-1}, \mathbf{z}_{t-1:T})`.

        The "mean" of the regimes are their marginals given the states.
        """
        latent = self._states(x, u, lengths, draws)
        z = latent.sample
        with uncast(z.device):
            chain, evidence = self._prior_chain(z), self._evidence(z, u)
            s = draws.given.get("s")
            if s is None and draws.how == "mean":
                s = hmm_smoother(chain, evidence, lengths=lengths).marginals
            elif s is None:
                path = hmm_sample_posterior(chain, evidence, lengths=lengths, generator=draws.generator)
                s = F.one_hot(path, self.s_dim).to(evidence)
            posterior = self._next_regime(s, hmm_posterior(chain, evidence, lengths=lengths))
        return Inferred({"z": latent, "s": Latent(s, posterior)})

    def _evidence(self, z: Tensor, u: Tensor | None) -> Tensor:
        """log p(z_t | z_{t-1}, s_t = k), `(B, T, K)`."""
        dynamics = self._dynamics(z, u)
        evidence: Tensor = dynamics.log_prob(self._full(z)[..., None, :].expand_as(dynamics.mean))
        return evidence

    def log_marginal(
        self,
        z: Float[Tensor, "batch time z_dim"],
        u: Float[Tensor, "batch time u_dim"] | None = None,
        *,
        lengths: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, " batch"]:
        r"""The prior of the states, :math:`\log \sum_{\mathbf{s}} p(\mathbf{z}, \mathbf{s})`, in nats per sequence.

        Its gradient is the expectation of :math:`\nabla \log p(\mathbf{z}, \mathbf{s})` over the exact posterior of the
        regimes (Fisher's identity).

        Arguments:
            z: The states.
            u: The input sequences of a driven model.
            lengths: The sequences' lengths in a padded batch.
        """
        with uncast(z.device):
            return hmm_log_likelihood(self._prior_chain(z), self._evidence(z, u), lengths=lengths)

    def _generate(
        self, x: Tensor, latents: Values, u: Tensor | None, lengths: Tensor | None, states: Values
    ) -> Generated:
        z, s = latents["z"], self._full(latents["s"])
        with uncast(z.device):
            p_s = self._next_regime(s, self._prior_chain(z))
            p_z = self._in_regime(s, self._dynamics(z, u))
        return Generated({"s": p_s, "z": p_z}, self._observation(z))

    @staticmethod
    def _in_regime(s: Tensor, each: DiagonalGaussian) -> DiagonalGaussian:
        """Of the Gaussians of all regimes, that of the regime given."""
        return DiagonalGaussian(*((s[..., None, :].to(p) @ p).squeeze(-2) for p in each.parameters))

    def _observation(self, z: Tensor) -> Distribution:
        observation: Distribution = self.x_head(self.d_x(z.to(self.x_head.linear.weight.dtype)))
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
        r"""The bound with the regimes summed out.

        States and regimes share one KL term, ``kl["z, s"]`` of shape ``(B,)``. With one sample it may be negative.
        "analytic" and "sampled" are the same: the states are sampled, the regimes never.
        """
        x, u, lengths = self.admit(x, u, lengths, feedback, observed)
        return self._bound(x, u, lengths, as_observed(observed, x), beta, generator)[0]

    def _bound(
        self,
        x: Tensor,
        u: Tensor | None,
        lengths: Tensor | None,
        seen: Tensor | None,
        beta: float,
        generator: Generator | None,
    ) -> tuple[VLB, Tensor]:
        """The bound with one sample of the states, and that sample."""
        mask = frame_mask(lengths, x.shape[1])
        latent = self._states(self.read(x, seen), u, lengths, Draws(generator=generator))
        z, log_q = latent.sample, self._full(latent.posterior.log_prob(latent.sample))
        if mask is not None:
            log_q = torch.where(mask, log_q, 0.0)
        reconstruction = frame_log_prob(self._observation(z), x, mask, seen).to(log_q).sum(1)
        term = log_q.sum(1) - self.log_marginal(z, u, lengths=lengths)
        return VLB(reconstruction - beta * term, reconstruction, {"z, s": term}, beta=beta), z

    # ---------------------------------------------------------------- generation, frame by frame

    def _initial_state(self, batch_size: int, draws: Given) -> State:
        parameter = self._weights("b")
        sizes = {"z": self.z_dim, "s": self.s_dim, "begun": 1}
        return {name: parameter.new_zeros(batch_size, size) for name, size in sizes.items()}

    def _step(self, state: State, x_prev: Tensor, u_t: Tensor | None, draws: Given) -> tuple[Distribution, State]:
        first = state["begun"] == 0
        with uncast(x_prev.device):
            switches = self._switches(state["z"])
            logits = torch.where(
                first, self._weights("initial").log_softmax(-1), (state["s"][:, None] @ switches).squeeze(-2)
            )
            s = draws("s", OneHotCategorical(logits))
            z = draws("z", self._in_regime(s, self._at(state, u_t)), z_prev=state["z"])
        return self._observation(z), {"z": self._full(z), "s": self._full(s), "begun": torch.ones_like(state["begun"])}

    def _at(self, state: State, u_t: Tensor | None) -> DiagonalGaussian:
        """p(z_t | z_{t-1}, s_t = k) for every k, at one frame, of batch shape `(B, K)`."""
        begun, moved = self._begun(len(state["z"]), u_t), self._moved(state["z"], u_t)
        first = state["begun"][..., None] == 0
        both = zip(begun.parameters, moved.parameters, strict=True)
        return DiagonalGaussian(*(torch.where(first, one, other) for one, other in both))

    # ---------------------------------------------------------------- filtering: the regimes are summed out

    # Particles carry the states alone, and the exact p(s_t | z_{1:t}) of each.

    def _filter_step(
        self, state: State, x_prev: Tensor, u_t: Tensor | None, draws: Given
    ) -> tuple[Distribution, State]:
        with uncast(x_prev.device):
            # Here the state's s are probabilities p(s_{t-1} | z_{1:t-1}).
            moved = (state["s"].clamp_min(1e-30).log()[..., None] + self._switches(state["z"])).logsumexp(-2)
            expected = torch.where(state["begun"] == 0, self._weights("initial"), moved).log_softmax(-1)
            each = self._at(state, u_t)
            z = draws("z", RegimeMixture(expected, each), z_prev=state["z"])
            s = (expected + each.log_prob(self._full(z)[:, None].expand_as(each.mean))).softmax(-1)
        return self._observation(z), {"z": self._full(z), "s": s, "begun": torch.ones_like(state["begun"])}

    def _filtered(self, state: State) -> dict[str, tuple[Tensor, Tensor]]:
        return {"s": (state["s"], state["s"] * (1 - state["s"]))}

    # ---------------------------------------------------------------- what the model was made for

    @torch.no_grad()
    def regimes(
        self,
        x: Float[Tensor, "batch time x_dim"],
        u: Float[Tensor, "batch time u_dim"] | None = None,
        *,
        lengths: Lengths | None = None,
        observed: Observed | None = None,
        draw: Draw = "mean",
        generator: Generator | None = None,
    ) -> Regimes:
        """Which regime each frame is in: marginals, and the most probable path.

        Arguments:
            x: The sequences.
            u: The input sequences of a driven model.
            lengths: The sequences' lengths in a padded batch; beyond its end a sequence stays in its last regime.
            observed: What was observed; see `inference`.
            draw: At which states: "mean" of the posterior, or a "sample" of it.
            generator: Source of randomness.

        Raises:
            ValueError, TypeError: See `inference`.
        """
        x, u, lengths = self.admit(x, u, lengths, 0.0, observed)
        if draw not in ("sample", "mean"):
            raise ValueError(f"draw must be 'sample' or 'mean'; got {draw!r}")
        z = self._states(self.read(x, as_observed(observed, x)), u, lengths, Draws({}, draw, generator)).sample
        with uncast(z.device):
            path = viterbi(self._prior_chain(z), self._evidence(z, u), lengths=lengths).path
        return Regimes(self._marginals(z, u, lengths), path, z)

    @torch.no_grad()
    def start_regimes(
        self,
        x: Float[Tensor, "batch time x_dim"],
        u: Float[Tensor, "batch time u_dim"] | None = None,
        *,
        lengths: Lengths | None = None,
        rounds: int = 20,
        generator: Generator | None = None,
    ) -> list[float]:
        r"""Give each regime something of its own to explain: fit the dynamics to the states that are inferred now.

        Pairs :math:`(\mathbf{z}_{t-1}, \mathbf{z}_t)` are put into K clusters by k-means; from there the EM algorithm
        for the dynamics goes on, in which the states are data. Networks stay as they are, the influence of the place is
        set to zero. It is meant for a model that has learned to reconstruct and whose regimes are all the same still.

        Arguments:
            x: Sequences, of two frames at least; a few thousand frames are enough.
            u: The input sequences of a driven model.
            lengths: The sequences' lengths in a padded batch.
            rounds: Rounds of EM.
            generator: Source of randomness, of the first clusters.

        Returns:
            :math:`\log p(\mathbf{z})` in nats per sequence before each round; it does not fall from one to the next.

        Raises:
            ValueError, TypeError: See `inference`; also for fewer than two frames and fewer than one round.
        """
        check_counts(rounds=rounds)
        x, u, lengths = self.admit(x, u, lengths)
        if x.shape[1] < 2:
            raise ValueError(f"x must have at least two frames, for a change to be seen; got {x.shape[1]}")
        z = self._states(self.read(x), u, lengths, Draws(how="mean")).sample
        data = known_states(z, u, frame_mask(lengths, x.shape[1]))
        self._take(best_dynamics(data, first_clusters(data, self.s_dim, generator)))
        found = []
        for _ in range(rounds):
            smoothed = hmm_smoother(self._prior_chain(z), self._evidence(z, u), lengths=lengths)
            found.append(smoothed.log_likelihood.mean().item())
            self._take(best_dynamics(data, smoothed.marginals, smoothed.pairwise))
        return found

    def _take(self, dynamics: Mapping[str, Tensor]) -> None:
        for name, value in dynamics.items():
            self.dynamics[name].copy_(value)
        if self.recurrent:
            self.dynamics["place"].zero_()

    def _marginals(self, z: Tensor, u: Tensor | None, lengths: Tensor | None) -> Tensor:
        """p(s_t = k | z_{1:T}), `(B, T, K)`."""
        with uncast(z.device):
            marginals: Tensor = hmm_smoother(self._prior_chain(z), self._evidence(z, u), lengths=lengths).marginals
            return marginals


def balanced_bound(
    model: SwitchingSSM,
    x: Float[Tensor, "batch time x_dim"],
    u: Float[Tensor, "batch time u_dim"] | None = None,
    *,
    lengths: Lengths | None = None,
    observed: Observed | None = None,
    balance: float = 1.0,
    beta: float = 1.0,
    generator: Generator | None = None,
) -> VLB:
    r"""The bound, less a price for regimes that are not used: to be lowered to zero while a model is trained.

    .. math::
        \mathcal{L} + \gamma \sum_{t=1}^T \frac{1}{K} \sum_{k=1}^K \log p(s_t = k | \mathbf{z}_{1:T})

    The sum is minus the cross-entropy of the regimes' posterior marginals to uniform ones.

    Arguments:
        model: A switching model.
        x: The observed sequences.
        u: The input sequences of a driven model.
        lengths: The sequences' lengths in a padded batch.
        observed: What was observed; see `DVAE.vlb`.
        balance: The weight :math:`\gamma`.
        beta: Weight of the KL term.
        generator: Source of randomness.

    Returns:
        The bound with the price as ``auxiliary["balance"]``.

    Raises:
        ValueError, TypeError: See `DVAE.vlb`; also for a weight that is negative or not finite.

    Source: Dong et al. (2020), "Collapsed amortized variational inference for switching nonlinear dynamical systems".
    """
    check_weight(balance, "balance")
    check_weight(beta, "beta")
    x, u, inside = model.admit(x, u, lengths, 0.0, observed)
    bound, z = model._bound(x, u, inside, as_observed(observed, x), beta, generator)
    usage = model._marginals(z, u, inside).clamp_min(torch.finfo(torch.float32).tiny).log().mean(-1)
    mask = frame_mask(inside, x.shape[1])
    price = balance * (usage if mask is None else torch.where(mask, usage, 0.0)).sum(1)
    return replace(bound, value=bound.value + price, auxiliary={"balance": price})
