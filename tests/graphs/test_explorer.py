"""The interactive picture holds the library's own answer for every choice."""

import json
import re

import networkx as nx
import pytest

from dvae_lib.graphs import d_separated, explore

GRAPH = nx.DiGraph([("e", "a"), ("e", "b"), ("a", "c"), ("b", "c"), ("c", "d"), ("a", "f"), ("f", "b")])
POSITIONS = {"a": (0, 0), "b": (3, 0), "c": (1.5, -1), "d": (1.5, -2), "e": (1.5, 1), "f": (1.5, 0)}


def shipped(page: str) -> dict:
    data, _ = json.JSONDecoder().raw_decode(re.search(r"var d=(\{.*)", page)[1])
    return data


def test_every_choice_is_answered():
    explorer = explore(GRAPH, "a", "b", positions=POSITIONS, observed=["e"])
    data = shipped(explorer.page)
    assert len(data["answers"]) == len(explorer.answers) == 2**4
    for observed, answer in explorer.answers.items():
        key = "".join("1" if data["names"][i] in observed else "0" for i in data["toggles"])
        assert data["answers"][key]["separated"] == d_separated(GRAPH, "a", "b", observed) == answer.separated
        assert [path["open"] for path in data["answers"][key]["paths"]] == [path.active for path in answer.paths]
    assert [data["names"][i] for i in data["start"]] == ["e"]


def test_the_page_stands_alone():
    page = explore(GRAPH, "a", "b", positions=POSITIONS)._repr_html_()
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"__[A-Z]+__", page)
    assert page == explore(GRAPH, "a", "b", positions=POSITIONS).page  # the same each time: no churn in the site
    assert page.count('<g class="node free') == 4


def test_bad_input():
    with pytest.raises(ValueError, match="positions lacks d"):
        explore(GRAPH, "a", "b", positions={k: v for k, v in POSITIONS.items() if k != "d"})
    with pytest.raises(ValueError, match="other than a and b"):
        explore(GRAPH, "a", "b", positions=POSITIONS, observed=["a"])
    long = nx.path_graph(12, create_using=nx.DiGraph)
    with pytest.raises(ValueError, match="at most 8"):
        explore(long, 0, 11, positions={i: (i, 0) for i in range(12)})
