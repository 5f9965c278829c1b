r"""The recurrent state-space model, RSSM (Section 12.2).

Hafner, Lillicrap, Fischer, Villegas, Ha, Lee and Davidson (2019), "Learning latent dynamics for planning from pixels"
(the review's Hafner et al., 2018). With categorical latent variables: Hafner, Lillicrap, Norouzi and Ba (2021),
"Mastering Atari with discrete world models".
"""

from collections.abc import Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution

from dvae_lib.distributions import FactorisedDistribution
from dvae_lib.graphs import DependencySpec
from dvae_lib.models.base import DVAE, Context, Draws, Given, Inferred, Past, State, Values
from dvae_lib.models.registry import choose_spec, register
from dvae_lib.networks import (
    MLP,
    CategoricalHead,
    FrameByFrame,
    GaussianHead,
    InternalState,
    ObservationHead,
    PrecomputedInput,
    prepend_input,
    sample_chain,
    shift,
)
from dvae_lib.objectives import Generated

__all__ = ["RSSM"]

SPECS = {
    "rssm": DependencySpec(
        generation="""
            h_t <- z_{t-1}, u_t, h_{t-1}
            z_t ~ h_t
            x_t ~ z_t, h_t
        """,
        inference="z_t ~ h_t, x_t",
    ),
    "ssm": DependencySpec(
        generation="""
            z_t ~ z_{t-1}, u_t
            x_t ~ z_t
        """,
        inference="z_t ~ z_{t-1}, u_t, x_t",
    ),
}


