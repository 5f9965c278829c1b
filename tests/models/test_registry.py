"""Models register themselves: a new one is a file, and its test."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dvae_lib.models import MODELS, PRESETS, VAE, build_model, register

ADDED = """
import sys
import dvae_lib.models

dvae_lib.models.__path__.append(sys.argv[1])  # as if the file stood in the folder
from importlib import import_module
from pkgutil import iter_modules

for module in iter_modules([sys.argv[1]]):
    import_module(f"dvae_lib.models.{module.name}")

from dvae_lib import MODELS, build_model
from dvae_lib.testing import check_model

assert list(MODELS)[-1] == "short-memory", list(MODELS)
assert build_model("short-memory", preset="speech").observation == "gamma"
verdicts = check_model(build_model("short-memory", x_dim=3, z_dim=2, **MODELS["short-memory"].small))
assert sorted({verdict.partition(":")[0] for verdict in verdicts.values()}) == ["does not apply", "holds"], verdicts
print(build_model("short-memory", x_dim=3, z_dim=2).filter().num_particles)
"""


def test_a_new_model_is_one_file(tmp_path):
    """Sixty lines: its spec, its networks, its equations. All laws hold, it filters, and the registry builds it."""
    source = Path(__file__).with_name("new_model.txt")
    assert len(source.read_text(encoding="utf-8").splitlines()) <= 60
    shutil.copy(source, tmp_path / "short_memory.py")
    done = subprocess.run([sys.executable, "-c", ADDED, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "100"


def test_every_file_of_models_is_read():
    """The folder is searched: there is no list to forget a model in."""
    folder = Path(sys.modules["dvae_lib.models"].__file__).parent
    with_models = {path.stem for path in folder.glob("*.py") if "\n@register(" in path.read_text(encoding="utf-8")}
    assert {entry.cls.__module__.rpartition(".")[2] for entry in MODELS.values()} == with_models
    assert len(with_models) >= 8


def test_models_stand_in_the_order_of_the_book():
    chapters = [entry.chapter for entry in MODELS.values()]
    assert chapters == sorted(chapters)
    for preset in PRESETS.values():
        assert list(preset.layers) == [name for name in MODELS if name in preset.layers]


def test_refusals():
    with pytest.raises(ValueError, match="'vae' is registered already: VAE"):
        register("vae")(VAE)
    with pytest.raises(ValueError, match="no preset is called 'text'"):
        register("other", text={})(VAE)
    with pytest.raises(ValueError, match="inference_model must be one of smoother, filter; got 'guess'"):
        build_model("srnn", x_dim=3, z_dim=2, inference_model="guess")
