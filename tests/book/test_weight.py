"""What a published page costs its reader: bytes, scripts that stop it, sounds that must play."""

import gzip
import re
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import soundfile
from PIL import Image

LIMIT = 2e6  # bytes over the wire, before the sounds
PACKED = {".html", ".css", ".js", ".svg", ".json"}  # what servers send packed
# At the end of the text, which is shown before they run. In the head none is waited for.
LAST = ("_static/scripts/bootstrap.js", "_static/scripts/pydata-sphinx-theme.js")
TAG = re.compile(r"<script\b[^>]*>.*?</script>|<(?:link|img|audio|video|source)\b[^>]*>", re.DOTALL)
REFERENCE = re.compile(r'\s(?:src|href)="([^"]*)"')


def pages(html):
    found = [path for path in html.rglob("*.html") if "_static" not in path.relative_to(html).parts]
    assert found
    return sorted(found)


@cache
def tags(page: Path) -> tuple[str, ...]:
    return tuple(TAG.findall(page.read_text(encoding="utf-8")))


def file_of(page: Path, tag: str) -> Path | None:
    """The file of the site that a tag asks for."""
    found = REFERENCE.search(tag.partition(">")[0])
    if found is None or urlsplit(found[1]).scheme or not urlsplit(found[1]).path:
        return None
    return (page.parent / unquote(urlsplit(found[1]).path)).resolve()


@cache
def bytes_of(path: Path) -> int:
    content = path.read_bytes()
    return len(gzip.compress(content, 6)) if path.suffix in PACKED else len(content)


def weight(page: Path) -> int:
    """Bytes of a page and of all it names, read to its end: styles, scripts, pictures.

    The fonts that MathJax chooses for its formulas are not in it: 150 to 180 kB for a chapter, kept for all.
    """
    asked = {page}
    for tag in tags(page):
        kind = tag[1:].split()[0]
        if kind == "img" or kind.startswith("script") or (kind == "link" and re.search("stylesheet|preload|icon", tag)):
            asked |= {path for path in [file_of(page, tag)] if path is not None}
    return sum(map(bytes_of, asked))


def test_no_page_is_heavy(html):
    heavy = {page.relative_to(html).as_posix(): found for page in pages(html) if (found := weight(page)) > LIMIT}
    assert heavy == {}


def test_no_page_carries_sounds_or_films_inside(html):
    inside = re.compile(
        r"data:(?:audio|video)/[\w.+-]+;base64,[A-Za-z0-9+/]{64}|data:image/[\w.+-]+;base64,[A-Za-z0-9+/]{12000}"
    )
    assert [page.name for page in pages(html) if inside.search(page.read_text(encoding="utf-8"))] == []


def test_players_fetch_nothing_before_they_play(html):
    players = [(page.name, tag) for page in pages(html) for tag in tags(page) if re.match("<(?:audio|video)", tag)]
    assert [found for found in players if 'preload="none"' not in found[1]] == []


def test_every_sound_and_film_plays(html):
    asked = {
        path
        for page in pages(html)
        for tag in tags(page)
        if re.match("<(?:audio|video|source|img)", tag) and (path := file_of(page, tag)) is not None
        if path.parent.name == "media"
    }
    for path in asked:
        if path.suffix in (".mp3", ".wav", ".ogg"):
            sound, rate = soundfile.read(path)
            assert len(sound) > 0.01 * rate, path
        else:
            with Image.open(path) as film:
                for frame in range(getattr(film, "n_frames", 1)):
                    film.seek(frame)
                    film.load()


def test_no_script_stops_a_page(html):
    stopping = set()
    for page in pages(html):
        for tag in tags(page):
            path = file_of(page, tag) if tag.startswith("<script") else None
            if path is not None and not re.search(r'\b(?:defer|async|type="module")', tag.partition(">")[0]):
                stopping.add(path.relative_to(html.resolve()).as_posix())
    assert stopping == set(LAST)


def test_no_page_needs_the_code_of_notebook_widgets(html):
    needing = [
        page.name
        for page in pages(html)
        for tag in tags(page)
        if tag.startswith("<script") and re.search(r"vnd\.jupyter\.widget|require(?:\.min)?\.js|embed-amd|thebe", tag)
    ]
    assert needing == [], "a picture, or HTML that lives by itself (data/widgets), shows the same on a static page"


def test_pictures_below_the_first_screen_wait_and_keep_their_room(html):
    pictures = [
        tag for page in pages(html) for tag in tags(page) if tag.startswith("<img") and 'src="../_images/' in tag
    ]
    assert pictures
    assert [tag[-80:] for tag in pictures if not re.search(r'\bwidth="\d|\bwidth:', tag)] == []
    assert sum('loading="lazy"' in tag for tag in pictures) > 0.8 * len(pictures)


@pytest.mark.parametrize("name", ["book/01_introduction.html"])
def test_a_page_from_the_disk_has_its_icons_and_sounds(html, name):
    """Under `file://` a browser takes no font and no request by script from another file."""
    from playwright.sync_api import sync_playwright
    from test_pages import CHROMIUM, MISSING_ICONS, QUIET

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        page = browser.new_page()
        page.goto((html / name).resolve().as_uri())
        assert page.evaluate(MISSING_ICONS) == []
        durations = page.evaluate("""() => Promise.all([...document.querySelectorAll("audio")].map(player =>
            new Promise(done => {
                player.addEventListener("loadedmetadata", () => done(player.duration));
                player.addEventListener("error", () => done(-1));
                player.preload = "metadata";
                player.load();
            })))""")
        assert all(duration > 0 for duration in durations), durations
        browser.close()
