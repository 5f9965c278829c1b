"""DRAW against its equations written out, the VAE that it is with one step, quadrature, and filters summed by hand."""

import math
from itertools import pairwise

import pytest
import torch
from torch import nn
from written_out import data, lstm

from dvae_lib.distributions import standard_normal
from dvae_lib.graphs.spec import Gap
from dvae_lib.models import DRAW, DVAE, VAE
from dvae_lib.networks.window import Window, WindowHead, filter_bank

SIZES = {"steps": 3, "h_dim": 6, "e_dim": 7}
IMAGE = {"attention": 2, "image": (2, 3)}
each_way = pytest.mark.parametrize("options", [{}, IMAGE], ids=["whole", "window"])


def make(*, x_dim=6, z_dim=2, **options):
    torch.manual_seed(0)
    model = DRAW(x_dim, z_dim, **{**SIZES, **options}).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.6)
    return model


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def bank_by_hand(centre, stride, logvar, n, size):
    """The paper's filters, number by number."""
    weights = []
    for i in range(1, n + 1):
        mean = centre + (i - n / 2 - 0.5) * stride
        row = [math.exp(-((a - mean) ** 2) / (2 * math.exp(logvar))) for a in range(1, size + 1)]
        weights.append([w / sum(row) for w in row])
    return torch.tensor(weights, dtype=torch.float64)


def window_by_hand(head, h, size=2):
    """For each row of the batch: filters along height and width, and the gain."""
    height, width = head.image
    for y, x, logvar, log_stride, log_gain in head.linear(h).tolist():
        stride = (max(head.image) - 1) / (size - 1) * math.exp(log_stride)
        rows = bank_by_hand((height + 1) / 2 * (y + 1), stride, logvar, size, height)
        columns = bank_by_hand((width + 1) / 2 * (x + 1), stride, logvar, size, width)
        yield rows, columns, math.exp(log_gain)


@each_way
@pytest.mark.parametrize("u_dim", [0, 2], ids=["undriven", "driven"])
def test_equations_written_out(options, u_dim):
    """Frame by frame and step by step, from h = e = 0 and the blank canvas; the filters number by number."""
    model, x = make(u_dim=u_dim, **options), data(6)
    u = data(u_dim, seed=9) if u_dim else None
    z = {f"z{k}": data(2, seed=3 + k) for k in (1, 2, 3)}
    found, generated = model.inference(x, u, latents=z), model.generation(x, z, u)
    for t in range(5):
        d_h, e_h = lstm(model.d_h.layers), lstm(model.e_h.layers)
        canvas, h = model.writer.blank.expand(4, -1), torch.zeros(4, 6, dtype=torch.float64)
        driving = [] if u is None else [u[:, t]]
        for name, value in z.items():
            error = x[:, t] - canvas[:, :6]
            seen = torch.cat([x[:, t], error], 1)
            if options:
                read = []
                for (rows, columns, gain), one, other in zip(
                    window_by_hand(model.reader.window, h), x[:, t], error, strict=True
                ):
                    patches = [gain * rows @ picture.reshape(2, 3) @ columns.T for picture in (one, other)]
                    read.append(torch.cat([patch.flatten() for patch in patches]))
                seen = torch.stack(read)
            posterior = model.z_head(e_h(seen, h, *driving))
            torch.testing.assert_close(found[name].posterior[:, t].parameters, posterior.parameters)
            h = d_h(value[:, t], *driving)
            stroke = model.writer.linear(h)
            if options:
                drawn = []
                for (rows, columns, gain), patch in zip(
                    window_by_hand(model.writer.window, h), stroke.reshape(4, 2, 2, 2), strict=True
                ):
                    drawn.append(torch.stack([rows.T @ plane @ columns / gain for plane in patch]).flatten())
                stroke = torch.stack(drawn)
            canvas = canvas + stroke
        mean, logvar = canvas.chunk(2, -1)  # the head of a Gaussian
        torch.testing.assert_close(generated.observation[:, t].parameters, (mean, logvar))
    for name, value in z.items():
        torch.testing.assert_close(generated.prior[name].log_prob(value), standard_normal(value).log_prob(value))


