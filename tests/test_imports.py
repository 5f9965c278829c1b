"""What is slow to import is imported by whoever uses it."""

import subprocess
import sys

import pytest

# Together they take longer than torch; where matplotlib's folder cannot be written to it says so, whatever the command.
SLOW = {"matplotlib", "lightning_fabric", "torchmetrics", "sklearn", "librosa", "pandas", "sympy", "IPython"}


@pytest.mark.parametrize(
    "modules",
    [
        "dvae_lib",
        "dvae_lib.training, dvae_lib.enhancement, dvae_lib.statespace",
        "dvae_lib.data.loading, dvae_lib.evaluation",
        "dvae_lib.cli",
    ],
)
def test_the_library_is_imported_without_what_is_slow(modules):
    code = f"import sys, {modules}; print(sorted({SLOW} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
