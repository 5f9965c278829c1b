"""Make `_toc.yml` and the pages of the API reference from `book/contents.yml` and the public modules of `dvae_lib`.

python book/_tools/contents.py [--check]
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
HEADER = "# Made by `python book/_tools/contents.py` from book/contents.yml: the pages that are written.\n"


def contents(root: Path = ROOT) -> dict[str, Any]:
    """The whole table of contents, written or not."""
    loaded: dict[str, Any] = yaml.safe_load((root / "book/contents.yml").read_text(encoding="utf-8"))
    return loaded


def is_written(root: Path, name: str) -> bool:
    """Whether book/ holds a page."""
    return any((root / "book" / f"{name}{suffix}").is_file() for suffix in (".ipynb", ".md"))


def written_pages(root: Path = ROOT) -> set[str]:
    """The names of all pages in book/, in the way `contents.yml` gives them."""
    book = root / "book"
    return {
        path.relative_to(book).with_suffix("").as_posix()
        for suffix in ("ipynb", "md")
        for path in book.rglob(f"*.{suffix}")
        if not any(part.startswith(("_", ".")) or part == "generated" for part in path.relative_to(book).parts)
    }


def listed_pages(root: Path = ROOT) -> list[str]:
    """The names of all pages that `contents.yml` announces; folders are listed with what they hold."""
    plan = contents(root)
    entries = [plan["root"], *(entry for part in plan["parts"] for entry in part["pages"])]
    return [name for entry in entries for name in names_of(entry, root)]


def names_of(entry: dict[str, str], root: Path) -> list[str]:
    """The page of an entry, and the pages of the folder below it."""
    return [entry["file"], *pages_below(entry, root)]


def pages_below(entry: dict[str, str], root: Path) -> list[str]:
    """The pages of an entry's folder, in the order of their names; none where it has no folder."""
    if "pages" not in entry:
        return []
    folder = entry["pages"].removesuffix("*")
    return sorted(name for name in written_pages(root) if name.startswith(folder))


def public_modules(root: Path = ROOT) -> list[str]:
    """The public modules and packages right below `dvae_lib`, with what they say of themselves."""
    return sorted(
        path.stem
        for path in (root / "dvae_lib").iterdir()
        if not path.name.startswith(("_", ".")) and (path.suffix == ".py" or (path / "__init__.py").is_file())
    )


def toc(root: Path = ROOT) -> str:
    """The text of `_toc.yml`."""
    plan = contents(root)
    first = plan["root"]["file"]
    parts = []
    for part in plan["parts"]:
        chapters = [chapter(entry, root) for entry in part["pages"] if is_written(root, entry["file"])]
        if chapters:
            parts.append({"caption": part["caption"], "chapters": chapters})
    text = yaml.safe_dump(
        {"format": "jb-book", "root": f"book/{first}", "parts": parts}, sort_keys=False, allow_unicode=True
    )
    return HEADER + text


def pages_in(toc: Any) -> list[str]:
    """All pages of a table of contents, with those below others."""
    if isinstance(toc, list):
        return [page for entry in toc for page in pages_in(entry)]
    below = [page for key in ("parts", "chapters", "sections") for page in pages_in(toc.get(key, []))]
    return [toc[key] for key in ("root", "file") if key in toc] + below


def published_pages(root: Path = ROOT) -> list[str]:
    """The pages of `_toc.yml`: all that a built book has."""
    return pages_in(yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8")))


def titles(root: Path = ROOT) -> dict[str, str]:
    """The side bar's title of every page that `contents.yml` names."""
    plan = contents(root)
    return {entry["file"]: entry["title"] for part in plan["parts"] for entry in part["pages"]}


def chapter(entry: dict[str, str], root: Path) -> dict[str, Any]:
    """One line of `_toc.yml`, with the pages below it."""
    line: dict[str, Any] = {"file": f"book/{entry['file']}", "title": entry["title"]}
    named = titles(root)
    below = [
        # solutions/05_x.ipynb stands under the title of 05_x.ipynb
        {"file": f"book/{name}", "title": named.get(name.rpartition("/")[2], name)}
        for name in pages_below(entry, root)
    ]
    if "modules" in entry:
        below += [
            {"file": f"book/generated/{entry['modules']}.{module}", "title": f"{entry['modules']}.{module}"}
            for module in public_modules(root)
        ]
    if below:
        line["sections"] = below
    return line


def api_pages(root: Path = ROOT) -> dict[Path, str]:
    """Path and text of every page of the API reference, and of the table that lists them."""
    folder = root / "book/generated"
    pages = {folder / f"dvae_lib.{module}.md": api_page(root, f"dvae_lib.{module}") for module in public_modules(root)}
    rows = [
        f"| [dvae_lib.{module}](generated/dvae_lib.{module}.md) | {summary(root, f'dvae_lib.{module}')} |"
        for module in public_modules(root)
    ]
    pages[folder / "modules.txt"] = "\n".join(["| module | what it holds |", "|---|---|", *rows]) + "\n"
    return pages


def source_of(root: Path, module: str) -> Path:
    """The file of a module or package."""
    path = root.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def summary(root: Path, module: str) -> str:
    """The first sentence of a module's docstring."""
    docstring = ast.get_docstring(ast.parse(source_of(root, module).read_text(encoding="utf-8"))) or ""
    return docstring.split("\n\n")[0].replace("\n", " ").replace("|", "\\|").replace("``", "`")


def api_page(root: Path, module: str) -> str:
    """A module with all its public names; a package with its modules, one after the other."""
    source = source_of(root, module)
    is_package = source.name == "__init__.py"
    parts = [f"# {module}", automodule(module, is_package=is_package)]
    for path in sorted(source.parent.rglob("*.py")) if is_package else []:
        name = ".".join(path.relative_to(root).with_suffix("").parts)
        if not any(part.startswith("_") for part in name.split(".")):
            parts += [f"## {name}", automodule(name, is_package=False)]
    return "\n\n".join(parts) + "\n"


def automodule(module: str, *, is_package: bool) -> str:
    """The directive that documents one module."""
    # A package names in __all__ what its modules define; each name is documented once, where it is defined.
    only_own = "   :ignore-module-all:\n" if is_package else ""
    return f"```{{eval-rst}}\n.. automodule:: {module}\n   :members:\n   :show-inheritance:\n{only_own}```"


def write_if_new(path: Path, text: str) -> None:
    """Write a file unless it holds that text already: Sphinx reads again what has a new time stamp."""
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def unlisted_pages(root: Path = ROOT) -> list[str]:
    """Pages in book/ that `contents.yml` does not know."""
    return sorted(written_pages(root) - set(listed_pages(root)))


def update(root: Path = ROOT) -> None:
    """Write `_toc.yml` and the API pages.

    Raises:
        SystemExit: if a page in book/ is not in `contents.yml`.
    """
    if unlisted := unlisted_pages(root):
        raise SystemExit(f"Not in book/contents.yml: {', '.join(unlisted)}. Add each page where it belongs.")
    write_if_new(root / "_toc.yml", toc(root))
    pages = api_pages(root)
    for path in (root / "book/generated").glob("*"):
        if path not in pages:
            path.unlink()
    for path, text in pages.items():
        write_if_new(path, text)


if __name__ == "__main__":
    update()
