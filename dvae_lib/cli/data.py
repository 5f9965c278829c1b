"""``dvae data``: list, fetch and describe corpora."""

import os
from typing import Annotated

import typer
from rich.table import Table

from dvae_lib.cli import console
from dvae_lib.data.catalogue import corpus_info, describe, fetch_corpus, list_corpora
from dvae_lib.data.places import search_path

__all__ = ["app", "data_fetch", "data_info", "data_list"]

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", help="List, fetch and describe corpora.")


@app.command("list")
def data_list() -> None:
    """List the corpora, and which of them are here."""
    from dvae_lib.data.loading import source_names

    table = Table()
    for head in ("name", "kind", "size", "here"):
        table.add_column(head, overflow="fold")  # a name or a path that is cut off is none
    for info in list_corpora():
        found = info.folder
        how = f"no: dvae data fetch {info.name}" if info.fetch else f"no: dvae data info {info.name} says how"
        table.add_row(info.name, info.kind, info.size, str(found or how))
    console.out.print(table)
    listed = {info.name for info in list_corpora()}
    others = [name for name in source_names() if name not in listed]
    console.out.print(f"Also by name: {', '.join(others)}. Looked in: {os.pathsep.join(map(str, search_path()))}")


@app.command("fetch")
def data_fetch(
    name: Annotated[str, typer.Argument(help="Name of a corpus; see [bold]dvae data list[/].")],
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
) -> None:
    """Fetch a corpus, or say how to get it.

    What was interrupted goes on where it was.

    [bold]Example[/]: dvae data fetch prompts
    """
    folder = fetch_corpus(name, progress=not quiet)
    console.out.print(f"{name} is in {folder}", soft_wrap=True)


@app.command("info")
def data_info(
    name: Annotated[str, typer.Argument(help="Name of a corpus, or a path to your own sequences.")],
) -> None:
    """Describe a corpus, or your own sequences: what each part holds. Speech is analysed if it has not been.

    [bold]Example[/]: dvae data info prompts
    """
    from dvae_lib.data.loading import load
    from dvae_lib.data.speech import SpeechCorpus, load_corpus

    if name in {info.name for info in list_corpora()}:
        console.out.print(describe(name), soft_wrap=True, highlight=False, markup=False)
        if corpus_info(name).kind == "speech" and corpus_info(name).folder:
            console.out.print(load_corpus(name).summary(), highlight=False, markup=False)
        return
    parts = load(name).parts
    if isinstance(parts, SpeechCorpus):
        console.out.print(parts.summary(), highlight=False, markup=False)
        return
    for part in ("train", "validation", "test"):
        console.out.print(f"{part:<12}{getattr(parts, part)!r}", soft_wrap=True, highlight=False, markup=False)
