"""What the review says of its models comes out of their specs, and agrees with two independent truths."""

import copy
import pickle

import networkx as nx
import numpy as np
import pytest
import review_specs as review
from review_specs import MODELS

from dvae_lib.graphs import DependencySpec, Gap, Reference
from dvae_lib.graphs.structure import Structure, read

reference = getattr(nx, "is_d_separator", None) or nx.d_separated
every_model = pytest.mark.parametrize("spec", MODELS.values(), ids=MODELS)


def sets(**parents: str) -> dict[str, frozenset[str]]:
    """``sets(z_t="z_{t-1} x_{1:T}")`` in the form of the results."""
    return {name: frozenset(text.split()) for name, text in parents.items()}


COMPACT = {
    "VAE": sets(z_t="", x_t="z_t"),
    "DKF": sets(z_t="z_{t-1}", x_t="z_t"),  # (3.13)
    "DKF, driven": sets(z_t="z_{t-1} u_t", x_t="z_t"),
    "KVAE": sets(z_t="z_{t-1} u_t", a_t="z_t", x_t="a_t"),  # (6.7)
    "KVAE, mixed": sets(z_t="z_{t-1} a_{1:t-1}", a_t="z_t a_{1:t-1}", x_t="a_t"),
    "STORN": sets(z_t="", x_t="x_{1:t-1} z_{1:t}"),  # (7.10)
    "VRNN": sets(z_t="x_{1:t-1} z_{1:t-1}", x_t="x_{1:t-1} z_{1:t}"),  # (8.8)
    "SRNN": sets(z_t="z_{t-1} x_{1:t-1}", x_t="z_t x_{1:t-1}"),  # (9.7)
    "RVAE, causal": sets(z_t="", x_t="z_{1:t}"),  # (10.8)
    "RVAE, noncausal": sets(z_t="", x_t="z_{1:T}"),  # (10.15)
    "DSAE, full": sets(v="", z_t="z_{1:t-1}", x_t="z_t v"),  # (11.1)
    "VRAE": sets(v="", x_t="v x_{1:t-1}"),
    "DVBF": sets(w_t="", x_t="w_{1:t} u_{1:t}"),
    "two levels": sets(z2_t="z2_{t-1}", z1_t="z1_{t-1} z2_t", x_t="z1_t"),
}
INFERENCE = {
    "DKF": sets(z_t="z_{t-1} x_{t:T}"),  # (5.3)
    "DKF, bidirectional": sets(z_t="z_{t-1} x_{1:T}"),
    "DKF, driven": sets(z_t="z_{t-1} x_{t:T} u_{t:T}"),  # (5.10)
    "KVAE": sets(a_t="x_t", z_t="z_{t-1} a_{t:T} u_{t:T}"),  # (6.13)
    "STORN": sets(z_t="x_{1:t}"),  # (7.19)
    "VRNN": sets(z_t="z_{1:t-1} x_{1:t}"),  # (8.14)
    "SRNN": sets(z_t="z_{t-1} x_{1:T}"),  # (9.13)
    "SRNN, filter": sets(z_t="z_{t-1} x_{1:t}"),
    "RVAE, causal": sets(z_t="z_{1:t-1} x_{t:T}"),  # (10.23)
    "RVAE, noncausal": sets(z_t="z_{1:t-1} x_{1:T}"),  # (10.30)
    "DSAE, full": sets(v="x_{1:T}", z_t="v x_{1:T}"),  # (11.16), (11.22)
    "DSAE, factorised": sets(v="x_{1:T}", z_t="x_t"),  # (11.10)
    "VRAE": sets(v="x_{1:T}"),
    "DVBF": sets(w_t="w_{1:t-1} u_{1:t} x_t"),
    "two levels": sets(z2_t="z2_{t-1} x_{t:T}", z1_t="z1_{t-1} z2_t x_{t:T}"),
}
EXACT = {
    "VAE": sets(z_t="x_t"),
    "DKF": sets(z_t="z_{t-1} x_{t:T}"),  # (5.2)
    "DKF, driven": sets(z_t="z_{t-1} x_{t:T} u_{t:T}"),  # (5.2)
    "KVAE": sets(a_t="a_{1:t-1} x_{t:T} u_{1:T}", z_t="z_{t-1} a_{t:T} u_{t:T}"),
    "KVAE, undriven": sets(a_t="a_{1:t-1} x_{t:T}", z_t="z_{t-1} a_{t:T}"),
    "KVAE, backward": sets(a_t="a_{1:t-1} x_{t:T}", z_t="z_{t+1} a_{1:t}"),
    "KVAE, mixed": sets(a_t="a_{1:t-1} x_{t:T}", z_t="z_{t-1} a_{1:T}"),
    "KVAE, mixed, backward": sets(a_t="a_{1:t-1} x_{t:T}", z_t="z_{t+1} a_{1:t}"),
    "STORN": sets(z_t="z_{1:t-1} x_{1:T}"),  # (7.12)
    "VRNN": sets(z_t="z_{1:t-1} x_{1:T}"),  # (8.10)
    "SRNN": sets(z_t="z_{t-1} x_{1:T}"),  # (9.8)
    "SRNN, driven": sets(z_t="z_{t-1} x_{1:T} u_{1:T}"),
    "RVAE, causal": sets(z_t="z_{1:t-1} x_{t:T}"),  # (10.16)
    "RVAE, noncausal": sets(z_t="z_{1:t-1} x_{1:T}"),  # (10.16)
    "DSAE, full": sets(v="x_{1:T}", z_t="z_{1:t-1} v x_{t:T}"),  # (11.9)
    "VRAE": sets(v="x_{1:T}"),
    "DVBF": sets(w_t="w_{1:t-1} x_{t:T} u_{1:T}"),
    "two levels": sets(z2_t="z2_{1:t-1} x_{1:T}", z1_t="z1_{t-1} z2_{t:T} x_{t:T}"),
}
NOTHING = (frozenset(), frozenset())
GAPS = {
    "VAE": {"z_t": NOTHING},
    "DKF": {"z_t": NOTHING},
    "DKF, bidirectional": {"z_t": (frozenset(), frozenset({"x_{1:t-1}"}))},
    "DKF, driven": {"z_t": NOTHING},
    "KVAE": {"a_t": (frozenset({"a_{1:t-1}", "x_{t+1:T}", "u_{1:T}"}), frozenset()), "z_t": NOTHING},
    "KVAE, undriven": {"a_t": (frozenset({"a_{1:t-1}", "x_{t+1:T}"}), frozenset()), "z_t": NOTHING},
    "KVAE, backward": {"a_t": (frozenset({"a_{1:t-1}", "x_{t+1:T}"}), frozenset()), "z_t": NOTHING},
    "KVAE, mixed": {"a_t": (frozenset({"a_{1:t-1}", "x_{t+1:T}"}), frozenset()), "z_t": NOTHING},
    "STORN": {"z_t": (frozenset({"z_{1:t-1}", "x_{t+1:T}"}), frozenset())},
    "VRNN": {"z_t": (frozenset({"x_{t+1:T}"}), frozenset())},
    "SRNN": {"z_t": NOTHING},
    "SRNN, driven": {"z_t": NOTHING},
    "SRNN, filter": {"z_t": (frozenset({"x_{t+1:T}"}), frozenset())},
    "RVAE, causal": {"z_t": NOTHING},
    "RVAE, noncausal": {"z_t": NOTHING},
    "DSAE, full": {"v": NOTHING, "z_t": (frozenset({"z_{1:t-1}"}), frozenset({"x_{1:t-1}"}))},
    "DSAE, factorised": {"v": NOTHING, "z_t": (frozenset({"z_{1:t-1}", "v", "x_{t+1:T}"}), frozenset())},
    "VRAE": {"v": NOTHING},
    "DVBF": {"w_t": (frozenset({"x_{t+1:T}", "u_{t+1:T}"}), frozenset())},
    "two levels": {
        "z2_t": (frozenset({"z2_{1:t-2}", "x_{1:t-1}"}), frozenset()),
        "z1_t": (frozenset({"z2_{t+1:T}"}), frozenset()),
    },
}


