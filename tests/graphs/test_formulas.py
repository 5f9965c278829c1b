"""The formulas are the review's, for every model."""

import re

import pytest
import review_specs as review
from review_specs import MODELS

from dvae_lib.graphs import DependencySpec
from dvae_lib.graphs.formulas import default_symbol


def plain(latex: str) -> str:
    """A formula as one would type it: ``p(x_t|z_t)``."""
    latex = re.sub(r"\\(?:mathbf|mathrm|mathcal|mathbb)\{(\w+)\}", r"\1", latex)
    latex = re.sub(
        r"_\{\\theta(?:_\{\w\})?\}|_\{\\phi\}|\\(?:q?quad|big|,|begin\{aligned\}|end\{aligned\})|[&\s]|\\\\", "", latex
    )
    latex = (
        latex.replace(r"\mid", "|")
        .replace(r"\|", "||")
        .replace(r"\prod_{t=1}^{T}", "Π")
        .replace(r"\sum_{t=1}^{T}", "Σ")
    )
    latex = latex.replace(r"\log", "log ").replace("D_{KL}", "KL").replace(r"\theta,\phi;", "")
    return re.sub(r"_\{([^{}]*)\}", r"_\1", re.sub(r"_\{([^{}]*)\}", r"_\1", latex))


JOINT = {
    "DKF, driven": "p(x_1:T,z_1:T|u_1:T)=Πp(x_t|z_t)p(z_t|z_t-1,u_t)",
    "KVAE": "p(x_1:T,a_1:T,z_1:T|u_1:T)=Πp(x_t|a_t)p(a_t|z_t)p(z_t|z_t-1,u_t)",  # (6.7)
    "STORN": "p(x_1:T,z_1:T)=Πp(x_t|x_1:t-1,z_1:t)p(z_t)",  # (7.10)
    "VRNN": "p(x_1:T,z_1:T)=Πp(x_t|x_1:t-1,z_1:t)p(z_t|z_1:t-1,x_1:t-1)",  # (8.8)
    "SRNN": "p(x_1:T,z_1:T)=Πp(x_t|x_1:t-1,z_t)p(z_t|z_t-1,x_1:t-1)",  # (9.7)
    "RVAE, noncausal": "p(x_1:T,z_1:T)=Πp(x_t|z_1:T)p(z_t)",  # (10.15)
    "DSAE, full": "p(x_1:T,z_1:T,v)=p(v)Πp(x_t|z_t,v)p(z_t|z_1:t-1)",  # (11.1)
}
POSTERIOR = {
    "STORN": "q(z_1:T|x_1:T)=Πq(z_t|x_1:t)",  # (7.19)
    "VRNN": "q(z_1:T|x_1:T)=Πq(z_t|z_1:t-1,x_1:t)",  # (8.14)
    "SRNN": "q(z_1:T|x_1:T)=Πq(z_t|z_t-1,x_1:T)",  # (9.13)
    "RVAE, causal": "q(z_1:T|x_1:T)=Πq(z_t|z_1:t-1,x_t:T)",  # (10.23)
    "DSAE, full": "q(v,z_1:T|x_1:T)=q(v|x_1:T)Πq(z_t|v,x_1:T)",  # (11.11), (11.22)
}
EXACT = {
    "SRNN": "p(z_1:T|x_1:T)=Πp(z_t|z_t-1,x_1:T)",  # (9.8)
    "DSAE, full": "p(v,z_1:T|x_1:T)=p(v|x_1:T)Πp(z_t|z_1:t-1,v,x_t:T)",  # (11.9)
    "DKF, driven": "p(z_1:T|x_1:T,u_1:T)=Πp(z_t|z_t-1,x_t:T,u_t:T)",  # (5.2)
}
VLB = {
    "DKF, driven": "L(x_1:T,u_1:T)=ΣE_q(z_t|x_1:T,u_1:T)[log p(x_t|z_t)]"
    "-ΣE_q(z_t-1|x_1:T,u_1:T)[KL(q(z_t|z_t-1,x_t:T,u_t:T)||p(z_t|z_t-1,u_t))]",  # (5.10)
    "STORN": "L(x_1:T)=ΣE_q(z_1:t|x_1:T)[log p(x_t|x_1:t-1,z_1:t)]-ΣKL(q(z_t|x_1:t)||p(z_t))",  # (7.22)
    "VRNN": "L(x_1:T)=ΣE_q(z_1:t|x_1:T)[log p(x_t|x_1:t-1,z_1:t)]"
    "-ΣE_q(z_1:t-1|x_1:T)[KL(q(z_t|z_1:t-1,x_1:t)||p(z_t|z_1:t-1,x_1:t-1))]",  # (8.15)
    "SRNN": "L(x_1:T)=ΣE_q(z_t|x_1:T)[log p(x_t|x_1:t-1,z_t)]"
    "-ΣE_q(z_t-1|x_1:T)[KL(q(z_t|z_t-1,x_1:T)||p(z_t|z_t-1,x_1:t-1))]",  # (9.15)
    "RVAE, causal": "L(x_1:T)=ΣE_q(z_1:t|x_1:T)[log p(x_t|z_1:t)]"
    "-ΣE_q(z_1:t-1|x_1:T)[KL(q(z_t|z_1:t-1,x_t:T)||p(z_t))]",  # (10.32)
    "DSAE, full": "L(x_1:T)=ΣE_q(z_t,v|x_1:T)[log p(x_t|z_t,v)]-KL(q(v|x_1:T)||p(v))"
    "-ΣE_q(z_1:t-1,v|x_1:T)[KL(q(z_t|v,x_1:T)||p(z_t|z_1:t-1))]",  # (11.24)
}
CASES = [
    (kind, name, text)
    for kind, table in (("joint", JOINT), ("posterior", POSTERIOR), ("exact", EXACT), ("vlb", VLB))
    for name, text in table.items()
]


