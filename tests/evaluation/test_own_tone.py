"""The tone that a model feeds itself: models with a known one, and generation mode as the library has it."""

import math

import pytest
import torch
from torch import Generator

from dvae_lib.evaluation import EDITS, hearing, jamming, own_tone
from dvae_lib.models import DKF, SRNN, STORN, VRNN


def humming(cls=SRNN, tone=3, level=100.0, **options):
    """A model that puts out powers of 1, whatever it hears, and one entry that is so much louder."""
    torch.manual_seed(0)
    model = cls(8, 2, observation="gamma", **options)
    with torch.no_grad():
        model.x_head.linear.weight.zero_()
        model.x_head.linear.bias.zero_()
        model.x_head.linear.bias[tone] = math.log(level)
    return model.eval()


def ones(batch=3, time=12):
    return torch.ones(batch, time, 8)


def noisy(batch=3, time=12):
    return torch.empty(batch, time, 8).exponential_(generator=Generator().manual_seed(1))


@pytest.mark.parametrize("cls", [SRNN, VRNN, STORN])
def test_a_known_tone_is_found_with_its_level_and_price(cls):
    tone = own_tone(humming(cls), ones())
    assert tone.entry == 3
    assert tone.excess == pytest.approx(20.0, abs=1e-4)
    assert tone.charge == pytest.approx(math.log(100) + 1 / 100 - 1, abs=1e-5)


def test_with_powers_a_tone_stops_the_units_that_read_it_and_logarithms_keep_them_moving():
    """The line is jammed in the one case and not in the other: that is what the measure tells apart."""

    def movement(inputs, level):
        model = humming(level=level)
        model.read_as(inputs)
        return hearing(model, noisy(), EDITS["true, with the tone"], 3).movement

    assert movement("power", 1e6) < 0.01 < 0.1 < movement("power", 1.0)
    assert movement("log_power", 1e6) > 0.1


def test_costs_are_those_of_the_library_in_its_two_modes():
    model, x = SRNN(8, 2, observation="gamma").eval(), noisy()
    z = {"z": model.inference(x, generator=Generator().manual_seed(5))["z"].sample.detach()}
    for name, feedback in (("own", 1.0), ("true", 0.0)):
        heard = hearing(model, x, EDITS[name], 3, generator=Generator().manual_seed(5))
        wanted = -model.generation(x, z, feedback=feedback).observation.log_prob(x).mean().item()
        assert heard.cost == pytest.approx(wanted, rel=1e-5)


def test_edits_differ_at_the_tone_alone():
    mean, true, tone = torch.full((1, 4), 2.0), torch.full((1, 4), 5.0), torch.arange(4) == 1
    found = {name: edit(mean, true, tone).tolist()[0] for name, edit in EDITS.items()}
    assert found["own"] == [2, 2, 2, 2]
    assert found["own, tone silenced"] == pytest.approx([2, 1e-6, 2, 2])
    assert found["true"] == [5, 5, 5, 5]
    assert found["true, with the tone"] == [5, 2, 5, 5]


def test_all_at_once_with_the_same_latents():
    model, x = humming(), noisy()
    tone, heard = jamming(model, x)
    assert tone.entry == 3
    assert list(heard) == list(EDITS)
    assert len({round(h.cost, 4) for h in heard.values()}) == 1  # this model does not listen
    assert jamming(model, x) == (tone, heard)


def test_what_has_no_line_is_refused():
    with pytest.raises(ValueError, match="no predictive link"):
        own_tone(DKF(8, 2, observation="gamma"), ones())
    with pytest.raises(ValueError, match="looked for in powers"):
        own_tone(SRNN(8, 2), ones())
