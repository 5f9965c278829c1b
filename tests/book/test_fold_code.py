"""Which code cells the site folds or leaves out."""

import json
from pathlib import Path

import pytest
from fold_code import kind_of, painters_in

BOOK = Path(__file__).resolve().parents[2] / "book"

FIGURE = """
figure, axes = plt.subplots(1, 2)
axes[0].plot(history, color=C["posterior"])
axes[1].axhline(0.0)
plt.show()
"""
TABLE = """
rows = []
for name, cost in costs.items():
    rows.append([name, f"{cost:.2f}"])
plotting.show_table(["model", "cost"], rows)
"""
CHECKS = """
assert together["smoother"] > 0.4
if choose(ci=False, book=True, full=True):
    assert width["whole"] < 0.8
torch.testing.assert_close(a, b)
"""
MODEL = """
class Own(DVAE):
    def generation(self, x, latents):
        figure, axes = plt.subplots()
        axes.plot(x)
        axes.plot(x)
"""
BY_HAND = """
nu = torch.sigmoid(gate(z))  # (B.1)
linear = d_z.linear(z)
mean = (1 - nu) * linear + nu * nonlinear
torch.testing.assert_close(d_z(z).mean, mean)
"""
TRAINED_AND_DRAWN = """
result = fit(model, corpus.train, corpus.validation, config)
figure, axis = plt.subplots()
axis.plot(result.history)
axis.set(xlabel="epoch")
"""
BOUND_AND_TABLE = """
rows = []
for model in models:
    rows.append([model, model.vlb(x).value.mean()])
plotting.show_table(["model", "bound"], rows)
"""


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        (FIGURE, "figure"),
        (TABLE, "table"),
        (CHECKS, "check"),
        (MODEL, None),
        (BY_HAND, None),
        (TRAINED_AND_DRAWN, None),
        (BOUND_AND_TABLE, None),
        ("DKF.spec.draw('inference')", None),
        ("print(model)", None),
        ("!pip install dvae-lib", None),
        ("# nothing but a remark", None),
        ("", None),
    ],
)
def test_kind(source, kind):
    assert kind_of(source) == kind


def test_a_check_that_prints_or_draws_is_read():
    assert kind_of(CHECKS + "print('they agree')") is None
    assert kind_of("graphs = draw_steps(spec)\nassert graphs[0] == graphs[1]", frozenset({"draw_steps"})) is None


def test_code_that_prepares_a_check_is_read_unless_the_notebook_sets_it_aside():
    source = "best = {name: min(values) for name, values in found.items()}\nassert best['SRNN'] < best['DKF']"
    assert kind_of(source) is None
    assert kind_of(source, aside=True) == "check"


def test_functions_that_draw():
    sources = [
        "def curve(axis, y):\n    axis.plot(y)",
        "def both(axes):\n    for axis in axes:\n        curve(axis, 1)",
        "def bound(x):\n    return model.vlb(x)",
        "%matplotlib inline",
    ]
    painters = painters_in(sources)
    assert painters == {"curve", "both"}
    assert kind_of("both(first)\nboth(second)\nboth(third)\nboth(fourth)", painters) == "figure"
    assert kind_of("bound(1)\nbound(2)\nbound(3)\nbound(4)", painters) is None


def test_the_book_folds_what_draws_and_keeps_what_teaches():
    """Over all notebooks: no class, no training and no use of a model is folded by the rule."""
    kinds = {"figure": 0, "table": 0, "check": 0}
    for path in [*BOOK.glob("*.ipynb"), *BOOK.glob("solutions/*.ipynb")]:
        cells = [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
        sources = ["".join(cell["source"]) for cell in cells]
        painters = painters_in(sources)
        for source in sources:
            if kind := kind_of(source, painters):
                kinds[kind] += 1
                assert "\nclass " not in source
                assert "fit(" not in source
                assert ".vlb(" not in source
    assert kinds["figure"] > 60
    assert kinds["table"] > 60
