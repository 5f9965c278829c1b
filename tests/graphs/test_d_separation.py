"""d-separation against networkx on random graphs, and explanations against the verdict."""

import itertools
import random

import networkx as nx
import numpy as np
import pytest

from dvae_lib.graphs import d_separated, explain
from dvae_lib.graphs.separation import moral_boundary

reference = getattr(nx, "is_d_separator", None) or nx.d_separated


def random_dag(rng: random.Random, size: int, density: float) -> nx.DiGraph:
    order = list(range(size))
    rng.shuffle(order)
    graph = nx.DiGraph()
    graph.add_nodes_from(range(size))
    graph.add_edges_from(pair for pair in itertools.combinations(order, 2) if rng.random() < density)
    return graph


def random_query(rng: random.Random, size: int, ends: int = 1):
    nodes = rng.sample(range(size), size)
    a, b = set(nodes[:ends]), set(nodes[ends : 2 * ends])
    return a, b, set(nodes[2 * ends : 2 * ends + rng.randint(0, size - 2 * ends)])


def test_agrees_with_networkx_on_random_graphs():
    rng = random.Random(1)
    verdicts = []
    for _ in range(20_000):
        size = rng.randint(3, 9)
        graph = random_dag(rng, size, rng.uniform(0.1, 0.6))
        a, b, given = random_query(rng, size)
        verdict = d_separated(graph, a, b, given)
        assert verdict == reference(graph, a, b, given)
        verdicts.append(verdict)
    assert 0.2 < np.mean(verdicts) < 0.8  # both answers are well represented


def test_agrees_with_networkx_on_sets():
    rng = random.Random(2)
    for _ in range(3000):
        graph = random_dag(rng, 10, rng.uniform(0.05, 0.3))
        a, b, given = random_query(rng, 10, ends=rng.randint(1, 3))
        assert d_separated(graph, a, b, given) == reference(graph, a, b, given)


def test_explanations_agree_with_the_verdict():
    """A pair is separated exactly if every path is blocked, each by a node whose rule can be checked by hand."""
    rng = random.Random(3)
    for _ in range(3000):
        size = rng.randint(3, 7)
        graph = random_dag(rng, size, rng.uniform(0.2, 0.6))
        (a,), (b,), given = random_query(rng, size)
        answer = explain(graph, a, b, given)
        assert answer.complete
        assert answer.separated == reference(graph, {a}, {b}, given) == (not answer.active_paths)
        every = {tuple(p) for p in nx.all_simple_paths(graph.to_undirected(), a, b)}
        assert {path.nodes for path in answer.paths} == every
        assert [len(p.nodes) for p in answer.paths] == sorted(len(p.nodes) for p in answer.paths)
        for path in answer.paths:
            for before, junction, after in zip(path.nodes, path.junctions, path.nodes[2:], strict=False):
                into = (graph.has_edge(before, junction.node), graph.has_edge(after, junction.node))
                expected = {(True, True): "head-to-head", (False, False): "tail-to-tail"}.get(into, "head-to-tail")
                assert junction.rule == expected
                seen = ({junction.node} | nx.descendants(graph, junction.node)) & given
                assert junction.blocks == ((not seen) if expected == "head-to-head" else junction.node in given)


RULES = {
    "tail-to-tail": ([("c", "a"), ("c", "b")], False, True),
    "head-to-tail": ([("a", "c"), ("c", "b")], False, True),
    "head-to-head": ([("a", "c"), ("b", "c")], True, False),
}


@pytest.mark.parametrize(("edges", "unobserved", "observed"), RULES.values(), ids=RULES)
def test_the_three_rules(edges, unobserved, observed, request):
    graph = nx.DiGraph(edges)
    assert d_separated(graph, "a", "b") is unobserved
    assert d_separated(graph, "a", "b", {"c"}) is observed
    for given in ((), ("c",)):
        (path,) = explain(graph, "a", "b", given).paths
        assert path.junctions[0].rule == request.node.callspec.id


