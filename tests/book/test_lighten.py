"""What is taken out of the pages of a built site, and what must survive it."""

import base64
import io
import re
from pathlib import Path

import icons
import lighten
import media
import nbformat
import numpy as np
import progress_bars
import pydata_sphinx_theme
import pytest
import rasters
import soundfile
from fontTools.ttLib import TTFont
from matplotlib.figure import Figure
from PIL import Image

from dvae_lib.plotting import show_audio

THEME = Path(pydata_sphinx_theme.__file__).parent / "theme/pydata_sphinx_theme/static"


def sounds(rate):
    """A vowel that swells, noise, a click in silence, and silence."""
    random = np.random.default_rng(0)
    time = np.arange(2 * rate + 137) / rate
    vowel = sum(np.sin(2 * np.pi * 120 * k * time) / k for k in range(1, 20)) * np.hanning(len(time)) / 3
    click = np.zeros(len(time))
    click[rate] = 0.9
    noise = 0.1 * random.standard_normal(len(time))
    return {"vowel": vowel, "noise": noise, "click": click, "silence": np.zeros(len(time))}


# White noise at 44.1 kHz loses its highest octave, so that its level would change: it stays as it is.
@pytest.mark.parametrize(("rate", "share"), [(8_000, 0.2), (16_000, 0.2), (44_100, 0.5)])
def test_sounds_become_files_of_the_same_length_and_level(tmp_path, rate, share):
    given = sounds(rate)
    html = show_audio(given, sample_rate=rate).data
    light = media.move_out(html, tmp_path, "../")
    assert "base64" not in light
    names = re.findall(r'<audio preload="none" controls aria-label="(\w+)" src="\.\./(_static/media/\w+\.\w+)">', light)
    assert [name for name, _ in names] == list(given)
    for name, file in names:
        found, found_rate = soundfile.read(tmp_path / file)
        assert found_rate == rate
        assert found.shape == given[name].shape
        assert abs(media.level(found) - media.level(given[name])) < media.LEVEL
    assert sum((tmp_path / file).stat().st_size for _, file in names) < share * len(html)
    assert media.move_out(light, tmp_path, "../") == light


def test_a_sampling_rate_that_mp3_does_not_know_stays_wav(tmp_path):
    html = show_audio(sounds(6_000)["vowel"], sample_rate=6_000).data
    (name,) = re.findall(r'src="(_static/media/\w+\.wav)"', media.move_out(html, tmp_path, ""))
    assert (tmp_path / name).read_bytes() == base64.b64decode(media.EMBEDDED.search(html)["data"])


def test_one_sound_on_two_pages_is_one_file(tmp_path):
    html = show_audio(sounds(8_000)["noise"], sample_rate=8_000).data
    pages = {media.move_out(html, tmp_path, root) for root in ("../", "../../")}
    assert len(pages) == 2
    assert len(list((tmp_path / media.FOLDER).iterdir())) == 1


def test_a_player_by_script_finds_its_sound_and_pictures_stay_as_they_are(tmp_path):
    file = io.BytesIO()
    frames = [Image.fromarray(np.random.default_rng(k).integers(0, 255, (90, 120), np.uint8)) for k in range(3)]
    frames[0].save(file, format="GIF", save_all=True, append_images=frames[1:])
    film = "data:image/gif;base64," + base64.b64encode(file.getvalue()).decode()
    small = "data:image/png;base64," + base64.b64encode(b"\x89PNG" * 100).decode()
    wav = media.EMBEDDED.search(show_audio(sounds(8_000)["noise"], sample_rate=8_000).data)[0]
    html = f'<img src="{film}"><img src="{small}"><script>const tracks = {{"a": "{wav}"}};</script>'
    light = media.move_out(html, tmp_path, "../")
    assert small in light
    assert re.search(r'"a": "\.\./_static/media/\w+\.mp3"', light)
    (gif,) = (tmp_path / media.FOLDER).glob("*.gif")
    assert gif.read_bytes() == file.getvalue()