@pytest.mark.parametrize("name", COMPACT)
def test_compact_generation(name):
    assert MODELS[name].compact() == COMPACT[name]


@pytest.mark.parametrize("name", INFERENCE)
def test_compact_inference(name):
    assert MODELS[name].compact("inference") == INFERENCE[name]


@pytest.mark.parametrize("name", EXACT)
def test_exact_posterior(name):
    assert MODELS[name].exact_posterior() == EXACT[name]


@pytest.mark.parametrize("name", GAPS)
def test_inference_gap(name):
    assert MODELS[name].inference_gap() == {key: Gap(*gap) for key, gap in GAPS[name].items()}


def test_the_inference_models_of_the_deep_kalman_filter():
    """Section 5.2 lists them; only the smoother has the exact posterior's structure."""
    gaps = {
        spec.inference: spec.inference_gap()["z_t"]
        for spec in (review.DKF_INSTANTANEOUS, review.DKF_LOCAL, review.DKF_PAST, review.DKF_WHOLE)
    }
    assert gaps[review.DKF_INSTANTANEOUS.inference] == Gap(frozenset({"z_{t-1}", "x_{t+1:T}"}), frozenset())
    assert gaps[review.DKF_LOCAL.inference] == Gap(frozenset({"z_{t-1}", "x_{t+2:T}"}), frozenset({"x_{t-1}"}))
    assert gaps[review.DKF_PAST.inference] == Gap(frozenset({"z_{t-1}", "x_{t+1:T}"}), frozenset({"x_{1:t-1}"}))
    assert gaps[review.DKF_WHOLE.inference] == Gap(frozenset({"z_{t-1}"}), frozenset({"x_{1:t-1}"}))


