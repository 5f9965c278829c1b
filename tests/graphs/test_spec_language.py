"""The parser accepts the language and points at what is not of it."""

import pytest

from dvae_lib.graphs import DependencySpec, Index, Reference, SpecError
from dvae_lib.graphs.language import parse_block


def test_a_block_says_what_it_says():
    first, second, third = parse_block(
        """
        h_t <- x_{t-1}, h_{ t - 1 }, v   # a state
        z_t ~ z_{t-2:t-1}, x_{1:T}, y_T

        v ~
        """,
        "generation",
    )
    assert str(first) == "h_t <- x_{t-1}, h_{t-1}, v"
    assert not first.random
    assert first.framewise
    assert str(second) == "z_t ~ z_{t-2:t-1}, x_{1:T}, y_T"
    assert second.random
    assert str(third) == "v ~"
    assert not third.framewise
    assert (second.line, second.column) == (2, 9)


@pytest.mark.parametrize(
    ("text", "name", "index"),
    [
        ("gz_fwd_t", "gz_fwd", "t"),
        ("gv_fwd_T", "gv_fwd", "T"),
        ("gv_bwd_1", "gv_bwd", "1"),
        ("gz_fwd_{t-1}", "gz_fwd", "t-1"),
        ("gv", "gv", None),
        ("t_t", "t", "t"),
    ],
)
def test_names_may_have_underscores(text, name, index):
    (statement,) = parse_block(f"x_t ~ {text}", "generation")
    (parent,) = statement.parents
    assert parent.name == name
    assert (None if parent.first is None else str(parent.first)) == index


@pytest.mark.parametrize(
    "text", ["z_t", "z_{t-1}", "x_{1:T}", "x_{t+1:T}", "x_{1:t-1}", "x_{t-1:t+1}", "v", "a_1", "a_T"]
)
def test_references_are_written_as_they_are_read(text):
    (statement,) = parse_block(f"x_t ~ {text}", "generation")
    assert str(statement.parents[0]) == text


def test_indices_name_frames():
    reference = Reference("x", Index("t", -2), Index("T"))
    assert list(reference.times(4, 6)) == [2, 3, 4, 5, 6]
    assert list(reference.times(1, 3)) == [1, 2, 3]  # what lies before the first frame drops out
    assert list(Reference("x", Index("t", 1), Index("t", 1)).times(6, 6)) == []
    assert list(Reference("v").times(2, 6)) == [None]


# Each: the generation block, and where the complaint must point, and what it must say.
BAD = {
    "no arrow": ("z_t z_{t-1}\nx_t ~ z_t", 1, 1, "expected '<-'"),
    "unknown variable": ("z_t ~ z_{t-1}\nx_t ~ z_t, y_t", 2, 12, "unknown variable 'y'"),
    "a typing error is guessed": ("hid_t <- x_{t-1}\nx_t ~ hidd_t", 2, 7, "Did you mean 'hid'?"),
    "an index that is no number": ("x_t ~ x_{t-k}", 1, 10, "'t-k' is not an index"),
    "a number as an index": ("x_t ~ x_{t-1}, x_3", 1, 18, "'3' is not an index"),
    "T-1": ("x_t ~ x_{1:T-1}", 1, 12, "'T-1' is not an index"),
    "an unfinished index": ("x_t ~ x_{t-}", 1, 10, "'t-' is not an index"),
    "an empty index": ("x_t ~ x_{}", 1, 10, "'' is not an index"),
    "an index without braces": ("x_t ~ x_t-1", 1, 9, "in braces"),
    "two colons": ("x_t ~ x_{1:t:T}", 1, 10, "more than one colon"),
    "a range that runs backwards": ("x_t ~ x_{t-1:1}", 1, 10, "runs backwards"),
    "a range that runs backwards from t": ("x_t ~ x_{t-1:t-2}", 1, 10, "runs backwards"),
    "a trailing comma": ("z_t ~\nx_t ~ z_t,", 2, 11, "found nothing"),
    "a doubled comma": ("z_t ~\nx_t ~ z_t, , z_{t-1}", 2, 12, "found nothing"),
    "no variable": ("z_t ~\nx_t ~ 2z_t", 2, 7, "expected a variable"),
    "nothing on the left": (" ~ x_t\nx_t ~", 1, 2, "the variable on the left"),
    "a time on the left": ("z_1 ~\nx_t ~ z_t", 1, 1, "drop out"),
    "a range on the left": ("z_{1:T} ~\nx_t ~ z_t", 1, 1, "drop out"),
    "defined twice": ("z_t ~\nx_t ~ z_t\n  z_t ~ z_{t-1}", 3, 3, "already defined in line 1"),
    "a constant": ("h_t <-\nx_t ~ h_t", 1, 1, "constant"),
    "a missing index": ("z_t ~\nx_t ~ z", 2, 7, "needs an index"),
    "an index too many": ("v ~\nx_t ~ v_t", 2, 7, "takes no index"),
    "t where there is no t": ("v ~ x_{t-1}\nx_t ~", 1, 5, "belongs to the whole sequence"),
    "an input with a line": ("u_t ~\nx_t ~ u_t", 1, 1, "external input"),
    "a cycle within a frame": ("h_t <- g_t\ng_t <- h_t\nx_t ~ h_t", None, None, "a cycle in the unrolled graph"),
    "a cycle over frames": ("h_t <- g_{t+1}\ng_t <- h_{t-1}\nx_t ~ h_t", None, None, "a cycle in the unrolled graph"),
    "a cycle over many frames": (
        "h_t <- g_{t+3}\ng_t <- k_{t-2}\nk_t <- h_{t-1}\nx_t ~ h_t", None, None, "a cycle in the unrolled graph"
    ),
    "its own parent": ("x_t ~ x_{1:T}", 1, 7, "x_1 <- x_1"),
    "its own parent at the first frame": ("z_t ~\nx_t ~ z_t, x_1", 2, 12, "x_1 <- x_1"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "line", "column", "message"), BAD.values(), ids=BAD)