PAGE = """<html><head>
<link href="../_static/vendor/fontawesome/6.5.2/css/all.min.css?digest=1" rel="stylesheet" />
<link rel="preload" as="font" crossorigin href="../_static/vendor/fontawesome/6.5.2/webfonts/fa-solid-900.woff2" />
<link rel="stylesheet" type="text/css" href="../_static/sphinx-thebe.css?v=4" />
<script src="../_static/vendor/fontawesome/6.5.2/js/all.min.js?digest=1"></script>
<script src="../_static/documentation_options.js?v=9"></script>
<script src="../_static/doctools.js?v=9"></script>
<script async="async" src="../_static/sphinx-thebe.js?v=1"></script>
<script>const THEBE_JS_URL = "https://unpkg.com/thebe"</script>
<script defer="defer" src="../_static/mathjax.js"></script>
</head><body><img src="logo.svg"><i class="fa-solid fa-sun"></i>
<article class="bd-article" role="main"><img alt="a" src="../_images/a.svg"><p>TEXT</p>
<img alt="b, width: 3" style="max-width:100%" src="../_images/a.svg"><img src="../_images/b.png">
<img width="5" src="b.png"><script>const piece = "<img src='../_images/b.png'>";</script>
<script type="text/x-thebe-config">{}</script><script>kernelName = 'python3'</script>
</article><script src="../_static/scripts/bootstrap.js"></script></body></html>
"""


@pytest.fixture
def site(tmp_path):
    """A site of one page, with the theme's real icons."""
    fonts = tmp_path / "_static/vendor"
    fonts.mkdir(parents=True)
    (fonts / "fontawesome").symlink_to(THEME / "vendor/fontawesome")
    (tmp_path / "_static/documentation_options.js").write_text("const DOCUMENTATION_OPTIONS = {};\n")
    (tmp_path / "_static/book.css").write_text('.pen::after { content: "\\f304"; font-family: "Font Awesome 5 Free" }')
    for folder in ("_images", "book"):
        (tmp_path / folder).mkdir()
    (tmp_path / "_images/a.svg").write_text('<?xml version="1.0"?><svg width="300pt" height="150.4pt"></svg>')
    Image.new("L", (640, 480)).save(tmp_path / "_images/b.png")
    (tmp_path / "book/page.html").write_text(PAGE.replace("TEXT", 400 * "word "))
    return tmp_path


def test_nothing_stops_a_page_and_pictures_wait(site, monkeypatch):
    monkeypatch.setattr(lighten, "REMAINS", ())
    lighten.lighten(site)
    page = (site / "book/page.html").read_text()
    scripts = re.findall(r"<script\b[^>]*>[^<]{0,22}", page.replace("\n", ""))
    assert scripts == [
        "<script>const DOCUMENTATION_OP",
        '<script defer src="../_static/doctools.js?v=9">',
        '<script defer="defer" src="../_static/mathjax.js">',
        '<script>const piece = "',
        '<script src="../_static/scripts/bootstrap.js">',
    ]
    assert [re.sub(r"\?v=\w+", "", link) for link in re.findall(r"<link[^>]*>", page)] == [
        '<link href="../_static/icons.css" rel="stylesheet" />'
    ]
    assert re.findall(r"<img[^>]*>", page) == [
        '<img src="logo.svg">',
        '<img width="400" height="201" alt="a" src="../_images/a.svg">',
        '<img loading="lazy" alt="b, width: 3" style="max-width:100%" src="../_images/a.svg">',
        '<img loading="lazy" width="640" height="480" src="../_images/b.png">',
        '<img loading="lazy" width="5" src="b.png">',
        "<img src='../_images/b.png'>",
    ]
    lighten.lighten(site)
    assert (site / "book/page.html").read_text() == page


