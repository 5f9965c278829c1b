r"""The factorized hierarchical variational autoencoder, FHVAE: segments of a sequence (Section 12.2).

Hsu, Zhang and Glass (2017), "Unsupervised learning of disentangled and interpretable representations from sequential
data".
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution

from dvae_lib.distributions import DiagonalGaussian, FactorisedDistribution, standard_normal
from dvae_lib.graphs import DependencySpec
from dvae_lib.models.base import DVAE, Context, Draws, Given, Inferred, Past, State, Values
from dvae_lib.models.registry import choose_spec, register
from dvae_lib.networks import MLP, GaussianHead, ObservationHead, Recurrence, append_input, shift
from dvae_lib.objectives import Generated
from dvae_lib.objectives.terms import frame_mask

__all__ = ["FHVAE"]

GENERATION = """
    w ~
    v_t ~ w
    z_t ~
    x_t ~ z_t, v_t, u_t                         # (12.3)-(12.5), of a whole segment
"""
INFERENCE = """
    v_t ~ x_t, u_t                              # (12.7)
    z_t ~ x_t, v_t, u_t
"""
SPECS = {
    "exact": DependencySpec(GENERATION, INFERENCE + "w ~ v_{1:T}"),
    "table": DependencySpec(GENERATION.replace(", u_t", ""), "w ~ u_{1:T}" + INFERENCE.replace(", u_t", "")),
    "integrated": DependencySpec(GENERATION.replace("w ~\n", "\n").replace("~ w", "~ v_{1:t-1}"), INFERENCE),
}


class SegmentEncoder(nn.Module):
    """Features of a segment: layers on each of its frames, then the last state of a recursion over them.

    Arguments:
        x_dim: Size of a segment.
        frames: Number of frames in it. A single one needs no recursion.
        beside_dim: Size of what is read beside each frame.
        layers: Sizes of the layers (Tanh) on each frame.
        g_dim: Size of the recursion's state.
        cell: "lstm", "gru" or "rnn".
    """

    def __init__(self, x_dim: int, frames: int, beside_dim: int, layers: Sequence[int], g_dim: int, cell: str) -> None:
        super().__init__()
        self.frames = frames
        self.layers = MLP(x_dim // frames + beside_dim, layers)
        self.recurrence = Recurrence(self.layers.out_dim, g_dim, cell=cell) if frames > 1 else None
        self.out_dim = g_dim if frames > 1 else self.layers.out_dim

    def forward(
        self, x: Float[Tensor, "*batch x_dim"], beside: Float[Tensor, "*batch beside_dim"] | None
    ) -> Float[Tensor, "*batch out_dim"]:
        """The features of segments, each read with one vector beside its frames."""
        frames = x.unflatten(-1, (self.frames, -1))
        if beside is not None:
            beside = beside[..., None, :].expand(*beside.shape[:-1], self.frames, -1)
        seen: Tensor = self.layers(append_input(frames, beside))
        if self.recurrence is None:
            return seen[..., 0, :]
        states: Tensor = self.recurrence(seen.flatten(0, -3))[:, -1].unflatten(0, x.shape[:-1])
        return states


class SegmentDecoder(nn.Module):
    r"""The frames of a segment from one vector, Eqs. (12.3) and (12.4).

    Arguments:
        in_dim: Size of the vector, which is read at each frame.
        x_dim: Size of a segment.
        frames: Number of frames in it. A single one needs no recursion.
        layers: Sizes of the layers (Tanh) behind the recursion.
        h_dim: Size of the recursion's state.
        cell: "lstm", "gru" or "rnn".
        observation: The family of the frames' distribution.
    """

    def __init__(
        self, in_dim: int, x_dim: int, frames: int, layers: Sequence[int], h_dim: int, cell: str, observation: str
    ) -> None:
        super().__init__()
        self.frames = frames
        self.recurrence = Recurrence(in_dim, h_dim, cell=cell) if frames > 1 else None
        self.layers = MLP(h_dim if frames > 1 else in_dim, layers)
        self.head = ObservationHead(self.layers.out_dim, x_dim // frames, observation)
        if frames > 1 and not hasattr(self.head.family, "outputs_per_dim"):
            raise ValueError(
                f"observation={observation!r} gives columns families of their own; a segment of {frames} frames has "
                "each column as often; take one family for all, or frames=1"
            )

    def forward(self, value: Float[Tensor, "*batch in_dim"]) -> FactorisedDistribution:
        """The distribution of whole segments."""
        states = value[..., None, :].expand(*value.shape[:-1], self.frames, -1)
        if self.recurrence is not None:
            states = self.recurrence(states.flatten(0, -3)).unflatten(0, value.shape[:-1])  # (12.3)
        output: Tensor = self.head.linear(self.layers(states))  # (12.4)
        if self.frames == 1:
            return self.head.family.from_output(output[..., 0, :])
        # The parameters of a frame stand one kind after the other; those of a segment do, too.
        kinds = output.unflatten(-1, (self.head.family.outputs_per_dim, -1)).transpose(-3, -2)
        return self.head.family.from_output(kinds.flatten(-3))


@register(
    "fhvae",
    chapter=12.8,
    variants=[{"sequence": name} for name in SPECS] + [{"alpha": 10.0}, {"sequence": "table", "alpha": 10.0}],
    small={"v_dim": 2, "encoder": (8,), "decoder": (8,)},
)
class FHVAE(DVAE):
    r"""Segments with two latent vectors each: one of its own, and one that stays near what the sequence has in common.

    .. math::
        p_\theta\big(\mathbf{x}^{(1:N)}, \mathbf{z}^{(1:N)}, \mathbf{v}^{(1:N)}, \mathbf{w}\big) = p(\mathbf{w})
        \prod_{n=1}^N p_{\theta_x}\big(\mathbf{x}^{(n)} | \mathbf{z}^{(n)}, \mathbf{v}^{(n)}\big) \,
        p\big(\mathbf{z}^{(n)}\big) \, p\big(\mathbf{v}^{(n)} | \mathbf{w}\big)

    Eq. (12.6), with :math:`p(\mathbf{w}) = p(\mathbf{z}^{(n)}) = \mathcal{N}(\mathbf{0}, \mathbf{I})` and
    :math:`p(\mathbf{v}^{(n)} | \mathbf{w}) = \mathcal{N}(\mathbf{w}, \sigma_v^2 \mathbf{I})`. To the library a segment
    is a frame: :math:`\mathbf{x}^{(n)}` is the vector ``x[:, n]`` of all its frames, one after the other
    (`dvae_lib.data.cut_into_segments`), and n is the index t of the spec. The recursion within a segment, Eq. (12.3),
    is a network's own matter.

    Inference, Eq. (12.7): :math:`q_\phi(\mathbf{v}^{(n)} | \mathbf{x}^{(n)})` and
    :math:`q_\phi(\mathbf{z}^{(n)} | \mathbf{x}^{(n)}, \mathbf{v}^{(n)})`; and for w, by `sequence`,

    - "exact": the exact posterior given the segments' vectors,

      .. math::
          p\big(\mathbf{w} | \mathbf{v}^{(1:N)}\big) = \mathcal{N}\Big(\mathbf{w}; \tfrac{1}{N + \sigma_v^2}
          \textstyle\sum_n \mathbf{v}^{(n)}, \tfrac{\sigma_v^2}{N + \sigma_v^2} \mathbf{I}\Big);

    - "table": as published, a table with one mean for each training sequence, which looks at no data but the number of
      the sequence. The number comes as an input :math:`\mathbf{u}_t`, the same one-hot vector at all segments, of size
      `u_dim`: the number of training sequences. Without inputs there is one mean for all. The variance is that of the
      exact posterior. For a sequence that is not in the table, see `posterior_of_w`;
    - "integrated": w is integrated out of the model, :math:`p(\mathbf{v}^{(n)} | \mathbf{v}^{(1:n-1)})` is what is left
      of it. The bound has the same expectation as the exact one, and the model filters.

    With `alpha` a term stands beside the bound that is no part of the model: the number of the sequence is to be told
    from each segment,

    .. math::
        \alpha \sum_n \log \frac{\exp(-\| \bar{\mathbf{v}}_i^{(n)} - \mathbf{w}_i \|^2 / 2 \sigma_v^2)}
        {\sum_j \exp(-\| \bar{\mathbf{v}}_i^{(n)} - \mathbf{w}_j \|^2 / 2 \sigma_v^2)},

    with the posterior means :math:`\bar{\mathbf{v}}`. As published j runs over the table. Otherwise it runs over the
    sequences of the batch, with :math:`\mathbf{w}_j` the mean of the exact posterior given all their
    :math:`\bar{\mathbf{v}}`, but of the segment's own sequence given those of the *other* segments: else a segment
    would be told by itself. So it depends on what is in the batch, and copies of a sequence (`num_samples` above 1)
    count as others. Sequences of one segment gain nothing by it.

    Arguments:
        x_dim: Size of a segment, all its frames together.
        z_dim: Size of :math:`\mathbf{z}^{(n)}`.
        observation: The family of :math:`p(\mathbf{x}^{(n)} | \cdot)`.
        u_dim: Size of the input vectors. They are read beside each frame, by the decoder and both encoders; for
            "table", see above.
        v_dim: Size of :math:`\mathbf{v}^{(n)}` and :math:`\mathbf{w}`; by default that of z.
        frames: Number of frames of a segment, a divisor of `x_dim`. With 1 there are no recursions.
        sequence: "exact", "table" or "integrated".
        v_scale: :math:`\sigma_v`.
        alpha: Weight of the discriminative term.
        encoder: Sizes of the layers (Tanh) on each frame, before the recursion of each encoder.
        g_dim: Size of the state of each encoder's recursion.
        decoder: Sizes of the layers (Tanh) on each frame, behind the decoder's recursion.
        h_dim: Size of the internal state :math:`\mathbf{h}_t^{(n)}`.
        cell: "lstm", "gru" or "rnn".

    Raises:
        ValueError: `x_dim` is no multiple of `frames`, a size below 1, a scale that is not positive, a negative weight,
            another `sequence`.

    Example:
        >>> import torch
        >>> from dvae_lib.data import cut_into_segments
        >>> x = cut_into_segments(torch.randn(3, 50, 8), 10)
        >>> x.shape
        torch.Size([3, 5, 80])
        >>> model = FHVAE(x_dim=80, z_dim=4, v_dim=2, frames=10)
        >>> {name: tuple(kl.shape) for name, kl in model.vlb(x).kl.items()}
        {'v': (3, 5), 'z': (3, 5), 'w': (3,)}
    """

    spec = SPECS["exact"].undriven()

    def __init__(
        self,
        x_dim: int,
        z_dim: int,
        *,
        observation: str = "gaussian",
        u_dim: int = 0,
        v_dim: int | None = None,
        frames: int = 1,
        sequence: str = "exact",
        v_scale: float = 0.5,
        alpha: float = 0.0,
        encoder: Sequence[int] = (128,),
        g_dim: int = 128,
        decoder: Sequence[int] = (128,),
        h_dim: int = 128,
        cell: str = "lstm",
    ) -> None:
        super().__init__(x_dim, z_dim, observation=observation, u_dim=u_dim)
        self.spec = choose_spec(SPECS, u_dim, sequence=sequence)
        v_dim = z_dim if v_dim is None else v_dim
        for name, size in (("v_dim", v_dim), ("frames", frames)):
            if isinstance(size, bool) or not isinstance(size, int) or size < 1:
                raise ValueError(f"{name} must be an integer of at least 1; got {size!r}")
        if x_dim % frames:
            raise ValueError(f"x_dim is the size of a whole segment, a multiple of its {frames} frames; got {x_dim}")
        if not (math.isfinite(v_scale) and v_scale > 0):
            raise ValueError(f"v_scale is a standard deviation and must be positive and finite; got {v_scale}")
        if not (math.isfinite(alpha) and alpha >= 0):
            raise ValueError(f"alpha weighs an auxiliary term and must be 0 or more, and finite; got {alpha}")
        self.v_dim = self.w_dim = v_dim
        self.frames, self.sequence, self.v_scale, self.alpha = frames, sequence, v_scale, alpha
        beside = 0 if sequence == "table" else u_dim
        # p(x | z, v)
        self.d_x = SegmentDecoder(z_dim + v_dim + beside, x_dim, frames, decoder, h_dim, cell, observation)
        # q(v | x), q(z | x, v), and the table
        self.e_v = SegmentEncoder(x_dim, frames, beside, encoder, g_dim, cell)
        self.v_head = GaussianHead(self.e_v.out_dim, v_dim)
        self.e_z = SegmentEncoder(x_dim, frames, v_dim + beside, encoder, g_dim, cell)
        self.z_head = GaussianHead(self.e_z.out_dim, z_dim)
        self.table = nn.Linear(max(u_dim, 1), v_dim, bias=False) if sequence == "table" else None

    # ---------------------------------------------------------------- the vector of the sequence

    def posterior_of_w(self, v: Float[Tensor, "batch time v_dim"], lengths: Tensor | None = None) -> DiagonalGaussian:
        r"""The exact posterior :math:`p(\mathbf{w} | \mathbf{v}^{(1:N)})`, in closed form; see `FHVAE`.

        For sequences in no table, :math:`\mathbf{v}` being the posterior means; its mean is then what the paper's code
        takes for :math:`\mathbf{w}`.

        Arguments:
            v: The vectors of the segments.
            lengths: Number of segments of each sequence in a padded batch.
        """
        own, count = _own(v, lengths)
        return self._given(own.sum(1), count)

    def _given(self, total: Float[Tensor, "*batch v_dim"], count: Float[Tensor, "*batch 1"]) -> DiagonalGaussian:
        """p(w | .) given the sum of so many vectors of segments."""
        variance = self.v_scale**2
        precision = (count + variance).expand_as(total)
        return DiagonalGaussian(total / precision, math.log(variance) - precision.log())

    def _next(self, total: Float[Tensor, "*batch v_dim"], count: Float[Tensor, "*batch 1"]) -> DiagonalGaussian:
        """p(v | .) of one segment more, with w integrated out, given the sum of so many vectors."""
        known = self._given(total, count)
        return DiagonalGaussian(known.mean, (known.variance + self.v_scale**2).log())

    def _near(self, w: Float[Tensor, "*batch v_dim"]) -> DiagonalGaussian:
        """p(v | w)."""
        return DiagonalGaussian(w, torch.full_like(w, 2 * math.log(self.v_scale)))

    def _looked_up(self, x: Tensor, u: Tensor | None, lengths: Tensor | None) -> DiagonalGaussian:
        """q(w) of the table, whose variance is that of the exact posterior."""
        assert self.table is not None
        index = x.new_ones(x.shape[0], 1) if u is None else _mean_of(u, lengths)
        blank = x.new_zeros(*x.shape[:2], self.v_dim)
        return DiagonalGaussian(self.table(index), self.posterior_of_w(blank, lengths).logvar)

    # ---------------------------------------------------------------- inference

    def _context(self, x: Tensor, u: Tensor | None, lengths: Tensor | None, draws: Draws, past: Past) -> Context:
        latents = {"w": draws("w", self._looked_up(x, u, lengths))} if self.table is not None else {}
        beside = {} if u is None or self.table is not None else {"u": u}
        q_v = self.v_head(self.e_v(x, beside.get("u")))
        states = {} if self.alpha == 0 else {"v_mean": q_v.mean}
        if states and self.table is not None:
            states["index"] = x.new_ones(x.shape[0], 1) if u is None else _mean_of(u, lengths)
        return Context({"x": x, **beside, "v_mean": q_v.mean, "v_logvar": q_v.logvar}, latents, states)

    def _propose(self, name: str, context: Values, known: Values) -> Distribution:
        if name == "v":
            return DiagonalGaussian(context["v_mean"], context["v_logvar"])
        posterior: Distribution = self.z_head(self.e_z(context["x"], append_input(known["v"], context.get("u"))))
        return posterior

    def _infer(self, x: Tensor, u: Tensor | None, lengths: Tensor | None, draws: Draws) -> Inferred:
        r"""Eq. (12.7), all segments at once."""
        context = self._context(x, u, lengths, draws, Past())
        v = draws("v", self._propose("v", context.frames, {}))
        latents = {**context.latents, "v": v, "z": draws("z", self._propose("z", context.frames, {"v": v.sample}))}
        if self.sequence == "exact":
            latents["w"] = draws("w", self.posterior_of_w(v.sample, lengths))
        return Inferred(latents, context.states)

    # ---------------------------------------------------------------- generation

    def _generate(
        self, x: Tensor, latents: Values, u: Tensor | None, lengths: Tensor | None, states: Values
    ) -> Generated:
        v, z = latents["v"], latents["z"]
        prior: dict[str, Distribution] = {}
        if self.sequence == "integrated":
            before = shift(v).cumsum(1)
            count = torch.arange(v.shape[1], dtype=v.dtype, device=v.device)[None, :, None].expand(v.shape[0], -1, 1)
            prior["v"] = self._next(before, count)
        else:
            w = latents["w"]
            prior |= {"w": standard_normal(w), "v": self._near(w[:, None].expand_as(v))}
        return Generated({**prior, "z": standard_normal(z)}, self._observe(z, v, u))

    def _observe(self, z: Tensor, v: Tensor, u: Tensor | None) -> FactorisedDistribution:
        observation: FactorisedDistribution = self.d_x(
            append_input(torch.cat([z, v], -1), None if self.table is not None else u)
        )
        return observation

    def _initial_state(self, batch_size: int, draws: Given) -> State:
        blank = next(self.parameters()).new_zeros(batch_size, self.v_dim)
        if self.sequence == "integrated":
            return {"total": blank, "count": blank[:, :1]}
        return {"w": draws("w", standard_normal(blank))}

    def _step(self, state: State, x_prev: Tensor, u_t: Tensor | None, draws: Given) -> tuple[Distribution, State]:
        integrated = self.sequence == "integrated"
        v = draws("v", self._next(state["total"], state["count"]) if integrated else self._near(state["w"]))
        z = draws("z", standard_normal(x_prev.new_empty(x_prev.shape[0], self.z_dim)), v=v)
        if integrated:
            state = {"total": state["total"] + v, "count": state["count"] + 1}
        return self._observe(z, v, u_t), state

    # ---------------------------------------------------------------- the discriminative term

    def _auxiliary(self, x: Tensor, latents: Values, lengths: Tensor | None, states: Values) -> dict[str, Tensor]:
        if self.alpha == 0:
            return {}
        v = states["v_mean"]
        told = self._told_by_table(v, states["index"]) if self.table is not None else self._told_apart(v, lengths)
        mask = frame_mask(lengths, v.shape[1])
        if "observed" in states:  # a segment of which nothing was seen tells nothing
            seen = states["observed"].any(-1)
            mask = seen if mask is None else mask & seen
        return {"discriminative": self.alpha * (told if mask is None else torch.where(mask, told, 0.0)).sum(1)}

    def _told_by_table(
        self, v: Float[Tensor, "batch time v_dim"], index: Float[Tensor, "batch rows"]
    ) -> Float[Tensor, "batch time"]:
        """log q(i | v) over the rows of the table."""
        assert self.table is not None
        scores = -self._from_each(v, self.table.weight.T)
        return (index[:, None] * scores.log_softmax(-1)).sum(-1)

    def _told_apart(self, v: Float[Tensor, "batch time v_dim"], lengths: Tensor | None) -> Float[Tensor, "batch time"]:
        """log q(i | v) over the sequences of the batch."""
        own, count = _own(v, lengths)
        scores = -self._from_each(own, self._given(own.sum(1), count).mean)
        others = self._given(own.sum(1, keepdim=True) - own, (count[:, None] - 1).expand(*own.shape[:2], 1)).mean
        same = torch.eye(len(v), dtype=torch.bool, device=v.device)[:, None]
        scores = torch.where(same, -self._halved((own - others).square().sum(-1))[..., None], scores)
        told: Tensor = scores.log_softmax(-1).diagonal(dim1=0, dim2=2).T
        return told

    def _from_each(
        self, v: Float[Tensor, "batch time v_dim"], centres: Float[Tensor, "rows v_dim"]
    ) -> Float[Tensor, "batch time rows"]:
        """Halved squared distances of segments' vectors from each of the centres, without their differences."""
        squares = v.square().sum(-1, keepdim=True) + centres.square().sum(-1)
        return self._halved(squares - 2 * v @ centres.T)

    def _halved(self, squares: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """Squared distances in units of the segments' variance, halved."""
        return squares / (2 * self.v_scale**2)


def _own(
    v: Float[Tensor, "batch time v_dim"], lengths: Tensor | None
) -> tuple[Float[Tensor, "batch time v_dim"], Float[Tensor, "batch 1"]]:
    """The vectors of a sequence's own segments, zero beyond its end, and their number."""
    mask = frame_mask(lengths, v.shape[1])
    if mask is None or lengths is None:
        return v, v.new_full((v.shape[0], 1), v.shape[1])
    return torch.where(mask[..., None], v, 0.0), lengths[:, None].to(v.dtype)


def _mean_of(u: Float[Tensor, "batch time u_dim"], lengths: Tensor | None) -> Float[Tensor, "batch u_dim"]:
    """The mean of the inputs over a sequence's own segments."""
    mask = frame_mask(lengths, u.shape[1])
    if mask is None or lengths is None:
        return u.mean(1)
    return torch.where(mask[..., None], u, 0.0).sum(1) / lengths[:, None]
