"""Which entries of the latent vectors have to do with each other? Differentiate the code entry by entry and see.

A spec speaks of vectors: :math:`\\mathbf{z}_t` depends on :math:`\\mathbf{z}_{t-1}`. Whether each entry has a life of
its own, :math:`p(\\mathbf{z}_{1:T}) = \\prod_l p(z_{1:T,l})`, is decided by the functions in between.
"""

from typing import Any, NamedTuple

import networkx as nx
import torch
from torch import Tensor

from dvae_lib.devices import on_the_host
from dvae_lib.distributions import FactorisedDistribution
from dvae_lib.graphs.spec import DependencySpec
from dvae_lib.graphs.verification import parameters_of, randomised

__all__ = ["Entry", "EntryGroups", "entry_groups", "prior_reads"]

Entry = tuple[str, int]
"""An entry of a latent variable over all frames, by the variable's name and a number from 0."""


class EntryGroups(NamedTuple):
    """The finest groups of entries that are independent of each other.

    Attributes:
        prior: Given nothing, by the generative model.
        posterior: Given the data, by the inference model.
        both: The finest that both models agree to.
    """

    prior: tuple[tuple[Entry, ...], ...]
    posterior: tuple[tuple[Entry, ...], ...]
    both: tuple[tuple[Entry, ...], ...]


def prior_reads(spec: DependencySpec) -> tuple[str, ...]:
    """The names of the observed and input variables that the prior of some latent depends on.

    Example:
        >>> prior_reads(DependencySpec("z_t ~ z_{t-1}, x_{t-1}" "\\n" "x_t ~ z_t", "z_t ~ x_t"))
        ('x',)
    """
    graph = spec.unroll(spec.interior()[0], "generation", "compact")
    kinds = nx.get_node_attributes(graph, "kind")
    found = {a[0] for a, b in graph.edges if kinds[b] == "latent" and kinds[a] in ("observed", "input")}
    return tuple(sorted(found))


@on_the_host()
def entry_groups(model: Any, num_steps: int = 3, *, tolerance: float = 1e-10) -> EntryGroups:
    r"""The groups of entries over which a model's prior and posterior factorise.

    Two entries are in one group if a parameter of the one's conditional depends on the other, at any two frames, or if
    their variable's conditional is not a product over entries; and so are those that are linked by a chain of such
    pairs. As in `verify_dependencies`, copies of the model run in float64 at random weights on random data, so that
    weights that happen to be zero hide nothing.

    Arguments:
        model: A `DVAE`.
        num_steps: T of the sequences that are tried.
        tolerance: What counts as zero, relative to the largest derivative of the same variable.

    Example:
        >>> from dvae_lib import VAE
        >>> entry_groups(VAE(x_dim=5, z_dim=2)).both
        ((('z', 0),), (('z', 1),))
    """
    generator = torch.Generator().manual_seed(0)
    graphs = nx.Graph(), nx.Graph()
    for _ in range(2):
        twin = randomised(model, generator)
        for graph, distributions, latents in zip(graphs, *_conditionals(twin, num_steps, generator), strict=True):
            graph.add_nodes_from((name, l) for name, value in latents.items() for l in range(value.shape[-1]))
            for name, distribution in distributions.items():
                graph.add_edges_from(_pairs(name, distribution, latents, tolerance, generator))
    prior, posterior = map(_components, graphs)
    return EntryGroups(prior, posterior, _components(nx.compose(*graphs)))


def _conditionals(
    model: Any, num_steps: int, generator: torch.Generator
) -> tuple[tuple[dict[str, Any], dict[str, Any]], tuple[dict[str, Tensor], dict[str, Tensor]]]:
    """Priors and posteriors of all latents at random values of these; and the values, for each."""

    def uniform(size: int) -> Tensor:
        return 0.05 + 0.9 * torch.rand(4, num_steps, size, generator=generator, dtype=torch.float64)

    x = uniform(model.x_dim)
    u = uniform(model.u_dim) if getattr(model, "u_dim", 0) else None
    shapes = {name: latent.sample.shape for name, latent in model.inference(x, u).items()}
    values = {
        name: torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
        for name, shape in shapes.items()
    }
    prior = dict(model.generation(x, values, u).prior)
    posterior = {name: latent.posterior for name, latent in model.inference(x, u, latents=values).items()}
    return (prior, posterior), (values, values)


def _pairs(
    name: str, distribution: Any, latents: dict[str, Tensor], tolerance: float, generator: torch.Generator
) -> list[tuple[Entry, Entry]]:
    """The pairs of entries that the conditionals of one variable couple."""
    size = latents[name].shape[-1]
    apart = isinstance(distribution, FactorisedDistribution) and distribution.entries_apart
    pairs: list[tuple[Entry, Entry]] = [] if apart else [((name, 0), (name, l)) for l in range(1, size)]
    parameters = parameters_of(distribution, name, latents[name].shape[:-1])
    strengths: dict[tuple[Entry, Entry], float] = {}
    for l in range(size):
        weighted = [(torch.randn(p[..., l].shape, generator=generator, dtype=p.dtype) * p[..., l]) for p in parameters]
        if not weighted:
            break
        total = torch.stack([w.sum() for w in weighted]).sum()
        gradients = torch.autograd.grad(total, list(latents.values()), retain_graph=True, allow_unused=True)
        for other, gradient in zip(latents, gradients, strict=True):
            if gradient is not None:
                for m, strength in enumerate(gradient.abs().flatten(0, -2).amax(0).tolist()):
                    strengths[(name, l), (other, m)] = strength
    largest = max(strengths.values(), default=0.0)
    return pairs + [pair for pair, strength in strengths.items() if strength > tolerance * largest]


def _components(graph: nx.Graph) -> tuple[tuple[Entry, ...], ...]:
    return tuple(sorted(tuple(sorted(group)) for group in nx.connected_components(graph)))
