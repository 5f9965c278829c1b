"""The models by name, with what is said of each beside its class: variants, sizes, the architectures of experiments."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from dvae_lib.graphs import DependencySpec
from dvae_lib.models.base import DVAE

__all__ = ["MODELS", "PRESETS", "ModelEntry", "Preset", "build_model", "choose_spec", "register"]

Model = TypeVar("Model", bound=type[DVAE])


class ModelEntry(NamedTuple):
    """A model's class, the options that make it this model, and what is known of it.

    Attributes:
        cls: The class.
        options: The options that make it this model.
        chapter: Where the book tells of it; a section after the point.
        variants: Options of all its variants, each of which obeys all laws.
        small: Sizes with which it is tested.
    """

    cls: type[DVAE]
    options: dict[str, Any]
    chapter: int | float = math.inf
    variants: Sequence[dict[str, Any]] = ({},)
    small: Mapping[str, Any] = {}


class Preset(NamedTuple):
    """What all models of an experiment share, and each model's own layers."""

    shared: dict[str, Any]
    layers: dict[str, dict[str, Any]]


MODELS: dict[str, ModelEntry] = {}
"""The models by name."""

PRESETS: dict[str, Preset] = {
    "speech": Preset({"x_dim": 513, "z_dim": 16, "observation": "gamma"}, {}),
    "motion": Preset({"x_dim": 93, "z_dim": 10, "observation": "centimetre_gaussian"}, {}),
}
"""The architectures of the experiments on speech (Appendix B) and human motion (Appendix C)."""


def register(
    name: str,
    *,
    chapter: int | float = math.inf,
    options: Mapping[str, Any] | None = None,
    variants: Sequence[dict[str, Any]] = ({},),
    small: Mapping[str, Any] | None = None,
    **presets: Mapping[str, Any],
) -> Callable[[Model], Model]:
    """Enter a model: `build_model` builds it, the laws are tested on it.

    Arguments:
        name: Its name.
        chapter: Where the book tells of it; the models stand in this order.
        options: The options that make it this model, where one class is several.
        variants: Options of all its variants.
        small: Sizes with which it is tested.
        presets: Its layers in the experiments, by the name of a preset ("speech", "motion").

    Raises:
        ValueError: The name is taken, or a preset unknown.

    Example:
        >>> from dvae_lib import VAE
        >>> @register("wide-vae", small={"encoder": (8,)}, speech={"encoder": (512,)})
        ... class WideVAE(VAE):
        ...     pass
        >>> build_model("wide-vae", preset="speech").e_z[0].out_features
        512
        >>> del MODELS["wide-vae"], PRESETS["speech"].layers["wide-vae"]
    """
    if name in MODELS:
        raise ValueError(f"a model called {name!r} is registered already: {MODELS[name].cls.__name__}")
    _check_presets(*presets)

    def enter(cls: Model) -> Model:
        MODELS[name] = ModelEntry(cls, dict(options or {}), chapter, tuple(variants), dict(small or {}))
        for preset, layers in presets.items():
            PRESETS[preset].layers[name] = dict(layers)
        _sort(MODELS)
        for experiment in PRESETS.values():
            _sort(experiment.layers)
        return cls

    return enter


def _sort(table: dict[str, Any]) -> None:
    for name in sorted(table, key=lambda name: MODELS[name].chapter):
        table[name] = table.pop(name)


def choose_spec(specs: Mapping[str, DependencySpec], u_dim: int, **choice: str) -> DependencySpec:
    """The spec of a variant; without its inputs where the model is undriven.

    Arguments:
        specs: Driven specs by the variant's name.
        u_dim: Size of the input vectors.
        choice: One option by its name, and the value that names the variant.

    Raises:
        ValueError: There is no such variant.
    """
    ((option, value),) = choice.items()
    if value not in specs:
        raise ValueError(f"{option} must be one of {', '.join(specs)}; got {value!r}")
    return specs[value] if u_dim else specs[value].undriven()


def build_model(name: str, preset: str | None = None, *, inputs: str | None = None, **overrides: Any) -> DVAE:
    """A new model by name.

    Arguments:
        name: A name in `MODELS`.
        preset: "speech" or "motion", the architectures of Appendices B and C; None: the class's defaults.
        inputs: What the networks read, "power" or "log_power"; see `DVAE.read_as`.
        overrides: Options that take precedence over the preset's.

    Raises:
        ValueError: Unknown name or preset.

    Example:
        >>> build_model("vae", preset="speech").x_dim
        513
    """
    if name not in MODELS:
        raise ValueError(f"no model is called {name!r}; there are {', '.join(MODELS)}")
    _check_presets(*([preset] if preset else []))
    entry = MODELS[name]
    chosen = PRESETS[preset] if preset else Preset({}, {})
    model = entry.cls(**{**chosen.shared, **chosen.layers.get(name, {}), **entry.options, **overrides})
    if inputs is not None:
        model.read_as(inputs)
    return model


def _check_presets(*presets: str) -> None:
    for preset in presets:
        if preset not in PRESETS:
            raise ValueError(f"no preset is called {preset!r}; there are {', '.join(PRESETS)}")
