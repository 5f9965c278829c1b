"""Fold what is not for reading: on the site, the code of a figure or a table, and cells that only check the prose.

The notebooks carry no mark for it. A rule looks at each code cell while Sphinx reads the page:

- a cell that only *draws*, or only builds a table, is folded under the line "code of this figure" (or "table");
- a cell that holds *assertions* alone is left out of the page: it guards what the text says and shows nothing.

Everything else stays as it is: the models' code, the mathematics by hand, training, and what a notebook's own tags
say. Notebooks in Colab and JupyterLab are not touched.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

# What draws, builds a table or plays, by the name that is called.
TABLES = {"show_table", "table"}
DRAWINGS = {
    "subplots", "figure", "plot", "bar", "barh", "hist", "scatter", "imshow", "pcolormesh", "contour", "contourf",
    "errorbar", "fill_between", "axhline", "axvline", "axvspan", "axhspan", "step", "stem", "violinplot", "boxplot",
    "annotate", "text", "set_title", "set_xlabel", "set_ylabel", "legend", "savefig", "colorbar", "matshow",
    "draw_networkx", "show_audio", "animate_skeletons", "imread", "quiver", "set_xticks", "set_yticks", "set", "axis",
    "grid",
}  # fmt: skip
ROWS = {"rows", "row", "head", "heads", "header", "headers"}
# Axes are named so in this book; `model.step` draws nothing.
AXES = {"plt", "axis", "axes", "ax", "figure", "fig", "column", "row", "top", "bottom", "left", "right", "plotting"}
# What a reader comes for: a cell that calls one of these is never only a drawing.
WORK = {
    "vlb", "inference", "generation", "generate", "reconstruct", "forward", "backward", "fit", "fit_em", "train",
    "propose", "context", "smc_bound", "importance_weighted_bound", "kalman_filter", "kalman_smoother",
    "load_state_dict", "from_pretrained", "build_model", "verify_dependencies", "optimiser", "grad", "LBFGS",
    "Adam", "check_model",
}  # fmt: skip
# What a reader sees of a cell without its code.
SHOWS = {"print", "display", "show", "draw", "Math", "HTML"}
SHORT = 4  # lines; less is not worth a click
PROMPT, HIDE = "code", "hide the code"
PROMPTS = {"figure": "code of this figure", "table": "code of this table"}


def kind_of(source: str, painters: frozenset[str] = frozenset(), *, aside: bool = False) -> str | None:
    """What a code cell is for: ``figure``, ``table`` or ``check``, or None where it is to be read.

    Arguments:
        source: The cell's code. What is not Python (a shell line, a magic) is to be read.
        painters: Functions that the notebook defines and that draw.
        aside: Whether the notebook itself sets the cell aside (`hide-input`): a third of assertions is then enough.
    """
    body = statements(source)
    if not body:
        return None
    if only_checks(body, painters, share=1 / 3 if aside else 3 / 4):
        return "check"
    if sum(map(lines_of, body)) < SHORT:
        return None
    return drawn(body, painters)


def statements(source: str) -> list[ast.stmt]:
    """What a cell consists of; nothing if it is not Python."""
    try:
        return ast.parse(source).body
    except SyntaxError:
        return []


def painters_in(sources: Iterable[str]) -> frozenset[str]:
    """The functions of a notebook whose body draws, and those that call them."""
    defined = [s for source in sources for s in statements(source) if isinstance(s, ast.FunctionDef)]
    found: frozenset[str] = frozenset()
    for _ in range(3):  # one draws with another
        found |= {function.name for function in defined if draws(function, found) and not set(called(function)) & WORK}
    return found


def only_checks(body: list[ast.stmt], painters: frozenset[str], share: float) -> bool:
    """Whether so large a share of a cell are assertions, and the rest shows nothing and does no work."""
    checks = sum(map(lines_of, assertions(body)))
    names = {name for statement in body for name in called(statement)}
    if not checks or names & (SHOWS | TABLES | WORK) or any(draws(statement, painters) for statement in body):
        return False
    if any(isinstance(node, ast.ClassDef) for node in body):
        return False
    return checks >= share * sum(map(lines_of, body))


def assertions(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """The assertions of a cell, wherever they stand: ``assert`` and calls like ``torch.testing.assert_close``.

    A condition, a loop or a context that holds nothing else counts with its own lines.
    """
    for statement in body:
        if isinstance(statement, ast.Assert):
            yield statement
        elif isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
            if (name_of(statement.value.func) or "").startswith("assert_"):
                yield statement
        elif isinstance(statement, ast.If | ast.For | ast.With):
            inside = list(assertions(statement.body))
            if len(inside) == len(statement.body):
                yield statement
            else:
                yield from inside


def drawn(body: list[ast.stmt], painters: frozenset[str]) -> str | None:
    """``figure`` or ``table`` for code that does little else than make one."""
    sizes = {"figure": 0, "table": 0}
    other = 0
    for statement in body:
        names = set(called(statement))
        if isinstance(statement, ast.ClassDef) or names & WORK:
            return None
        if isinstance(statement, ast.Import | ast.ImportFrom | ast.Assert):
            continue
        if draws(statement, painters):
            sizes["figure"] += lines_of(statement)
        elif makes_table(statement) or fills_rows(statement):
            sizes["table"] += lines_of(statement)
        else:
            other += lines_of(statement)
    if not any(draws(statement, painters) or makes_table(statement) for statement in body):
        return None
    if sum(sizes.values()) <= other:
        return None
    return max(sizes, key=lambda kind: sizes[kind])


def draws(statement: ast.AST, painters: frozenset[str] = frozenset()) -> bool:
    """Whether a statement calls what draws or plays."""
    for node in ast.walk(statement):
        if isinstance(node, ast.Call):
            name = name_of(node.func) or ""
            if name.startswith("plot_") or name in {"show_audio", "animate_skeletons", "subplots"} | painters:
                return True
            if isinstance(node.func, ast.Attribute) and root_of(node.func) in AXES and name in DRAWINGS:
                return True
    return False


def makes_table(statement: ast.AST) -> bool:
    """Whether a statement shows a table: by the library, or as markdown of rows."""
    names = set(called(statement))
    read = {node.id for node in ast.walk(statement) if isinstance(node, ast.Name)}
    return bool(names & TABLES or ("Markdown" in names and read & ROWS))


def fills_rows(statement: ast.AST) -> bool:
    """Whether a statement collects the rows or the head of a table."""
    stored = {node.id for node in ast.walk(statement) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    calls = (node.func for node in ast.walk(statement) if isinstance(node, ast.Call))
    grown = {root_of(function) for function in calls if name_of(function) in {"append", "extend"}}
    return bool((stored | grown) & ROWS)


def called(statement: ast.AST) -> Iterator[str]:
    """The names of all that a statement calls, without what they belong to."""
    for node in ast.walk(statement):
        if isinstance(node, ast.Call) and (name := name_of(node.func)):
            yield name


def name_of(function: ast.expr) -> str | None:
    """``assert_close`` for ``torch.testing.assert_close``."""
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", None)


def root_of(function: ast.expr) -> str | None:
    """``axes`` for ``axes[0].twinx().plot``."""
    while isinstance(function, ast.Attribute | ast.Subscript | ast.Call):
        function = function.func if isinstance(function, ast.Call) else function.value
    return getattr(function, "id", None)


def lines_of(statement: ast.stmt) -> int:
    """How many lines a statement takes."""
    return (statement.end_lineno or statement.lineno) - statement.lineno + 1


# --- Sphinx -------------------------------------------------------------------------------------------------


def fold(app: Sphinx, doctree: nodes.document) -> None:
    """Fold or leave out the code of a page that has been read."""
    cells = [node for node in doctree.findall(nodes.container) if node.get("nb_element") == "cell_code"]
    sources = {id(cell): source_of(cell) for cell in cells}
    painters = painters_in(source.astext() for source in sources.values() if source is not None)
    for cell in cells:
        source = sources[id(cell)]
        if source is None:
            continue
        aside = cell.get("hide_mode") == "input"
        kind = kind_of(source.astext(), painters, aside=aside)
        if kind == "check":
            cell.remove(source)
            cell.attributes.pop("hide_mode", None)
            if not cell.children:
                cell.parent.remove(cell)
        elif aside or (kind and cell.get("hide_mode") is None):
            cell["hide_mode"] = "input"
            cell["prompt_show"] = PROMPTS.get(kind or "", PROMPT)
            cell["prompt_hide"] = HIDE


def source_of(cell: nodes.container) -> nodes.container | None:
    """The node that holds a cell's code; None where the notebook leaves the code out."""
    inside = (child for child in cell.children if isinstance(child, nodes.container))
    return next((child for child in inside if child.get("nb_element") == "cell_code_source"), None)


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.connect("doctree-read", fold)
    return {"version": "1.0", "parallel_read_safe": True, "parallel_write_safe": True}
