"""Models on the disk: the configuration as JSON, the weights as safetensors, nothing pickled."""

import difflib
import inspect
import json
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from dvae_lib._version import __version__
from dvae_lib.data.pretrained import pretrained_folder, pretrained_names
from dvae_lib.data.standardize import Standardizer
from dvae_lib.files import write_atomically

__all__ = ["Pretrained"]

Model = TypeVar("Model", bound="Pretrained")

CONFIGURATION, WEIGHTS = "config.json", "model.safetensors"
FORMAT = 1


class Pretrained(nn.Module):
    """A module that notes the arguments it was built with, so that it can be saved and built again.

    Attributes:
        metadata: JSON data that travels with the weights: corpus, standardisation, front end...
        options: The arguments that the model was built with.
    """

    options: dict[str, Any]
    metadata: dict[str, Any]

    def __new__(cls: type[Model], *args: Any, **kwargs: Any) -> Model:
        """Note the arguments of the constructor, so that a saved model can be built again."""
        model = super().__new__(cls)
        signature = inspect.signature(cls.__init__)
        try:
            bound = signature.bind(model, *args, **kwargs)
        except TypeError:  # wrong arguments, of which __init__ complains better; or a copy being made
            return model
        bound.apply_defaults()
        options: dict[str, Any] = {}
        for name, value in list(bound.arguments.items())[1:]:
            kind = signature.parameters[name].kind
            if kind is inspect.Parameter.VAR_KEYWORD:
                options.update(value)
            elif kind is inspect.Parameter.VAR_POSITIONAL:
                options.update(_named(cls, value))
            else:
                options[name] = value
        object.__setattr__(model, "options", options)
        object.__setattr__(model, "metadata", {})
        return model

    @property
    def standardizer(self) -> Standardizer | None:
        """What the data were standardised by that the model was trained on; None where they were not.

        The model takes and gives standardised values: `standardizer.transform` leads to them, and
        `standardizer.inverse` back to the data's own units.
        """
        return _saved_standardizer(self.metadata.get("standardizer"))

    @property
    def input_standardizer(self) -> Standardizer | None:
        """The same for the inputs u of a driven model."""
        return _saved_standardizer(self.metadata.get("input_standardizer"))

    def save_pretrained(self, folder: str | Path, *, half: bool = False) -> Path:
        """Write the configuration (JSON) and the weights (safetensors) into a folder, each file whole or not at all.

        Arguments:
            folder: Where to.
            half: Write the weights in half precision, which halves the file; `from_pretrained` gives them back in
                single precision, rounded to about three digits.

        Returns:
            The folder, created if need be.

        Raises:
            TypeError: Options or metadata that are no JSON data, or a constructor that could not be called with them.
        """
        text = self.configuration()
        folder = Path(folder).expanduser()
        folder.mkdir(parents=True, exist_ok=True)
        weights = {
            name: (value.half() if half and value.is_floating_point() else value).detach().contiguous()
            for name, value in self.state_dict().items()
        }
        write_atomically(folder / WEIGHTS, save(weights))
        write_atomically(folder / CONFIGURATION, text.encode())
        return folder

    def configuration(self) -> str:
        """The JSON text that stands beside the weights of a saved model: its class, its options, its metadata.

        Numbers and arrays of NumPy become those of JSON.

        Raises:
            TypeError: What `from_pretrained` could not build again.
        """
        kind = type(self)
        values = {
            "format": FORMAT,
            "class": kind.__name__,
            "options": self.options,
            **self._noted(),
            "metadata": self.metadata,
            "dvae_lib": __version__,
        }
        try:
            inspect.signature(kind.__init__).bind(self, **self.options)
            if any(name.startswith("*") for name in self.options):
                raise TypeError("it takes unnamed arguments")
        except TypeError as error:
            raise TypeError(
                f"A saved {kind.__name__} could not be built again from its options, {', '.join(self.options)}: "
                f"{error}. Give the arguments of {kind.__name__}.__init__ names, or let it take **options as well"
            ) from error
        try:
            return json.dumps(values, indent=2, default=_as_json)
        except (TypeError, ValueError) as error:
            raise TypeError(f"options and metadata of a saved model must be JSON data: {error}") from error

    def _noted(self) -> dict[str, Any]:
        """What else a configuration notes of the model: what was chosen after it was built."""
        return {}

    def _restore(self, configuration: dict[str, Any]) -> None:
        """Choose again what a configuration notes."""

    @classmethod
    def from_pretrained(cls: type[Model], folder: str | Path) -> Model:
        """A saved model, from its folder, that of its run, or by the name of one that ships with the library.

        Called on `DVAE` it finds the class by itself; called on a class it insists on that class.

        Raises:
            FileNotFoundError: No such folder or name.
            ValueError: A damaged or incomplete folder, another class, weights that do not fit.
        """
        path = _locate(folder)
        configuration = _read_configuration(path / CONFIGURATION)
        name = configuration["class"]
        known: dict[str, type[Model]] = {c.__name__: c for c in [cls, *_subclasses(cls)]}
        if name not in known:
            raise ValueError(
                f"{path} holds a {name}, which is not a {cls.__name__}; "
                "load it with DVAE.from_pretrained, or import the module that defines it first"
            )
        try:
            model = known[name](**configuration["options"])
        except TypeError as error:
            raise ValueError(f"{path / CONFIGURATION}: options do not fit {name}: {error}") from error
        object.__setattr__(model, "metadata", configuration.get("metadata", {}))
        model._restore(configuration)
        try:
            weights = load_file(path / WEIGHTS)
            model.load_state_dict(weights)
        except (OSError, SafetensorError, RuntimeError) as error:
            raise ValueError(f"{path / WEIGHTS} is damaged or does not belong to this {name}: {error}") from error
        model.eval()
        return model


