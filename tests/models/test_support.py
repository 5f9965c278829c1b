"""Data to which the observation model gives no probability, and data that are not standardised, at a model's doors."""

import warnings

import pytest
import torch
from torch.distributions import constraints

from dvae_lib import build_model
from dvae_lib.data import Standardizer
from dvae_lib.distributions import OBSERVATIONS, Gamma
from dvae_lib.models.base import check_sequences

NAMES = ["vae", "srnn", "kvae", "dsae"]


class Counts(Gamma):
    """A family of whole numbers, as far as its support goes."""

    support = constraints.independent(constraints.nonnegative_integer, 1)


def data(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", NAMES)
class TestSupport:
    @pytest.mark.parametrize(
        ("observation", "x", "message"),
        [
            (
                "bernoulli",
                data(2, 5, 3),
                r"^x\[\d, \d, \d\] is .*'bernoulli' gives a probability to numbers from 0 to 1",
            ),
            ("bernoulli", (data(2, 5, 3).sigmoid() * 255).round(), r"from 0 to 1 only.*standardize=False"),
            ("gamma", data(2, 5, 3), r"'gamma' gives a probability to numbers of at least 0 only"),
        ],
    )
    def test_what_is_outside_is_refused(self, name, observation, x, message):
        model = build_model(name, x_dim=3, z_dim=2, observation=observation)
        with pytest.raises(ValueError, match=message):
            model.vlb(x)
        with pytest.raises(ValueError, match="prefix"):
            model.generate(2, prefix=x)

    @pytest.mark.parametrize("observation", ["bernoulli", "gamma"])
    def test_what_is_inside_is_taken(self, name, observation):
        model = build_model(name, x_dim=3, z_dim=2, observation=observation)
        for x in (torch.zeros(2, 5, 3), torch.ones(2, 5, 3), data(2, 5, 3).sigmoid()):
            assert model.vlb(x).value.isfinite().all()

    def test_frames_beyond_the_lengths_need_none(self, name):
        model = build_model(name, x_dim=3, z_dim=2, observation="gamma")
        x = data(2, 5, 3).square()
        x[1, 3:] = -1.0
        assert model.vlb(x, lengths=torch.tensor([5, 3])).value.isfinite().all()
        with pytest.raises(ValueError, match=r"x\[1, 3, 0\] is -1 \(3 such values\)"):
            model.vlb(x, lengths=torch.tensor([5, 4]))

    def test_families_of_ones_own(self, name, monkeypatch):
        monkeypatch.setitem(OBSERVATIONS, "counts", Counts)
        model = build_model(name, x_dim=3, z_dim=2, observation="counts")
        model.vlb(data(2, 5, 3).square().round())
        with pytest.raises(ValueError, match=r"\(1 such values\).*'counts' gives a probability to whole numbers of at"):
            model.vlb(
                data(2, 5, 3).square().round().index_put((torch.tensor(1), torch.tensor(2)), torch.tensor([2, 2.5, 3]))
            )


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_what_is_not_finite_is_found_in_every_precision(value, dtype):
    model = build_model("vae", x_dim=3, z_dim=2).to(dtype)
    x = data(2, 5, 3).to(dtype)
    x[1, 2, 0] = value
    with pytest.raises(ValueError, match=rf"x is not finite: x\[1, 2, 0\] is {value}"):
        model.vlb(x)


class TestRawData:
    def model(self, x, u):
        model = build_model("dkf", x_dim=2, z_dim=2, u_dim=1)
        model.metadata["standardizer"] = Standardizer.fit(x).to_dict()
        model.metadata["input_standardizer"] = Standardizer.fit(u).to_dict()
        return model

    @pytest.mark.parametrize(("offset", "scale"), [(0.0, 50.0), (1000.0, 1.0), (-20.0, 0.1), (1e6, 1e5)])
    def test_they_are_recognised(self, offset, scale):
        x, u = offset + scale * data(4, 30, 2), 5000 * data(4, 30, 1)
        model = self.model(x, u)
        right = model.standardizer.transform(x), model.input_standardizer.transform(u)
        with pytest.warns(UserWarning, match=r"x seems not to be standardised.*model\.standardizer\.transform\(x\)"):
            model.vlb(x, right[1])
        with pytest.warns(UserWarning, match=r"u seems not.*model\.input_standardizer\.transform\(u\)"):
            model.vlb(right[0], u)
        with pytest.warns(UserWarning, match="prefix seems not"):
            model.generate(1, prefix=x[:, :-1], u=right[1])

    def test_outliers_are_not_taken_for_them(self):
        x, u = 1000 + 50 * data(4, 30, 2), 1000 + 1000 * data(4, 30, 1)
        model = self.model(x, u)
        x, u = model.standardizer.transform(x), model.input_standardizer.transform(u)
        x[0, 0], u[1, 1] = 40.0, -30.0
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model.vlb(x, u)

    def test_a_model_knows_what_it_was_standardised_by(self, tmp_path):
        x, u = 3 + data(4, 30, 2), data(4, 30, 1)
        model = self.model(x, u)
        again = type(model).from_pretrained(model.save_pretrained(tmp_path / "saved"))
        assert torch.equal(again.standardizer.mean, Standardizer.fit(x).mean)
        assert torch.equal(again.input_standardizer.scale, Standardizer.fit(u).scale)
        assert build_model("vae", x_dim=2, z_dim=2).standardizer is None


@pytest.mark.parametrize("observation", ["gaussian", "gamma", "bernoulli"])
def test_no_values_are_no_wrong_values(observation):
    """The inputs of a recurrent network that has none."""
    check_sequences(torch.zeros(2, 5, 0), "u", 0, torch.zeros(1), observation=observation)