def test_the_icons_that_are_used_are_there_and_no_others(site):
    assert icons.make_sheet(site)
    sheet = (site / icons.SHEET).read_text()
    assert len(sheet) < 40_000
    assert "url(../" not in sheet
    names = re.findall(r"\.(fa-[\w-]+)::?before\{content", sheet)
    assert names == ["fa-sun"]
    faces = re.findall(r"@font-face\{[^}]*?font-family:([^;]*)[^}]*?font-weight:(\d+)[^}]*?base64,([^\"]+)", sheet)
    found = {
        (icons.plain(name), int(weight)): set(TTFont(io.BytesIO(base64.b64decode(data))).getBestCmap())
        for name, weight, data in faces
    }
    assert found["Font Awesome 6 Free", 900] == found["Font Awesome 5 Free", 900] == {0xF185, 0xF304}
    assert "FontAwesome" not in dict(found)


def test_a_site_without_such_icons_has_no_sheet(tmp_path):
    assert not icons.make_sheet(tmp_path)
    (tmp_path / "page.html").write_text("<p>text</p>")
    lighten.lighten(tmp_path)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["page.html"]
    assert (tmp_path / "page.html").read_text() == "<p>text</p>"


def test_pixels_take_fewer_bytes_and_stay_the_same(tmp_path):
    random = np.random.default_rng(0)
    image = Image.fromarray(np.cumsum(random.integers(0, 2, (200, 300, 4)), axis=1).astype(np.uint8))
    image.save(tmp_path / "a.png")
    png = (tmp_path / "a.png").read_bytes()
    text = base64.encodebytes(png).decode()
    (tmp_path / "a.svg").write_text(f'<svg><image xlink:href="data:image/png;base64,\n{text}"/></svg>')
    rasters.shrink_drawings(tmp_path)
    drawing = (tmp_path / "a.svg").read_text()
    assert len(drawing) < 0.8 * len(text)
    inside = base64.b64decode(re.search(r'data:image/webp;base64,([^"]+)"/></svg>', drawing)[1])
    for found in (io.BytesIO(inside), rasters.webp_beside(tmp_path / "a.png")):
        with Image.open(found) as picture:
            np.testing.assert_array_equal(np.asarray(picture), np.asarray(image))
    rasters.shrink_drawings(tmp_path)
    assert (tmp_path / "a.svg").read_text() == drawing
    assert rasters.webp_beside(tmp_path / "a.svg") == tmp_path / "a.svg"


def widget(name, **state):
    return {"model_name": name, "model_module": "m", "model_module_version": "1", "state": state}


def view(model):
    data = {progress_bars.VIEW: {"model_id": model, "version_major": 2, "version_minor": 0}, "text/plain": "0%|"}
    return nbformat.v4.new_output("display_data", data=data)


@pytest.mark.parametrize("with_slider", [False, True])
def test_progress_bars_go_and_other_widgets_stay(tmp_path, with_slider):
    state = {
        "box": widget("HBoxModel", children=["IPY_MODEL_text", "IPY_MODEL_bar"], layout="IPY_MODEL_wide"),
        "text": widget("HTMLModel", value="0%"),
        "bar": widget("FloatProgressModel", layout="IPY_MODEL_wide"),
        "wide": widget("LayoutModel"),
    }
    cell = nbformat.v4.new_code_cell("fit()", outputs=[view("box"), nbformat.v4.new_output("stream", text="done")])
    if with_slider:
        state["slider"] = widget("IntSliderModel", layout="IPY_MODEL_wide")
        cell.outputs.append(view("slider"))
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("text"), cell])
    notebook.metadata["widgets"] = {progress_bars.STATE: {"state": state, "version_major": 2, "version_minor": 0}}
    path = tmp_path / "executed/key/base.ipynb"
    path.parent.mkdir(parents=True)
    nbformat.write(notebook, path)
    progress_bars.remove_all(tmp_path)
    found = nbformat.read(path, 4)
    assert found.cells[1].outputs[0].text == "done"
    shown = [progress_bars.model(output) for output in found.cells[1].outputs[1:]]
    assert shown == (["slider"] if with_slider else [])
    kept = found.metadata.get("widgets", {}).get(progress_bars.STATE, {}).get("state", {})
    assert set(kept) == ({"slider", "wide"} if with_slider else set())
    before = path.stat().st_mtime_ns
    progress_bars.remove_all(tmp_path)
    assert path.stat().st_mtime_ns == before


