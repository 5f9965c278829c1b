r"""The stochastic temporal convolutional network, STCN, and its relatives with another memory (Section 14.2.4).

Aksan and Hilliges (2019), "STCN: stochastic temporal convolutional networks".
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution

from dvae_lib.distributions import DiagonalGaussian, FactorisedDistribution
from dvae_lib.graphs import DependencySpec
from dvae_lib.models.base import DVAE, Context, Draws, Given, Inferred, Past, State, Values
from dvae_lib.models.registry import register
from dvae_lib.networks import MLP, GaussianHead, Memory, ObservationHead, append_input, make_memory, shift
from dvae_lib.objectives import Generated, Latent

__all__ = ["STCN"]


@lru_cache(maxsize=128)
def stcn_spec(
    names: tuple[str, ...], *, receptive_field: int | None, recurrent: bool, dense: bool, driven: bool
) -> DependencySpec:
    """The spec of an STCN.

    Arguments:
        names: The latent variables, from the top down.
        receptive_field: Number R of frames before t that the memory looks at; None: all.
        recurrent: Whether the memory is a state that is handed on.
        dense: Whether the frame looks at all levels, or at the lowest only.
        driven: Whether there are inputs.
    """
    inputs = ", u_t" if driven else ""
    if recurrent:
        memory = f"x_{{t-1}}{inputs}, d_{{t-1}}"
    elif receptive_field is None:
        memory = "x_{1:t-1}" + (", u_{1:t}" if driven else "")
    else:
        first = "t" if receptive_field == 1 else f"t-{receptive_field - 1}:t"
        memory = f"x_{{t-{receptive_field}:t-1}}" if receptive_field > 1 else "x_{t-1}"
        memory += f", u_{{{first}}}" if driven else ""
    above = ["".join(f", {name}_t" for name in names[:i]) for i in range(len(names))]
    generation = [f"d_t <- {memory}", *(f"{name}_t ~ d_t{levels}" for name, levels in zip(names, above, strict=True))]
    seen = ", ".join(f"{name}_t" for name in (names if dense else names[-1:]))
    inference = [f"{name}_t ~ d_t, x_t{levels}" for name, levels in zip(names, above, strict=True)]
    symbols = {"z": r"\mathbf{z}^{(1)}"} if len(names) > 1 else {}
    return DependencySpec("\n".join([*generation, f"x_t ~ {seen}"]), "\n".join(inference), symbols=symbols)


@register(
    "stcn",
    chapter=14.1,
    variants=[
        {"memory": "tcn", "layers": 1},
        {"memory": "tcn", "layers": 1, "ladder": False, "dense": False},
        {"memory": "attention", "window": 2, "layers": 2},
        {"memory": "attention"},
        {"memory": "linear"},
        {"memory": "gru", "above": ()},
    ],
    small={"above": (2,), "h_dim": 8, "prior": (6,), "decoder": (8,), "encoder": (8,)},
)
class STCN(DVAE):
    r"""Levels of latent vectors in each frame, and a memory that runs through the observations alone.

    .. math::
        p_\theta(\mathbf{x}_{1:T}, \mathbf{z}_{1:T}) = \prod_{t=1}^T
        p_{\theta_x}\big(\mathbf{x}_t | \mathbf{z}_t^{(1)}, \dots, \mathbf{z}_t^{(K)}\big) \prod_{k=1}^{K}
        p_{\theta_z}\big(\mathbf{z}_t^{(k)} | \mathbf{z}_t^{(k+1)}, \dots, \mathbf{z}_t^{(K)}, \mathbf{d}_t\big),
        \qquad \mathbf{d}_t = \mathbf{d}(\mathbf{x}_{t-R:t-1})

    Levels are drawn from the top, :math:`\mathbf{z}^{(K)}`, down. There is no arrow from :math:`\mathbf{z}_{t-1}` to
    :math:`\mathbf{z}_t`. So all frames are trained at once; and the exact posterior of a frame's latents looks at
    :math:`\mathbf{x}_{t-R:t}`, nothing later and nothing earlier: the filter is the smoother. The inference model has
    its structure,

    .. math::
        q_\phi\big(\mathbf{z}_t^{(k)} | \mathbf{z}_t^{(k+1)}, \dots, \mathbf{z}_t^{(K)}, \mathbf{x}_t,
        \mathbf{d}_t\big).

    With `ladder`, a network reads a Gaussian in :math:`\mathbf{z}_t^{(k)}` from :math:`\mathbf{x}_t` and
    :math:`\mathbf{d}_t`, and the posterior is its normalised product with the prior: precisions add up, and the mean
    is weighted by them. Without, a network reads the posterior from all that it is conditioned on.

    What differs from the paper: all levels share the memory's output (there, each level has that of a layer of its
    own); and the posterior reads :math:`\mathbf{x}_t` beside :math:`\mathbf{d}_t` (there, the memory one frame
    later), which is the same compact form. An input :math:`\mathbf{u}_t` enters the memory beside
    :math:`\mathbf{x}_{t-1}`.

    Arguments:
        x_dim: Size F of the observed vectors.
        z_dim: Size of the lowest level, :math:`\mathbf{z}^{(1)}`, called ``z``.
        observation: The family of :math:`p(\mathbf{x}_t | \cdot)`.
        u_dim: Size of the input vectors.
        above: Sizes of the levels above it, from the second up, called ``z2``, ``z3``, ...; empty: one level.
        memory: "tcn", "attention", "linear", or a recurrent cell, "lstm", "gru" or "rnn": `dvae_lib.networks.MEMORIES`.
        h_dim: Size of the memory's output :math:`\mathbf{d}_t`.
        layers: Its number of layers; by default its own.
        kernel: Of "tcn": how many frames a layer mixes; then :math:`R` is their product over the layers.
        window: Of "attention": how many frames a layer looks at; None: all, and R is infinite.
        heads: Of "attention": number of heads.
        ladder: Whether posteriors are products with the priors.
        dense: Whether :math:`\mathbf{x}_t` depends on all levels, or on the lowest only.
        prior: Sizes of the hidden layers (Tanh) of :math:`d_z`, in each level.
        decoder: Sizes of the hidden layers (Tanh) of :math:`d_x`.
        encoder: Sizes of the layers (Tanh) on :math:`[\mathbf{x}_t, \mathbf{d}_t]`, which all levels share.

    Raises:
        ValueError: Another memory, an option that it does not have, sizes below 1.

    Example:
        >>> import torch
        >>> model = STCN(x_dim=88, z_dim=16, above=(8, 4), observation="bernoulli")
        >>> {name: term.shape for name, term in model.vlb(torch.ones(2, 7, 88)).kl.items()}
        {'z3': torch.Size([2, 7]), 'z2': torch.Size([2, 7]), 'z': torch.Size([2, 7])}
        >>> model.receptive_field
        64
        >>> model.generate(5, prefix=torch.ones(2, 7, 88)).x.shape
        torch.Size([2, 5, 88])
    """

    spec = stcn_spec(("z2", "z"), receptive_field=64, recurrent=False, dense=True, driven=False)

    def __init__(
        self,
        x_dim: int,
        z_dim: int,
        *,
        observation: str = "gaussian",
        u_dim: int = 0,
        above: Sequence[int] = (8,),
        memory: str = "tcn",
        h_dim: int = 64,
        layers: int | None = None,
        kernel: int | None = None,
        window: int | None = None,
        heads: int | None = None,
        ladder: bool = True,
        dense: bool = True,
        prior: Sequence[int] = (64,),
        decoder: Sequence[int] = (64,),
        encoder: Sequence[int] = (64,),
    ) -> None:
        super().__init__(x_dim, z_dim, observation=observation, u_dim=u_dim)
        sizes = self._sizes(above)
        self.levels, self.ladder, self.dense = tuple(sizes), ladder, dense
        # d_t
        self.d_h: Memory = make_memory(
            memory, x_dim + u_dim, h_dim, layers=layers, kernel=kernel, window=window, heads=heads
        )
        self.spec = stcn_spec(
            self.levels,
            receptive_field=self.receptive_field,
            recurrent=self.d_h.is_recurrent,
            dense=dense,
            driven=u_dim > 0,
        )
        # p(z_t | .) and p(x_t | .)
        higher = {name: sum(list(sizes.values())[:i]) for i, name in enumerate(sizes)}
        self.d_z = nn.ModuleList(MLP(h_dim + higher[name], prior) for name in sizes)
        hidden_dims = {name: [h_dim + higher[name], *prior][-1] for name in sizes}
        self.prior_heads = nn.ModuleList(GaussianHead(hidden_dims[name], sizes[name]) for name in sizes)
        self.d_x = MLP(sum(sizes.values()) if dense else z_dim, decoder)
        self.x_head = ObservationHead(self.d_x.out_dim, x_dim, observation)
        # q(z_t | .)
        self.encoder = MLP(x_dim + h_dim, encoder)
        known = {name: self.encoder.out_dim + (0 if ladder else higher[name]) for name in sizes}
        self.z_heads = nn.ModuleList(GaussianHead(known[name], sizes[name]) for name in sizes)
        inferred = [rf"e_{{{self.spec.symbol(name)}}}" for name in sizes]
        self.functions = {f"z_heads.{i}": function for i, function in enumerate(inferred)}
        self.functions["encoder"] = ", ".join(inferred)

    @property
    def receptive_field(self) -> int | None:
        r"""Number R of frames before t that a frame depends on; None: all."""
        return self.d_h.receptive_field

    def _sizes(self, above: Sequence[int]) -> dict[str, int]:
        """The latent variables from the top down, and their sizes, which become attributes."""
        if any(isinstance(size, bool) or not isinstance(size, int) or size < 1 for size in above):
            raise ValueError(f"above must hold integers of at least 1, sizes of levels; got {above!r}")
        sizes = {"z": self.z_dim} | {f"z{k}": size for k, size in enumerate(above, 2)}
        for name, size in sizes.items():
            setattr(self, f"{name}_dim", size)
        return dict(reversed(sizes.items()))

    def _context(self, x: Tensor, u: Tensor | None, lengths: Tensor | None, draws: Draws, past: Past) -> Context:
        d = past.run("d", self.d_h, append_input(past.shift("x", x), u))
        return Context({"seen": self.encoder(torch.cat([x, d], -1)), "d": d}, states={"d": d})

    def _propose(self, name: str, context: Values, known: Values) -> Distribution:
        head = self.z_heads[self.levels.index(name)]
        above = known.get("above", context["seen"][..., :0])  # with one level there is nothing to be known of others
        if not self.ladder:
            posterior: DiagonalGaussian = head(torch.cat([context["seen"], above], -1))
            return posterior
        return product(head(context["seen"]), self._prior(name, context["d"], above))

    def _infer(self, x: Tensor, u: Tensor | None, lengths: Tensor | None, draws: Draws) -> Inferred:
        """Level by level, each for all frames at once."""
        context = self._context(x, u, lengths, draws, Past())
        latents: dict[str, Latent] = {}
        for name in self.levels:
            above = self._above(name, {k: latent.sample for k, latent in latents.items()}, x)
            latents[name] = draws(name, self._propose(name, context.frames, {"above": above}))
        return Inferred(latents, context.states)

    def _generate(
        self, x: Tensor, latents: Values, u: Tensor | None, lengths: Tensor | None, states: Values
    ) -> Generated:
        d = states["d"] if "d" in states else self.d_h(append_input(shift(x), u))[0]
        priors: dict[str, Distribution] = {
            name: self._prior(name, d, self._above(name, latents, x)) for name in self.levels
        }
        return Generated(priors, self._observe(latents))

    def _above(self, name: str, latents: Mapping[str, Tensor], like: Tensor) -> Tensor:
        """The levels above one, side by side."""
        higher = self.levels[: self.levels.index(name)]
        return torch.cat([like[..., :0], *(latents[level] for level in higher)], -1)

    def _prior(
        self, name: str, d: Float[Tensor, "*batch h_dim"], above: Float[Tensor, "*batch above_dim"]
    ) -> DiagonalGaussian:
        level = self.levels.index(name)
        prior: DiagonalGaussian = self.prior_heads[level](self.d_z[level](torch.cat([d, above], -1)))
        return prior

    def _observe(self, latents: Mapping[str, Tensor]) -> FactorisedDistribution:
        seen = self.levels if self.dense else self.levels[-1:]
        observation: FactorisedDistribution = self.x_head(self.d_x(torch.cat([latents[name] for name in seen], -1)))
        return observation

    def _initial_state(self, batch_size: int, draws: Given) -> State:
        return self.d_h.initial_state(batch_size)

    def _step(self, state: State, x_prev: Tensor, u_t: Tensor | None, draws: Given) -> tuple[Distribution, State]:
        d, state = self.d_h.step(append_input(x_prev, u_t), state)
        latents: dict[str, Tensor] = {}
        for name in self.levels:
            above = self._above(name, latents, x_prev)
            latents[name] = draws(name, self._prior(name, d, above), above=above)
        return self._observe(latents), state


def product(one: DiagonalGaussian, other: DiagonalGaussian) -> DiagonalGaussian:
    r"""The normalised product of two Gaussian densities: precisions add up, and weight the means.

    .. math::
        \sigma^{-2} = \sigma_1^{-2} + \sigma_2^{-2}, \qquad
        \mu = \sigma^2 \big( \sigma_1^{-2} \mu_1 + \sigma_2^{-2} \mu_2 \big)

    Example:
        >>> flat, sharp = torch.tensor([4.0]).log(), torch.tensor([1.0]).log()
        >>> found = product(DiagonalGaussian(torch.tensor([5.0]), flat), DiagonalGaussian(torch.tensor([0.0]), sharp))
        >>> found.mean, found.variance
        (tensor([1.]), tensor([0.8000]))
    """
    # The weight of the first is a sigmoid of the difference of log-variances: no variance is divided by.
    weight = torch.sigmoid(other.logvar - one.logvar)
    return DiagonalGaussian(other.mean + weight * (one.mean - other.mean), -torch.logaddexp(-one.logvar, -other.logvar))