def _saved_standardizer(state: dict[str, list[float]] | None) -> Standardizer | None:
    return None if state is None else Standardizer.from_dict(state)


def _named(cls: type[Any], values: tuple[Any, ...]) -> dict[str, Any]:
    """What a constructor takes as ``*args`` by the names that the next class's constructor gives it.

    Where that is not known, or where the constructor takes no such names, a name says so that no constructor has.
    """
    own = inspect.signature(cls.__init__).parameters.values()
    by_name = any(p.kind is p.VAR_KEYWORD for p in own)
    for base in cls.__mro__[1:] if by_name else ():
        constructor = vars(base).get("__init__")
        if constructor is None:
            continue
        parameters = list(inspect.signature(constructor).parameters.values())[1:]
        if not any(p.kind is p.VAR_POSITIONAL for p in parameters):
            names = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
            if len(values) <= len(names):
                return dict(zip(names, values, strict=False))
    return {"*args": list(values)} if values else {}


def _as_json(value: object) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{value!r} of type {type(value).__name__} is not")


def _subclasses(cls: type[Any]) -> list[type[Any]]:
    return [s for c in cls.__subclasses__() for s in (c, *_subclasses(c))]


def _locate(folder: str | Path) -> Path:
    path = Path(folder).expanduser()
    if path.is_dir():
        # The folder of a run of `fit`, whose own configuration is that of the training, holds its best model.
        best = path / "best"
        return best if (best / CONFIGURATION).is_file() and not (path / WEIGHTS).exists() else path
    trained = pretrained_folder(str(folder))
    if trained is not None:
        return trained
    names = pretrained_names()
    near = difflib.get_close_matches(str(folder), names, n=3, cutoff=0.5)
    raise FileNotFoundError(
        f"no folder and no trained model called {str(folder)!r}"
        + (
            f"; did you mean {' or '.join(near)}?"
            if near
            else f"; there are {len(names)} of them ('dvae info' lists them)"
        )
    )


def _read_configuration(path: Path) -> dict[str, Any]:
    try:
        configuration = json.loads(path.read_text(encoding="utf-8"))
        if configuration["format"] > FORMAT:
            raise ValueError(
                f"{path} was written by a newer dvae_lib ({configuration.get('dvae_lib')}): upgrade dvae-lib"
            )
        configuration["class"], configuration["options"]
    except FileNotFoundError as error:
        raise ValueError(f"{path.parent} is not a saved model: it has no {path.name}") from error
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged: {error!r}") from error
    return configuration  # type: ignore[no-any-return]
