"""What kind of dynamical VAE a spec describes: the links of Section 4.5, read off its unrolled graph."""

from typing import NamedTuple

import networkx as nx

from dvae_lib.graphs.ranges import Node
from dvae_lib.graphs.spec import DependencySpec

__all__ = ["Links", "infers_backwards", "links", "looks_ahead", "runs_online"]


class Links(NamedTuple):
    """The links of a generative model, after Section 4.5 of the review.

    Attributes:
        decoding: `z_t` is a parent of x_t, or an ancestor through other latents of the same frame.
        temporal: Something before t, in z or in x, is a parent of z_t or of x_t.
        driving: An input u is a parent of z_t or of x_t.
        predictive: Past observations are parents of z_t or of x_t: the model is autoregressive.
        causal: Nothing is generated from a later frame.
    """

    decoding: bool
    temporal: bool
    driving: bool
    predictive: bool
    causal: bool

    @property
    def is_dvae(self) -> bool:
        """Whether the model has the two links that every dynamical VAE must have."""
        return self.decoding and self.temporal


def links(spec: DependencySpec) -> Links:
    """The links of a spec's generative model in compact form, at an interior frame.

    Example:
        >>> links(DependencySpec("z_t ~ z_{t-1}" "\\n" "x_t ~ z_t", "z_t ~ z_{t-1}, x_{t:T}"))
        Links(decoding=True, temporal=True, driving=False, predictive=False, causal=True)
    """
    # The interior frames of a spec are those at which no parent falls outside the sequence.
    num_steps, t = spec.interior()
    graph = spec.unroll(num_steps, "generation", "compact")
    kinds = nx.get_node_attributes(graph, "kind")
    frame: list[Node] = [node for node in graph if node[1] == t and kinds[node] != "input"]
    arrows = [(parent, node) for node in frame for parent in graph.predecessors(node)]
    here = graph.subgraph(frame)
    decoding = any(
        kinds[latent] == "latent" and kinds[x] == "observed" and nx.has_path(here, latent, x)
        for latent in frame
        for x in frame
    )

    def past(parent: Node) -> bool:
        return parent[1] is not None and parent[1] < t

    return Links(
        decoding=decoding,
        temporal=any(past(parent) and kinds[parent] != "input" for parent, _ in arrows),
        driving=any(kinds[parent] == "input" for parent, _ in arrows),
        predictive=any(kinds[parent] == "observed" and past(parent) for parent, _ in arrows),
        causal=all(a[1] is None or b[1] is None or a[1] <= b[1] for a, b in graph.edges),
    )


def looks_ahead(spec: DependencySpec) -> bool:
    """Whether the posterior of some frame's latent depends on a later frame.

    Example:
        >>> looks_ahead(DependencySpec("z_t ~ z_{t-1}" "\\n" "x_t ~ z_t", "z_t ~ z_{t-1}, x_{t:T}"))
        True
    """
    return any(
        parent[1] is not None and child[1] is not None and parent[1] > child[1]
        for parent, child in spec.unroll(5, "inference", "compact").edges
    )


def infers_backwards(spec: DependencySpec) -> bool:
    """Whether some latent is inferred from latents that are generated after it.

    A frame's from the same variable at a later frame, or one of the whole sequence from those of its frames.

    Example:
        >>> infers_backwards(DependencySpec("z_t ~ z_{t-1}" "\\n" "x_t ~ z_t", "z_t ~ z_{t+1}, x_t"))
        True
    """

    def backwards(parent: Node, child: Node) -> bool:
        if parent[1] is None:
            return False
        if child[1] is None:
            return parent[0] in spec.latents
        return parent[0] == child[0] and parent[1] > child[1]

    return any(backwards(*edge) for edge in spec.unroll(5, "inference", "compact").edges)


def runs_online(spec: DependencySpec) -> bool:
    """Whether inference can keep up with a stream: no latent needs a later frame, or the end of the sequence.

    Example:
        >>> runs_online(DependencySpec("z_t ~ z_{t-1}" "\\n" "x_t ~ z_t", "z_t ~ z_{t-1}, x_t"))
        True
    """
    return not looks_ahead(spec) and all(map(spec.is_framewise, spec.latents))
