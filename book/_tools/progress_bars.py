"""Remove progress bars from executed notebooks: after the work a bar says nothing, and needs 8 MB of scripts to say it.

A reader who runs a notebook sees the bars. The site is made from results in which there are none.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

VIEW = "application/vnd.jupyter.widget-view+json"
STATE = "application/vnd.jupyter.widget-state+json"
BAR = "FloatProgressModel"


def remove_all(cache: Path) -> None:
    """Remove the bars from all results that a cache holds."""
    import nbformat

    for path in sorted(cache.glob("executed/*/base.ipynb")):
        if BAR not in path.read_text(encoding="utf-8"):
            continue
        notebook = nbformat.read(path, as_version=4)
        remove(notebook)
        nbformat.write(notebook, path)


def remove(notebook: Any) -> None:
    """Remove the bars of one notebook, and the state of widgets that no output shows any longer."""
    widgets = notebook.metadata.get("widgets", {}).get(STATE, {}).get("state", {})
    bars = {name for name in widgets if BAR in {widgets[part]["model_name"] for part in parts(name, widgets)}}
    shown: set[str] = set()
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        cell.outputs = [output for output in cell.outputs if model(output) not in bars]
        shown |= {name for output in cell.outputs if (name := model(output)) is not None}
    needed = {part for name in shown if name in widgets for part in parts(name, widgets)}
    for name in widgets.keys() - needed:
        del widgets[name]
    if not needed:
        notebook.metadata.pop("widgets", None)


def model(output: Any) -> str | None:
    """The widget that an output shows."""
    name: str | None = output.get("data", {}).get(VIEW, {}).get("model_id")
    return name


def parts(name: str, widgets: Any) -> set[str]:
    """A widget and all that its state refers to."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        part = waiting.pop()
        if part in found or part not in widgets:
            continue
        found.add(part)
        waiting += references(widgets[part]["state"])
    return found


def references(value: Any) -> list[str]:
    """The models that a piece of a widget's state names."""
    if isinstance(value, str):
        return [value.removeprefix("IPY_MODEL_")] if value.startswith("IPY_MODEL_") else []
    nested = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [name for part in nested for name in references(part)]
