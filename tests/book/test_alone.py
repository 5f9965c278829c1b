"""Notebooks as nbval runs them: judged and kept in one execution."""

import os
import sys

import alone
import keep_results
import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

CHECKED = "# NBVAL_CHECK_OUTPUT\nprint(6 * 7)"


def checked(printed):
    return new_code_cell(CHECKED, outputs=[new_output("stream", text=printed)], execution_count=1)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run notebooks given by their cells; the results of those that passed, by name."""
    monkeypatch.setattr(alone, "ROOT", tmp_path)

    def run_all(**notebooks):
        for name, cells in notebooks.items():
            path = tmp_path / "book" / f"{name}.ipynb"
            path.parent.mkdir(exist_ok=True)
            nbformat.write(new_notebook(cells=cells), path)
        (tmp_path / "alone").mkdir()
        paths = sorted((tmp_path / "book").glob("*.ipynb"))
        results = alone.run_nbval(python=alone.Path(sys.executable), paths=paths, folder=tmp_path / "alone", jobs=1)
        return {path.stem: nbformat.read(result, 4) for path, result in results.items()}

    return run_all


def test_each_notebook_is_executed_once_judged_and_kept(run, tmp_path, capfd):
    count = f"open({str(tmp_path / 'count')!r}, 'a').write('x')"
    widget = "import ipywidgets\nslider = ipywidgets.IntSlider(3)\nslider.value = 5\nslider"
    good = [
        new_markdown_cell("Text."),
        new_code_cell(f"import os\n{count}\nprint(os.listdir())"),
        checked("42\n"),
        new_code_cell(
            "from IPython.display import Markdown, clear_output\nprint('gone')\nclear_output()\nMarkdown('*a*')"
        ),
        new_code_cell(widget),
    ]
    results = run(
        good=good,
        failing=[new_code_cell("1 / 0"), new_code_cell("print('never reached')")],
        other=[checked("43\n")],
    )
    assert set(results) == {"good"}
    assert (tmp_path / "count").read_text() == "x"
    text, listing, number, markdown, slider = results["good"].cells
    assert text.source == "Text."
    assert listing.outputs[0].text == "['good.ipynb']\n"  # a folder of its own
    assert number.outputs[0].text == "42\n"
    assert [output.data["text/markdown"] for output in markdown.outputs] == ["*a*"]
    assert [cell.execution_count for cell in results["good"].cells[1:]] == [1, 2, 3, 4]
    state = results["good"].metadata["widgets"]["application/vnd.jupyter.widget-state+json"]["state"]
    shown = slider.outputs[0].data["application/vnd.jupyter.widget-view+json"]["model_id"]
    assert state[shown]["state"]["value"] == 5  # as it was at the end
    assert results["good"].metadata["language_info"]["name"] == "python"
    printed = capfd.readouterr().out
    assert "4 passed" in printed
    assert "2 failed" in printed
    assert "ZeroDivisionError" in printed
    assert "1 skipped" in printed  # what follows a failure
    assert "good: " in printed  # its seconds


def test_kernels_share_no_numbers_of_sockets(run):
    connection = (
        "from ipykernel.connect import get_connection_info\nprint(get_connection_info(unpack=True)['transport'])"
    )
    results = run(asking=[new_code_cell(connection)])
    assert results["asking"].cells[0].outputs[0].text == ("ipc\n" if os.name == "posix" else "tcp\n")


@pytest.mark.parametrize(("silent", "comes"), [(0, True), (2, True), (3, False)])
def test_a_kernel_that_does_not_answer_is_replaced(silent, comes, capsys):
    asked = []

    def start(**options):
        asked.append(options)
        if len(asked) <= silent:
            raise RuntimeError("no answer")
        return "kernel"

    patient = keep_results.start_again(start)
    if comes:
        assert patient(cwd="here") == "kernel"
    else:
        with pytest.raises(RuntimeError, match="no answer"):
            patient(cwd="here")
    assert asked == [{"cwd": "here"}] * min(silent + 1, 3)
    assert capsys.readouterr().err.count("no answer") == min(silent, 2)


def test_the_environment_variables_lead_to_no_other_packages(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    monkeypatch.setenv("VIRTUAL_ENV", "/elsewhere")
    assert {"PYTHONPATH", "VIRTUAL_ENV"}.isdisjoint(alone.clean_environment())
