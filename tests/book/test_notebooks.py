"""Notebooks as they are committed: no outputs, plain markdown, one language for all, prose that keeps its promises."""

import ast
import importlib
import json
import re
from pathlib import Path

import plain_markdown
import pytest
from first_cells import notebooks

ROOT = Path(__file__).parents[2]
NOTEBOOKS = notebooks()
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.relative_to(ROOT / "book").as_posix())


def cells_of(path: Path, kind: str) -> list[dict]:
    return [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == kind]


@each_notebook
def test_no_outputs_are_committed(path):
    for cell in cells_of(path, "code"):
        if "NBVAL_CHECK_OUTPUT" in "".join(cell["source"]):
            # nbstripout leaves what is tagged so
            assert "keep_output" in cell["metadata"].get("tags", []), cell["id"]
        else:
            assert cell["outputs"] == [], cell["id"]
            assert cell["execution_count"] is None, cell["id"]


@each_notebook
def test_kernel_is_any_python(path):
    metadata = json.loads(path.read_text(encoding="utf-8"))["metadata"]
    assert metadata["kernelspec"]["name"] == "python3"
    assert "widgets" not in metadata


@each_notebook
def test_cells_fit_a_screen(path):
    for cell in cells_of(path, "code")[1:]:
        assert len(cell["source"]) <= 40, f"cell {cell['id']} is longer than a screen"


@each_notebook
def test_places_that_links_name_are_there(path):
    """Sphinx finds them missing only when the whole book is built."""
    prose = "\n".join("".join(cell["source"]) for cell in cells_of(path, "markdown"))
    for page, place in re.findall(r"\]\(([\w./-]*\.(?:ipynb|md)|)#([\w.:-]+)\)", prose):
        if not place.startswith("cite-"):
            target = (path.parent / page).read_text(encoding="utf-8") if page else prose
            marks = (f'id="{place}"', f'id=\\"{place}\\"', f"({place})=")
            assert any(mark in target for mark in marks), f"{page}#{place}"


@each_notebook
def test_tables_are_shown(path):
    """A notebook displays the value of a cell's last line, and of no other; elsewhere it takes `display`."""
    for cell in cells_of(path, "code")[1:]:
        lines = "".join(cell["source"]).splitlines()
        tree = ast.parse("\n".join("" if line.startswith(("%", "!")) else line for line in lines))
        alone = [node for node in ast.walk(tree) if isinstance(node, ast.Expr) and node is not tree.body[-1]]
        lost = [
            text for node in alone if (text := ast.unparse(node)).startswith(("plotting.show_table(", "show_table("))
        ]
        assert not lost, f"cell {cell['id']}: {lost}"


# The experiments' pages are programs over result files, in which one table is one expression.
EXPERIMENTS = re.compile(r"13[bd]_|solutions/13[a-d]_")
to_be_read = pytest.mark.parametrize(
    "path",
    [path for path in NOTEBOOKS if not EXPERIMENTS.match(path.relative_to(ROOT / "book").as_posix())],
    ids=lambda path: path.relative_to(ROOT / "book").as_posix(),
)


@to_be_read
def test_code_is_read_without_scrolling(path):
    """The site's column shows so many characters, and Colab's not many more."""
    for cell in cells_of(path, "code")[1:]:
        too_long = [line for line in code_lines("".join(cell["source"])) if len(line) > 94]
        assert not too_long, f"cell {cell['id']}: {too_long}"


def code_lines(source: str) -> list[str]:
    """The lines of a cell, but for those of Markdown that it computes: they are wrapped where they are shown."""
    within: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        for written in node.args if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Markdown" else ():
            within |= set(range(written.lineno + 1, (written.end_lineno or written.lineno) + 1))
    return [line.rstrip("\n") for number, line in enumerate(source.splitlines(), 1) if number not in within]


@to_be_read
def test_open_cells_can_be_taken_in(path):
    """More than two dozen statements at once nobody reads; they are divided, folded or moved to the library."""
    for cell in cells_of(path, "code")[1:]:
        if not {"hide-input", "remove-input", "remove-cell"} & set(cell["metadata"].get("tags", [])):
            assert statements("".join(cell["source"])) < 25, f"cell {cell['id']}"


def statements(source: str) -> int:
    """How many statements there are, without those that are nothing but a text."""
    texts = (ast.Constant, ast.JoinedStr)
    found = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.stmt)]
    return sum(not (isinstance(node, ast.Expr) and isinstance(node.value, texts)) for node in found)


@to_be_read
def test_tables_are_made_by_one_call(path):
    """`plotting.show_table` takes rows; a table glued from strings hides what it shows."""
    for cell in cells_of(path, "code"):
        assert not re.search(r'"\|---|\|---"', "".join(cell["source"])), f"cell {cell['id']}"


def test_long_lines_and_many_statements_are_noticed():
    line = "x = 1  # " + "-" * 90
    assert [len(found) > 94 for found in code_lines(f"{line}\nx = 2")] == [True, False]
    assert code_lines(f'Markdown("""short\n{line}""")') == ['Markdown("""short']
    assert statements('"""Text."""\nif x:\n    y = 1\n    z = 2') == 3