@pytest.fixture
def two_panels(tmp_path):
    """A page that shows a figure of two panels, with its caption."""
    figure = Figure(figsize=(9, 3), layout="constrained")
    for axis in figure.subplots(1, 2):
        axis.plot([1, 2, 3])
    (tmp_path / "_images").mkdir()
    (tmp_path / "book").mkdir()
    figure.savefig(tmp_path / "_images/a.svg", metadata={"Date": None})
    article = (
        '<article class="bd-article"><img alt="Curves." src="../_images/a.svg" />\n'
        '<div class="figure-caption docutils" id="fig-1">\n<p>Left: one. Right: another.</p>\n</div>\n'
        '<div class="figure-caption docutils" id="tab-1">\n<p>Left out.</p>\n</div></article>'
    )
    (tmp_path / "book/page.html").write_text(f"<html><head></head><body>{article}</body></html>")
    return tmp_path


def test_a_phone_gets_a_figure_with_its_panels_below_each_other(two_panels):
    lighten.lighten(two_panels)
    page = (two_panels / "book/page.html").read_text()
    (picture,) = re.findall(r"<picture>.*?</picture>", page)
    source, image = re.fullmatch(r"<picture>(<source [^>]*>)(<img [^>]*>)</picture>", picture).groups()
    assert 'media="screen and (max-width: 600px)"' in source
    assert 'srcset="../_images/a-stacked.svg"' in source
    stacked = two_panels / "_images/a-stacked.svg"
    assert lighten.size(stacked) in source
    assert 'alt="Curves." src="../_images/a.svg"' in image
    assert lighten.size(two_panels / "_images/a.svg") in image
    assert f"--stacked: {lighten.NEEDS.search(lighten.legible(stacked))[1]}px; --legible: " in image
    assert re.findall(r'class="figure-caption([^"]*)" id="(\w+)', page) == [
        (" of-columns docutils", "fig"),
        (" docutils", "tab"),
    ]
    lighten.lighten(two_panels)
    assert (two_panels / "book/page.html").read_text() == page


@pytest.mark.parametrize("why", ["legible as it is", "no more legible"])
def test_a_figure_stays_as_it_is_for_a_phone(two_panels, monkeypatch, why):
    monkeypatch.setattr(lighten, *(("PHONE", 900) if why == "legible as it is" else ("WORTH", 0.1)))
    lighten.lighten(two_panels)
    assert "<picture>" not in (two_panels / "book/page.html").read_text()
    assert [path.name for path in (two_panels / "_images").iterdir()] == ["a.svg"]


@pytest.mark.parametrize(
    ("letters", "width"),
    [
        ("scale(0.105 -0.105) scale(0.0525 -0.0525)", 800),  # 5.25 points are 7 pixels
        ("rotate(-90) scale(0.105 -0.105)", 400),
        ("scale(0.03 -0.03)", 800),  # no wider than it was drawn
        ("scale(1 -1)", None),
    ],
)
def test_a_drawing_says_how_wide_its_letters_need_it(tmp_path, letters, width):
    drawing = f'<svg width="600pt" height="200pt"><g transform="translate(1 2) {letters}"/></svg>'
    (tmp_path / "a.svg").write_text(drawing)
    assert lighten.legible(tmp_path / "a.svg") == (f' style="--legible: {width}px"' if width else "")
    assert lighten.legible(tmp_path / "a.png") == ""
