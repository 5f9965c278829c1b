"""The declared lower bounds are true: the oldest versions of everything, and the commands that a user runs.

    python tests/minimum_versions.py > oldest.txt && pip install -r oldest.txt && pip install --no-deps -e .
    python tests/minimum_versions.py --check

The first command prints the requirements, the last one runs help, a training, an evaluation and a description of it.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

try:
    import tomllib
except ImportError:  # Python 3.10
    from pip._vendor import tomli as tomllib

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def oldest() -> list[str]:
    """Each requirement of the library and its extras for users, at its lower bound."""
    lines = [
        *PROJECT["dependencies"],
        *(line for e in ("audio", "music", "midi", "codec") for line in PROJECT["optional-dependencies"][e]),
    ]
    return [re.sub(r">=", "==", line) for line in lines]


def check() -> None:
    """Run the commands in an empty folder."""
    make = (
        "import numpy as np; r = np.random.default_rng(0); "
        "np.savez('walks.npz', *[r.normal(size=(30, 3)).cumsum(0) for _ in range(20)])"
    )
    commands = (
        ["--help"],
        *([name, "--help"] for name in ("train", "evaluate", "enhance", "benchmark", "report", "info", "data")),
        ["train", "srnn", "--data", "walks.npz", "--folder", "run", "--epochs", "2", "--z-dim", "2"],
        ["evaluate", "run"],
        ["info", "run"],
        ["info", "vae-prompts"],
        ["data", "list"],
    )
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-c", make], cwd=folder, check=True)
        for command in commands:
            done = subprocess.run([sys.executable, "-m", "dvae_lib.cli", *command], cwd=folder, capture_output=True)
            if done.returncode:
                raise SystemExit(f"dvae {' '.join(command)} failed:\n{done.stdout.decode()}{done.stderr.decode()}")
    print(f"{len(commands)} commands work with the oldest versions on Python {sys.version.split()[0]}.")


if __name__ == "__main__":
    check() if "--check" in sys.argv[1:] else print("\n".join(oldest()))
