"""The pages that are computed from the models: every model is there, and nothing is typed that the specs know."""

import json
import re
from pathlib import Path

import computed_pages
import pytest
import yaml

from dvae_lib import MODELS, VAE
from dvae_lib.models.registry import register

BOOK = Path(__file__).parents[2] / "book"
CHAPTERS = {str(number): f"book/{number:02}_x" for number in range(1, 14)}


def test_every_model_has_a_card_a_drawing_and_its_formulas():
    gallery, sheet = computed_pages.gallery(CHAPTERS), computed_pages.cheat_sheet(CHAPTERS)
    for name in MODELS:
        spec = computed_pages.model(name).spec
        assert f"_static/family/{name}.svg" in gallery
        assert spec.latex("joint") in gallery
        for kind in ("joint", "exact", "posterior", "vlb") if MODELS[name].chapter < 12 else ():
            assert spec.latex(kind) in sheet, (name, kind)
    assert set(computed_pages.PURPOSES) == {entry.cls.__name__ for entry in MODELS.values()}


def test_known_answers_about_the_models():
    assert computed_pages.online_variants("vrnn") == ["default"]  # its authors' filter
    assert computed_pages.online_variants("srnn") == ["filter"]
    assert computed_pages.online_variants("rvae-noncausal") == []
    assert computed_pages.online_variants("dsae") == []  # v waits for the end
    sheet = computed_pages.cheat_sheet(CHAPTERS)
    part = sheet[sheet.index("VRNN]") : sheet.index("VRNN (improved)]")]
    assert r"lacks $\mathbf{x}_{t+1:T}$" in part


def test_the_family_leads_to_the_chapters():
    html = computed_pages.family(CHAPTERS)
    assert re.findall(r'href="(\w+)\.html"><img [^>]*family/vrnn\.svg', html) == ["08_x"]
    assert "vrnn-improved" not in html  # a section of Chapter 8
    pages = {**CHAPTERS, "12": "book/12_x", "12d": "book/12d_x"}
    assert (
        re.findall(r'href="(\w+)\.html"><img [^>]*family/(?:svg|vrae)\.svg', computed_pages.family(pages))
        == ["12d_x"] * 2
    )
    alts = re.findall(r'alt="([^"]+)"', html)
    assert len(alts) == len(set(alts)) == html.count("<img")


def test_a_section_has_the_page_of_its_letter_where_there_is_one():
    pages = {"8": "book/08_x", "12": "book/12_x", "12c": "book/12c_x"}
    assert computed_pages.chapter_page("vrnn-improved", pages) == "08_x"  # Section 8.4, in Chapter 8

    @register("in-a-section", chapter=12.3)
    class InASection(VAE):
        pass

    try:
        assert computed_pages.chapter_page("in-a-section", pages) == "12c_x"
        assert computed_pages.chapter_page("in-a-section", CHAPTERS) == "12_x"
    finally:
        del MODELS["in-a-section"]


def test_every_mark_is_computed_and_every_computation_shown():
    marks = [
        mark for path in BOOK.glob("*.md") for mark in computed_pages.MARK.findall(path.read_text(encoding="utf-8"))
    ]
    assert sorted(marks) == sorted(computed_pages.COMPUTED)
    with pytest.raises(KeyError):
        computed_pages.fill_in("<!-- computed: nothing -->", {})


def test_the_walk_is_one_block_of_html_that_holds_two_movements():
    player = computed_pages.walk()
    assert "\n\n" not in player  # a blank line would end the block
    data = json.loads(re.search(r'<script type="application/json">(.*?)</script>', player, re.DOTALL)[1])
    recorded, continued = (figure["frames"] for figure in data["figures"])
    assert len(recorded) == len(continued) == 90
    assert recorded[:45] == continued[:45]
    assert recorded[45:] != continued[45:]
    assert len(player) < 150_000


def test_sounds_of_the_first_page_are_light_and_say_whose_they_are():
    made = json.loads((BOOK / "_static/front/sounds.json").read_text(encoding="utf-8"))
    shown = computed_pages.sounds(CHAPTERS)
    assert made["licence"] in shown
    assert made["gains"] == sorted(made["gains"])
    gain = made["si_sdr_enhanced"] - made["si_sdr_noisy"]
    assert gain == pytest.approx(made["gains"][len(made["gains"]) // 2], abs=0.15)
    for name in ("noisy", "enhanced"):
        assert (BOOK / f"_static/front/{name}.mp3").stat().st_size < 100_000


def test_the_books_own_entry_agrees_with_the_citation_file():
    cited = yaml.safe_load((BOOK.parent / "CITATION.cff").read_text(encoding="utf-8"))
    entry = computed_pages.citation(CHAPTERS)
    for part in (cited["title"], cited["version"], cited["repository-code"], cited["authors"][0]["name"]):
        assert f"{{{part}}}" in entry


def test_a_drawing_has_the_same_bytes_each_time(tmp_path):
    computed_pages.draw_model("vrnn", tmp_path / "a.svg")
    computed_pages.draw_model("vrnn", tmp_path / "b.svg")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert (tmp_path / "a.svg").stat().st_size < 40_000