def test_one_step_is_a_vae():
    """With the simple cell and no window, weight for weight: the library's VAE of one hidden layer on each side."""
    torch.manual_seed(0)
    model = make(steps=1, cell="rnn", observation="bernoulli")
    vae = VAE(6, 2, observation="bernoulli", encoder=(7,), decoder=(6,)).double()
    eye, hand = (dict(cell.layers.named_parameters()) for cell in (model.e_h, model.d_h))
    with torch.no_grad():
        # The eye reads [x, x - sigmoid(blank), 0]; h and e start from zero.
        on_x, on_error, _ = eye["weight_ih_l0"].split((6, 6, 6), 1)
        vae.e_z[0].weight.copy_(on_x + on_error)
        vae.e_z[0].bias.copy_(eye["bias_ih_l0"] + eye["bias_hh_l0"] - on_error @ model.writer.blank.sigmoid())
        vae.z_head.load_state_dict(model.z_head.state_dict())
        vae.d_x[0].weight.copy_(hand["weight_ih_l0"])
        vae.d_x[0].bias.copy_(hand["bias_ih_l0"] + hand["bias_hh_l0"])
        vae.x_head.linear.weight.copy_(model.writer.linear.weight)
        vae.x_head.linear.bias.copy_(model.writer.linear.bias + model.writer.blank)
    x = (data(6) > 0).double()
    for kl in ("analytic", "sampled"):
        one, other = (m.vlb(x, kl=kl, generator=seeded()) for m in (model, vae))
        torch.testing.assert_close(one.value, other.value, rtol=0, atol=1e-12)
        torch.testing.assert_close(one.kl["z1"], other.kl["z"], rtol=0, atol=1e-12)


def test_a_window_that_shows_everything_is_none():
    """As many narrow filters as pixels, one on each, and no gain: the filters are the identity."""
    image = {"x_dim": 9, "image": (3, 3)}
    whole, window = make(**image), make(attention=3, **image)
    window.load_state_dict(whole.state_dict(), strict=False)
    for part in (window.reader.window, window.writer.window):
        nn.init.zeros_(part.linear.weight)
        nn.init.zeros_(part.linear.bias)
        with torch.no_grad():
            part.linear.bias[2] = -8.0
    x = data(9)
    one, other = (model.vlb(x, generator=seeded()) for model in (whole, window))
    torch.testing.assert_close(one.value, other.value, rtol=0, atol=1e-9)


@each_way
def test_the_likelihood_by_quadrature(options):
    """Two steps of scalar z: the integral over a grid, above the bound; importance weights average to it."""
    model = make(z_dim=1, steps=2, observation="bernoulli", **options)
    x = model.generate(1, generator=seeded()).x
    grid = torch.linspace(-8, 8, 401, dtype=torch.float64)
    z1, z2 = torch.cartesian_prod(grid, grid).split(1, 1)
    z = {"z1": z1[:, None], "z2": z2[:, None]}
    with torch.no_grad():
        found = model.generation(x.expand(len(z1), -1, -1), z)
        log_joint = found.observation.log_prob(x.expand(len(z1), -1, -1)).squeeze(1)
        log_joint += sum(found.prior[name].log_prob(value).squeeze(1) for name, value in z.items())
        exact = log_joint.logsumexp(0) + 2 * (grid[1] - grid[0]).log()
        many = x.expand(4000, -1, -1)
        bound = model.vlb(many, generator=seeded(1)).value
        ratio = (model.importance_weighted_bound(many, num_samples=20, generator=seeded(2)) - exact).exp()
    assert bound.mean() + 5 * bound.std() / math.sqrt(4000) < exact
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / math.sqrt(4000)
    assert ratio.std() < 2


def test_known_answers():
    """By d-separation: a step's vector is tied to those before it by the frame that they draw together."""
    spec = make().spec
    drawn = {f"z{k}_t" for k in (1, 2, 3)}
    assert spec.compact() == {**dict.fromkeys(sorted(drawn), frozenset()), "x_t": frozenset(drawn)}
    exact = {"z1_t": {"x_t"}, "z2_t": {"z1_t", "x_t"}, "z3_t": {"z1_t", "z2_t", "x_t"}}
    assert spec.exact_posterior() == spec.compact("inference") == {k: frozenset(v) for k, v in exact.items()}
    assert set(spec.inference_gap().values()) == {Gap(frozenset(), frozenset())}
    assert make().frames_are_independent
    assert spec.symbol("z2") == r"\mathbf{z}^{(2)}"
    assert DRAW(4, 2).spec == DRAW.spec


def test_every_step_has_noise_of_its_own():
    model, x = make(), data(6)
    found = model.inference(x, generator=seeded())
    noise = [(q.sample - q.posterior.mean) / q.posterior.stddev for q in found.values()]
    assert all((one - other).abs().min() > 0 for one, other in pairwise(noise))
    divergences = model.vlb(x, generator=seeded()).kl
    for name, latent in found.items():
        mean, logvar = latent.posterior.mean, latent.posterior.logvar
        torch.testing.assert_close(divergences[name], 0.5 * (mean**2 + logvar.exp() - logvar - 1).sum(-1))


