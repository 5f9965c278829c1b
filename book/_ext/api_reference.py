"""Links into and out of the API reference, and what it leaves out.

- The role ``api`` (which the pages' inline code gets, and docstrings' single back-ticks) links a name of the library
  to where it is documented. A name that is not documented stays plain code.
- ``dvae_lib.VAE`` finds ``dvae_lib.models.vae.VAE``: a public name leads to where it is defined.
- ``Eq. (2.10)`` in a docstring links to the equation in the book.
- The fields of a named tuple are described by its docstring, not one by one as "Alias for field number 0".
"""

from __future__ import annotations

import importlib
import re
from typing import Any

from docutils import nodes
from plain_markdown import EQUATION, equation_label
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.roles import XRefRole
from sphinx.util.nodes import make_refnode

CODE = re.compile(r"(``.*?``|`[^`]*`)")


class ApiRole(XRefRole):
    """A name of the library, looked up as it stands, in the module and in the class whose docstring names it."""

    def process_link(
        self, env: BuildEnvironment, refnode: nodes.Element, has_explicit_title: bool, title: str, target: str
    ) -> tuple[str, str]:
        """Remember where the name was used."""
        refnode["context"] = [env.ref_context.get("py:module"), env.ref_context.get("py:class")]
        return title, target


def resolve(app: Sphinx, env: BuildEnvironment, node: nodes.Element, text: nodes.Element) -> nodes.Node | None:
    """Where a name of the library is documented."""
    target = node["reftarget"].removesuffix("()")
    is_api = node["reftype"] == "api"
    if not is_api and not (node.get("refdomain") == "py" and target.startswith("dvae_lib.")):
        return None
    documented = env.get_domain("py").objects  # type: ignore[attr-defined]
    module, klass = node.get("context", (None, None))
    names = [target, defining_name(target)]
    names += [f"{module}.{target}"] if module else []
    names += [f"{module}.{klass}.{target}"] if klass else []
    for name in names:
        if name in documented:
            entry = documented[name]
            return make_refnode(app.builder, node["refdoc"], entry.docname, entry.node_id, text, name)
    return text if is_api else None


def defining_name(name: str) -> str:
    """Where a public name is defined: ``dvae_lib.models.vae.VAE`` for ``dvae_lib.VAE``; the name if unknown.

    A method is found in the class that defines it, ``dvae_lib.VAE.vlb`` in ``dvae_lib.models.bounds``.
    """
    parts = name.split(".")
    if parts[0] != "dvae_lib":
        return name
    for cut in range(len(parts) - 1, 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:cut]))
        except ImportError:
            continue
        for position, part in enumerate(parts[cut:], start=cut):
            found = getattr(found, part, None)
            defined = getattr(found, "fget", found)  # a property is known by its function
            if hasattr(defined, "__qualname__"):  # a method may be defined in a class above
                name = ".".join([defined.__module__, defined.__qualname__, *parts[position + 1 :]])
        return name
    return name


def link_equations(app: Sphinx, what: str, name: str, subject: object, options: object, lines: list[str]) -> None:
    """``Eq. (2.10)`` becomes a link; ``(*batch, T)`` and ``[r]_`` keep their signs, which mean something in reST."""
    targets = app.env.plain_markdown_index.targets  # type: ignore[attr-defined]

    def reference(match: re.Match[str]) -> str:
        label = equation_label(match[1])
        return f":ref:`{match[0]} <{label}>`" if label in targets else match[0]

    for number, line in enumerate(lines):
        parts = CODE.split(line)
        for position in range(0, len(parts), 2):
            part = parts[position].replace("(*", "(\\*").replace("]_", "]\\_")
            parts[position] = EQUATION.sub(reference, part) if "Eq" in line else part
        lines[number] = "".join(parts)


def skip_alias(app: Sphinx, what: str, name: str, member: object, skip: bool, options: object) -> bool | None:
    """Leave out the fields of named tuples."""
    return True if type(member).__name__ == "_tuplegetter" else None


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.add_role("api", ApiRole(innernodeclass=nodes.literal))
    app.connect("missing-reference", resolve)
    app.connect("autodoc-skip-member", skip_alias)
    # Before napoleon (priority 500) turns sections into fields.
    app.connect("autodoc-process-docstring", link_equations, priority=400)
    return {"version": "1.0", "parallel_read_safe": True, "parallel_write_safe": True}