def test_figure_4_1_has_one_compact_form():
    compact = sets(z_t="x_{1:t-1} u_t", x_t="x_{1:t-1} z_t")  # (4.7), (4.8)
    assert review.FIGURE_4_1_SHARED.compact() == review.FIGURE_4_1_SEPARATE.compact() == compact


# ---- two independent truths ------------------------------------------------------------------------------


def chain(spec, num_steps):
    """The latents in the order of the chain rule, written out again."""
    backward = {"z"} if "z_{t+1}" in spec.inference else set()
    order = []
    for name in spec.latents:
        times = list(range(1, num_steps + 1)) if spec.is_framewise(name) else [None]
        order += [(name, t) for t in (times[::-1] if name in backward else times)]
    return order


def instantiate(references, t, num_steps):
    return {(r.name, time) for r in references for time in r.times(t, num_steps)}


@every_model
@pytest.mark.parametrize("num_steps", [2, 3, 5])
def test_exact_posteriors_agree_with_networkx_at_every_frame(spec, num_steps):
    """Also: the result, found on a long sequence, holds on short ones, at the first and last frame too."""
    graph = spec.unroll(num_steps)
    named = spec.exact_references()
    order = chain(spec, num_steps)
    known = {n for n in graph if spec.kind(n[0]) in ("observed", "input")}
    for i, node in enumerate(order):
        candidates = known | set(order[:i])
        needed = {c for c in candidates if not reference(graph, {node}, {c}, candidates - {c})}
        name, t = node
        key = name if t is None else f"{name}_t"
        assert needed == instantiate(named[key], t, num_steps), node


@every_model
def test_exact_posteriors_agree_with_linear_gaussian_regression(spec):
    """In a random linear-Gaussian model, the posterior mean has a coefficient exactly where the structure says."""
    rng = np.random.default_rng(0)
    num_steps = 4
    graph = spec.unroll(num_steps)
    nodes = list(graph)
    index = {node: i for i, node in enumerate(nodes)}
    weights = np.zeros((len(nodes), len(nodes)))
    for parent, child in graph.edges:
        weights[index[child], index[parent]] = rng.uniform(0.4, 1.2) * rng.choice([-1, 1])
    inverse = np.linalg.inv(np.eye(len(nodes)) - weights)
    covariance = inverse @ np.diag(rng.uniform(0.5, 2.0, len(nodes))) @ inverse.T
    named = spec.exact_references()
    order = chain(spec, num_steps)
    known = [n for n in nodes if spec.kind(n[0]) in ("observed", "input")]
    for i, node in enumerate(order):
        given = known + order[:i]
        at = [index[n] for n in given]
        coefficients = np.linalg.solve(covariance[np.ix_(at, at)], covariance[at, index[node]])
        found = {n for n, c in zip(given, coefficients, strict=True) if abs(c) > 1e-9}
        name, t = node
        assert found == instantiate(named[name if t is None else f"{name}_t"], t, num_steps), node


