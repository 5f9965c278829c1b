"""Every objective on every model: carried, or refused by an error that names what can, and what it names can."""

import re
from functools import partial

import pytest
import torch
from torch import Generator

from dvae_lib import objectives
from dvae_lib.inference import refine, variational_filter
from dvae_lib.models import GRNN, MODELS

FEW = {"num_samples": 1}
OBJECTIVES = {
    "vlb": objectives.vlb,
    "free_bits": partial(objectives.free_bits, nats=0.1, per="frame"),
    "free_bits, entry": partial(objectives.free_bits, nats=0.1, per="entry"),
    "word_dropout": objectives.word_dropout,
    "balanced_kl": objectives.balanced_kl,
    "total_correlation": objectives.total_correlation,
    "importance_weighted": partial(objectives.importance_weighted, num_samples=2),
    "particle": partial(objectives.particle, num_particles=2),
    "nasmc": partial(objectives.nasmc, num_particles=2),
    "refine": partial(refine, steps=1, evaluation_samples=1, **FEW),
    "refine, prior": partial(refine, steps=1, evaluation_samples=1, start="prior", **FEW),
    "variational_filter": partial(variational_filter, iterations=1, inner_samples=1, **FEW),
}
CLASSES = {entry.cls.__name__: entry for entry in reversed(MODELS.values())}
NAMED = re.compile(rf"\b({'|'.join(CLASSES)})\b(?:\((\w+)='([\w-]+)'\))?")


def made(entry, **options):
    torch.manual_seed(0)
    return entry.cls(4, 3, **{**entry.options, **entry.small, **options}).train()


def tried(name, model):
    """None, or what the objective says of the model."""
    x = torch.rand(2, 2, 4, generator=Generator().manual_seed(0)).round()
    try:
        found = OBJECTIVES[name](model, x, generator=Generator().manual_seed(1))
    except (ValueError, NotImplementedError) as error:
        return str(error)
    value = found if isinstance(found, torch.Tensor) else found.value
    assert value.isfinite().all(), (name, model)
    return None


def ways_out(said):
    """The models that an error names as able, and what it recommends for the model itself."""
    able = [made(CLASSES[m[1]], **({m[2]: m[3]} if m[2] else {})) for m in NAMED.finditer(said.partition("such as")[2])]
    instead = set(re.findall(r"\b(vlb|free_bits|importance_weighted)\b", said))
    instead |= {"free_bits"} if "use per='frame'" in said else set()
    instead |= {"refine, prior"} if "start='prior'" in said else set()
    return able, instead


@pytest.mark.parametrize("name", OBJECTIVES)
def test_what_cannot_be_carried_is_refused_by_naming_what_can(name):
    refusals = {}
    for entry in MODELS.values():
        for options in entry.variants:
            if said := tried(name, model := made(entry, **options)):
                refusals.setdefault(said, model)
    checked = set()
    for said, model in refusals.items():
        able, instead = ways_out(said.removeprefix(type(model).__name__))
        assert able or instead, said
        assert [tried(other, model) for other in instead] == [None] * len(instead), said
        for other in able:
            key = type(other), str(other.spec)
            assert key in checked or tried(name, other) is None, (said, other)
            checked.add(key)


@pytest.mark.parametrize("name", ["word_dropout", "balanced_kl", "total_correlation", "nasmc", "refine"])
def test_a_model_without_latent_vectors_is_told_apart(name):
    said = tried(name, GRNN(4, h_dim=8, observation="bernoulli"))
    assert said is None or ways_out(said)[0], said
    assert (said is None) == (name in ("word_dropout", "nasmc"))


def test_some_are_refused_and_some_are_not():
    refused = {name for name in OBJECTIVES if tried(name, made(MODELS["kvae"])) is not None}
    assert {"word_dropout", "balanced_kl", "total_correlation"} <= refused < set(OBJECTIVES) - {"vlb", "free_bits"}
