"""What latent vectors do: against closed forms, on models made up for it, and as recorded."""

import json
import math

import pytest
import torch
from torch import nn

from dvae_lib.experiments import LABELS, REVIEW_MODELS
from dvae_lib.experiments.results import ResultFile, complete
from dvae_lib.experiments.studies.latent_vectors import (
    KEY,
    PANELS,
    READERS,
    SETS,
    LatentPath,
    activity,
    by_dimension,
    infer,
    main,
    roughness,
    set_tasks,
    trained_name,
    weights_since_start,
)
from dvae_lib.models import DVAE, build_model
from dvae_lib.resources import resource_path


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def told(mean, logvar):
    """What is inferred, under a standard normal prior."""
    kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar)
    return LatentPath(mean, logvar, mean, kl, torch.zeros_like(mean))


def test_an_idle_dimension_and_one_that_knows_everything():
    mean = torch.stack([torch.zeros(4, 500), drawn(4, 500)], -1)
    variance = torch.tensor([1.0, 0.01])
    found = by_dimension(told(mean, variance.log().expand_as(mean)))
    assert found["kl"][0] == 0
    assert found["kl"][1] == pytest.approx(-0.5 * math.log(0.01) - 0.5 + 0.5 * 0.01 + 0.5, rel=0.05)
    assert found["often"] == [0.0, 1.0]
    assert found["variance"] == pytest.approx([1.0, 0.01], rel=1e-3)
    assert found["moves"] == pytest.approx([0.0, 10.0], rel=0.05)
    assert found["kl_sequences"][0][1] <= found["kl"][1] <= found["kl_sequences"][1][1]
    assert found["kl_frames"][0][1] < found["kl_sequences"][0][1]


def test_roughness_of_a_slow_wave_and_of_noise():
    t = torch.arange(403.0)
    wave = torch.sin(2 * math.pi * t / 100)[None, :, None]
    # Steps of a sine have the amplitude 2 sin(pi / 100), and both have the same shape.
    assert roughness(wave) == pytest.approx(2 * math.sin(math.pi / 100), rel=0.01)
    assert roughness(drawn(2, 4000, 2)) == pytest.approx(math.sqrt(2), rel=0.03)
    assert roughness(torch.cat([wave, torch.zeros_like(wave)], -1)) == pytest.approx(roughness(wave))


def test_activity_is_measured_in_the_middle():
    mean, logvar = drawn(3, 50, 2), drawn(3, 50, 2, seed=1)
    found = activity(told(mean, logvar))
    wild = mean.clone()
    wild[:, :3], wild[:, -3:] = 1e3, -1e3
    beyond = activity(told(wild, logvar))
    assert all(found[name] == beyond[name] for name in ("range", "ratio", "swing", "kl_of_frames", "kl_99"))
    middle = mean[:, 3:-3]
    assert found["range"] == pytest.approx((middle.amax(1) - middle.amin(1)).median().item(), abs=1e-4)


def test_weights_are_compared_dimension_by_dimension():
    start, model = (build_model("srnn", "motion", x_dim=6, z_dim=2) for _ in range(2))
    model.load_state_dict(start.state_dict())
    with torch.no_grad():
        model.z_head.linear.weight[1] *= 3.0  # the mean of the second dimension
        model.z_head.linear.weight[2] *= -1.0  # the log-variance of the first
        model.d_x[0].weight[:, 0] *= 0.5
    found = weights_since_start(model, start, "d_x")
    assert found["mean"] == pytest.approx([1.0, 3.0])
    assert found["logvar_cosine"] == pytest.approx([-1.0, 1.0])
    assert found["reader"] == pytest.approx([0.5, 1.0])


@pytest.mark.parametrize("name", READERS)
def test_readers_read_z_first(name):
    model = build_model(name, "motion", x_dim=6)
    reader = model.get_submodule(READERS[name])[0]
    assert isinstance(reader, nn.Linear)
    assert reader.in_features >= model.z_dim
    assert model.z_head.linear.out_features == 2 * model.z_dim


def test_names_of_trained_models():
    assert trained_name("storn", "librispeech") == "storn-librispeech"
    assert trained_name("storn-scheduled", "mocap") == "storn-mocap-scheduled"
    assert trained_name("vae", "librispeech-power") == "vae-librispeech-power"


def test_a_record_for_each_model_and_a_start_that_the_seed_gives_back(tmp_path, made_by):
    torch.manual_seed(5)
    for name in ("srnn", "vae"):
        if name == "srnn":
            torch.manual_seed(5)
        model = build_model(name, "motion", x_dim=93)
        model.metadata["seed"] = 5
        model.save_pretrained(tmp_path / name)
    x = 0.1 * drawn(2, 60, 93)
    folders = {"srnn": tmp_path / "srnn", "vae": tmp_path / "vae", "srnn-scheduled": tmp_path / "srnn"}
    file = ResultFile(tmp_path / "latents.json", KEY)
    complete(file, set_tasks("mocap", folders, x, x[0, :20]), say=lambda line: None)
    assert [record["name"] for record in file.records] == ["data", "SRNN", "VAE", "SRNN-GM"]
    for record in file.records:
        made_by(record)
    srnn = file.records[1]
    assert srnn["weights"]["mean_cosine"] == pytest.approx([1.0] * 10, abs=1e-4)
    assert srnn["weights"]["reader"] == pytest.approx([1.0] * 10, abs=1e-4)
    model = DVAE.from_pretrained(tmp_path / "srnn")
    one = infer(model, x[:1, :20])
    assert set(srnn["shown"]) == set(PANELS)
    torch.testing.assert_close(torch.tensor(srnn["shown"]["kl"]).T, one.kl[0], atol=1e-3, rtol=0)
    assert complete(file, set_tasks("mocap", folders, x, x[0, :20])) == []


def test_the_command_knows_its_sets(capsys):
    with pytest.raises(SystemExit):
        main(["opera"])
    assert "there is no opera" in capsys.readouterr().err


def test_what_is_recorded():
    records = json.loads(resource_path("results", "latent-vectors.json").read_text())
    names = {one: {r["name"] for r in records if r["set"] == one} for one in SETS}
    labels = {LABELS[name] for name in REVIEW_MODELS}
    for one in ("librispeech-power", "mocap"):
        assert names[one] == labels | {"data", "STORN-GM", "VRNN-GM", "SRNN-GM"}
    for record in records:
        if record["name"] != "data":
            size = 10 if record["set"] == "mocap" else 16
            assert all(len(record[key]) == size for key in ("kl", "variance", "prior_variance", "moves", "often"))
            assert min(record["kl"]) >= 0
            assert sum(record["kl"]) > 1
