"""One voice: messages, arguments and examples have one form in the whole library."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "dvae_lib").rglob("*.py"))
ENTRIES = ("Arguments", "Attributes", "Raises")  # sections of entries "name: text"
PROSE = ("Returns", "Yields")
SECTION = re.compile(r"(Arguments|Attributes|Raises|Returns|Yields|Example|Examples|References|Note|Notes|Warning):$")


def endings(message: ast.expr) -> Iterator[str]:
    """The last words of a message, of each of its branches."""
    if isinstance(message, ast.Constant) and isinstance(message.value, str):
        yield message.value
    elif isinstance(message, ast.JoinedStr):
        last = message.values[-1]
        if isinstance(last, ast.Constant):
            yield str(last.value)
    elif isinstance(message, ast.BinOp):
        yield from endings(message.right)
    elif isinstance(message, ast.IfExp):
        yield from endings(message.body)
        yield from endings(message.orelse)


def docstrings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield node.body[0].lineno, text


def sections(text: str) -> Iterator[tuple[str, list[str]]]:
    """The sections of a docstring with their lines, the indentation of the section taken off."""
    title, lines = "", []
    for line in [*text.splitlines(), "."]:
        if title and line and not line.startswith(" "):
            yield title, [entry[4:] for entry in lines]
            title = ""
        if SECTION.match(line):
            title, lines = line[:-1], []
        elif title:
            lines.append(line)


def entries(title: str, lines: list[str]) -> Iterator[str]:
    """The texts of a section's entries, without their names."""
    if title in PROSE:
        yield " ".join(line.strip() for line in lines).strip()
        return
    for entry in re.split(r"\n(?=\S)", "\n".join(lines).strip()):
        name, colon, text = entry.partition(":")
        if colon and re.fullmatch(r"[\w.*, ]+", name):
            yield " ".join(text.split())
        else:
            yield entry


@pytest.mark.parametrize("path", FILES, ids=[p.relative_to(ROOT / "dvae_lib").as_posix() for p in FILES])
def test_one_voice(path):
    """Errors do not end with a full stop; entries begin with a capital or a symbol and do; examples have one name."""
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source)
    faults = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
            for end in endings(node.exc.args[0]):
                if end.endswith(".") and not end.endswith(".."):
                    faults.append(f"{node.lineno}: the message ends with a full stop: {end[-40:]!r}")
    for line, text in docstrings(tree):
        found = dict(sections(text))
        if ">>>" in text and "Example" not in found:
            faults.append(f"{line}: an example that does not stand under 'Example:'")
        if "Examples" in found:
            faults.append(f"{line}: 'Examples:' instead of 'Example:'")
        if role := re.search(r":(func|class|meth|mod|attr|data):`", text):
            faults.append(f"{line}: {role[0]} instead of backticks")
        for title in (*ENTRIES, *PROSE):
            for entry in entries(title, found.get(title, [])):
                if re.match(r"(?!log )[a-z]{2,}[ ,.;]|a ", entry):
                    faults.append(f"{line}: an entry of {title} begins with a small letter: {entry[:50]!r}")
                if entry and not re.search(r"[.!?:]\)?[\"`']*$", entry) and ".. math::" not in entry:
                    faults.append(f"{line}: an entry of {title} does not end with a full stop: {entry[-50:]!r}")
    assert not faults, "\n".join(faults)