def test_errors_point_at_the_place(text, line, column, message):
    with pytest.raises(SpecError) as caught:
        DependencySpec(text)
    error = caught.value
    assert message in str(error)
    assert error.block == "generation"
    assert error.line > 0
    if line is not None:
        assert (error.line, error.column) == (line, column)
    *_, shown, pointer = str(error).split("\n")
    assert shown.strip() == text.split("\n")[error.line - 1].strip()
    assert pointer.index("^") - 4 == error.column - 1


def test_the_column_is_that_of_the_source_file():
    with pytest.raises(SpecError) as caught:
        DependencySpec(
            """
            z_t ~
            x_t ~ z_t, w_t
            """
        )
    assert (caught.value.line, caught.value.column) == (2, 24)


INFERENCE_BAD = {
    "no latent": ("y_t ~ x_t\nz_t ~ x_t", 1, 1, "not a latent variable"),
    "the data": ("z_t ~ x_t\nx_t ~ z_t", 2, 1, "not a latent variable"),
    "a state defined again": ("h_t <- x_t\nz_t ~ h_t", 1, 1, "already defined by generation"),
    "of another kind": ("z ~ x_{1:T}", 1, 1, "z here, but z_t in generation"),
    "unknown": ("z_t ~ g_t", 1, 7, "unknown variable 'g'"),
    "a cycle": ("g_t <- z_t\nz_t ~ g_t", None, None, "a cycle in the unrolled graph of inference"),
}


@pytest.mark.parametrize(("text", "line", "column", "message"), INFERENCE_BAD.values(), ids=INFERENCE_BAD)
def test_errors_of_inference(text, line, column, message):
    with pytest.raises(SpecError) as caught:
        DependencySpec("h_t <- x_{t-1}, h_{t-1}\nz_t ~ h_t\nx_t ~ z_t, h_t", text)
    assert message in str(caught.value)
    assert caught.value.block == "inference"
    if line is not None:
        assert (caught.value.line, caught.value.column) == (line, column)


def test_a_cycle_through_a_shared_state_is_found_at_inference():
    # h_t depends on z_t: harmless in generation, a cycle once inference makes z_t depend on h_t.
    with pytest.raises(SpecError, match="cycle in the unrolled graph of inference"):
        DependencySpec("h_t <- z_t, h_{t-1}\nz_t ~\nx_t ~ h_t", "z_t ~ h_t, x_t")


def test_blocks_must_be_complete():
    with pytest.raises(SpecError, match="'x' needs a line"):
        DependencySpec("z_t ~ z_{t-1}")
    with pytest.raises(SpecError, match="no line infers a"):
        DependencySpec("z_t ~\na_t ~ z_t\nx_t ~ a_t", "z_t ~ x_t")
    DependencySpec("z_t ~\ny_t ~ z_t", observed=("y",))


def test_inputs_may_belong_to_the_whole_sequence():
    spec = DependencySpec("z_t ~ c\nx_t ~ z_t, u_t", inputs=("u", "c"))
    assert spec.compact() == {"z_t": {"c"}, "x_t": {"z_t", "u_t"}}
    assert set(spec.unroll(2).predecessors(("z", 2))) == {("c", None)}


def test_random_text_never_breaks_the_parser():
    """Whatever is typed, the answer is a spec or a `SpecError`."""
    import random

    rng = random.Random(0)
    pieces = ["x_t", "z_{t-1}", "~", "<-", ",", " ", "{", "}", "_", "t", "1:", "\n", "#", "v", "h_{1:T}", "-", "T"]
    for _ in range(3000):
        text = "x_t ~ z_t\n" + "".join(rng.choices(pieces, k=rng.randint(1, 12)))
        try:
            DependencySpec(text)
        except SpecError as error:
            assert error.block == "generation"  # noqa: PT017  anything else propagates
