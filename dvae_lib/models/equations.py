"""What a model writes: its spec and its equations; and what follows from the spec alone."""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution

from dvae_lib.distributions import DiagonalGaussian
from dvae_lib.graphs import DependencySpec
from dvae_lib.graphs.links import Links, infers_backwards, links
from dvae_lib.models import generating
from dvae_lib.models.draws import Context, Draws, Given, Inferred, Past, State, Values
from dvae_lib.models.saving import Pretrained
from dvae_lib.objectives import Generated, Latent

__all__ = ["Equations"]

HOOKS = {"inference": "_infer", "generation": "_generate", "step": "_step", "initial_state": "_initial_state"}
"""The public methods that a class may write itself, and the hooks that they then stand for."""


class Undeclared:
    """What stands for the spec until a class declares one, so that it is missed by name."""

    def __get__(self, model: object, owner: type) -> Any:
        """Itself of the class; of a model, an error."""
        if model is None:
            return self
        raise TypeError(
            f"{owner.__name__} declares no spec: write spec = DependencySpec(generation=..., inference=...)"
        )


class Equations(Pretrained):
    """The equations of a model, as hooks that public methods call; see `DVAE`.

    Attributes:
        spec: Who depends on whom.
        x_dim: Size F of the observed vectors.
        z_dim: Size L of the latent vectors.
        u_dim: Size of the input vectors.
        observation: The family of p(x_t | .).
        functions: LaTeX of the paper's functions that cannot be told from what a network computes, by the network's
            name, for `dvae_lib.architecture`.
        replay: What runs a recursion in its place, while training asks for it.
    """

    spec: DependencySpec = Undeclared()  # type: ignore[assignment]
    functions: Mapping[str, str] = {}
    x_dim: int
    z_dim: int
    u_dim: int
    observation: str
    replay: Callable[..., tuple[Tensor, ...]] | None = None

    doors: ClassVar[dict[str, Callable[..., Any]]] = {}
    """The public methods of `DVAE` that a class may write itself."""

    def __init_subclass__(cls, **options: Any) -> None:
        """Let a public method that a class writes itself stand for its hook."""
        super().__init_subclass__(**options)
        for door, hook in HOOKS.items() if cls.doors else ():  # of `DVAE` itself there are none yet
            if door in vars(cls) and hook not in vars(cls):
                setattr(cls, hook, getattr(generating, f"{door}_of_its_own"))
            elif hook in vars(cls) and door not in vars(cls):
                setattr(cls, door, cls.doors[door])

    # ---------------------------------------------------------------- what a model writes

    def _infer(self, x: Tensor, u: Tensor | None, lengths: Tensor | None, draws: Draws) -> Inferred:
        r"""The inference model :math:`q_\phi(\mathbf{z}_{1:T} | \mathbf{x}_{1:T}, \mathbf{u}_{1:T})`, sampled in order.

        By default from the context and the proposals: all frames at once where the latents of a frame depend on no
        other latents of frames, by the spec; else one frame after the other, beside the generator's steps. A model
        that is trained a lot writes its own loop, with what recurs alone.
        """
        if _latents_recur(self.spec):
            return generating.inferred_in_turn(self, x, u, lengths, draws)
        context = self._context(x, u, lengths, draws, Past())
        latents = {name: draws(name, self._propose(name, context.frames, {})) for name in self.frame_latents}
        return Inferred({**context.latents, **latents}, context.states)

    def _generate(
        self, x: Tensor, latents: Values, u: Tensor | None, lengths: Tensor | None, states: Values
    ) -> Generated:
        r"""The conditionals :math:`p(\mathbf{z}_t | \cdot)` and :math:`p(\mathbf{x}_t | \cdot)` given whole sequences.

        Arguments:
            x: The observed sequences; their past is looked at by predictive models (teacher forcing).
            latents: Values of all latent variables.
            u: The input sequences of a driven model.
            lengths: The sequences' lengths in a padded batch.
            states: What `_infer` has computed already; empty where the latents come from elsewhere.
        """
        raise NotImplementedError(
            f"{type(self).__name__} needs _generate: p(z_t | .) and p(x_t | .) of whole sequences"
        )

    def _initial_state(self, batch_size: int, draws: Given) -> State:
        """The generator's state before the first frame. Latents of the whole sequence are drawn, and kept, here."""
        return generating.empty_history(self, batch_size, draws)

    def _step(self, state: State, x_prev: Tensor, u_t: Tensor | None, draws: Given) -> tuple[Distribution, State]:
        """One frame: latents are drawn in the order of the equations; p(x_t | .), and the next state."""
        return generating.step_from_history(self, state, x_prev, u_t, draws)

    def _context(self, x: Tensor, u: Tensor | None, lengths: Tensor | None, draws: Draws, past: Past) -> Context:
        """What the posteriors look at in the data; latents of the whole sequence are drawn here."""
        raise NotImplementedError(
            f"{type(self).__name__} has no _context: write it and _propose; for inference of whole sequences alone, "
            "_infer is enough"
        )

    def _propose(self, name: str, context: Values, known: Values) -> Distribution:
        """The posterior of a latent of a frame, from the context and what the latents before have led to.

        Of one frame or of all: `context` and `known` have the same leading dimensions. What is known are the arguments
        that `_step` names when it draws the latent, and the memory; latents are asked for in the order in which `_step`
        draws them. Where inference goes in another order, it is to be written as `_infer`.
        """
        raise NotImplementedError(f"{type(self).__name__} has no proposal for single frames: it needs _propose")

    def _initial_memory(self, batch_size: int) -> State:
        """What the inference model remembers of the latents and the generator does not; before the first frame."""
        return {}

    def _remember(self, memory: State, latents: Values, u_t: Tensor | None) -> State:
        """The memory after a frame with these latents."""
        return memory

    def _filter_initial_state(self, batch_size: int, draws: Given) -> State:
        """`_initial_state`, for a model that filters with fewer latents than it generates with."""
        return self._initial_state(batch_size, draws)

    def _filter_step(
        self, state: State, x_prev: Tensor, u_t: Tensor | None, draws: Given
    ) -> tuple[Distribution, State]:
        """`_step`, for a model that filters with fewer latents than it generates with."""
        return self._step(state, x_prev, u_t, draws)

    def _filtered(self, state: State) -> dict[str, tuple[Tensor, Tensor]]:
        """Mean and variance, per particle, of latents that the filter integrates out."""
        return {}

    def _auxiliary(self, x: Tensor, latents: Values, lengths: Tensor | None, states: Values) -> dict[str, Tensor]:
        """Training terms beside the bound, each of shape (B,).

        Where something is missing, ``states["observed"]`` says what was observed, (B, T, x_dim).
        """
        return {}

    def recursion(self, *known: Any) -> tuple[Tensor, ...]:
        """The one loop over frames of a model whose inference is recursive, as a function of tensors alone.

        A model calls it through `run_recursion`. Whatever else it reads, such as a number in an attribute, stays in a
        recording as it was. It gives all z_t first, and last the outputs that hold mean and log-variance of q(z_t | .).
        """
        raise NotImplementedError

    # ---------------------------------------------------------------- what the spec says

    @property
    def links(self) -> Links:
        """What kind of model it is, by its spec: Section 4.5."""
        return links(self.spec)

    @property
    def is_causal(self) -> bool:
        """Whether no frame is generated from later ones, by the spec."""
        return links(self.spec).causal

    @property
    def infers_backwards(self) -> bool:
        """Whether latents are inferred from some that come after them, by the spec: no filter, no particles."""
        return infers_backwards(self.spec)

    @property
    def frame_latents(self) -> tuple[str, ...]:
        """The latent variables that every frame has, in the order of the inference block."""
        return tuple(name for name in self.spec.latents if self.spec.is_framewise(name))

    @property
    def sequence_latents(self) -> tuple[str, ...]:
        """The latent variables that the sequence has as a whole."""
        return tuple(name for name in self.spec.latents if not self.spec.is_framewise(name))

    @property
    def frames_are_independent(self) -> bool:
        """Whether frames have to do with each other neither at generation nor at inference, by the spec."""
        return _frames_are_independent(self.spec)

    @property
    def has_proposal(self) -> bool:
        """Whether the inference model runs frame by frame, beside the generator: `context` and `propose`.

        Not where a class writes `_infer` anew and leaves its parent's proposals.
        """
        newest = next(c for c in type(self).__mro__ if vars(c).keys() & {"_infer", "_context", "_propose"})
        runs = self.is_causal and not self.infers_backwards
        return newest is not Equations and bool(vars(newest).keys() & {"_context", "_propose"}) and runs

    def latent_dim(self, name: str) -> int:
        """The size of a latent variable's vectors."""
        return int(getattr(self, f"{name}_dim", 0))

    def latent_shapes(self, batch_size: int, num_steps: int) -> dict[str, tuple[int, ...]]:
        """The shapes of all latent variables' values; a size of 0 is one that no attribute names."""
        leading = {True: (batch_size, num_steps), False: (batch_size,)}
        return {name: (*leading[self.spec.is_framewise(name)], self.latent_dim(name)) for name in self.spec.latents}

    @property
    def _precision(self) -> torch.dtype:
        """The dtype of latent vectors: the parameters', but in a model that computes them in another."""
        return next(self.parameters()).dtype

    def _assigned(self, latents: Mapping[str, Latent]) -> dict[str, Latent]:
        """The latents, each with what it belongs to, a frame or the sequence, and whether its KL has a closed form."""
        framewise, divergences = self.spec.is_framewise, _divergences(self.spec)
        return {
            name: q._replace(per=q.per if framewise(name) else "sequence", closed_form=name in divergences)
            for name, q in latents.items()
        }

    # ---------------------------------------------------------------- loops

    def run_recursion(self, *known: Tensor) -> tuple[Tensor, ...]:
        """`recursion`, replayed from a CUDA graph where `dvae_lib.models.replay` has been asked for one."""
        return self.recursion(*known) if self.replay is None else self.replay("recursion", *known)

    def sample_recursively(self, draws: Draws, *known: Tensor) -> tuple[Any, ...]:
        """Latent vectors z of all frames, drawn one after the other by `recursion`; and what else it gives.

        Arguments:
            draws: Whence the noise.
            known: What the recursion is given before the noise; the first of shape (B, T, .).

        Returns:
            The latent, with its posterior; then the recursion's outputs between the values and the parameters.
        """
        epsilon = draws.noise(known[0].new_empty(*known[0].shape[:2], self.z_dim))
        z, *states, output = self.run_recursion(*known, epsilon)
        return Latent(z, DiagonalGaussian.from_output(output)), *states


def written(model: Equations, hook: str) -> Callable[..., Any]:
    """The newest hook in which equations are written; not one that stands for a public method, which may call this."""
    stand_ins = [getattr(generating, f"{door}_of_its_own") for door in HOOKS]
    found: Callable[..., Any] = next(
        vars(c)[hook] for c in type(model).__mro__ if hook in vars(c) and vars(c)[hook] not in stand_ins
    )
    return found


@lru_cache(maxsize=128)
def _latents_recur(spec: DependencySpec) -> bool:
    """Whether a latent of a frame is inferred from others."""
    framewise = {name for name in spec.latents if spec.is_framewise(name)}
    return any(a[0] in framewise and b[0] in framewise for a, b in spec.unroll(3, "inference", "compact").edges)


@lru_cache(maxsize=128)
def _frames_are_independent(spec: DependencySpec) -> bool:
    if not spec.latents:
        return False
    graphs = (spec.unroll(3, process, "compact") for process in ("generation", "inference"))
    return all(parent[1] == child[1] for graph in graphs for parent, child in graph.edges)


@lru_cache(maxsize=128)
def _divergences(spec: DependencySpec) -> frozenset[str]:
    return spec.divergences
