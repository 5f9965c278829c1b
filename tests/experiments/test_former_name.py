"""The package's former name gives the same objects for one release, and says what the new one is."""

import importlib

import pytest

import dvae_lib.benchmark
from dvae_lib import experiments


@pytest.mark.parametrize("name", ["Run", "summarise", "REVIEW", "runs", *dvae_lib.benchmark.RENAMED])
def test_names_come_from_the_new_package_with_a_warning(name):
    new = dvae_lib.benchmark.RENAMED.get(name, name)
    with pytest.warns(DeprecationWarning, match=rf"dvae_lib\.benchmark is now dvae_lib\.experiments: take {new} from"):
        assert getattr(dvae_lib.benchmark, name) is getattr(experiments, new)


def test_modules_are_the_same_ones():
    assert importlib.import_module("dvae_lib.benchmark.runs") is experiments.runs


def test_other_names_are_missing_as_in_any_module():
    with pytest.raises(AttributeError, match=r"module 'dvae_lib\.benchmark' has no attribute 'nothing'"):
        dvae_lib.benchmark.nothing  # noqa: B018
