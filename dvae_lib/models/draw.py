r"""The deep recurrent attentive writer, DRAW (Section 12.2): a frame in several steps.

Gregor, Danihelka, Graves, Rezende and Wierstra (2015), "DRAW: a recurrent neural network for image generation".
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution

from dvae_lib.distributions import ByColumn, FactorisedDistribution, observation_family, standard_normal
from dvae_lib.graphs import DependencySpec
from dvae_lib.models.base import DVAE, Context, Draws, Given, Inferred, Past, State, Values
from dvae_lib.models.registry import register
from dvae_lib.networks import GaussianHead, InternalState, append_input
from dvae_lib.networks.window import WindowReader, WindowWriter
from dvae_lib.objectives import Generated, Latent

__all__ = ["DRAW"]


@lru_cache(maxsize=128)
def draw_spec(steps: int, *, driven: bool) -> DependencySpec:
    """The spec of a DRAW: its steps are levels of one frame.

    Arguments:
        steps: Number of steps.
        driven: Whether there are inputs.
    """
    u = ", u_t" if driven else ""
    generation, inference = [], []
    for k in range(1, steps + 1):
        h, c, e = (f", {name}{k - 1}_t" if k > 1 else "" for name in "hce")
        generation += [f"z{k}_t ~", f"h{k}_t <- z{k}_t{h}{u}", f"c{k}_t <- h{k}_t{c}"]
        inference += [f"e{k}_t <- x_t{c}{h}{e}{u}", f"z{k}_t ~ e{k}_t"]
    return DependencySpec("\n".join([*generation, f"x_t ~ c{steps}_t"]), "\n".join(inference))


class Drawing(NamedTuple):
    """A drawing after some steps: the state of the hand that draws, and the canvas. The batch is one dimension."""

    state: State
    canvas: Float[Tensor, "batch outputs"]

    @property
    def h(self) -> Float[Tensor, "batch h_dim"]:
        """The hand's state as what follows reads it."""
        return self.state["h"][:, -1]


