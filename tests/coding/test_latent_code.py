"""The lossy code: both ends agree, in other processes too; what is no such file is refused."""

import math
import os
import subprocess
import sys

import pytest
import torch
from damage import check_refusals

from dvae_lib import DKF, DSAE, RSSM, RVAE, SRNN, STORN, VAE, VRNN, build_model
from dvae_lib.coding import CodecError, compress, decode, encode
from dvae_lib.coding.walking import Inference, Walk, in_double

KINDS = {
    "vae": lambda: VAE(4, 3),
    "dkf": lambda: DKF(4, 3),
    "storn": lambda: STORN(4, 3, h_dim=8),
    "vrnn": lambda: VRNN(4, 3, h_dim=8),
    "srnn-filter": lambda: SRNN(4, 3, h_dim=8, inference_model="filter"),
    "rvae-causal": lambda: RVAE(4, 3, generation_model="causal"),
    "rssm": lambda: RSSM(4, 3, h_dim=8),
    "dsae": lambda: DSAE(4, 3),
    "dvbf": lambda: build_model("dvbf", x_dim=4, z_dim=3),
}
OF_POWERS = ("vae", "vrnn", "rvae-causal", "dsae")


def made(name: str, scale: float = 2.0):
    torch.manual_seed(4)
    model = KINDS[name]().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(scale)
    return model


def walk(num_steps: int = 30) -> torch.Tensor:
    return torch.randn(num_steps, 4, generator=torch.Generator().manual_seed(0)).cumsum(0) / 3


@pytest.mark.parametrize("loop", ["closed", "open"])
@pytest.mark.parametrize("name", KINDS)
def test_the_decoder_has_what_the_encoder_thinks_it_has(name, loop):
    model = made(name)
    file = encode(model, walk(), step=0.7, loop=loop)
    assert torch.equal(decode(model, file.data), file.reconstruction)


@pytest.mark.parametrize("name", KINDS)
def test_a_fine_step_leaves_the_model_and_no_quantiser(name):
    """Then the reconstruction is the model's own at its posterior means."""
    model = made(name, 1.0).double()
    x = walk(12).double()
    feedback = 1.0 if model.links.predictive else 0.0
    exact = model.inference(x[None], draw="mean")
    values = {variable: latent.sample for variable, latent in exact.items()}
    truth = model.generation(x[None], values, feedback=feedback).observation.mean[0].detach()
    assert torch.allclose(encode(model, x, step=1e-3, loop="open").reconstruction, truth, atol=1e-3)


@pytest.mark.parametrize("loop", ["closed", "open"])
@pytest.mark.parametrize("name", OF_POWERS)
def test_models_that_read_log_powers_are_coded_as_others(name, loop):
    torch.manual_seed(4)
    model = build_model(name, x_dim=4, z_dim=3, observation="gamma", inputs="log_power").double()
    with torch.no_grad():
        model.reading.mean.fill_(-1.0)
        model.reading.scale.fill_(2.0)
    x = (2 * walk(12) - 3).exp().double()
    file = encode(model, x, step=0.7, loop=loop)
    assert torch.equal(decode(model, file.data), file.reconstruction)
    fine = encode(model, x, step=1e-3, loop="open").reconstruction
    values = {variable: latent.sample for variable, latent in model.inference(x[None], draw="mean").items()}
    feedback = 1.0 if model.links.predictive else 0.0
    truth = model.generation(x[None], values, feedback=feedback).observation.mean[0].detach()
    torch.testing.assert_close(fine, truth, rtol=1e-2, atol=0.0)


@pytest.mark.parametrize("name", ["vrnn", "srnn-filter"])
def test_a_closed_loop_infers_from_what_was_decoded(name):
    """Each posterior is that of a sequence whose past is the reconstruction."""
    twin = in_double(made(name))
    x, wanted = walk(6)[None].double(), []
    inference = Inference(twin, x, closed=True)

    def choose(variable, prior, known):
        wanted.append(inference.posterior(variable, known))
        return wanted[-1].mean + 0.3  # an error, as a quantiser makes it

    generator = Walk(twin, choose)
    inference.begin({})
    decoded, values = [], []
    with torch.no_grad():
        for _ in range(6):
            inference.next_frame()
            mean = generator.step().mean
            inference.remember(generator.latents)
            generator.look_back_on(mean)
            inference.look_back_on(mean)
            decoded.append(mean)
            values.append(generator.latents["z"])
        for t in range(6):
            past = torch.stack([*decoded[:t], x[:, t]], 1)
            given = {"z": torch.stack(values[: t + 1], 1)}
            posterior = twin.inference(past, latents=given)["z"].posterior
            assert torch.allclose(posterior.mean[:, t], wanted[t].mean, atol=1e-12)


