"""Put the scripts that typeset mathematics into `book/_static/vendor`, for the build and for pages that need them.

With them a page works where no other server can be reached. They come from npm and are compared with the checksums
below. Without npm or a network, those of an earlier build serve; where there are none, the pages load the scripts from
the usual public server instead.

MathJax's own bundle holds a menu, a reader of MathML and more, which every page would fetch and few readers open. The
pages take one script of the parts that they need: fewer bytes by a third, and less work for each formula.
"""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
VENDOR = ROOT / "book/_static/vendor"
# package, version, SHA-512, folder inside the package, what is taken of it, where it goes
PACKAGES = (
    (
        "mathjax",
        "3.2.2",
        "Bt+SSVU8eBG27zChVewOicYs7Xsdt40qm4+UpHyX7k0/O9NliPc+x77k1/FEsPsjKPZGJvtRZM1vO+geW0OhGw==",
        "package/es5",
        (
            "startup.js",
            "core.js",
            "input/tex.js",
            "input/tex/extensions/",
            "output/chtml.js",
            "output/chtml/fonts/",
            "a11y/assistive-mml.js",
            "adaptors/liteDOM.js",
        ),
        "mathjax",
    ),
)
STAMP = VENDOR / "complete.txt"
ADAPTOR = "adaptors/liteDOM.js"  # what MathJax takes for a page where there is no browser: see typeset.py
BUNDLE = "book.js"
# In MathJax's own bundle each formula has a menu: up to 500 a page, not one of them a stop for who goes on by the tab
# key. What scrolls is: see reading.js.
WITH_MENU = {"mathjax3_config": {"options": {"menuOptions": {"settings": {"inTabOrder": False}}}}}
# What the bundle is made of, in its order, and the names under which MathJax would look for it. The first part waits
# for the end of the script before it begins.
PARTS = {
    "startup.js": ("loader", "startup"),
    "core.js": ("core",),
    "input/tex.js": (
        "input/tex", "input/tex-base",
        *(f"[tex]/{name}" for name in ("ams", "newcommand", "noundefined", "require", "autoload", "configmacros")),
    ),
    "input/tex/extensions/boldsymbol.js": ("[tex]/boldsymbol",),
    "output/chtml.js": ("output/chtml",),
    "output/chtml/fonts/tex.js": ("output/chtml/fonts/tex.js",),
    "a11y/assistive-mml.js": ("a11y/assistive-mml",),
}  # fmt: skip


def stamp() -> str:
    """What a complete folder of scripts says of itself."""
    packages = "".join(f"{name}@{version} {checksum}\n" for name, version, checksum, *_ in PACKAGES)
    return f"{packages}{BUNDLE}: {' '.join(PARTS)}\n{ADAPTOR}\n"


def fetch() -> bool:
    """Put the scripts in place unless they are; whether there are any afterwards."""
    if STAMP.is_file() and STAMP.read_text() == stamp():
        return True
    if shutil.which("npm") is None:
        return without("npm is not installed")
    print("Fetching MathJax from npm ...", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "vendor"
        for name, version, checksum, inside, wanted, destination in PACKAGES:
            archive = download(f"{name}@{version}", Path(folder))
            if archive is None:
                return without(f"npm could not fetch {name}@{version}")
            found = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
            if found != checksum:
                raise SystemExit(f"{name}@{version}: SHA-512 is {found}, expected {checksum}. Nothing was installed.")
            unpack(archive, inside, wanted, made / destination)
            if name == "mathjax":
                bundle(made / destination)
        (made / STAMP.name).write_text(stamp())
        shutil.rmtree(VENDOR, ignore_errors=True)
        # The stamp, which says that the folder is whole, comes last.
        shutil.copytree(made, VENDOR, ignore=shutil.ignore_patterns(STAMP.name))
        shutil.copy(made / STAMP.name, STAMP)
    return True


def without(reason: str) -> bool:
    """Say what the pages do without the newest scripts; whether there are older ones."""
    if STAMP.is_file():
        print(f"{reason}: the pages keep the scripts of an earlier build.")
        return True
    print(f"{reason}: the pages will load MathJax from a public server.")
    return False


def download(package: str, folder: Path) -> Path | None:
    """The archive of one npm package; None where npm cannot reach it."""
    before = set(folder.glob("*.tgz"))
    command = ["npm", "pack", package, "--pack-destination", str(folder), "--silent"]
    command += ["--fetch-retries=1", "--fetch-timeout=60000"]  # npm's own patience without a network is minutes
    result = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    new = set(folder.glob("*.tgz")) - before
    return new.pop() if result.returncode == 0 and new else None


def unpack(archive: Path, inside: str, wanted: tuple[str, ...], destination: Path) -> None:
    """Copy the wanted files of an archive."""
    with tarfile.open(archive) as tar:
        for member in tar.getmembers():
            path = Path(member.name)
            if not member.isfile() or not path.is_relative_to(inside):
                continue
            relative = path.relative_to(inside)
            if any(
                relative.as_posix().startswith(pattern) if pattern.endswith("/") else relative.match(pattern)
                for pattern in wanted
            ):
                content = tar.extractfile(member)
                assert content is not None
                target = destination / relative
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content.read())


def bundle(folder: Path) -> None:
    """Make one script of MathJax's parts."""
    names = json.dumps([name for part in PARTS.values() for name in part], separators=(",", ":"))
    texts = [(folder / part).read_text(encoding="utf-8") for part in PARTS]
    texts.insert(1, f"MathJax.loader.preLoad(...{names});")
    (folder / BUNDLE).write_text("\n".join(texts) + "\n", encoding="utf-8")
    for part in PARTS:
        (folder / part).unlink()


def sphinx_settings() -> dict[str, Any]:
    """Settings that make the pages use these scripts; where they are not there, those for MathJax's own bundle."""
    if not fetch():
        return WITH_MENU
    if not (VENDOR / "mathjax" / BUNDLE).is_file():  # an earlier build's
        return {"mathjax_path": "vendor/mathjax/tex-mml-chtml.js", **WITH_MENU}
    return {"mathjax_path": f"vendor/mathjax/{BUNDLE}"}
