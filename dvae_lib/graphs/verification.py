"""Does the code depend on what the equations say it depends on? Differentiate it and see.

The parameters of p(x_t | .), p(z_t | .) and q(z_t | .) are differentiated with respect to every frame of the data, the
inputs and the latent variables. Where a derivative is not zero there is an edge. The edges found must be those
of the spec's compact form: no edge too few, none too many.
"""

import copy
import math
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from dvae_lib.devices import on_the_host
from dvae_lib.graphs.links import links
from dvae_lib.graphs.ranges import Node
from dvae_lib.graphs.separation import node_label
from dvae_lib.graphs.spec import DependencySpec

__all__ = ["Edge", "Verification", "verify_dependencies"]


class VerifiableModel(Protocol):
    """What `verify_dependencies` asks of a model: its spec, its sizes, and the two directions as functions."""

    spec: DependencySpec
    x_dim: int

    def inference(self, x: Tensor, u: Tensor | None = None, *, latents: Mapping[str, Tensor] | None = None) -> Any:
        """Per latent variable, an object with ``sample`` and ``posterior``."""

    def generation(self, x: Tensor, latents: Mapping[str, Tensor], u: Tensor | None = None) -> Any:
        """An object with ``prior``, a distribution per latent variable, and ``observation``, one."""


class Edge(NamedTuple):
    """A dependency in the unrolled compact graph.

    Arguments:
        process: ``"generation"`` or ``"inference"``.
        parent: What is depended on, such as ``("z", 2)``.
        child: Whose distribution depends on it.
    """

    process: str
    parent: Node
    child: Node

    def __str__(self) -> str:
        return f"{self.process}: {node_label(self.parent)} -> {node_label(self.child)}"


class Verification(NamedTuple):
    """Where equations and code disagree; print it for a list.

    Arguments:
        missing: Edges that the spec has and the code lacks.
        extra: Edges that the code has and the spec has not.
    """

    missing: frozenset[Edge]
    extra: frozenset[Edge]

    @property
    def agrees(self) -> bool:
        """Whether there is no edge too few and none too many."""
        return not self.missing and not self.extra

    def __str__(self) -> str:
        if self.agrees:
            return "equations and code agree"
        titles = (
            ("the spec has these edges, the code lacks them:", self.missing),
            ("the code has these edges, the spec has them not:", self.extra),
        )
        lines = [line for title, edges in titles if edges for line in (title, *(f"    {e}" for e in _sorted(edges)))]
        return "\n".join(lines)


def _sorted(edges: frozenset[Edge]) -> list[Edge]:
    return sorted(edges, key=lambda e: (e.process, e.child[0], e.child[1] or 0, e.parent[0], e.parent[1] or 0))


