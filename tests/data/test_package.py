import subprocess
import sys

import pytest

import dvae_lib.data

# What the others are made of.
NOT_OFFERED = {"checks", "labels", "make_exhibits", "times"}


MODULES = [
    name for name, value in vars(dvae_lib.data).items() if getattr(value, "__package__", "").startswith("dvae_lib")
]


@pytest.mark.parametrize("module", MODULES)
def test_what_a_module_offers_is_offered_by_the_package(module):
    offered = getattr(dvae_lib.data, module)
    if module in NOT_OFFERED:
        assert not set(getattr(offered, "__all__", ())) - set(offered.__dict__)
        return
    for name in offered.__all__:
        assert name in dvae_lib.data.__all__
        assert getattr(dvae_lib.data, name) is getattr(offered, name)


def test_no_name_is_offered_by_two_modules():
    names = [name for module in MODULES if module not in NOT_OFFERED for name in getattr(dvae_lib.data, module).__all__]
    assert sorted(names) == sorted(set(names)) == dvae_lib.data.__all__


def test_an_unknown_name():
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        dvae_lib.data.nonsense  # noqa: B018


def test_importing_the_package_imports_nothing_optional():
    optional = "{'librosa', 'soundfile', 'soxr', 'G722', 'music21'} & set(sys.modules)"
    code = f"import sys, dvae_lib.data; print({optional})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
