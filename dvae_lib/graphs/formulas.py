"""LaTeX of a spec: the factorisations of Sections 4.1 to 4.3, with the model's own conditionings."""

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

import networkx as nx

from dvae_lib.graphs.language import Index, Reference
from dvae_lib.graphs.ranges import Node

if TYPE_CHECKING:
    from dvae_lib.graphs.spec import DependencySpec

__all__ = ["default_symbol", "latex", "reference_latex"]

_GREEK = re.compile(
    "alpha|beta|gamma|delta|epsilon|zeta|eta|theta|kappa|lambda|mu|nu|xi|pi|rho|sigma|tau|phi|psi|omega"
)
_ARROWS = {"fwd": "overrightarrow", "bwd": "overleftarrow"}


def default_symbol(name: str) -> str:
    r"""LaTeX of a plain name: bold, with further letters as superscript and arrows for ``_fwd`` and ``_bwd``.

    >>> print(default_symbol("z"), default_symbol("gz_fwd"))
    \mathbf{z} \overrightarrow{\mathbf{g}}^{\mathbf{z}}
    """
    stem, *marks = name.split("_")
    greek = _GREEK.match(stem)
    length = greek.end() if greek else 1
    base = rf"\boldsymbol{{\{stem[:length]}}}" if greek else rf"\mathbf{{{stem[0]}}}"
    superscripts = [rf"\mathbf{{{stem[length:]}}}"] if stem[length:] else []
    for mark in marks:
        if mark in _ARROWS:
            base = rf"\{_ARROWS[mark]}{{{base}}}"
        else:
            superscripts.append(rf"\mathrm{{{mark}}}")
    return f"{base}^{{{','.join(superscripts)}}}" if superscripts else base


def reference_latex(spec: "DependencySpec", reference: Reference) -> str:
    r"""LaTeX of a variable with its index: ``\mathbf{x}_{1:t-1}``."""
    _, _, index = str(reference).removeprefix(reference.name).partition("_")
    symbol = spec.symbol(reference.name)
    return f"{symbol}_{index}" if index else symbol


def latex(spec: "DependencySpec", kind: str) -> str:
    """LaTeX of ``"joint"``, ``"posterior"``, ``"exact"`` or ``"vlb"``; see `DependencySpec.latex`."""
    if kind == "joint":
        return _Writer(spec).joint()
    if kind == "exact":
        return _Writer(spec).exact()
    if kind not in ("posterior", "vlb"):
        raise ValueError(f"kind must be 'joint', 'posterior', 'exact' or 'vlb', not {kind!r}.")
    if spec.latents and not spec.inference.strip():
        raise ValueError(f"the spec has no inference block, which the {kind} needs.")
    return _Writer(spec).posterior() if kind == "posterior" else _Writer(spec).vlb()


_T = Index("t")
_P, _Q = r"p_{\theta}", r"q_{\phi}"


