"""The files around the code agree with each other, and none tells where it was written."""

import ast
import re
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

try:
    import tomllib
except ImportError:  # Python 3.10
    from pip._vendor import tomli as tomllib

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
# conda-forge's names for what PyPI calls otherwise
CONDA_NAMES = {
    "pytorch": "torch",
    "matplotlib-base": "matplotlib",
    "pysoundfile": "soundfile",
    "soxr-python": "soxr",
}


def requirements(lines: list[str]) -> dict[str, str]:
    """Name and version bounds of each requirement, our own extras aside."""
    parsed = [Requirement(line) for line in lines]
    return {canonicalize_name(r.name): str(r.specifier) for r in parsed if canonicalize_name(r.name) != "dvae-lib"}


def test_environment_yml_agrees_with_pyproject():
    listed = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))["dependencies"]
    from_pip = next(entry["pip"] for entry in listed if isinstance(entry, dict))
    from_conda = [entry for entry in listed if isinstance(entry, str)]
    given = requirements([line for line in from_pip if not line.startswith("-e")])
    for entry in from_conda:
        name, bounds = re.fullmatch(r"([\w.-]+)(.*)", entry).groups()
        given[canonicalize_name(CONDA_NAMES.get(name, name))] = str(Requirement("x" + bounds).specifier)
    assert given.pop("python") == PROJECT["requires-python"]
    assert {given.pop("pip"), given.pop("nodejs")} == {""}
    extras = ("audio", "speech", "music", "midi", "codec", "notebooks", "book")
    wanted = requirements([*PROJECT["dependencies"], *(line for extra in extras for line in EXTRAS[extra])])
    # Whoever works with speech in this environment expects librosa, though only tests need it.
    assert given == {**wanted, "librosa": requirements(EXTRAS["test"])["librosa"]}
    assert "-e ." in from_pip


def test_only_lower_bounds_for_the_library():
    """An upper bound would change the torch or numpy of a machine such as Colab's."""
    extras = ("audio", "speech", "music", "midi", "m4a", "onnx", "codec", "notebooks")
    for line in [*PROJECT["dependencies"], *(line for extra in extras for line in EXTRAS[extra])]:
        assert {specifier.operator for specifier in Requirement(line).specifier} <= {">="}, line


def test_constraints_pin_everything_that_is_asked_for():
    pins = requirements(
        [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    )
    assert all(bounds.startswith("==") for bounds in pins.values())
    asked = requirements([line for lines in EXTRAS.values() for line in lines] + PROJECT["dependencies"])
    assert set(asked) <= set(pins)
    for name, bounds in asked.items():
        assert pins[name].removeprefix("==") in Requirement(f"x{bounds}").specifier, name


def imported() -> dict[str, set[tuple[str, bool]]]:
    """For each package that the library imports the files that do so, and whether they do when they are imported."""
    found: dict[str, set[tuple[str, bool]]] = {}
    for path in sorted((ROOT / "dvae_lib").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        at_once = {id(node) for node in tree.body}
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                modules = [node.module]
            elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("needed", "require", "distribution"):
                modules = [argument.value for argument in node.args[:1] if isinstance(argument, ast.Constant)]
            else:
                continue
            for name in {module.split(".")[0] for module in modules} - {"dvae_lib", *sys.stdlib_module_names}:
                found.setdefault(name, set()).add((str(path.relative_to(ROOT)), id(node) in at_once))
    return found


def test_what_is_imported_is_declared_and_what_is_declared_is_imported():
    """What only an extra brings is imported when it is used; so the library works without it."""
    distributions = packages_distributions()
    needed = set(requirements(PROJECT["dependencies"]))
    extras = ("audio", "speech", "music", "midi", "m4a", "onnx", "codec", "notebooks")
    optional = {n for extra in extras for n in requirements(EXTRAS[extra])}
    used = set()
    for module, places in imported().items():
        names = {canonicalize_name(name) for name in distributions.get(module, [module])}
        used |= names
        if not names & needed:
            assert names & optional, f"{module} is declared nowhere, and imported by {places}"
            assert not any(at_once for _, at_once in places), f"{module} is optional, and imported at once by {places}"
    assert needed <= used
    in_notebooks = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "book").rglob("*.ipynb"))
    assert {name for name in optional - used if not re.search(rf"(import|from) {name}\b", in_notebooks)} == set()


def test_versions_agree():
    import dvae_lib

    path = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]["version"]["path"]
    assert f'__version__ = "{dvae_lib.__version__}"' in (ROOT / path).read_text(encoding="utf-8")
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == dvae_lib.__version__
    assert citation["license"] == PROJECT["license"]["text"] == "MIT"
    assert (ROOT / "LICENSE").read_text(encoding="utf-8").startswith("MIT License")


def tracked_files() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [path for name in listed.split("\0") if name and (path := ROOT / name).is_file()]


def test_no_path_of_a_machine_is_committed():
    # Spelled in parts, so that this file does not contain what it looks for.
    homes = re.compile(("/" + "(?:home|Users)/(?!runner/)[a-z][a-z0-9_-]+/|/ro" + "ot/|/wo" + "rk/").encode())
    checkout = str(ROOT).encode() + b"/"
    for path in tracked_files():
        content = path.read_bytes()
        if b"\0" in content[:4096]:
            continue
        assert checkout not in content, path
        assert not homes.search(content), path


