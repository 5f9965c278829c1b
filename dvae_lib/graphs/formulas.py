"""LaTeX of a spec: the factorisations of Sections 4.1 to 4.3, with the model's own conditionings."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from dvae_lib.graphs.language import Index, Reference

__all__ = ["Factors", "Formula", "default_symbol", "latex", "reference_latex"]

Formula = Literal["joint", "posterior", "exact", "vlb"]

_GREEK = re.compile(
    "alpha|beta|gamma|delta|epsilon|zeta|eta|theta|kappa|lambda|mu|nu|xi|pi|rho|sigma|tau|phi|psi|omega"
)
_ARROWS = {"fwd": "overrightarrow", "bwd": "overleftarrow"}


def default_symbol(name: str) -> str:
    r"""LaTeX of a plain name: bold, with further letters as superscript and arrows for ``_fwd`` and ``_bwd``.

    Example:
        >>> print(default_symbol("z"), default_symbol("gz_fwd"), default_symbol("z2"))
        \mathbf{z} \overrightarrow{\mathbf{g}}^{\mathbf{z}} \mathbf{z}^{(2)}
    """
    stem, *marks = name.split("_")
    greek = _GREEK.match(stem)
    length = greek.end() if greek else 1
    base = rf"\boldsymbol{{\{stem[:length]}}}" if greek else rf"\mathbf{{{stem[0]}}}"
    rest = stem[length:]
    # A level is numbered as in z^{(2)}, which is no power.
    superscripts = [f"({rest})" if rest.isdigit() else rf"\mathbf{{{rest}}}"] if rest else []
    for mark in marks:
        if mark in _ARROWS:
            base = rf"\{_ARROWS[mark]}{{{base}}}"
        else:
            superscripts.append(rf"\mathrm{{{mark}}}")
    return f"{base}^{{{','.join(superscripts)}}}" if superscripts else base


def reference_latex(symbol: str, reference: Reference) -> str:
    r"""LaTeX of a variable with its index: ``\mathbf{x}_{1:t-1}``."""
    _, _, index = str(reference).removeprefix(reference.name).partition("_")
    return f"{symbol}_{index}" if index else symbol


@dataclass(frozen=True)
class Factors:
    """What the formulas of a spec are written from: who stands left and who right of the bar.

    All but the first three are by name, and only those that the wanted formula needs have to be given.

    Arguments:
        observed: The data.
        inputs: The external inputs that are in use.
        latents: The latent variables, in the order of the chain rule.
        framewise: Whether a variable has one value per frame.
        symbols: LaTeX of each variable, without its index.
        generated: The parents of each random variable in the generative model, in the order of its block.
        inferred: What the inference model conditions each latent variable on.
        exact: What the exact posterior conditions it on.
        averaged: The latent variables that a variable's term of the bound is an expectation over.
        divergences: The latent variables whose term is a KL divergence.
    """

    observed: tuple[str, ...]
    inputs: tuple[str, ...]
    latents: tuple[str, ...]
    framewise: Mapping[str, bool]
    symbols: Mapping[str, str]
    generated: Mapping[str, tuple[Reference, ...]] = field(default_factory=dict)
    inferred: Mapping[str, tuple[Reference, ...]] = field(default_factory=dict)
    exact: Mapping[str, tuple[Reference, ...]] = field(default_factory=dict)
    averaged: Mapping[str, tuple[Reference, ...]] = field(default_factory=dict)
    divergences: frozenset[str] = frozenset()


def latex(factors: Factors, formula: Formula) -> str:
    """LaTeX of a factorisation or of the bound; see `DependencySpec.latex`."""
    writer = _Writer(factors)
    return {"joint": writer.joint, "posterior": writer.posterior, "exact": writer.exact, "vlb": writer.vlb}[formula]()


_T = Index("t")
_P, _Q = r"p_{\theta}", r"q_{\phi}"


class _Writer:
    """Writes the formulas of one spec."""

    def __init__(self, factors: Factors) -> None:
        self.factors = factors
        self.observed = [self._whole(name) for name in factors.observed]
        self.inputs = [self._whole(name) for name in factors.inputs]
        self.data = [*self.observed, *self.inputs]

    def _whole(self, name: str) -> Reference:
        return Reference(name, Index("1"), Index("T")) if self.factors.framewise[name] else Reference(name)

    def _own(self, name: str) -> Reference:
        return Reference(name, _T, _T) if self.factors.framewise[name] else Reference(name)

    def _list(self, references: Iterable[Reference]) -> str:
        return ", ".join(reference_latex(self.factors.symbols[r.name], r) for r in references)

    def _density(self, density: str, left: Iterable[Reference], right: Iterable[Reference] = ()) -> str:
        condition = self._list(right)
        given = rf" \mid {condition}" if condition else ""
        return f"{density}({self._list(left)}{given})"

    def p(self, name: str) -> str:
        """A factor of the generative model. A prior without parents carries no parameters."""
        parents = self.factors.generated[name]
        density = rf"p_{{\theta_{{{self.factors.symbols[name]}}}}}" if parents else "p"
        return self._density(density, [self._own(name)], parents)

    def q(self, name: str) -> str:
        """A factor of the inference model."""
        return self._density(_Q, [self._own(name)], self.factors.inferred[name])

    def _product(self, factors: dict[str, str]) -> str:
        """Factors of the sequence-level variables, then the product over frames."""
        single = [factor for name, factor in factors.items() if not self.factors.framewise[name]]
        framewise = [factor for name, factor in factors.items() if self.factors.framewise[name]]
        product = r"\prod_{t=1}^{T} " if framewise else ""
        return " ".join([*single, product + r" \, ".join(framewise)]).strip()

    def joint(self) -> str:
        latents = [name for name in self.factors.generated if name not in self.factors.observed]
        names = [*self.factors.observed, *reversed(latents)]
        left = self._density(_P, map(self._whole, names), self.inputs)
        return f"{left} = {self._product({name: self.p(name) for name in names})}"

    def posterior(self) -> str:
        left = self._density(_Q, map(self._whole, self.factors.latents), self.data)
        return f"{left} = {self._product({name: self.q(name) for name in self.factors.latents})}"

    def exact(self) -> str:
        left = self._density(_P, map(self._whole, self.factors.latents), self.data)
        factors = {
            name: self._density(_P, [self._own(name)], self.factors.exact[name]) for name in self.factors.latents
        }
        return f"{left} = {self._product(factors)}"

    def vlb(self) -> str:
        left = rf"\mathcal{{L}}(\theta, \phi; {self._list(self.data)})"
        lines = [self._term("+", name, rf"\log {self.p(name)}") for name in self.factors.observed]
        for name in self.factors.latents:
            if name in self.factors.divergences:
                # A long divergence is broken before its second half, so that it fits a narrow page.
                broken = " \\\\\n&\\qquad" if self.factors.averaged[name] else ""
                divergence = rf"D_{{\mathrm{{KL}}}}\big({self.q(name)}{broken} \,\big\|\, {self.p(name)}\big)"
                lines.append(self._term("-", name, divergence))
            else:
                lines.append(self._term("+", name, rf"\log {self.p(name)} - \log {self.q(name)}"))
        lines[0] = "= " + lines[0].removeprefix("+ ")
        body = " \\\\\n&\\quad ".join(lines)
        return f"\\begin{{aligned}}\n&{left} \\\\\n&\\quad {body}\n\\end{{aligned}}"

    def _term(self, sign: str, name: str, content: str) -> str:
        sum_over = r"\sum_{t=1}^{T} " if self.factors.framewise[name] else ""
        variables = self.factors.averaged[name]
        if variables:
            expectation = rf"\mathbb{{E}}_{{{self._density(_Q, variables, self.data)}}}"
            content = rf"{expectation}\big[{content}\big]"
        elif " - " in content:
            content = f"({content})"
        return f"{sign} {sum_over}{content}"
