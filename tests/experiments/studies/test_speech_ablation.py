"""The ablations of speech: each differs in one thing, makes as many steps, goes on where it was, sees no test part."""

from dataclasses import replace

import pytest

from dvae_lib.data.sequences import SequenceDataset
from dvae_lib.evaluation import bounds_per_frame
from dvae_lib.experiments import corpora, trainings
from dvae_lib.experiments.results import ResultFile, complete
from dvae_lib.experiments.studies import speech_ablation
from dvae_lib.experiments.studies.speech_ablation import (
    AMOUNTS,
    CONFIGURATIONS,
    KEY,
    ablation_task,
    by_amount,
    some_of,
    table,
    training_of,
)
from dvae_lib.experiments.studies.speech_long import long_protocol
from dvae_lib.experiments.trainings import Interrupted
from dvae_lib.models import DVAE, build_model


@pytest.fixture(scope="module")
def data(eight_voices):
    tiny = replace(long_protocol(), hop=None, limit=4)
    return corpora.load_experiment(str(eight_voices), tiny)


class NoTest(SequenceDataset):
    """A test part that nobody may look at."""

    def __init__(self):
        """It has no sequences."""

    def __getattribute__(self, name):
        if name.startswith("__"):
            return super().__getattribute__(name)
        raise AssertionError(f"the test part was asked for {name}")


def run(data, tmp_path, *names, model="vae"):
    file = ResultFile(tmp_path / "ablation.json", KEY)
    blind = replace(data, test=NoTest())
    tasks = [ablation_task(name, model, 3, tmp_path / "runs", data=blind, steps=4) for name in names]
    return file, complete(file, tasks, say=lambda line: None)


def test_each_configuration_is_trained_and_compared_with_base(data, tmp_path, made_by):
    file, new = run(data, tmp_path, *(name for name, c in CONFIGURATIONS.items() if not c.options))
    for record in new:
        made_by(record)
        assert record["best"] == max(record["curve"]["validation"])
        assert record["last"] == record["curve"]["validation"][-1]
        assert len(record["curve"]["rate"]) == len(record["curve"]["step"])
    best = {record["configuration"]: record["best"] for record in new}
    changed = {"power", "power-started", "not-started", "no-warm-up", "free-bits", "constant-rate", "half", "quarter"}
    assert best["base"] not in {best[name] for name in changed}
    assert complete(file, [], say=print) == []
    lines = table(file.records).splitlines()
    assert len(lines) == 2 + len(new)
    difference = next(r for r in new if r["configuration"] == "power")["best"] - new[0]["best"]
    assert f" | {difference:+.1f} | " in next(line for line in lines if "| power:" in line)
    assert " |  | " in lines[2]  # base, against nothing


def test_those_of_a_model_change_its_options(data, tmp_path):
    changed = [name for name, chosen in CONFIGURATIONS.items() if "dkf" in chosen.options]
    _, new = run(data, tmp_path, "base", *changed, model="dkf")
    assert len({record["best"] for record in new}) == 1 + len(changed)


def test_every_changed_option_changes_the_networks():
    for name, chosen in CONFIGURATIONS.items():
        for model, options in chosen.options.items():
            sizes = [
                {name: value.shape for name, value in build_model(model, "speech", **of).named_parameters()}
                for of in ({}, options)
            ]
            assert sizes[0] != sizes[1], (name, model)


def test_what_was_interrupted_goes_on_to_the_same_numbers(data, tmp_path, interrupted, monkeypatch):
    _, (whole,) = run(data, tmp_path / "whole", "base")
    interrupted()
    monkeypatch.setattr(speech_ablation, "print_epoch", lambda *a: trainings.print_epoch(*a))
    with pytest.raises(Interrupted):
        run(data, tmp_path / "stopped", "base")
    _, (gone_on,) = run(data, tmp_path / "stopped", "base")
    assert gone_on["curve"] == whole["curve"]


def test_all_make_as_many_steps_and_the_rate_falls_over_them(data):
    for name, chosen in CONFIGURATIONS.items():
        train = some_of(data.train, chosen.fraction)
        _, config = training_of(chosen, train, 20, 0)
        assert config.max_epochs * -(-len(train) // 32) == pytest.approx(20, abs=1), name
        if name != "constant-rate":
            assert config.rate(config.max_epochs) == pytest.approx(5e-5)


def test_a_fraction_is_of_recordings_not_of_frames(data):
    recordings = {name.rpartition("[")[0] for name in data.train.names}
    kept = {name.rpartition("[")[0] for name in some_of(data.train, 0.5).names}
    assert len(kept) == len(recordings) // 2
    assert kept < recordings
    whole = [name for name in data.train.names if name.rpartition("[")[0] in kept]
    assert list(some_of(data.train, 0.5).names) == whole


def test_what_differs_in_the_amount_of_data_is_judged_on_the_same_recordings(data, tmp_path):
    parts = by_amount(data.train)
    quarter, half, neither = ({name.rpartition("[")[0] for name in part.names} for part in parts.values())
    assert not neither & (quarter | half)
    assert quarter | half | neither == {name.rpartition("[")[0] for name in data.train.names}
    _, new = run(data, tmp_path, *AMOUNTS, "power")
    assert [set(r.get("recordings", ())) for r in new] == [{*parts, "validation"}] * 3 + [set()]
    for record in new[:3]:
        kept = DVAE.from_pretrained(tmp_path / "runs" / f"vae-{record['configuration']}-seed-3" / "best")
        for name, part in parts.items():
            alone = {}
            for i, sequence in enumerate(part.names):
                alone.setdefault(sequence.rpartition("[")[0], []).append(part[i])
            expected = [bounds_per_frame(kept, SequenceDataset(own)).vlb for own in alone.values()]
            assert record["recordings"][name] == pytest.approx(expected, abs=0.01)


def test_the_command_knows_its_names(tmp_path, capsys):
    with pytest.raises(SystemExit):
        speech_ablation.main(["run", "louder"])
    assert "there is no louder" in capsys.readouterr().err
    assert speech_ablation.main(["table", "--output", str(tmp_path / "none.json")]) == 0
