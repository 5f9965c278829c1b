"""The convention of plain notebooks, and what the site makes of it."""

import json
from pathlib import Path

import plain_markdown
import pytest
from plain_markdown import Enricher, Index

ROOT = Path(__file__).parents[2]
PAGES = {
    "book/01_introduction": '<a id="fig-1-1"></a>\n**Figure 1.1.** A map, repeating\n$$\nx \\tag{2.1}\n$$',
    "book/02_variational_autoencoders": "\n".join(
        [
            '<a id="sec-2-1"></a>',
            "## 2.1 Principle",
            "$$ x \\tag{2.1} $$",
            "$$",
            "y",
            "\\tag{2.10}",
            "$$",
            "> **Proof.** Short.",
            "> $$ z \\tag{2.a} $$",
            "```python",
            "r'$$ \\tag{2.99} $$'",
            "$$ \\tag{2.98} $$",
            "```",
            '<a id="fig-2-1"></a>',
            '<a id="fig-2-2"></a>',
        ]
    ),
    "book/13_speech_as_sequences": '<a id="tab-13-1"></a>\n**Table 13.1.** Scores.\n<a id="sec-13-2-1"></a>',
    "book/A_marginalisation": '<a id="sec-A"></a>\n# A Marginalisation\n$$ a \\tag{A.3} $$',
    "book/solutions/02_solutions": "Nothing.",
}
INDEX = Index.of_pages(PAGES)


def enrich(text, page="book/04b_d_separation"):
    return Enricher(page, INDEX).text(text)


def test_a_word_after_a_number_is_no_appendix():
    index = Index.of_pages({"book/C_motion": "# C Motion"})
    assert (
        Enricher("book/intro", index).page("Section 3.2 and Chapter 5", Path("intro.md")) == "Section 3.2 and Chapter 5"
    )
    assert "C_motion" in Enricher("book/intro", index).page("See Appendix C.", Path("intro.md"))


def test_index_knows_every_target_and_no_code():
    two = "book/02_variational_autoencoders"
    assert INDEX.targets == {
        "fig-1-1": "book/01_introduction",
        "eq-2-1": two,
        "eq-2-10": two,
        "eq-2-a": two,
        "sec-2-1": two,
        "fig-2-1": two,
        "fig-2-2": two,
        "tab-13-1": "book/13_speech_as_sequences",
        "sec-13-2-1": "book/13_speech_as_sequences",
        "sec-a": "book/A_marginalisation",
        "eq-a-3": "book/A_marginalisation",
    }
    assert INDEX.chapters == {
        "1": "book/01_introduction",
        "2": two,
        "13": "book/13_speech_as_sequences",
        "A": "book/A_marginalisation",
    }


@pytest.mark.parametrize(
    ("plain", "rich"),
    [
        ("by (2.10).", "by {ref}`(2.10) <eq-2-10>`."),
        ("Eq. (2.10)", "Eq. {ref}`(2.10) <eq-2-10>`"),
        ("(2.1)-(2.10)", "{ref}`(2.1) <eq-2-1>`-{ref}`(2.10) <eq-2-10>`"),
        ("(2.1)–(2.10)", "{ref}`(2.1) <eq-2-1>`–{ref}`(2.10) <eq-2-10>`"),
        ("our (2.a) and (A.3)", "our {ref}`(2.a) <eq-2-a>` and {ref}`(A.3) <eq-a-3>`"),
        ("Section 2.1, as said", "{ref}`Section 2.1 <sec-2-1>`, as said"),
        ("in Section 13.2.1.", "in {ref}`Section 13.2.1 <sec-13-2-1>`."),
        ("a Section\n2.1 broken", "a {ref}`Section 2.1 <sec-2-1>` broken"),
        ("Figures 2.1 and 2.2 show", "{ref}`Figures 2.1 <fig-2-1>` and {ref}`2.2 <fig-2-2>` show"),
        ("Figures 2.1-2.2 show", "{ref}`Figures 2.1 <fig-2-1>`-{ref}`2.2 <fig-2-2>` show"),
        ("Table 13.1", "{ref}`Table 13.1 <tab-13-1>`"),
        ("Chapter 2 and Chapter 7", "{doc}`Chapter 2 </book/02_variational_autoencoders>` and Chapter 7"),
        ("Appendix A", "{ref}`Appendix A <sec-a>`"),
        ("[see *here*](02_variational_autoencoders.ipynb#sec-2-1)", "[see *here*](#sec-2-1)"),
        ("use `dvae_lib.VAE` so", "use {api}`dvae_lib.VAE <dvae_lib.VAE>` so"),
        ("`dvae_lib.budget.choose(ci=1)`", "{api}`dvae_lib.budget.choose(ci=1) <dvae_lib.budget.choose>`"),
        ("- item (2.1)\n- item $a$ (2.10)", "- item {ref}`(2.1) <eq-2-1>`\n- item $a$ {ref}`(2.10) <eq-2-10>`"),
        ("**bold (2.1)**", "**bold {ref}`(2.1) <eq-2-1>`**"),
        ("| (2.1) | x |", "| {ref}`(2.1) <eq-2-1>` | x |"),
    ],
)
def test_prose_is_linked(plain, rich):
    assert enrich(plain) == rich