@every_model
@pytest.mark.parametrize("process", ["generation", "inference"])
def test_compact_forms_are_reachability_through_states(spec, process):
    num_steps = 5
    developed, compact = (spec.unroll(num_steps, process, form) for form in ("developed", "compact"))
    states = {n for n in developed if spec.kind(n[0]) == "deterministic"}
    named = spec.compact_references(process)
    for child in compact:
        within = developed.subgraph(states | {child} | set(compact))
        parents = {p for p in compact if p != child and nx.has_path(within.subgraph(states | {p, child}), p, child)}
        assert set(compact.pred[child]) == parents
        key = child[0] if child[1] is None else f"{child[0]}_t"
        if key in named:
            assert parents == instantiate(named[key], child[1], num_steps)


@every_model
def test_results_do_not_depend_on_the_length_used_for_unrolling(spec):
    results = spec.compact(), spec.compact("inference"), spec.exact_posterior(), spec.inference_gap()
    longer = DependencySpec(spec.generation, spec.inference)
    structure = Structure(spec.generation, spec.inference, spec.observed, spec.inputs)
    structure.reach = read(spec.generation, spec.inference, spec.observed, spec.inputs).reach + 5
    object.__setattr__(longer, "_structure", structure)
    assert (longer.compact(), longer.compact("inference"), longer.exact_posterior(), longer.inference_gap()) == results
    assert longer.interior()[0] > spec.interior()[0]


# ---- orders and directions -------------------------------------------------------------------------------


def test_the_order_of_the_chain_rule_can_be_chosen():
    spec = review.KVAE_UNDRIVEN
    assert spec.exact_posterior(("z", "a")) == sets(z_t="z_{t-1} x_{t:T}", a_t="z_t x_t")
    assert spec.exact_posterior(["a", "z"]) == spec.exact_posterior()
    assert spec.exact_posterior("interleaved") == sets(a_t="z_{t-1} x_{t:T}", z_t="z_{t-1} a_t x_{t+1:T}")
    assert review.DKF.exact_posterior(direction="backward") == sets(z_t="z_{t+1} x_{1:t}")
    assert review.DKF.exact_posterior("z") == review.DKF.exact_posterior("interleaved") == review.DKF.exact_posterior()


def test_an_interleaved_inference_model_is_recognised():
    spec = DependencySpec(
        "z_t ~ z_{t-1}\na_t ~ z_t\nx_t ~ a_t", "a_t ~ z_{t-1}, x_{t:T}\nz_t ~ z_{t-1}, a_t, x_{t+1:T}"
    )
    assert spec.inference_gap() == {"a_t": Gap(*NOTHING), "z_t": Gap(*NOTHING)}
    with pytest.raises(ValueError, match="interleaved"):
        spec.inference_gap(("a", "z"))


def test_a_sequence_level_variable_may_come_last():
    spec = DependencySpec("v ~\nz_t ~ z_{t-1}\nx_t ~ z_t, v", "z_t ~ z_{t-1}, x_{1:T}\nv ~ z_{1:T}, x_{1:T}")
    assert spec.exact_posterior() == sets(z_t="z_{1:t-1} x_{1:T}", v="z_{1:T} x_{1:T}")
    assert spec.exact_posterior("interleaved") == spec.exact_posterior()
    assert spec.exact_posterior(("v", "z")) == sets(v="x_{1:T}", z_t="z_{t-1} v x_{t:T}")


def test_without_inference_the_generative_order_counts():
    assert review.SSM.latents == ("z",)
    assert review.SSM.exact_posterior() == EXACT["DKF"]
    with pytest.raises(ValueError, match="no inference block"):
        review.SSM.inference_gap()
    assert review.GRNN.latents == ()
    assert review.GRNN.exact_posterior() == {}