@register(
    "draw",
    chapter=12.9,
    variants=[{}, {"attention": 2}],
    small={"h_dim": 6, "e_dim": 7},
)
class DRAW(DVAE):
    r"""Each frame is drawn in K steps, which add to a canvas; what is added is decided by a latent vector each.

    .. math::
        p_\theta(\mathbf{x}_t, \mathbf{z}_t^{(1:K)}) = p_{\theta_x}\big(\mathbf{x}_t | \mathbf{c}_t^{(K)}\big)
        \prod_{k=1}^K \mathcal{N}\big(\mathbf{z}_t^{(k)}; \mathbf{0}, \mathbf{I}\big), \qquad
        \mathbf{c}_t^{(k)} = \mathbf{c}_t^{(k-1)} + d_c\big(\mathbf{h}_t^{(k)}\big), \quad
        \mathbf{h}_t^{(k)} = d_h\big(\mathbf{z}_t^{(k)}, \mathbf{h}_t^{(k-1)}\big)

    The canvas holds what the network puts out for :math:`p(\mathbf{x}_t | \cdot)`, such as log-odds. Inference draws
    along, and reads beside the frame what is still wrong with the drawing:

    .. math::
        \hat{\mathbf{x}}_t^{(k)} = \mathbf{x}_t - \mathbb{E}\big[\mathbf{x}_t | \mathbf{c}_t^{(k-1)}\big], \qquad
        \mathbf{e}_t^{(k)} = e_h\big(\mathrm{read}(\mathbf{x}_t, \hat{\mathbf{x}}_t^{(k)}), \mathbf{h}_t^{(k-1)},
        \mathbf{e}_t^{(k-1)}\big), \qquad
        q_\phi\big(\mathbf{z}_t^{(k)} | \mathbf{e}_t^{(k)}\big)

    The recursions run over the *steps* of one frame. Frames are independent of each other: the steps are levels of one
    frame, as in `STCN`, and images are a batch of sequences of one frame each. The exact posterior of a step's vector
    looks at the frame and at the steps before, and so does this one. An input :math:`\mathbf{u}_t` enters both
    recursions in every step, such as a class to be drawn.

    With `attention`, reading and writing go through a window of Gaussian filters, which :math:`\mathbf{h}` places: see
    `dvae_lib.networks.window`.

    Arguments:
        x_dim: Size F of the observed vectors.
        z_dim: Size L of the latent vector of *each* step; they are called ``z1``, ``z2``, ...
        observation: The family of :math:`p(\mathbf{x}_t | \mathbf{c}_t^{(K)})`.
        u_dim: Size of the input vectors.
        steps: Number K of steps.
        attention: Number of the window's filters along an axis; None: the whole frame is read and drawn on.
        image: Height and width of the frame, which holds its pixels row by row; by default it is a single row.
        h_dim: Size of the state :math:`\mathbf{h}` that draws.
        e_dim: Size of the state :math:`\mathbf{e}` that looks.
        cell: "lstm", "gru" or "rnn".

    Raises:
        ValueError: Another cell; sizes or numbers below 1; an image of other than F pixels; a window for pixels of
            several families.

    Source: Gregor et al. (2015), "DRAW: a recurrent neural network for image generation".

    Example:
        >>> import torch
        >>> model = DRAW(x_dim=64, z_dim=4, attention=3, image=(8, 8), observation="bernoulli")
        >>> images = torch.ones(5, 1, 64)
        >>> {name: term.shape for name, term in model.vlb(images).kl.items()}
        {'z1': torch.Size([5, 1]), 'z2': torch.Size([5, 1]), 'z3': torch.Size([5, 1])}
        >>> model.drawn(model.inference(images)).shape
        torch.Size([4, 5, 1, 64])
    """

    spec = draw_spec(3, driven=False)

    def __init__(
        self,
        x_dim: int,
        z_dim: int,
        *,
        observation: str = "gaussian",
        u_dim: int = 0,
        steps: int = 3,
        attention: int | None = None,
        image: Sequence[int] | None = None,
        h_dim: int = 128,
        e_dim: int = 128,
        cell: str = "lstm",
    ) -> None:
        super().__init__(x_dim, z_dim, observation=observation, u_dim=u_dim)
        for name, count in (("z_dim", z_dim), ("steps", steps), ("attention", 1 if attention is None else attention)):
            if isinstance(count, bool) or not isinstance(count, int) or count < 1:
                raise ValueError(f"{name} must be an integer of at least 1; got {count!r}")
        self.image = _image(image, x_dim)
        self.spec = draw_spec(steps, driven=u_dim > 0)
        self.steps = tuple(f"z{k}" for k in range(1, steps + 1))
        for name in self.steps:
            setattr(self, f"{name}_dim", z_dim)
        self.family = observation_family(observation)
        # h, c: the hand that draws
        self.d_h = InternalState(z_dim + u_dim, h_dim, cell=cell)
        if attention is not None and issubclass(self.family, ByColumn):
            raise ValueError(f"a window draws images of one family; got attention={attention} with {observation!r}")
        self.writer = WindowWriter(h_dim, self.family.output_size(x_dim), self.image, attention)
        # e, q(z | .): the eye that looks
        self.reader = WindowReader(h_dim, 2, self.image, attention)
        self.e_h = InternalState(self.reader.out_dim + h_dim + u_dim, e_dim, cell=cell)
        self.z_head = GaussianHead(e_dim, z_dim)
        self.functions = {
            "d_h": r"d_{\mathbf{h}}", "writer": r"d_{\mathbf{c}}",
            "reader": r"\mathrm{read}", "e_h": r"e_{\mathbf{e}}", "z_head": r"e_{\mathbf{z}}",
        }  # fmt: skip

    def drawn(
        self, latents: Values | dict[str, Latent], u: Tensor | None = None
    ) -> Float[Tensor, "steps *batch x_dim"]:
        r"""The film of a drawing: :math:`\mathbb{E}[\mathbf{x}_t | \mathbf{c}_t^{(k)}]`, from the blank canvas on.

        Arguments:
            latents: Values of all latent vectors, or what `inference` found.
            u: The inputs of a driven model.

        Returns:
            The means after 0, 1, ..., K steps.
        """
        values = {name: v.sample if isinstance(v, Latent) else v for name, v in latents.items()}
        lead, flat_u = values[self.steps[0]].shape[:-1], _flat(u)
        drawing = self._blank(values[self.steps[0]].flatten(0, -2))
        canvases = [drawing.canvas]
        for name in self.steps:
            drawing = self._drawn_on(drawing, values[name].flatten(0, -2), flat_u)
            canvases.append(drawing.canvas)
        return self.family.from_output(torch.stack(canvases).unflatten(1, lead)).mean

    # ---------------------------------------------------------------- one step

    def _blank(self, like: Float[Tensor, "batch _"]) -> Drawing:
        """Before the first step."""
        return Drawing(self.d_h.initial_state(len(like)), self.writer.blank.expand(len(like), -1))

    def _drawn_on(self, drawing: Drawing, z: Float[Tensor, "batch z_dim"], u: Tensor | None) -> Drawing:
        """After one step more."""
        h, state = self.d_h(append_input(z, u)[:, None], drawing.state)
        return Drawing(state, drawing.canvas + self.writer(h[:, 0]))

    def _looked(
        self, x: Float[Tensor, "batch x_dim"], drawing: Drawing, eye: State, u: Tensor | None
    ) -> tuple[Float[Tensor, "batch e_dim"], State]:
        """The state e after a look at the frame and at what is wrong with the drawing."""
        error = x - self.read(self.family.from_output(drawing.canvas).mean)
        seen = self.reader(torch.stack([x, error], -2), drawing.h)
        e, eye = self.e_h(append_input(torch.cat([seen, drawing.h], -1), u)[:, None], eye)
        return e[:, 0], eye

    # ---------------------------------------------------------------- hooks

    def _context(self, x: Tensor, u: Tensor | None, lengths: Tensor | None, draws: Draws, past: Past) -> Context:
        return Context({"x": x, **({} if u is None else {"u": u})})

    def _propose(self, name: str, context: Values, known: Values) -> Distribution:
        """By drawing along from the blank canvas, since a frame that is stepped through keeps no eye's state."""
        x, u, lead = context["x"].flatten(0, -2), _flat(context.get("u")), context["x"].shape[:-1]
        before = known["before"].flatten(0, -2).split(self.z_dim, -1) if "before" in known else ()
        drawing, eye = self._blank(x), self.e_h.initial_state(x.shape[0])
        for z in before[: self.steps.index(name)]:
            _, eye = self._looked(x, drawing, eye, u)
            drawing = self._drawn_on(drawing, z, u)
        posterior: Distribution = self.z_head(self._looked(x, drawing, eye, u)[0].unflatten(0, lead))
        return posterior

    def _infer(self, x: Tensor, u: Tensor | None, lengths: Tensor | None, draws: Draws) -> Inferred:
        """Step by step, each for all frames at once."""
        lead, x, u = x.shape[:-1], x.flatten(0, -2), _flat(u)
        drawing, eye = self._blank(x), self.e_h.initial_state(x.shape[0])
        latents: dict[str, Latent] = {}
        for name in self.steps:
            e, eye = self._looked(x, drawing, eye, u)
            latents[name] = draws(name, self.z_head(e.unflatten(0, lead)))
            drawing = self._drawn_on(drawing, latents[name].sample.flatten(0, -2), u)
        return Inferred(latents, {"canvas": drawing.canvas.unflatten(0, lead)})

    def _generate(
        self, x: Tensor, latents: Values, u: Tensor | None, lengths: Tensor | None, states: Values
    ) -> Generated:
        priors: dict[str, Distribution] = {name: standard_normal(latents[name]) for name in self.steps}
        if "canvas" in states:
            return Generated(priors, self.family.from_output(states["canvas"]))
        drawing, flat_u = self._blank(x.flatten(0, -2)), _flat(u)
        for name in self.steps:
            drawing = self._drawn_on(drawing, latents[name].flatten(0, -2), flat_u)
        return Generated(priors, self.family.from_output(drawing.canvas.unflatten(0, x.shape[:-1])))

    def _initial_state(self, batch_size: int, draws: Given) -> State:
        return {}

    def _step(self, state: State, x_prev: Tensor, u_t: Tensor | None, draws: Given) -> tuple[Distribution, State]:
        drawing, before = self._blank(x_prev), x_prev[:, :0]
        for name in self.steps:
            z = draws(name, standard_normal(x_prev.new_zeros(len(x_prev), self.z_dim)), before=before)
            drawing, before = self._drawn_on(drawing, z, u_t), torch.cat([before, z], -1)
        observation: FactorisedDistribution = self.family.from_output(drawing.canvas)
        return observation, state


def _flat(value: Tensor | None) -> Tensor | None:
    """All leading dimensions as one batch."""
    return None if value is None else value.flatten(0, -2)


def _image(image: Sequence[int] | None, x_dim: int) -> tuple[int, int]:
    """Height and width, of F pixels."""
    sides = (1, x_dim) if image is None else tuple(int(side) for side in image)
    if len(sides) != 2 or min(sides) < 1 or sides[0] * sides[1] != x_dim:
        raise ValueError(f"image is height and width of {x_dim} pixels; got {image!r}")
    return sides[0], sides[1]