def test_a_descendant_opens_a_head_to_head_node():
    """What the review's wording leaves out, and its own results need."""
    graph = nx.DiGraph([("a", "c"), ("b", "c"), ("c", "d"), ("d", "e")])
    assert d_separated(graph, "a", "b")
    assert not d_separated(graph, "a", "b", {"e"})
    text = str(explain(graph, "a", "b", {"e"}))
    assert "descendant e is, so it opens the path" in text
    assert text.startswith("not d-separated")


def test_conditional_independence_in_numbers():
    """In a linear-Gaussian network with random weights, separation is a vanishing partial covariance."""
    rng, numbers = random.Random(4), np.random.default_rng(4)
    for _ in range(300):
        graph = random_dag(rng, 7, 0.35)
        weights = np.zeros((7, 7))
        for parent, child in graph.edges:
            weights[child, parent] = numbers.uniform(0.5, 1.5) * numbers.choice([-1, 1])
        inverse = np.linalg.inv(np.eye(7) - weights)
        covariance = inverse @ inverse.T
        (a,), (b,), given = random_query(rng, 7)
        rest = sorted(given)
        cross = covariance[np.ix_([a, b], rest)]
        partial = covariance[np.ix_([a, b], [a, b])] - cross @ np.linalg.solve(covariance[np.ix_(rest, rest)], cross.T)
        assert d_separated(graph, a, b, given) == (abs(partial[0, 1]) < 1e-9)


def test_the_boundary_is_the_smallest_set_that_separates():
    rng = random.Random(5)
    for _ in range(1500):
        graph = random_dag(rng, 8, rng.uniform(0.2, 0.5))
        nodes = rng.sample(range(8), 8)
        node, candidates = nodes[0], frozenset(nodes[1 : rng.randint(2, 8)])
        boundary = moral_boundary(graph, node, candidates)
        needed = {c for c in candidates if not reference(graph, {node}, {c}, set(candidates - {c}))}
        assert boundary == needed
        if candidates - boundary:
            assert reference(graph, {node}, set(candidates - boundary), set(boundary))


def test_nodes_of_unrolled_specs_may_be_given_alone():
    graph = nx.DiGraph([(("z", 1), ("z", 2)), (("z", 2), ("z", 3)), (("v", None), ("z", 3))])
    assert d_separated(graph, ("z", 1), ("z", 3), ("z", 2))
    assert d_separated(graph, ("z", 1), [("v", None)])
    assert "z_1 -> z_2 -> z_3" in str(explain(graph, ("z", 1), ("z", 3)))


def test_the_number_of_paths_is_bounded():
    graph = random_dag(random.Random(6), 12, 1.0)
    answer = explain(graph, 0, 1, limit=50)
    assert len(answer.paths) == 50
    assert not answer.complete
    assert "there are more" in str(answer)
    assert explain(nx.DiGraph([("a", "b")]), "a", "b", limit=1).complete


def test_bad_input():
    graph = nx.DiGraph([("a", "c"), ("c", "b")])
    with pytest.raises(ValueError, match=r"no such node in the graph: q"):
        d_separated(graph, "a", "q")
    with pytest.raises(ValueError, match=r"a and given share a"):
        d_separated(graph, "a", "b", {"a"})
    with pytest.raises(ValueError, match=r"a and b share a"):
        explain(graph, "a", {"a", "b"})
    with pytest.raises(ValueError, match="at least one node"):
        d_separated(graph, set(), "b")
    with pytest.raises(ValueError, match="directed cycle"):
        d_separated(nx.DiGraph([("a", "b"), ("b", "a")]), "a", "b")
    with pytest.raises(ValueError, match="limit"):
        explain(graph, "a", "b", limit=0)


def test_an_undirected_graph_is_refused(as_a_user):
    with pytest.raises(TypeError, match=r"networkx\.DiGraph"):
        d_separated(nx.Graph([("a", "b")]), "a", "b")