@on_the_host()
def verify_dependencies(
    model: Any,
    num_steps: int = 5,
    feedback: float = 0.0,
    *,
    draws: int = 3,
    batch_size: int = 4,
    tolerance: float = 1e-10,
    generator: torch.Generator | None = None,
) -> Verification:
    """Compare a model's running code with its spec, edge by edge, for generation and inference.

    A copy of the model runs in float64 at random weights on random data, with all latent variables given. An
    edge exists if a derivative exceeds ``tolerance`` times the largest one of the same variable, for any draw of
    weights and data: so a unit that happens to be dead, or weights that start at zero, hide nothing. Of each
    distribution, ``mean`` and those of ``logvar``, ``logits``, ``covariance_matrix`` and ``variance`` that it has are
    differentiated; of one that has none of them, such as a flow, a reparameterised draw at fixed noise.

    Arguments:
        model: An `nn.Module` with attributes ``spec`` and ``x_dim`` (and ``u_dim`` if driven), and the methods
            ``inference(x, u, latents=...)`` and ``generation(x, latents, u)`` of a DVAE. Where ``u_dim`` is 0 or
            absent, the spec is read without its inputs. The model itself is not changed.
        num_steps: T. Three frames show a first-order dependency, five are enough for the review's models.
        feedback: 0 for teacher forcing; 1 for generation mode, where the model is fed its own output in place of
            the past data: ``rollout``, or ``generation`` with ``feedback=1.0``, is then called, and compared with
            `DependencySpec.generation_mode`.
        draws: How many draws of the weights.
        batch_size: How many draws of the data for each of them.
        tolerance: What counts as zero, relative to the largest derivative of the same variable.
        generator: Source of the randomness. Default: a fresh one with a fixed seed.

    Returns:
        The edges that the code lacks, and those that it should not have; both empty if equations and code agree.

    Raises:
        TypeError: If the model lacks what is needed.
        ValueError: If ``num_steps`` is below 2, ``feedback`` is neither 0 nor 1, or it is 1 and the model has no
            feedback; if the model returns other variables or shapes than its spec says.
    """
    _check(model, num_steps, feedback)
    generator = generator or torch.Generator().manual_seed(0)
    driven = getattr(model, "u_dim", 0) > 0
    spec = model.spec if driven else model.spec.undriven()
    expected: set[Edge] = set()
    for process, source in (("generation", spec.generation_mode() if feedback else spec), ("inference", spec)):
        if process == "generation" or spec.inference.strip():
            edges = source.unroll(num_steps, process).edges
            expected |= {Edge(process, parent, child) for parent, child in edges}

    found: set[Edge] = set()
    for _ in range(draws):
        twin = randomised(model, generator)
        found |= _edges(twin, spec, num_steps, batch_size, feedback, tolerance, generator)
    return Verification(frozenset(expected - found), frozenset(found - expected))


def _check(model: Any, num_steps: int, feedback: float) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, not {type(model).__name__}")
    lacking = [name for name in ("spec", "x_dim", "inference", "generation") if not hasattr(model, name)]
    if lacking:
        raise TypeError(f"{type(model).__name__} has no {', '.join(lacking)}: a DVAE needs a spec, x_dim and both")
    spec: Any = model.spec
    if num_steps < 2:
        raise ValueError(f"num_steps must be at least 2 for a dependency over time to show, not {num_steps}")
    if feedback not in (0.0, 1.0):
        raise ValueError(
            f"feedback must be 0 (teacher forcing) or 1 (generation mode), not {feedback}: in between, which frames "
            "are fed back is random, and so are the dependencies"
        )
    if feedback and not links(spec).predictive:
        raise ValueError(f"{type(model).__name__}.generation takes no feedback: it has no generation mode to verify")


def randomised(model: nn.Module, generator: torch.Generator) -> Any:
    """A copy in float64, in evaluation mode, moved away from weights at which a derivative may vanish by accident."""
    twin = copy.deepcopy(model).to("cpu", torch.float64).eval()
    with torch.no_grad():
        for parameter in twin.parameters():
            scale = 1.0 / math.sqrt(max(parameter.shape[-1], 1)) if parameter.ndim > 1 else 0.3
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
            parameter.requires_grad_(False)
    return twin


