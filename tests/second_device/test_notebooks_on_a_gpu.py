"""The notebooks that train run from top to bottom where there is a GPU, which `fit` takes by itself."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TRAINING = [
    "02_*",
    "03a_*",
    "05_*",
    "06_*",
    "09_*",
    "your_own_model",
]


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINING)
def test_runs_to_the_end(second, name):
    notebooks = sorted((ROOT / "book").glob(f"{name}.ipynb"))
    assert notebooks
    script = Path(__file__).with_name("notebooks.py")
    environment = {**os.environ, "DVAE_BUDGET": "ci", "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), environment.get("PYTHONPATH", "")])
    command = [sys.executable, str(script), *map(str, notebooks)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
