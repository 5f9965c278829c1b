from types import SimpleNamespace

import api_reference
import pytest


def test_names_lead_to_where_they_are_defined():
    assert api_reference.defining_name("dvae_lib.plotting.use_style") == "dvae_lib.plotting.style.use_style"
    assert api_reference.defining_name("dvae_lib.plotting.spectrograms.Axes") == "matplotlib.axes._axes.Axes"
    assert api_reference.defining_name("dvae_lib.no.such.name") == "dvae_lib.no.such.name"


@pytest.mark.parametrize(
    ("line", "linked"),
    [
        ("The bound, Eq. (2.10).", "The bound, Eq. :ref:`(2.10) <eq-2-10>`."),
        ("Eqs. (2.10)-(2.77)", "Eqs. :ref:`(2.10) <eq-2-10>`-(2.77)"),
        ("``Eq. (2.10)`` in code", "``Eq. (2.10)`` in code"),
        ("a factor (2.10) of gain", "a factor (2.10) of gain"),
        ("mean: (*batch, T), ``(*batch, T)``", "mean: (\\*batch, T), ``(*batch, T)``"),
        ("[r_j]_x", "[r_j]\\_x"),
    ],
)
def test_docstrings_are_linked(line, linked):
    index = SimpleNamespace(targets={"eq-2-10": "book/02_variational_autoencoders"})
    app = SimpleNamespace(env=SimpleNamespace(plain_markdown_index=index))
    lines = [line]
    api_reference.link_equations(app, "function", "f", None, None, lines)
    assert lines == [linked]