@pytest.mark.parametrize(("kind", "name", "text"), CASES, ids=[f"{kind}-{name}" for kind, name, _ in CASES])
def test_formulas_are_the_reviews(kind, name, text):
    assert plain(MODELS[name].latex(kind)) == text


def test_a_divergence_is_written_only_where_it_is_one():
    """KVAE infers a first: its prior p(a_t|z_t) looks at a z drawn after a, so that term is no KL divergence."""
    bound = plain(review.KVAE_UNDRIVEN.latex("vlb"))
    assert "+ΣE_q(a_t,z_t|x_1:T)[log p(a_t|z_t)-log q(a_t|x_t)]" in bound
    assert "-ΣE_q(z_t-1,a_t:T|x_1:T)[KL(q(z_t|z_t-1,a_t:T)||p(z_t|z_t-1))]" in bound
    # Sampled backwards, q(z_t|z_{t+1}) has z_{t-1} among its descendants.
    assert "KL" not in plain(review.KVAE_BACKWARD.latex("vlb"))


def test_models_without_latents_have_a_likelihood():
    assert plain(review.GRNN.latex("joint")) == "p(x_1:T|u_1:T)=Πp(x_t|u_1:t)"
    assert plain(review.GRNN.latex("vlb")) == "L(x_1:T,u_1:T)=Σlog p(x_t|u_1:t)"  # (3.8)


def test_a_formula_that_needs_inference_says_so():
    with pytest.raises(ValueError, match="no inference block"):
        review.SSM.latex("vlb")


@pytest.mark.parametrize(
    ("name", "latex"),
    [
        ("z", r"\mathbf{z}"),
        ("g_bwd", r"\overleftarrow{\mathbf{g}}"),
        ("gz_fwd", r"\overrightarrow{\mathbf{g}}^{\mathbf{z}}"),
        ("gv", r"\mathbf{g}^{\mathbf{v}}"),
        ("alpha", r"\boldsymbol{\alpha}"),
        ("h_true", r"\mathbf{h}^{\mathrm{true}}"),
        ("z2", r"\mathbf{z}^{(2)}"),  # a level, and no power
    ],
)
def test_symbols(name, latex):
    assert default_symbol(name) == latex


def test_symbols_can_be_given():
    spec = DependencySpec("w_t ~\nx_t ~ w_t", symbols={"w": r"\boldsymbol{\omega}"})
    assert r"\boldsymbol{\omega}_{1:T}" in spec.latex("joint")
    assert spec == DependencySpec("w_t ~\nx_t ~ w_t")  # a matter of print, not of the model


@pytest.mark.parametrize("spec", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("kind", ["joint", "posterior", "exact", "vlb"])
def test_braces_balance(spec, kind):
    latex = spec.latex(kind)
    assert latex.count("{") == latex.count("}")
    assert latex.count("(") == latex.count(")")


@pytest.mark.parametrize("kind", ["posterior", "exact"])
def test_without_latent_variables_there_is_no_posterior(kind):
    with pytest.raises(ValueError, match="no latent variables"):
        review.PREDICTIVE_GRNN.latex(kind)
    assert "mid" not in DependencySpec("x_t ~").latex("vlb")


def test_conditions_are_written_as_formulas():
    spec = DependencySpec("v ~\nz_t ~ z_{t-1}, v\nx_t ~ z_t")
    assert spec.conditions({"x_{1:t-1}", "z_t", "v"}) == r"$\mathbf{z}_t$, $\mathbf{x}_{1:t-1}$, $\mathbf{v}$"
    assert spec.conditions([]) == "–"
    assert spec.conditions(["gz_fwd_t"]) == rf"${spec.symbol('gz_fwd')}_t$"
