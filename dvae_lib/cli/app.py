"""The program around the commands: its own options, and errors as messages."""

import logging
from typing import Annotated, Any

import typer
from rich.logging import RichHandler
from rich.markup import escape
from typer.core import TyperGroup

from dvae_lib._version import __version__
from dvae_lib.cli import console
from dvae_lib.cli.console import INTERRUPTED

__all__ = ["app"]


class _Group(TyperGroup):
    """Errors as messages: what the library says, without the traceback, unless it is asked for."""

    def invoke(self, ctx: Any) -> Any:  # typer and click each have a class of contexts
        try:
            return super().invoke(ctx)
        except (
            ValueError,
            TypeError,
            OSError,
            ImportError,
            ArithmeticError,
            NotImplementedError,
            RuntimeError,
        ) as error:
            # The two that typer itself raises to end a program are RuntimeErrors.
            if isinstance(error, typer.Exit | typer.Abort) or ctx.params.get("debug"):
                raise
            console.err.print(f"[bold red]Error:[/] {escape(str(error) or type(error).__name__)}", highlight=False)
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            console.err.print("Interrupted.")
            raise typer.Exit(INTERRUPTED) from None


app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> bool:
    if wanted:
        console.out.print(__version__)
        raise typer.Exit
    return wanted


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and stop.")
    ] = False,
) -> None:
    """Dynamical variational autoencoders: get data, train models, judge them, enhance and code speech, repeat studies.

    [bold]Examples[/]

    dvae data fetch prompts

    dvae train vae --corpus prompts --folder runs/vae

    dvae evaluate runs/vae

    dvae forecast runs/mine series.csv --steps 12

    dvae enhance noisy.wav -o clean.wav

    dvae encode in.wav -o speech.dvae

    dvae benchmark runs/benchmark --corpus librispeech
    """
    logger = logging.getLogger("dvae_lib")
    if not any(isinstance(handler, RichHandler) for handler in logger.handlers):
        logger.addHandler(RichHandler(console=console.err, show_time=False, show_path=False, show_level=False))
    logger.setLevel(logging.INFO)