def test_repository_carries_no_large_files():
    assert [path for path in tracked_files() if path.stat().st_size > 10_000_000] == []


def test_files_are_rooms_not_halls():
    """A file of the library holds one idea, in at most 600 lines."""
    lines = {
        path.relative_to(ROOT / "dvae_lib").as_posix(): len(path.read_text(encoding="utf-8").splitlines())
        for path in (ROOT / "dvae_lib").rglob("*.py")
    }
    assert {name for name, count in lines.items() if count > 600} == set()


def test_no_class_has_the_name_of_another():
    """One name, one thing: the pages of the reference could not tell two apart either."""
    where: dict[str, list[str]] = {}
    for path in sorted((ROOT / "dvae_lib").rglob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                where.setdefault(node.name, []).append(path.relative_to(ROOT).as_posix())
    assert {name: files for name, files in where.items() if len(files) > 1} == {}


def test_the_wheel_has_30_megabytes_at_most_and_all_that_it_should(tmp_path):
    """All of data/, but the weights that are downloaded when they are asked for."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.stat().st_size <= 30_000_000
    with zipfile.ZipFile(wheel) as archive:
        carried = {name for name in archive.namelist() if name.startswith("dvae_lib/_resources/")}
    kept = {f.relative_to(ROOT / "data").as_posix() for f in tracked_files() if f.is_relative_to(ROOT / "data")}
    assert carried == {f"dvae_lib/_resources/{name}" for name in kept if not name.startswith("pretrained_on_request/")}


@pytest.mark.parametrize("script", [".ci/run", "book/_tools/apt.sh"])
def test_scripts_can_be_executed(script):
    path = ROOT / script
    assert path.stat().st_mode & 0o111
    assert path.read_text().startswith("#!/usr/bin/env bash")
    subprocess.run(["bash", "-n", path], check=True)


def test_make_help_names_the_targets():
    text = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for target in ("book", "test", "test-fast", "lab", "serve"):
        assert re.search(rf"^make {target} ", text, re.MULTILINE)


@pytest.fixture
def environment(tmp_path):
    """The Makefile with an environment whose pip does as it is told."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    python = tmp_path / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\n[ "$1" = -m ] || exit 0\necho "pip: $*"\ntest -e network\n')
    python.chmod(0o755)

    def setup():
        command = ["make", "setup", f"PYTHON={sys.executable}"]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    return tmp_path, setup


def test_without_network_the_environment_of_before_serves(environment):
    folder, setup = environment
    done = setup()
    assert done.returncode != 0
    assert "They come from the network, the first time" in done.stdout
    (folder / "network").touch()
    assert setup().returncode == 0
    (first,) = (folder / ".venv").glob("made-from-*")
    assert "pip" not in setup().stdout  # up to date
    (folder / "network").unlink()
    (folder / "pyproject.toml").write_text("# one more package\n")
    done = setup()
    assert done.returncode == 0
    assert "going on with the packages that are there" in done.stdout
    assert first.exists()
    (folder / "network").touch()
    assert "pip" in setup().stdout
    assert not first.exists()


def made(text: str) -> list[str]:
    """The targets that a script or workflow makes, in its order."""
    code = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    return re.findall(r"\bmake ([a-z][a-z-]*)", code)


def test_continuous_integration_runs_what_readme_promises():
    """The commands of the README's section on the book, in its order, without the data that a newcomer lacks."""
    script = (ROOT / ".ci/run").read_text(encoding="utf-8")
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("## The book")[1].split("```")[1]
    promised = [
        target for line in section.splitlines() if line.startswith("make ") for target in made(line.split("#")[0])
    ]
    assert promised == ["book", "test"]
    command = next(line for line in script.splitlines() if "steps.py" in line)
    assert re.findall(r'"(make [a-z]+|\$test)"', command)[1::2] == ["make book", "make complete", "$test"]
    unset = next(line for line in script.splitlines() if line.startswith("unset"))
    assert {"DVAE_DATA", "DVAE_CACHE", "DVAE_BUDGET"} <= set(unset.split())
    assert script.index("XDG_CACHE_HOME=$(mktemp -d)") < script.index("make clean") < script.index("steps.py")


@pytest.mark.parametrize("path", [".ci/run", *(p.as_posix() for p in (ROOT / ".github/workflows").glob("*.yml"))])
def test_what_is_made_by_machines_can_be_made(path):
    rules = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(made((ROOT / path).read_text(encoding="utf-8"))) <= rules


def test_a_test_run_has_all_its_steps():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    rules = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    whole, fast = (set(found.split()) for found in re.findall(r"@\$\(call steps,([a-z -]+)\)", makefile))
    assert {"lint", "types", "layers", "unit", "notebooks", "site", "pages"} == whole <= rules
    assert {"lint", "types", "layers", "unit-fast"} == fast <= rules
    printed = subprocess.run(["make", "-n", "test-fast"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert '"make --no-print-directory unit-fast"' in printed
    quick = re.search(r"^QUICK := ((?:.*\\\n)*.*)$", makefile, re.MULTILINE)[1]
    assert [path for path in re.findall(r"tests/[\w/.]+", quick) if not (ROOT / path).exists()] == []