def test_bad_arguments(as_a_user):
    spec = review.SRNN
    for call in (
        lambda: spec.compact("training"),
        lambda: spec.unroll(3, form="small"),
        lambda: spec.exact_posterior(direction="up"),
        lambda: spec.latex("elbo"),
        lambda: spec.draw(form="full"),
        lambda: spec.draw("training"),
    ):
        with pytest.raises(ValueError, match=r"must be '.*', not '"):
            call()
    with pytest.raises(ValueError, match="num_steps must be at least 1"):
        spec.unroll(0)
    for order in ("interleavd", ("z", "z"), ("z", "a"), ()):
        with pytest.raises(ValueError, match="name each latent variable once"):
            spec.exact_posterior(order)
    with pytest.raises(ValueError, match="no variable 'q'"):
        spec.kind("q")
    with pytest.raises(ValueError, match="no inference block to draw"):
        review.SSM.draw("inference")


# ---- other structures ------------------------------------------------------------------------------------


def test_finite_memory_of_any_order():
    """A convolution over past frames, as in temporal convolutional networks."""
    spec = DependencySpec("z_t ~ z_{t-3:t-1}\nx_t ~ z_t, z_{t-2}, z_{t-4}")
    assert spec.compact() == sets(z_t="z_{t-3:t-1}", x_t="z_t z_{t-2} z_{t-4}")
    assert spec.exact_posterior() == sets(z_t="z_{t-4:t-1} x_{t:T}")


def test_a_skipping_recurrence_has_no_range():
    spec = DependencySpec("h_t <- h_{t-2}, z_t\nz_t ~\nx_t ~ h_t")
    with pytest.raises(ValueError, match="not a union of ranges"):
        spec.compact()
    assert set(spec.unroll(5).predecessors(("x", 5))) == {("z", 1), ("z", 3), ("z", 5)}  # the graph itself is fine


def test_the_first_and_last_frame_may_be_named():
    spec = DependencySpec("z_t ~ z_{t-1}\nx_t ~ z_t, z_T")
    assert spec.compact()["x_t"] == {"z_t", "z_T"}
    graph = spec.unroll(3)
    assert set(graph.pred["x", 3]) == {("z", 3)}
    assert set(graph.pred["x", 1]) == {("z", 1), ("z", 3)}


def test_unrolled_graphs():
    graph = review.DSAE_FULL.unroll(3, "inference", "developed")
    assert nx.is_directed_acyclic_graph(graph)
    assert set(graph.pred["gv", None]) == {("gv_fwd", 3), ("gv_bwd", 1)}
    assert graph.nodes["gz_bwd", 2]["kind"] == "deterministic"
    assert graph.nodes["v", None]["kind"] == "latent"
    assert graph.nodes["x", 1]["kind"] == "observed"
    assert not graph.pred["x", 1]
    assert {name for name, _ in review.SRNN.unroll(2, "inference", "developed")} == {"x", "h", "g_bwd", "z"}
    assert {name for name, _ in review.STORN.unroll(2, "inference", "developed")} == {"x", "g", "z"}
    one = review.VRNN.unroll(1)
    assert set(one.edges) == {(("z", 1), ("x", 1))}


def test_shared_states_are_recognised():
    assert review.SRNN.shared == ("h",)
    assert review.VRNN.shared == ("h",)
    assert review.STORN.shared == ()


def test_every_variable_says_what_it_is_and_whether_it_has_frames():
    spec = review.DSAE_FULL
    framewise = {"h", "z", "x", "u", "gv_fwd", "gv_bwd", "gz_fwd", "gz_bwd", "gz"}
    assert set(spec.variables) == framewise | {"v", "gv"}
    assert {name for name in spec.variables if spec.is_framewise(name)} == framewise
    assert {name for name in spec.variables if spec.kind(name) == "latent"} == set(spec.latents)
    for ask in (spec.is_framewise, spec.kind):
        with pytest.raises(ValueError, match="no variable 'y'"):
            ask("y")
    whole = DependencySpec("x_t ~ c", inputs=("c",))
    assert not whole.is_framewise("c")