@each_way
def test_the_film_ends_with_the_reconstruction(options):
    model, x = make(observation="bernoulli", **options), (data(6) > 0).double()
    output = model(x, generator=seeded())
    film = model.drawn(output.latents)
    assert film.shape == (4, *x.shape)
    torch.testing.assert_close(film[-1], output.observation.mean)
    torch.testing.assert_close(film[0], model.writer.blank.sigmoid().expand(x.shape))
    made = model.generate(2, 3, generator=seeded(1))
    torch.testing.assert_close(model.drawn(made.latents)[-1], made.observation.mean)


@each_way
def test_what_is_saved_is_what_is_loaded(options, tmp_path):
    model, x = make(**options), data(6)
    again = DVAE.from_pretrained(model.save_pretrained(tmp_path / "draw")).double()
    assert (type(again), again.spec, again.image) == (DRAW, model.spec, model.image)
    values = [m.vlb(x, generator=seeded()).value for m in (model, again)]
    torch.testing.assert_close(*values, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps must be an integer of at least 1; got 0"),
        ({"attention": 0}, "attention must be an integer of at least 1; got 0"),
        ({"z_dim": 0}, "z_dim must be an integer of at least 1; got 0"),
        ({"image": (2, 2)}, r"image is height and width of 6 pixels; got \(2, 2\)"),
        ({"attention": 2, "observation": "poisson*2, bernoulli*4"}, "images of one family; got attention=2"),
        ({"image": (6,)}, r"image is height and width of 6 pixels; got \(6,\)"),
        ({"cell": "qrnn"}, "cell must be one of rnn, gru, lstm; got 'qrnn'"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(ValueError, match=message):
        DRAW(6, **{"z_dim": 2, **options})


# ---- the window -----------------------------------------------------------------------------------------


def test_filters_sum_to_one_and_are_those_of_the_paper():
    for centre, stride, logvar in ((2.3, 0.7, -1.0), (4.0, 1.5, 0.4), (-1.0, 2.0, 1.0)):
        bank = filter_bank(*(torch.tensor(v).double() for v in (centre, stride, logvar)), n=4, size=7)
        torch.testing.assert_close(bank, bank_by_hand(centre, stride, logvar, 4, 7))
        torch.testing.assert_close(bank.sum(-1), torch.ones(4, dtype=torch.float64))


def test_a_filter_reads_where_it_is():
    """An image whose pixels say where they are is read as the filters' centres, far from the edges."""
    place = torch.arange(1, 42).double()
    bank = filter_bank(*(torch.tensor(v).double() for v in (19.3, 2.6, 0.5)), n=4, size=41)
    torch.testing.assert_close(bank @ place, 19.3 + 2.6 * torch.tensor([-1.5, -0.5, 0.5, 1.5]).double())
    spread = (bank @ place**2 - (bank @ place) ** 2).sqrt()
    torch.testing.assert_close(spread, torch.full((4,), math.exp(0.25)).double(), rtol=1e-3, atol=0)


def test_at_zero_the_window_lies_over_the_whole_image():
    """In the middle, from the first pixel to the last: also where height and width are even, or differ."""
    for image, asked in (((8, 8), 3), ((5, 8), 2), ((8, 8), 8), ((8, 8), 12)):
        head, n = WindowHead(4, image, asked).double(), min(asked, 8)
        nn.init.zeros_(head.linear.weight)
        with torch.no_grad():
            head.linear.bias.copy_(torch.tensor([0, 0, -6.0, 0, 0]))
        window = head(torch.zeros(1, 4, dtype=torch.float64))
        across = window.columns[0] @ torch.arange(1, 9).double()
        torch.testing.assert_close(across, torch.linspace(1, 8, n).double(), rtol=0, atol=0.51)
        torch.testing.assert_close(across.mean(), torch.tensor(4.5).double())
        torch.testing.assert_close(window.gain, torch.ones(1).double())


def test_drawing_is_reading_backwards():
    """The one's matrix is the other's transpose, but for the gain."""
    generator = seeded()
    rows, columns = (torch.rand(2, 3, size, generator=generator).double().softmax(-1) for size in (5, 7))
    window = Window(rows, columns, torch.tensor([2.0, 0.5]).double())
    image, patch = torch.rand(2, 1, 5, 7, generator=generator).double(), torch.rand(2, 1, 3, 3).double()
    left = (window.read(image) * patch).flatten(1).sum(1) / window.gain
    right = (window.draw(patch) * image).flatten(1).sum(1) * window.gain
    torch.testing.assert_close(left, right)


def test_a_window_outside_the_image_has_finite_gradients():
    centre = torch.tensor(1e3, requires_grad=True)
    bank = filter_bank(centre, torch.tensor(1.0), torch.tensor(-10.0), n=2, size=4)
    bank[:, -1].sum().backward()
    assert torch.isfinite(bank).all()
    assert torch.isfinite(centre.grad)