class _Writer:
    """Writes the formulas of one spec."""

    def __init__(self, spec: "DependencySpec") -> None:
        self.spec = spec
        self.generative = spec.compact_references("generation")
        self.inferred = spec.compact_references("inference") if spec.inference.strip() else {}
        self.data = [self._whole(name) for name in (*spec.observed, *spec.used_inputs)]
        self.observed = [self._whole(name) for name in spec.observed]
        self.inputs = [self._whole(name) for name in spec.used_inputs]

    def _whole(self, name: str) -> Reference:
        framewise = self.spec.is_framewise(name)
        return Reference(name, Index("1"), Index("T")) if framewise else Reference(name)

    def _own(self, name: str) -> Reference:
        return Reference(name, _T, _T) if self.spec.is_framewise(name) else Reference(name)

    def _list(self, references: Iterable[Reference]) -> str:
        return ", ".join(reference_latex(self.spec, r) for r in references)

    def _density(self, density: str, left: Iterable[Reference], right: Iterable[Reference] = ()) -> str:
        condition = self._list(right)
        given = rf" \mid {condition}" if condition else ""
        return f"{density}({self._list(left)}{given})"

    def p(self, name: str) -> str:
        """A factor of the generative model. A prior without parents carries no parameters."""
        parents = self.generative[str(self._own(name))]
        return self._density(
            rf"p_{{\theta_{{{self.spec.symbol(name)}}}}}" if parents else "p", [self._own(name)], parents
        )

    def q(self, name: str) -> str:
        """A factor of the inference model."""
        return self._density(_Q, [self._own(name)], self.inferred[str(self._own(name))])

    def _product(self, factors: dict[str, str]) -> str:
        """Factors of the sequence-level variables, then the product over frames."""
        single = [factor for name, factor in factors.items() if not self.spec.is_framewise(name)]
        framewise = [factor for name, factor in factors.items() if self.spec.is_framewise(name)]
        product = r"\prod_{t=1}^{T} " if framewise else ""
        return " ".join([*single, product + r" \, ".join(framewise)]).strip()

    def joint(self) -> str:
        latents = [s for s in self.generative if s not in map(str, map(self._own, self.spec.observed))]
        names = [*self.spec.observed, *(key.removesuffix("_t") for key in reversed(latents))]
        left = [*self.observed, *map(self._whole, names[len(self.observed) :])]
        factors = {name: self.p(name) for name in names}
        return f"{self._density(_P, left, self.inputs)} = {self._product(factors)}"

    def posterior(self) -> str:
        left = self._density(_Q, map(self._whole, self.spec.latents), self.data)
        return f"{left} = {self._product({name: self.q(name) for name in self.spec.latents})}"

    def exact(self) -> str:
        exact = self.spec.exact_references()
        left = self._density(_P, map(self._whole, self.spec.latents), self.data)
        factors = {
            name: self._density(_P, [self._own(name)], exact[str(self._own(name))]) for name in self.spec.latents
        }
        return f"{left} = {self._product(factors)}"

    def vlb(self) -> str:
        left = rf"\mathcal{{L}}(\theta, \phi; {self._list(self.data)})"
        lines = [self._term("+", name, rf"\log {self.p(name)}") for name in self.spec.observed]
        for name in self.spec.latents:
            if self._is_divergence(name):
                # A long divergence is broken before its second half, so that it fits a narrow page.
                broken = " \\\\\n&\\qquad" if self.expectation(name) else ""
                divergence = rf"D_{{\mathrm{{KL}}}}\big({self.q(name)}{broken} \,\big\|\, {self.p(name)}\big)"
                lines.append(self._term("-", name, divergence))
            else:
                lines.append(self._term("+", name, rf"\log {self.p(name)} - \log {self.q(name)}"))
        lines[0] = "= " + lines[0].removeprefix("+ ")
        body = " \\\\\n&\\quad ".join(lines)
        return f"\\begin{{aligned}}\n&{left} \\\\\n&\\quad {body}\n\\end{{aligned}}"

    def _term(self, sign: str, name: str, content: str) -> str:
        sum_over = r"\sum_{t=1}^{T} " if self.spec.is_framewise(name) else ""
        variables = self.expectation(name)
        if variables:
            expectation = rf"\mathbb{{E}}_{{{self._density(_Q, variables, self.data)}}}"
            content = rf"{expectation}\big[{content}\big]"
        elif " - " in content:
            content = f"({content})"
        return f"{sign} {sum_over}{content}"

    def expectation(self, name: str) -> tuple[Reference, ...]:
        """The latent variables that a term of the bound is an expectation over."""

        def latents(t: int, num_steps: int) -> dict[str, Iterable[Node]]:
            node = (name, t if self.spec.is_framewise(name) else None)
            nodes = set(self.spec.unroll(num_steps).pred[node])
            if name in self.spec.latents:
                nodes |= set(self.spec.unroll(num_steps, "inference").pred[node])
                if not self._is_divergence(name):
                    nodes.add(node)
            return {name: {n for n in nodes if n[0] in self.spec.latents}}

        (references,) = self.spec.named_sets(latents).values()
        return references

    def _is_divergence(self, name: str) -> bool:
        """Whether a latent's term is the expectation of a KL divergence.

        It is if, under q, the latent is independent of its generative parents given what q conditions it on: if
        none of them is its descendant in the inference graph. Otherwise only the log-ratio is right.
        """
        num_steps, t = self.spec.interior()
        node = (name, t if self.spec.is_framewise(name) else None)
        inference = self.spec.unroll(num_steps, "inference")
        parents = [n for n in self.spec.unroll(num_steps).pred[node] if n[0] in self.spec.latents]
        return not set(parents) & set(nx.descendants(inference, node))