@pytest.mark.parametrize(
    "text",
    [
        "an unknown (2.77) and Section 9.9, Figure 7.1",
        "`code (2.10)` and ``more `(2.10)` ``",
        "$f(2.10)$ and $a\n(2.10)$",
        "f(2.10)",
        "[a link (2.10)](https://example.org/(2.10))",
        "[*Kingma and Welling* (2014)](#cite-kingma2014)",
        "![Figure 2.1](x.png)",
        '<img alt="(2.10)" src="x.png">',
        "## 2.1 A heading about (2.10) and Figure 2.1",
        "```\n(2.10) Section 2.1\n```",
        "~~~\n$$ \\tag{2.1} $$\n~~~",
        "$$ x = (2.10) $$",
        "Bishop, 2006, Chapter 2",
        "Chapter 2 of Bishop",
        "Section 2.1 of [Murphy](#x)",
        "(2.1.)",
        "`dvae_lib` and `other.VAE`",
        "> just quoted",
        "",
        "\n\n",
    ],
)
def test_what_is_no_reference_stays(text):
    assert enrich(text) == text


def test_a_citation_stands_apart_from_another_works_chapters():
    assert enrich("Section 2.1 of the review") == "{ref}`Section 2.1 <sec-2-1>` of the review"


def test_equations_become_targets_on_their_own_page_only():
    own = enrich("See\n$$\ny\n\\tag{2.10}\n$$\nthen", "book/02_variational_autoencoders")
    assert own == "See\n\n(eq-2-10)=\n\\begin{equation*}\ny\n\\tag{2.10}\n\\end{equation*}\nthen"
    elsewhere = enrich("$$ y \\tag{2.10} $$")
    assert elsewhere == "\\begin{equation*}\n y \\tag{2.10} \n\\end{equation*}"


def test_a_target_is_placed_once():
    enricher = Enricher("book/02_variational_autoencoders", INDEX)
    assert "(eq-2-1)=" in enricher.text("$$ x \\tag{2.1} $$")
    assert "(eq-2-1)=" not in enricher.text("$$ x \\tag{2.1} $$")


def test_indented_equations_keep_their_indent():
    text = enrich("1. First\n   $$ x \\tag{2.1} $$", "book/02_variational_autoencoders")
    equation = "   \\begin{equation*}\n x \\tag{2.1} \n   \\end{equation*}"
    assert text == f"1. First\n\n   (eq-2-1)=\n{equation}"


def test_anchor_before_a_heading():
    text = enrich('<a id="sec-2-1"></a>\n## 2.1 Principle\n\nIt is (2.1).', "book/02_variational_autoencoders")
    assert text == "\n(sec-2-1)=\n## 2.1 Principle\n\nIt is {ref}`(2.1) <eq-2-1>`."


@pytest.mark.parametrize("gap", [" ", "\n", "\n\n"])
def test_caption_is_a_block_with_its_anchor(gap):
    text = enrich(
        f'<a id="fig-2-1"></a>{gap}**Figure 2.1.** What $x$ does, by (2.1).', "book/02_variational_autoencoders"
    )
    lines = [line for line in text.split("\n") if line]
    assert lines == [
        "(fig-2-1)=",
        "::::::{div} figure-caption",
        "**Figure 2.1.** What $x$ does, by {ref}`(2.1) <eq-2-1>`.",
        "::::::",
    ]


def test_unnumbered_caption():
    assert "{div} figure-caption\n*Figure.* Ours; compare {ref}`Figure 2.1" in enrich(
        "*Figure.* Ours; compare Figure 2.1."
    )


