"""A model's drawing and table under a notebook cell."""

from typing import TypeVar

from dvae_lib.architecture.drawing import draw_architecture
from dvae_lib.architecture.table import architecture, to_markdown
from dvae_lib.models.base import DVAE

__all__ = ["show_architecture"]

Model = TypeVar("Model", bound=DVAE)


def show_architecture(model: Model) -> Model:
    """Display what a model is made of, as a drawing and as a table, under a notebook cell.

    Arguments:
        model: Any model of the library, or one of your own.

    Returns:
        The model, so that a cell may build, show and keep it in one line.

    Raises:
        ImportError: Outside Jupyter, where IPython is not installed.

    Example:
        >>> from dvae_lib import VAE
        >>> show_architecture(VAE(x_dim=4, z_dim=2)).z_dim  # doctest: +SKIP
        2
    """
    try:
        from IPython.display import Markdown, display
    except ImportError as error:
        raise ImportError("show_architecture needs IPython: pip install ipython") from error

    display(draw_architecture(model), Markdown(to_markdown(architecture(model))))  # type: ignore[no-untyped-call]
    return model