def _edges(
    model: Any,
    spec: DependencySpec,
    num_steps: int,
    batch_size: int,
    feedback: float,
    tolerance: float,
    generator: torch.Generator,
) -> set[Edge]:
    """The edges that show at these weights."""

    def uniform(size: int) -> Tensor:  # data that every observation model accepts: positive, below 1
        return 0.05 + 0.9 * torch.rand(batch_size, num_steps, size, generator=generator, dtype=torch.float64)

    x = uniform(model.x_dim).requires_grad_()
    inputs = {spec.observed[0]: x}
    u = None
    if getattr(model, "u_dim", 0) > 0:
        u = uniform(model.u_dim).requires_grad_()
        inputs |= dict.fromkeys(model.spec.inputs[:1], u)
    shapes = {name: latent.sample.shape for name, latent in model.inference(x, u).items()}
    if set(shapes) != set(spec.latents):
        raise ValueError(
            f"inference returns {sorted(shapes)}, but the spec's latent variables are {sorted(spec.latents)}"
        )
    for name, shape in shapes.items():
        wanted = (batch_size, num_steps) if spec.is_framewise(name) else (batch_size,)
        if shape[:-1] != wanted:
            raise ValueError(
                f"inference returns samples of {name} of shape {tuple(shape)}, expected {(*wanted, '...')}"
            )
    latents = {
        name: torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
        for name, shape in shapes.items()
    }
    inputs |= latents

    if not feedback:
        generated = model.generation(x, latents, u)
    elif hasattr(model, "rollout"):  # of a DVAE, also where its class writes `generation` for the true past alone
        generated = model.rollout(x, latents, u, feedback=feedback)
    else:
        generated = model.generation(x, latents, u, feedback=feedback)
    distributions = [("generation", name, prior) for name, prior in generated.prior.items()]
    distributions.append(("generation", spec.observed[0], generated.observation))
    if spec.inference.strip():
        inferred = model.inference(x, u, latents=latents)
        distributions += [("inference", name, latent.posterior) for name, latent in inferred.items()]

    edges: set[Edge] = set()
    for process, name, distribution in distributions:
        framewise = spec.is_framewise(name)
        parameters = parameters_of(distribution, name, (batch_size, num_steps) if framewise else (batch_size,))
        for t in range(num_steps) if framewise else (None,):
            child = (name, t + 1 if t is not None else None)
            for parent in _parents(parameters, t, inputs, spec, tolerance, generator):
                edges.add(Edge(process, parent, child))
    return edges


def parameters_of(distribution: Any, name: str, leading: tuple[int, ...]) -> list[Tensor]:
    """The parameters of a distribution that depend on anything, batch and time first."""
    found = []
    for attribute in ("mean", "logvar", "logits", "covariance_matrix", "variance"):
        try:
            value = getattr(distribution, attribute)
        except (AttributeError, NotImplementedError):
            continue
        if not isinstance(value, Tensor):
            continue
        if value.shape[: len(leading)] != leading:
            raise ValueError(
                f"the {attribute} of the distribution of {name} has shape {tuple(value.shape)}, expected it to begin "
                f"with {leading}"
            )
        found.append(value)
    if not found and getattr(distribution, "has_rsample", False):
        with torch.random.fork_rng(devices=[]):  # at noise that is the same whatever the parameters are
            torch.manual_seed(0)
            found.append(distribution.rsample())
    if not found:
        raise ValueError(
            f"the distribution of {name}, {type(distribution).__name__}, has neither a mean nor a reparameterised draw "
            "to differentiate"
        )
    return [value for value in found if value.requires_grad]


def _parents(
    parameters: list[Tensor],
    t: int | None,
    inputs: Mapping[str, Tensor],
    spec: DependencySpec,
    tolerance: float,
    generator: torch.Generator,
) -> list[Node]:
    """What the parameters at one frame depend on."""
    at_t = [value if t is None else value[:, t] for value in parameters]
    if not at_t:
        return []
    # A random combination of all of them depends on whatever any of them depends on.
    weighted = [(torch.randn(p.shape, generator=generator, dtype=p.dtype) * p).sum() for p in at_t]
    gradients: tuple[Tensor | None, ...] = torch.autograd.grad(
        torch.stack(weighted).sum(), list(inputs.values()), retain_graph=True, allow_unused=True
    )
    sizes: dict[Node, float] = {}
    for name, gradient in zip(inputs, gradients, strict=True):
        if gradient is None:
            continue
        frames = gradient.abs().amax((0, -1))  # (T,), or a number for a variable of the whole sequence
        for time, size in enumerate(frames.reshape(-1).tolist(), start=1):
            sizes[name, time if spec.is_framewise(name) else None] = size
    largest = max(sizes.values(), default=0.0)
    return [node for node, size in sizes.items() if size > tolerance * largest]