@each_notebook
def test_figures_have_alternative_text(path):
    """A cell that draws says what is to be seen, for readers who cannot see it."""
    for cell in cells_of(path, "code"):
        if re.search(r"plt\.subplots|\.draw\(|plot_spectrograms?\(", "".join(cell["source"])):
            alt = cell["metadata"].get("mystnb", {}).get("image", {}).get("alt", "")
            tags = cell["metadata"].get("tags", [])
            assert len(alt) > 10 or "remove-output" in tags or defines_only(cell), f"cell {cell['id']} lacks alt text"


@each_notebook
def test_no_more_is_taken_from_a_corpus_than_it_has(path):
    """How many sequences there are depends on the corpus at hand, so that a fixed number may reach beyond its end."""
    for cell in cells_of(path, "code"):
        reaching = taken_by_a_fixed_number("".join(cell["source"]))
        assert not reaching, f"cell {cell['id']}: {reaching}; write range(min(len(data), choose(...)))"


def taken_by_a_fixed_number(source: str) -> list[str]:
    """Comprehensions with ``data[i] for i in range(choose(...))``, where a reader's budget is a number."""
    found = []
    for node in ast.walk(ast.parse(source)):
        for loop in getattr(node, "generators", ()):
            match loop.iter:
                case ast.Call(ast.Name("range"), [ast.Call(ast.Name("choose"), [], budgets)]):
                    number = any(isinstance(b.value, ast.Constant) for b in budgets if b.arg != "ci")
                    taken = {ast.unparse(n.slice) for n in ast.walk(node) if isinstance(n, ast.Subscript)}
                    found += [ast.unparse(node)] if number and ast.unparse(loop.target) in taken else []
    return found


def test_a_fixed_number_is_noticed():
    assert taken_by_a_fixed_number("[data[i] for i in range(choose(ci=2, book=300, full=len(data)))]")
    assert not taken_by_a_fixed_number("[data[i] for i in range(min(len(data), choose(ci=2, book=300, full=300)))]")
    assert not taken_by_a_fixed_number("[data[i] for i in range(choose(ci=2, book=len(data), full=len(data)))]")


def defines_only(cell: dict) -> bool:
    """Whether a cell holds nothing but definitions, so that it draws nothing itself."""
    return all(re.match(r"(def |class |@|\s|#|\)|import |from |$)", line) for line in cell["source"])


@each_notebook
def test_markdown_is_plain(path):
    """What Colab and JupyterLab would show raw does not belong into a notebook."""
    for cell in cells_of(path, "markdown"):
        text = "".join(cell["source"])
        for kind, block in plain_markdown.blocks(text):
            if kind == "prose":
                assert not re.search(r"^:::|^\(\w[\w-]*\)=$|\{(ref|eq|cite|doc|numref)[^}]*\}`", block, re.MULTILINE), (
                    block
                )
        assert len(plain_markdown.TAG.findall(text)) == sum(
            bool(plain_markdown.TAG.search(block)) for block in math_blocks(text)
        ), "one \\tag for each $$ block"


def math_blocks(text: str) -> list[str]:
    found = []
    for kind, block in plain_markdown.blocks(text):
        found += [block] if kind == "math" else math_blocks(plain_markdown.unquote(block)) if kind == "quote" else []
    return found


@each_notebook
def test_named_parts_of_the_library_exist(path):
    for cell in cells_of(path, "markdown"):
        for name in re.findall(r"(?<!`)`(dvae_lib(?:\.\w+)+)(?:\([^`]*\))?`(?!`)", "".join(cell["source"])):
            assert exists(name), name


def exists(name: str) -> bool:
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:cut]))
        except ImportError:
            continue
        for part in parts[cut:]:
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


def test_every_reference_to_the_book_is_answered():
    """An equation number in prose that looks like one of a written chapter names an equation that is there."""
    paths = [*NOTEBOOKS, *(ROOT / "book").glob("*.md")]
    pages = {path.relative_to(ROOT).with_suffix("").as_posix(): path for path in paths}
    texts = {name: plain_markdown.markdown_of(path.read_text(encoding="utf-8"), path) for name, path in pages.items()}
    index = plain_markdown.Index.of_pages(texts)
    complete = {label.split("-")[1] for label in index.targets if re.fullmatch(r"eq-\d+-1", label)}
    missing = set()
    for name, text in texts.items():
        for kind, block in plain_markdown.blocks(text):
            if kind != "prose":
                continue
            prose = plain_markdown.INLINE.sub("", block)
            for number in plain_markdown.EQUATION.findall(prose):
                label = plain_markdown.equation_label(number)
                if "." in number and label.split("-")[1] in complete and label not in index.targets:
                    missing.add(f"{name}: ({number})")
    assert missing == set()


@each_notebook
def test_speech_is_asked_for_and_not_one_corpus_of_it(path):
    """`prompts` needs apt: a chapter that asks for it by name runs on no other machine. Chapter 13 is about corpora."""
    if not path.stem.startswith("13"):
        for cell in cells_of(path, "code"):
            assert not re.search(r"load_(corpus|source)\(\s*\"prompts\"", "".join(cell["source"])), cell["id"]