def test_open_and_closed_loop_differ_where_inference_looks_back():
    for name in ("vrnn", "srnn-filter", "dkf", "rssm"):
        model = made(name)
        closed, opened = (encode(model, walk(), step=0.3, loop=loop).reconstruction for loop in ("closed", "open"))
        assert not torch.equal(closed, opened), name
    model = made("vae")
    assert encode(model, walk(), loop="closed").data == encode(model, walk(), loop="open").data


def test_the_file_is_as_long_as_its_information():
    torch.manual_seed(0)
    model = VRNN(4, 12, h_dim=8).eval()
    file = encode(model, walk(250), step=0.3)
    assert file.bits - file.header_bits == pytest.approx(file.estimated_bits, rel=0.01)
    assert file.header_bits < 8 * 50


def test_a_larger_step_makes_a_smaller_file():
    model = made("rssm")
    sizes = [len(encode(model, walk(100), step=step).data) for step in (0.3, 1.0, math.sqrt(12), 10.0)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > 2 * sizes[-1]


def test_encoder_and_decoder_may_be_two_processes(tmp_path):
    """With other numbers of threads."""
    made("vrnn").save_pretrained(tmp_path / "model")
    torch.save(walk(), tmp_path / "x.pt")
    head = "import torch; from dvae_lib import DVAE; from dvae_lib.coding import encode, decode; "
    head += "model = DVAE.from_pretrained('model'); "
    there = head + (
        "file = encode(model, torch.load('x.pt'), step=0.5); open('x.dvae', 'wb').write(file.data); "
        "torch.save(file.reconstruction, 'there.pt')"
    )
    here = head + "torch.save(decode(model, open('x.dvae', 'rb').read()), 'here.pt')"
    for threads, code in (("1", there), ("2", here)):
        environment = {**os.environ, "OMP_NUM_THREADS": threads}
        subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)
    assert torch.equal(torch.load(tmp_path / "here.pt"), torch.load(tmp_path / "there.pt"))


def test_a_stream_cut_anywhere_and_any_changed_byte_are_refused():
    model = made("vae")
    check_refusals(lambda data: decode(model, data), encode(model, walk(5), step=1.0).data)


def test_other_models_and_kinds_of_file_are_told_apart():
    model = made("vae")
    data = encode(model, walk(5)).data
    with pytest.raises(CodecError, match=r"of this VAE .* another model"):
        decode(made("vae", 2.1), data)
    with pytest.raises(CodecError, match=r"of this DKF .* another model"):
        decode(made("dkf"), data)
    binary = VAE(4, 3, observation="bernoulli").eval()
    lossless = compress(binary, [torch.ones(2, 4)]).data
    with pytest.raises(CodecError, match="got a file that holds sequences coded with bits back"):
        decode(binary, lossless)


def test_a_machine_that_computes_otherwise_is_noticed(monkeypatch):
    """The checksum of the numbers, not that of the file."""
    from dvae_lib.coding import grids

    model = made("dkf")
    data = encode(model, walk(40), step=0.5).data
    monkeypatch.setattr(grids, "REACH", 40.0)
    with pytest.raises(CodecError, match="computes other probabilities"):
        decode(model, data)


def test_what_cannot_be_coded_is_said():
    x = walk(5)
    with pytest.raises(NotImplementedError, match="inference_model='filter', or loop='open'"):
        encode(SRNN(4, 2), x)
    assert encode(SRNN(4, 2).eval(), x, loop="open").bits > 0
    with pytest.raises(NotImplementedError, match="take a causal model"):
        encode(RVAE(4, 2, generation_model="noncausal"), x)
    for step in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="step must be positive"):
            encode(made("vae"), x, step=step)
    with pytest.raises(ValueError, match="x"):
        encode(made("vae"), torch.full((5, 4), math.nan))
    with pytest.raises(ValueError, match="x"):
        encode(made("vae"), torch.zeros(5, 3))
