import subprocess
import sys
from importlib import import_module

import pytest

import dvae_lib.data


@pytest.mark.parametrize("module", dvae_lib.data._PUBLIC)
def test_what_a_module_offers_is_offered_by_the_package(module):
    offered = import_module(f"dvae_lib.data.{module}").__all__
    assert sorted(dvae_lib.data._PUBLIC[module]) == sorted(offered)
    for name in offered:
        assert getattr(dvae_lib.data, name) is getattr(import_module(f"dvae_lib.data.{module}"), name)


def test_no_name_is_offered_twice():
    assert len(dvae_lib.data._MODULE_OF) == sum(map(len, dvae_lib.data._PUBLIC.values()))
    assert dir(dvae_lib.data) == dvae_lib.data.__all__


def test_an_unknown_name():
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        dvae_lib.data.nonsense  # noqa: B018


def test_importing_the_package_imports_nothing_optional():
    optional = "{'librosa', 'soundfile', 'soxr', 'G722', 'music21'} & set(sys.modules)"
    code = f"import sys, dvae_lib.data; print({optional})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_only_what_draws_loads_matplotlib():
    """It is slow to load, and where its folder cannot be written to it says so, whatever the command."""
    modules = "dvae_lib, dvae_lib.cli, dvae_lib.evaluation, dvae_lib.enhancement, dvae_lib.statespace"
    code = f"import sys, {modules}, dvae_lib.data.sources; print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
