"""``dvae info``: describe this installation, a run, a saved model, or a kind of model."""

import importlib.metadata
import importlib.util
import inspect
import json
import os
import platform
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.markup import escape
from rich.table import Table

from dvae_lib._version import __version__
from dvae_lib.cli import console
from dvae_lib.data.catalogue import list_corpora
from dvae_lib.data.places import cache_folder, search_path
from dvae_lib.data.pretrained import pretrained_names
from dvae_lib.models import DVAE, MODELS
from dvae_lib.models.reading import POWER

__all__ = ["info"]

_OPTIONAL = {
    "speech": ("soundfile", "soxr", "G722", "pesq", "pystoi"),
    "music": ("music21",),
    "codec": ("constriction",),
}


def info(
    model: Annotated[
        str | None,
        typer.Argument(help="Folder of a run or of a saved model, the name of one that ships, or a kind of model."),
    ] = None,
) -> None:
    """Describe this installation; or a run, a saved model, or the options of a kind of model.

    [bold]Examples[/]

    dvae info

    dvae info runs/vae

    dvae info srnn
    """
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, value in (_facts(model)).items():
        table.add_row(f"[bold]{name}[/]", escape(value))
    console.out.print(table)


def _facts(model: str | None) -> dict[str, str]:
    if model is None:
        return _installation()
    if model in MODELS and not Path(model).is_dir():
        return _kind_facts(model)
    return _model_facts(model)


def _kind_facts(name: str) -> dict[str, str]:
    """The options of a kind of model, with the values they have where none is given."""
    kind = MODELS[name]
    own = {**{n: p.default for n, p in inspect.signature(kind.cls).parameters.items()}, **kind.options}
    listed = [n if v is inspect.Parameter.empty else f"{n}={json.dumps(v, default=str)}" for n, v in own.items()]
    return {
        "model": f"{kind.cls.__name__}: {(inspect.getdoc(kind.cls) or '').splitlines()[0]}",
        "options": "\n".join(listed),
        "set by": f"dvae train {name} ... -O 'NAME=VALUE'",
        "trained models": ", ".join(n for n in pretrained_names() if n == name or n.startswith(f"{name}-")) or "none",
    }


def _installation() -> dict[str, str]:
    def version(package: str) -> str:
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            return "missing"

    facts = {
        "dvae-lib": f"{__version__} in {Path(__file__).parents[1]}",
        "Python": f"{platform.python_version()} on {platform.platform(terse=True)}",
        "needed": ", ".join(f"{name} {version(name)}" for name in ("torch", "numpy", "lightning-fabric")),
    }
    for extra, packages in _OPTIONAL.items():
        missing = [name for name in packages if importlib.util.find_spec(name) is None]
        present = ", ".join(f"{name} {version(name)}" for name in packages if name not in missing)
        hint = f'; missing: {", ".join(missing)} (pip install "dvae-lib[{extra}]")' if missing else ""
        facts[f"extra {extra}"] = (present or "none") + hint
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    gpus += ["Apple GPU (mps)"] if torch.backends.mps.is_available() else []
    found = {corpus.name: corpus.folder for corpus in list_corpora()}
    return {
        **facts,
        "devices": ", ".join([f"CPU ({os.cpu_count()} cores, {torch.get_num_threads()} threads)", *gpus]),
        "models": ", ".join(MODELS),
        "trained models": ", ".join(pretrained_names()) or "none",
        "corpora": "\n".join(f"{name}: {place or 'not here'}" for name, place in found.items()),
        "search path": os.pathsep.join(map(str, search_path())),
        "cache": str(cache_folder()),
    }


def _model_facts(name: str) -> dict[str, str]:
    from dvae_lib.training import BEST, CHECKPOINT, HISTORY
    from dvae_lib.training.checkpoints import load_checkpoint

    folder = Path(name)
    facts: dict[str, str] = {}
    if (folder / CHECKPOINT).is_file():
        _, state = load_checkpoint(folder / CHECKPOINT)
        progress, config = state["progress"], state["config"]
        facts = {
            "run": f"{folder}: {progress['epoch']} of at most {config['max_epochs']} epochs, {progress['step']} steps",
            "best": f"{progress['best_value']:.4f} nats per frame in epoch {progress['best_epoch']}"
            if progress["best_epoch"]
            else "no epoch is complete",
            "history": str(folder / HISTORY),
        }
        if not (folder / BEST).is_dir():
            return {**facts, "model": f"{state['run']['model']} (saved in {folder / BEST} when the run ends)"}
        name = str(folder / BEST)
    network = DVAE.from_pretrained(name)
    metadata = dict(network.metadata)
    if "data" in metadata:  # the marks of the sequences it has seen are for `evaluate`, a skeleton for `generate`
        metadata["data"] = {key: value for key, value in metadata["data"].items() if key not in ("seen", "files")}
    facts["model"] = f"{type(network).__name__}, {sum(p.numel() for p in network.parameters()):,} parameters"
    facts["options"] = ", ".join(f"{key}={value}" for key, value in network.options.items())
    if network.inputs != POWER:
        facts["networks read"] = network.inputs
    facts["standardised"] = "yes, as learned on the training part" if metadata.pop("standardizer", None) else "no"
    facts |= {key: json.dumps(value, ensure_ascii=False) for key, value in metadata.items()}
    return facts
