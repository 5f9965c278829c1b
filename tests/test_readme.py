"""What README and CONTRIBUTING promise: code that runs, commands and files that exist, the right address."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


def test_the_quick_start_runs_as_it_stands(tmp_path):
    (code,) = blocks(README, "python")
    assert sum(bool(line.strip()) for line in code.splitlines()) <= 15
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (promised,) = re.findall(r"print\(.*\) +# (.*)", code)
    assert done.stdout.strip() == promised


@pytest.mark.parametrize("text", [README, CONTRIBUTING], ids=["README", "CONTRIBUTING"])
def test_make_targets_exist(text):
    targets = re.findall(
        r"\bmake ([a-z-]+)(?=[ `;\n])", "\n".join([*blocks(text, "bash"), *re.findall(r"`.*?`", text)])
    )
    rules = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert targets
    assert set(targets) <= set(rules)


def test_the_address_is_that_of_the_configuration():
    url = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["repository"]["url"]
    for text in (README, CONTRIBUTING):
        found = set(re.findall(r"https://github\.com/[\w./-]+", text))
        assert found == {url}


def test_links_and_paths_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README + CONTRIBUTING) + re.findall(r'src="([^"]+)"', README):
        assert target.startswith("https://") or (ROOT / target).exists(), target
    for row in re.findall(r"^\| (`.*?) \|", README.split("## What is where")[1].split("##")[0], flags=re.MULTILINE):
        names = re.findall(r"`([^`]+)`", row)
        folder = Path(names[0]).parent
        for i, name in enumerate(names):
            inside = [ROOT / name, ROOT / folder / name] if i else [ROOT / name]
            assert any(path.exists() for path in inside), name


def test_the_checklists_name_what_there_is():
    """Files exist, and a name in capitals stands in a file that the same point names."""
    points = re.findall(r"^- \[ \] (.*?)(?=^- \[|^\*\*|\Z)", CONTRIBUTING, flags=re.DOTALL | re.MULTILINE)
    assert len(points) > 12
    for point in points:
        spans = re.findall(r"`([^`]+)`", point)
        paths = [ROOT / span for span in spans if "/" in span and "name" not in span]
        for path in paths:
            assert path.exists(), point
        for file in (span for span in spans if re.fullmatch(r"\w+\.py", span) and "name" not in span):
            folders = [path if path.is_dir() else path.parent for path in paths]
            paths += [folder / file for folder in folders if (folder / file).is_file()]
            assert any(path.name == file for path in paths), point
        text = "".join(path.read_text(encoding="utf-8") for path in paths if path.suffix == ".py")
        for name in (span for span in spans if re.fullmatch(r"[A-Z_]{5,}", span)):
            assert re.search(rf"\b{name}\b", text), f"{name}: {point}"


def test_commands_are_understood():
    """Every `dvae` line of the README gets past the parser: its command and options exist."""
    from typer.testing import CliRunner

    from dvae_lib.cli import app

    commands = [
        line.split("#")[0]
        for block in blocks(README, "bash")
        for line in block.splitlines()
        if line.startswith("dvae ")
    ]
    assert len(commands) >= 4
    for command in commands:
        arguments = shlex.split(command)[1:]
        printed = (
            CliRunner().invoke(app, [*(a for a in arguments if a != "--help"), "--help"], env={"COLUMNS": "200"}).output
        )
        assert "Usage" in printed
        for option in (a for a in arguments if a.startswith("--")):
            assert option in printed
