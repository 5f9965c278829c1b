"""A reader's data with gaps: declared as such they are kept, otherwise refused; what is learned is of the rest."""

import functools
import logging
import math

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from dvae_lib import SRNN, VAE
from dvae_lib.data import SequenceDataset, Standardizer, from_arrays, from_csv_folder, load
from dvae_lib.evaluation import score_sequences
from dvae_lib.evaluation.bounds import bounds_per_frame
from dvae_lib.objectives import importance_weighted
from dvae_lib.training import TrainingConfig, fit

pytestmark = pytest.mark.usefixtures("as_a_user")


def walks(count=9, time=24, dim=2, gaps=0.3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, time, dim, generator=generator).cumsum(1) + 5
    return torch.where(torch.rand(x.shape, generator=generator) > gaps, x, math.nan)


def test_gaps_are_refused_unless_they_are_declared():
    with pytest.raises(ValueError, match=r"or say missing=True \(on the command line --missing\)"):
        SequenceDataset(walks())
    with pytest.raises(ValueError, match="NaN stands for a missing value"):
        from_arrays(walks())
    spoiled = walks()
    spoiled[2, 3, 1] = math.inf
    with pytest.raises(ValueError, match="Sequence 2 is not finite: inf at frame 3, dimension 1"):
        SequenceDataset(spoiled, missing=True)
    with pytest.raises(ValueError, match="Input of sequence 0 is not finite: nan"):
        SequenceDataset(torch.zeros(9, 24, 1), walks(), missing=True)


def test_batches_tell_what_was_observed():
    x = walks()
    data = SequenceDataset([x[0], x[1, :10]], missing=True)
    batch = data.batch([0, 1])
    assert torch.equal(batch.observed[0], ~x[0].isnan())
    assert torch.equal(batch.x[0].isnan(), x[0].isnan())
    assert batch.observed[1, 10:].all()  # frames that only fill up: the lengths say so
    assert torch.equal(batch.to("cpu").observed, batch.observed)
    (loaded,) = DataLoader(data, batch_size=2)
    assert torch.equal(loaded.observed, batch.observed)
    assert SequenceDataset(torch.zeros(2, 3, 1)).batch([0]).observed is None


def test_masked_arrays_and_tables():
    array = np.ma.masked_less(np.array([[1.0, -9.0], [2.0, 3.0]]), 0)
    with pytest.raises(ValueError, match="A masked value is a missing one"):
        SequenceDataset([array])
    assert SequenceDataset([array], missing=True)[0].isnan().tolist() == [[False, True], [False, False]]


def test_pieces_without_a_value_are_left_out(caplog):
    x = walks(2, 12, gaps=0.0)
    x[0, 4:8] = math.nan
    with caplog.at_level(logging.WARNING, logger="dvae_lib.data"):
        data = SequenceDataset(x, sequence_length=4, missing=True)
    assert data.names == ("0[0:4]", "0[8:12]", "1[0:4]", "1[4:8]", "1[8:12]")
    assert "Left out 1 sequence(s) or piece(s) without any value; 5 are kept." in caplog.text
    with pytest.raises(ValueError, match=r"Every value is missing \(NaN\): there is nothing to learn from"):
        SequenceDataset(torch.full((2, 3, 1), math.nan), missing=True)


def test_standardisation_is_that_of_what_was_observed():
    x = walks()
    known = x.double().numpy().reshape(-1, 2)
    for fitted in (Standardizer.fit(x, missing=True), Standardizer.fit(SequenceDataset(x, missing=True))):
        torch.testing.assert_close(fitted.mean, torch.as_tensor(np.nanmean(known, 0)))
        torch.testing.assert_close(fitted.scale, torch.as_tensor(np.nanstd(known, 0)))
    with pytest.raises(ValueError, match="must be finite"):
        Standardizer.fit(x)
    blank = x.clone()
    blank[..., 1] = math.nan
    with pytest.raises(ValueError, match="Every value of dimension 1 is missing: leave it out"):
        Standardizer.fit(blank, missing=True)
    large = SequenceDataset(x.double() + 1e6, missing=True)
    large.standardizer = Standardizer.fit(large)
    batch = large.batch(range(9))
    assert torch.equal(batch.observed, ~x.isnan())
    assert float((batch.x.nansum((0, 1)) / batch.observed.sum((0, 1))).abs().max()) < 1e-3


