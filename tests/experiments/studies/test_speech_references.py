"""Reference lines of speech: against numpy, closed forms, and on eight made-up voices."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from dvae_lib.data.sequences import SequenceDataset
from dvae_lib.experiments import load_experiment, protocol
from dvae_lib.experiments.results import ResultFile, complete
from dvae_lib.experiments.studies.speech_references import (
    KEY,
    NAMES,
    SCALES,
    linear_code,
    log_likelihood,
    main,
    reference,
    reference_task,
    repeated,
    score,
    smoothed,
    smoothing,
)


@pytest.fixture(scope="module")
def data(eight_voices):
    return load_experiment(str(eight_voices), replace(protocol("speech", "ci"), test_limit=2))


def powers(*lengths):
    generator = torch.Generator().manual_seed(0)
    frames = (torch.empty(n, 6).exponential_(generator=generator) + 1e-3 for n in lengths)
    return SequenceDataset(list(frames))


@pytest.mark.parametrize("scale", SCALES)
def test_a_linear_code_is_that_of_the_singular_vectors(scale):
    train = powers(40, 25)
    there, back = SCALES[scale]
    frames = there(torch.cat([train[0], train[1]]).double()).numpy()
    mean = frames.mean(0)
    vectors = np.linalg.svd(frames - mean)[2][:2]
    new = powers(7)[0]
    by_hand = mean + (there(new.double()).numpy() - mean) @ vectors.T @ vectors
    torch.testing.assert_close(linear_code(train, 2, scale)(new).double(), back(torch.from_numpy(by_hand)))


def test_a_code_of_the_whole_size_loses_nothing():
    train, new = powers(40), powers(7)[0]
    for scale in SCALES:
        torch.testing.assert_close(linear_code(train, 6, scale)(new), new, rtol=1e-4, atol=1e-6)


def test_what_is_repeated_and_what_is_constant():
    train, power = powers(3, 9), powers(5)[0]
    typical = torch.cat([train[0], train[1]]).double().log().mean(0).exp().float()
    assert torch.equal(repeated(power, typical)[1:], power[:-1])
    torch.testing.assert_close(reference("repeater", train)(power)[0], typical)
    torch.testing.assert_close(reference("phases", train)(power), typical.expand(5, -1))
    torch.testing.assert_close(reference("mean-spectrum", train)(power), power.mean(0).expand(5, -1))


def test_smoothing_is_a_mean_over_five_bins():
    power = powers(4)[0]
    by_hand = [power[:, max(0, f - 2) : f + 3].mean(1) for f in range(6)]
    torch.testing.assert_close(smoothed(power), torch.stack(by_hand, 1))


def test_the_constants_of_the_smoothed_repeater_are_the_most_likely():
    """Of data drawn from the density itself, they come out; and in the true likelihood no neighbour is better."""
    generator, spectrum, a, b = torch.Generator().manual_seed(1), torch.linspace(1, 3, 6).double(), 0.6, 0.3
    frames = [spectrum]
    for _ in range(20_000):
        scale = a * smoothed(frames[-1][None])[0] + b * spectrum
        frames.append(scale * torch.empty(6).double().exponential_(generator=generator))
    train = SequenceDataset([torch.stack(frames).float()])
    found = smoothing(train, spectrum, frames=20_001)
    assert found == pytest.approx((a, b), rel=0.03)
    source = [lambda power, a=x, b=y: a * smoothed(repeated(power, spectrum.float())) + b * spectrum.float()
              for x, y in (found, (1.1 * found[0], found[1]), (found[0], 0.9 * found[1]))]  # fmt: skip
    values = [log_likelihood(each, train) for each in source]
    assert values[0] == max(values)


def test_the_likelihood_is_that_of_an_exponential_density():
    train, test = powers(3, 9), powers(5, 4)
    source = reference("repeater-smoothed", train)
    by_hand = [
        torch.distributions.Exponential(1 / source(test[i]).double()).log_prob(test[i].double()).sum() for i in (0, 1)
    ]
    assert log_likelihood(source, test) == pytest.approx(float(sum(by_hand)) / 9, rel=1e-6)


def test_the_true_spectrogram_gives_the_utterance_back(data):
    table = score(lambda power: power, data, num_workers=1)
    assert len(table) == len(data.test) == 2
    assert min(table.columns["si_sdr"]) > 60
    assert min(table.columns["estoi"]) > 0.999


def test_each_reference_is_scored_by_utterance(data, made_by, tmp_path):
    file = ResultFile(tmp_path / "references.json", KEY)
    tasks = [reference_task(name, "voices", data, num_workers=1) for name in NAMES]
    complete(file, tasks, say=lambda line: None)
    assert [record["name"] for record in file.records] == list(NAMES)
    for record in file.records:
        made_by(record)
        assert record["utterances"] == list(data.test.names)
        predicts = record["name"].startswith("repeater")
        assert ("log_likelihood" in record) == predicts
        if predicts:
            expected = log_likelihood(reference(record["name"], data.train), data.test)
            assert record["log_likelihood"] == pytest.approx(expected, abs=0.01)
        for metric in ("si_sdr", "pesq", "pesq_nb", "estoi"):
            scores = [value for value in record["scores"][metric] if value is not None]
            assert record[metric] == pytest.approx(np.mean(scores), abs=1e-3)
    assert complete(file, tasks, say=print) == []


def test_the_command_knows_its_names(capsys):
    with pytest.raises(SystemExit):
        main(["louder"])
    assert "there is no louder" in capsys.readouterr().err