@pytest.mark.parametrize(
    ("title", "kind"),
    [
        ("Note", "note"),
        ("Erratum", "erratum"),
        ("Try it", "tip"),
        ("Warning", "warning"),
        ("Proof", "proof"),
        ("Notation", "note"),
    ],
)
def test_quotes_become_admonitions(title, kind):
    text = enrich(f"Before.\n\n> **{title}.** By (2.1),\n>\n> - so\n> - thus\n\nAfter.")
    assert (
        f"::::::{{admonition}} {title}\n:class: {kind}\n\nBy {{ref}}`(2.1) <eq-2-1>`,\n\n- so\n- thus\n::::::" in text
    )


@pytest.mark.parametrize(
    "opening", ["**Section 2.5**, after (2.1): a", "**Two things.** A", "*Note.* A", "A **note.** A"]
)
def test_other_quotes_stay_quotes(opening):
    text = enrich(f"> {opening} quote.")
    assert "admonition" not in text
    assert text.startswith("> ")


def test_errata_are_entries_with_an_anchor_and_a_weight():
    entry = "> **Section 2.5**{0}: prints\n> this. → That. *Seen by:* (2.1). *Weight:* {1}, as it is.\n"
    places = (("", "substance"), (", after (2.1)", "wording"), ("", "misprint"))
    text = enrich("\n".join(entry.format(*place) for place in places), "book/errata")
    for name, weight in (("2-5", "substance"), ("2-5-b", "wording"), ("2-5-c", "misprint")):
        assert f"{{div}} errata-entry weight-{weight}\n:name: erratum-{name}\n" in text
        assert f'href="#erratum-{name}"' in text
    assert "prints\nthis. → That. *Seen by:* {ref}`(2.1) <eq-2-1>`." in text
    assert "admonition" not in text


def test_equation_inside_an_admonition_is_a_target():
    text = enrich("> **Proof of (2.1).** Then\n> $$ z \\tag{2.a} $$", "book/02_variational_autoencoders")
    assert "{admonition} Proof of {ref}`(2.1) <eq-2-1>`\n:class: proof" in text
    assert "\n(eq-2-a)=\n\\begin{equation*}\n z \\tag{2.a} \n\\end{equation*}" in text


def test_notebook_code_is_untouched():
    notebook = {
        "cells": [
            {"cell_type": "code", "source": ["# (2.10)\n", "x = 1"], "metadata": {}, "outputs": []},
            {"cell_type": "markdown", "source": ["By\n", "(2.10)."], "metadata": {}},
        ]
    }
    path = Path("book/x.ipynb")
    result = json.loads(Enricher("book/x", INDEX).page(json.dumps(notebook), path))
    assert result["cells"][0] == notebook["cells"][0]
    assert result["cells"][1]["source"] == "By\n{ref}`(2.10) <eq-2-10>`."
    assert plain_markdown.markdown_of(json.dumps(notebook), path) == "By\n(2.10)."


def test_front_matter_is_left_alone():
    text = "---\ntitle: (2.10)\n---\n(2.10)"
    assert enrich(text) == "---\ntitle: (2.10)\n---\n{ref}`(2.10) <eq-2-10>`"


@pytest.mark.parametrize(
    "page", sorted((ROOT / "book").glob("**/*.ipynb")) + sorted((ROOT / "book").glob("*.md")), ids=lambda p: p.stem
)
def test_blocks_of_every_page_give_the_text_back(page):
    text = plain_markdown.markdown_of(page.read_text(encoding="utf-8"), page)
    assert "\n".join(block for _, block in plain_markdown.blocks(text)) == text


@pytest.mark.parametrize(
    ("link", "shown"),
    [
        ("[the *next*](05_deep_kalman_filters.ipynb)", "the *next*"),
        ("[the next](05_deep_kalman_filters.ipynb#sec-5-1)", "the next"),
        ("[notation](notation.md)", "[notation](notation.md)"),
        ("[web](https://example.org/05_deep_kalman_filters.ipynb)",) * 2,
    ],
)
def test_links_wait_for_pages_that_are_announced_only(link, shown):
    index = Index(unwritten=frozenset({"book/05_deep_kalman_filters"}))
    assert Enricher("book/02_x", index).text(link) == shown
    beside = link.replace("](05", "](../05")
    assert Enricher("book/solutions/02_x", index).text(beside) == shown