@pytest.mark.parametrize("cell", ["", "NA", "nan"])
def test_empty_cells(tmp_path, cell):
    for number in range(3):
        rows = [f"{k},{k * k if k != 2 else cell}" for k in range(number, number + 6)]
        (tmp_path / f"{number}.csv").write_text("a,b\n" + "\n".join(rows) + "\n")
    with pytest.raises(ValueError, match=r"line \d, column 'b': the value is missing.*or say missing=True"):
        from_csv_folder(tmp_path)
    for parts in (from_csv_folder(tmp_path, missing=True), load(tmp_path, missing=True).parts):
        gaps = [int((~part.batch([0]).observed).sum()) for part in parts]
        assert gaps == [1, 1, 1]
    assert load(tmp_path, missing=True).metadata["data"]["missing"] is True


def test_numpy_files(tmp_path):
    np.save(tmp_path / "walks.npy", walks().numpy())
    with pytest.raises(ValueError, match="NaN stands for a missing value"):
        load(tmp_path / "walks.npy")
    parts = load(tmp_path / "walks.npy", missing=True).parts
    assert all(bool((~part.batch([0]).observed).any()) for part in parts)
    zeros = np.where(np.isnan(walks().numpy()), np.nan, 1.0)
    np.save(tmp_path / "ones.npy", zeros)
    assert load(tmp_path / "ones.npy", missing=True).train.standardizer is None


class TestTraining:
    def parts(self, **options):
        return from_arrays(walks(), sequence_length=12, missing=True, fractions=(0.7, 0.3), **options)

    @pytest.mark.parametrize("cls", [VAE, SRNN])
    def test_a_model_learns_from_what_was_observed(self, cls, tmp_path):
        torch.manual_seed(0)
        train, validation = self.parts()
        model = cls(2, 2)
        config = TrainingConfig(max_epochs=3, batch_size=4, learning_rate=0.01)
        result = fit(model, train, validation, config, folder=tmp_path / "run")
        bounds = [record["validation_vlb_per_frame"] for record in result.history]
        assert all(map(math.isfinite, bounds))
        assert bounds[-1] > bounds[0]
        found = bounds_per_frame(model, validation, 2)
        assert math.isfinite(found.vlb)
        assert found.importance_weighted[2] > found.vlb
        model.metadata["standardizer"] = train.standardizer.to_dict()
        table = score_sequences(model, validation, latents="mean").to_dict()
        assert all(math.isfinite(row[name]) for row in table["recordings"] for name in ("bound", "rmse"))

    def test_a_run_goes_on(self, tmp_path):
        torch.manual_seed(0)
        train, validation = self.parts()
        for epochs in (1, 2):
            result = fit(VAE(2, 2), train, validation, TrainingConfig(max_epochs=epochs), folder=tmp_path)
        assert len(result.history) == 2

    def test_objectives(self):
        train, _ = self.parts()
        config = TrainingConfig(max_epochs=1)
        objective = functools.partial(importance_weighted, num_samples=2)
        assert math.isfinite(
            fit(VAE(2, 2), train, None, config, objective=objective).history[0]["train_objective_per_frame"]
        )

        def blind(model, x, u=None, *, lengths=None, generator=None):
            return model.vlb(x, u, lengths=lengths, generator=generator)

        with pytest.raises(TypeError, match=r"The data have gaps .* but the objective takes no argument `observed`"):
            fit(VAE(2, 2), train, None, config, objective=blind)

    def test_data_outside_the_support_are_refused_and_gaps_are_not(self):
        powers = SequenceDataset(walks().square(), missing=True)
        config = TrainingConfig(max_epochs=1)
        fit(VAE(2, 2, observation="gamma"), powers, None, config)
        negative = walks().abs()
        negative[1, 2, 0] = -3.0
        with pytest.raises(ValueError, match=r"hold -3 \(sequence 1, frame 2, dimension 0\)"):
            fit(VAE(2, 2, observation="gamma"), SequenceDataset(negative, missing=True), None, config)