@register(
    "rssm",
    chapter=12.5,
    variants=[*({"kind": name} for name in SPECS), {"latent": "categorical"}],
    small={"h_dim": 8, "prior": (8,), "decoder": (8,), "encoder": (8,), "head": (8,)},
)
class RSSM(DVAE):
    r"""A state in two parts, one computed and one drawn, which inputs drive and which no frame is fed back to.

    .. math::
        p_\theta(\mathbf{x}_{1:T}, \mathbf{z}_{1:T} | \mathbf{u}_{1:T}) = \prod_{t=1}^T
        p_{\theta_x}(\mathbf{x}_t | \mathbf{z}_t, \mathbf{h}_t) \, p_{\theta_z}(\mathbf{z}_t | \mathbf{h}_t),
        \qquad \mathbf{h}_t = d_h(\mathbf{z}_{t-1}, \mathbf{u}_t, \mathbf{h}_{t-1})

    The state :math:`\mathbf{h}_t` is a function of :math:`\mathbf{z}_{1:t-1}` and :math:`\mathbf{u}_{1:t}` alone. So
    the future is imagined, for inputs that were never tried, without making a frame: what planning needs.

    Kinds:

    - "rssm": as above, with :math:`q_\phi(\mathbf{z}_t | \mathbf{h}_t, \mathbf{x}_t)`;
    - "ssm": without :math:`\mathbf{h}`, the paper's ablation: :math:`p(\mathbf{z}_t | \mathbf{z}_{t-1}, \mathbf{u}_t)`,
      :math:`p(\mathbf{x}_t | \mathbf{z}_t)` and :math:`q_\phi(\mathbf{z}_t | \mathbf{z}_{t-1}, \mathbf{u}_t,
      \mathbf{x}_t)`.

    The other ablation, :math:`\mathbf{h}` without :math:`\mathbf{z}`, has no latent variable: it is `GRNN`, in the
    predictive mode with an input.

    With ``latent="categorical"`` the drawn part is a vector of categorical variables, in prior and posterior, through
    whose samples gradients pass straight: see `dvae_lib.distributions.CategoricalVector`. The graph is the same.

    Arguments:
        x_dim: Size F of the observed vectors.
        z_dim: Size L of the latent vectors.
        observation: The family of :math:`p(\mathbf{x}_t | \mathbf{z}_t, \mathbf{h}_t)`.
        u_dim: Size of the input vectors (actions). :math:`\mathbf{u}_t` is what led to :math:`\mathbf{x}_t`.
        kind: "rssm" or "ssm".
        latent: "gaussian" or "categorical".
        classes: Number of classes of each categorical variable, of which L is a multiple; by default there is one
            variable, of L classes.
        h_dim: Size of the internal state :math:`\mathbf{h}_t`.
        prior: Sizes of the hidden layers (Tanh) of :math:`d_z`.
        decoder: Sizes of the hidden layers (Tanh) of :math:`d_x`.
        encoder: Sizes of the layers (Tanh) on :math:`\mathbf{x}_t` alone.
        head: Sizes of the hidden layers (Tanh) of :math:`e_z`.
        cell: "lstm", "gru" or "rnn".

    Raises:
        ValueError: Another kind, latent or cell; classes of a Gaussian, or of which L is no multiple.

    Example:
        >>> import torch
        >>> model = RSSM(x_dim=4, z_dim=8, u_dim=1)
        >>> x, u = torch.ones(2, 7, 4), torch.zeros(2, 12, 1)
        >>> model.vlb(x, u[:, :7]).kl["z"].shape
        torch.Size([2, 7])
        >>> model.generate(5, prefix=x, u=u).x.shape
        torch.Size([2, 5, 4])
    """

    spec = SPECS["rssm"].undriven()

    def __init__(
        self,
        x_dim: int,
        z_dim: int,
        *,
        observation: str = "gaussian",
        u_dim: int = 0,
        kind: str = "rssm",
        latent: str = "gaussian",
        classes: int | None = None,
        h_dim: int = 128,
        prior: Sequence[int] = (128,),
        decoder: Sequence[int] = (128,),
        encoder: Sequence[int] = (128,),
        head: Sequence[int] = (128,),
        cell: str = "gru",
    ) -> None:
        super().__init__(x_dim, z_dim, observation=observation, u_dim=u_dim)
        self.spec = choose_spec(SPECS, u_dim, kind=kind)
        if latent not in ("gaussian", "categorical"):
            raise ValueError(f"latent must be 'gaussian' or 'categorical'; got {latent!r}")
        if latent == "gaussian" and classes is not None:
            raise ValueError(f"classes is an option of latent='categorical'; got {classes!r} with latent='gaussian'")
        self.categorical = latent == "categorical"
        head_of_z = partial(CategoricalHead, classes=classes) if self.categorical else GaussianHead
        recurrent = kind == "rssm"
        past_dim = h_dim if recurrent else u_dim + z_dim  # what a frame knows before it is seen
        # h_t, p(z_t | h_t), p(x_t | z_t, h_t)
        self.d_h = InternalState(u_dim + z_dim, h_dim, cell=cell) if recurrent else None
        self.d_z = MLP(past_dim, prior)
        self.prior_head = head_of_z(self.d_z.out_dim, z_dim)
        self.d_x = MLP(z_dim + h_dim if recurrent else z_dim, decoder)
        self.x_head = ObservationHead(self.d_x.out_dim, x_dim, observation)
        # q(z_t | .)
        self.encoder = MLP(x_dim, encoder)
        self.e_z = MLP(self.encoder.out_dim + past_dim, head)
        self.z_head = head_of_z(self.e_z.out_dim, z_dim)

    def _context(self, x: Tensor, u: Tensor | None, lengths: Tensor | None, draws: Draws, past: Past) -> Context:
        seen = self.encoder(x)
        if self.d_h is None:  # else h_t has seen the input
            seen = torch.cat([seen, *([] if u is None else [u])], -1)
        return Context({"known": seen})

    def _propose(self, name: str, context: Values, known: Values) -> Distribution:
        past = known["z_prev" if self.d_h is None else "h"]
        posterior: Distribution = self.z_head(self.e_z(torch.cat([context["known"], past], -1)))
        return posterior

    def _infer(self, x: Tensor, u: Tensor | None, lengths: Tensor | None, draws: Draws) -> Inferred:
        known = self._context(x, u, lengths, draws, Past()).frames["known"]
        if "z" in draws.given:  # nothing recurs but h, whose inputs are all known
            z = draws.given["z"]
            h = {} if self.d_h is None else {"h": self._states(z, u)}
            return Inferred({"z": draws("z", self._propose("z", {"known": known}, {"z_prev": shift(z), **h}))}, h)
        if self.categorical:  # the loop is that of Gaussian noise
            return super()._infer(x, u, lengths, draws)
        if self.d_h is None:
            return Inferred({"z": self.sample_recursively(draws, known)[0]})
        driving = x.new_empty(*x.shape[:2], 0) if u is None else u
        latent, h_t = self.sample_recursively(draws, known, driving)
        return Inferred({"z": latent}, {"h": h_t})

    def recursion(self, known: Float[Tensor, "batch time known_dim"], *rest: Tensor) -> tuple[Tensor, ...]:
        """The loop: all z_t, h_t where there is one, and the outputs that hold mean and log-variance of q(z_t | .).

        Arguments:
            known: What the posteriors look at in the data.
            rest: The inputs, where there is an internal state that they drive; then standard normal noise.
        """
        e_z = PrecomputedInput([*self.e_z, self.z_head.linear], known)
        if self.d_h is None:
            return sample_chain(e_z, rest[0])
        driving, epsilon = rest
        next_state = FrameByFrame(self.d_h, driving)
        state, z_t = next_state.start(known.shape[0]), torch.zeros_like(epsilon[:, 0])
        frames = []
        for t, epsilon_t in enumerate(epsilon.unbind(1)):
            state = next_state(t, z_t, state)
            output = e_z(t, state[0])
            mean, logvar = output.chunk(2, -1)
            z_t = torch.addcmul(mean, (0.5 * logvar).exp(), epsilon_t)
            frames.append((z_t, state[0], output))
        return tuple(torch.stack(values, 1) for values in zip(*frames, strict=True))

    def _generate(
        self, x: Tensor, latents: Values, u: Tensor | None, lengths: Tensor | None, states: Values
    ) -> Generated:
        z = latents["z"]
        if self.d_h is None:
            return Generated({"z": self._prior(prepend_input(u, shift(z)))}, self._observe(z))
        h = states["h"] if "h" in states else self._states(z, u)
        return Generated({"z": self._prior(h)}, self._observe(torch.cat([z, h], -1)))

    def _states(self, z: Tensor, u: Tensor | None) -> Float[Tensor, "batch time h_dim"]:
        """The internal states of all frames, from latent vectors and inputs."""
        assert self.d_h is not None
        return self.d_h(prepend_input(u, shift(z)))[0]  # type: ignore[no-any-return]

    def _prior(self, past: Float[Tensor, "*batch past_dim"]) -> FactorisedDistribution:
        prior: FactorisedDistribution = self.prior_head(self.d_z(past))
        return prior

    def _observe(self, state: Float[Tensor, "*batch state_dim"]) -> FactorisedDistribution:
        observation: FactorisedDistribution = self.x_head(self.d_x(state))
        return observation

    def _initial_state(self, batch_size: int, draws: Given) -> State:
        state = {} if self.d_h is None else self.d_h.initial_state(batch_size)
        return {**state, "z": next(self.parameters()).new_zeros(batch_size, self.z_dim)}

    def _step(self, state: State, x_prev: Tensor, u_t: Tensor | None, draws: Given) -> tuple[Distribution, State]:
        before = prepend_input(u_t, state["z"])
        if self.d_h is None:
            z = draws("z", self._prior(before), z_prev=state["z"])
            return self._observe(z), {"z": z}
        h, internal = self.d_h(before[:, None], state)
        z = draws("z", self._prior(h[:, 0]), h=h[:, 0])
        return self._observe(torch.cat([z, h[:, 0]], -1)), {**internal, "z": z}
