"""Arrange the graphs of the library's models and of the book beforehand, so that a reader need not wait for them.

python book/_tools/arrange_figures.py

It writes `data/layouts.json`: the arrangement of every panel that `DependencySpec.draw` shows of the models in all
their variants, driven or not, and of the specs that the book's pages write down. To be run when a spec is new or has
changed, or the arranging has; a test says so.
"""

import ast
import itertools
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from dvae_lib.graphs import DependencySpec, SpecError
from dvae_lib.graphs.arranged import as_json
from dvae_lib.graphs.layout import Picture
from dvae_lib.models import MODELS

ROOT = Path(__file__).resolve().parents[2]


def of_models() -> Iterator[DependencySpec]:
    """The specs of the models: all variants, driven or not, fed with the truth or with their own output."""
    for entry in MODELS.values():
        yield entry.cls.spec
        for u_dim, variant in itertools.product((0, 1), entry.variants):
            options = {**entry.small, **entry.options, **variant}
            try:
                spec = entry.cls(x_dim=2, z_dim=2, u_dim=u_dim, **options).spec
            except ValueError:  # not every model takes inputs
                continue
            yield spec
            yield spec.generation_mode()


def of_pages() -> Iterator[DependencySpec]:
    """The specs that the book's notebooks write down: each call of `DependencySpec` with texts alone."""
    for page in sorted([*(ROOT / "book").glob("*.ipynb"), *(ROOT / "book" / "solutions").glob("*.ipynb")]):
        for cell in json.loads(page.read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] == "code":
                source = re.sub(r"(?m)^[%!].*", "", "".join(cell["source"]))
                yield from _written(source)


def _written(source: str) -> Iterator[DependencySpec]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("DependencySpec"):
            try:
                arguments = [ast.literal_eval(argument) for argument in node.args]
                yield DependencySpec(*arguments, **{k.arg: ast.literal_eval(k.value) for k in node.keywords if k.arg})
            except (ValueError, SpecError):  # put together when it runs, or wrong on purpose
                continue


def panels(specs: Iterable[DependencySpec]) -> Iterator[Picture]:
    """Every panel of the figures of these specs."""
    for spec in specs:
        for process in ("generation", "inference") if spec.inference.strip() else ("generation",):
            for form in ("developed", "compact"):
                yield spec.picture(process, form)


if __name__ == "__main__":
    pictures = panels(itertools.chain(of_models(), of_pages()))
    (ROOT / "data" / "layouts.json").write_text(as_json(pictures), encoding="utf-8")