def test_latents_stand_in_the_order_of_inference():
    assert review.LADDER.latents == ("z2", "z1")
    assert review.KVAE.latents == ("a", "z")  # generation has z first
    assert DependencySpec("z_t ~ z_{t-1}\na_t ~ z_t\nx_t ~ a_t").latents == ("z", "a")
    assert review.VRAE.latents == ("v",)
    assert review.PREDICTIVE_GRNN.latents == ()
    assert review.PREDICTIVE_GRNN.exact_posterior() == {}


def test_names_are_given_in_a_tuple(as_a_user):
    assert DependencySpec("y_t ~", observed=["y"]) == DependencySpec("y_t ~", observed=("y",))
    with pytest.raises(TypeError, match="observed must be a tuple of names"):
        DependencySpec("y_t ~", observed="y")


def test_copies_share_what_was_unrolled():
    for copied in (copy.deepcopy(review.SRNN), pickle.loads(pickle.dumps(review.SRNN))):
        assert copied == review.SRNN
        assert copied.unroll(4) is review.SRNN.unroll(4)


def test_undriven():
    assert review.KVAE.used_inputs == ("u",)
    assert review.KVAE_UNDRIVEN.used_inputs == ()
    assert review.SRNN_DRIVEN.undriven().compact() == review.SRNN.compact()


# ---- generation mode -------------------------------------------------------------------------------------


def test_in_generation_mode_a_predictive_model_is_driven_by_its_latents():
    """p(x_t | z_{1:t}): Section 4.4.1."""
    for spec in (review.STORN, review.VRNN, review.SRNN):
        fed_back = spec.generation_mode()
        assert fed_back.compact()["x_t"] == {"z_{1:t}"}
        assert fed_back.compact("inference") == spec.compact("inference")
    assert review.STORN.generation_mode().compact()["z_t"] == frozenset()
    assert review.VRNN.generation_mode().compact()["z_t"] == {"z_{1:t-1}"}
    assert review.SRNN.generation_mode().compact()["z_t"] == {"z_{1:t-1}"}
    assert review.SRNN_DRIVEN.generation_mode().compact()["x_t"] == {"z_{1:t}", "u_{1:t}"}


def test_generation_mode_leaves_other_models_alone():
    for spec in (review.DKF, review.RVAE_NONCAUSAL, review.DSAE_FULL, review.KVAE_MIXED):
        assert spec.generation_mode().compact() == spec.compact()
        assert spec.generation_mode().exact_posterior() == spec.exact_posterior()


def test_generation_mode_changes_the_exact_posterior():
    """With its own output fed back, STORN is a causal RVAE, and its posterior has that one's structure."""
    assert review.STORN.generation_mode().exact_posterior() == EXACT["RVAE, causal"]


def test_generation_mode_needs_its_name():
    with pytest.raises(ValueError, match="xhat"):
        DependencySpec("xhat_t <- x_{t-1}\nx_t ~ xhat_t").generation_mode()


# ---- as a value ------------------------------------------------------------------------------------------


def test_specs_are_values():
    import copy
    import pickle

    twin = DependencySpec(review.SRNN.generation, review.SRNN.inference)
    assert twin == review.SRNN
    assert hash(twin) == hash(review.SRNN)
    assert copy.deepcopy(twin) == twin
    assert pickle.loads(pickle.dumps(twin)).compact() == twin.compact()
    with pytest.raises(AttributeError):
        twin.generation = ""


@every_model
def test_the_text_of_a_spec_parses_to_the_same(spec):
    generation, inference = str(spec).removeprefix("generation\n").split("\ninference\n")
    again = DependencySpec(generation, inference)
    assert str(again) == str(spec)
    assert again.exact_posterior() == spec.exact_posterior()


def test_references_come_in_the_order_of_formulas():
    exact = review.DSAE_FULL.exact_references()["z_t"]
    assert [str(r) for r in exact] == ["z_{1:t-1}", "v", "x_{t:T}"]
    assert all(isinstance(r, Reference) for r in exact)
