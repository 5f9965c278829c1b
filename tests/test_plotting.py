import base64
import io
import itertools
import re
import wave

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.colors import to_rgb

from dvae_lib import plotting
from dvae_lib.plotting import (
    CARD,
    COLOURS,
    plot_spectrogram,
    plot_spectrograms,
    power_to_db,
    show_audio,
    show_table,
    use_style,
)

mpl.use("agg")

# Dichromats' view of linear RGB (Viénot, Brettel and Mollon, 1999).
DEUTERANOPE = np.array([[0.29275, 0.70725, 0.0], [0.29275, 0.70725, 0.0], [-0.02234, 0.02234, 1.0]])
PROTANOPE = np.array([[0.11238, 0.88762, 0.0], [0.11238, 0.88762, 0.0], [0.00401, -0.00401, 1.0]])


@pytest.fixture(autouse=True)
def _closed_figures():
    with mpl.rc_context():
        yield
    plt.close("all")


def linear(colour: str) -> np.ndarray:
    rgb = np.array(to_rgb(colour))
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIE L*a*b* of linear RGB (D65)."""
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ rgb
    f = np.cbrt(np.clip(xyz / np.array([0.9505, 1.0, 1.089]), 1e-6, None))
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("sight", [np.eye(3), DEUTERANOPE, PROTANOPE], ids=["full", "deuteranope", "protanope"])
@pytest.mark.parametrize(
    "roles",
    [
        ("latent", "observed", "deterministic", "missing"),
        ("missing", "extra"),
        ("prior", "posterior", "reconstruction", "exact"),
        ("training", "validation"),
    ],
)
def test_colours_of_one_figure_can_be_told_apart(roles, sight):
    for one, other in itertools.combinations(roles, 2):
        distance = np.linalg.norm(lab(sight @ linear(COLOURS[one])) - lab(sight @ linear(COLOURS[other])))
        assert distance > 15, (one, other)


@pytest.mark.parametrize("role", sorted(set(COLOURS) - {"extra", "missing", "prior"}))
def test_line_colours_stand_out_from_the_card(role):
    luminance = {c: linear(c) @ np.array([0.2126, 0.7152, 0.0722]) + 0.05 for c in (COLOURS[role], CARD)}
    assert luminance[CARD] / luminance[COLOURS[role]] > 3  # WCAG's bound for graphical objects


def test_style_is_reproducible_and_opaque():
    use_style()
    files = []
    for _ in range(2):
        figure, ax = plt.subplots()
        ax.plot([0, 1], [0, 1], label="line")
        ax.legend()
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
        files.append(file.getvalue())
    assert files[0] == files[1]
    assert CARD.lower() in files[0].lower()


def test_unknown_figure_format_is_refused():
    with pytest.raises(ValueError, match="'svg' or 'png', not 'gif'"):
        use_style("gif")


def test_power_to_db_refuses_what_is_not_power():
    with pytest.raises(ValueError, match="finite and non-negative"):
        power_to_db(np.array([-1.0]))
    with pytest.raises(ValueError, match="finite and non-negative"):
        power_to_db(torch.tensor([float("nan")]))


def test_a_pure_tone_lies_at_its_frequency():
    power = torch.full((40, 513), 1e-6)
    power[:, 128] = 1.0  # bin 128 of 512 at 16 kHz is 2 kHz
    image = plot_spectrogram(plt.subplots()[1], power)
    left, right, bottom, top = image.get_extent()
    assert (left, right) == pytest.approx((0.0, 40 * 256 / 16_000))
    row = int(np.argmax(image.get_array()[:, 0]))
    centre = bottom + (row + 0.5) * (top - bottom) / 513
    assert centre == pytest.approx(2.0)


def test_spectrograms_share_their_scale():
    powers = {"loud": torch.rand(30, 65) + 10, "soft": torch.rand(50, 65)}
    figure, axes = plt.subplots(2, 1)
    plot_spectrograms(axes, powers, dynamic_range=50.0)
    loud, soft = axes[0].images[0], axes[1].images[0]
    assert loud.get_clim() == soft.get_clim()
    assert np.diff(loud.get_clim()) == pytest.approx(50)
    assert axes[0].get_xlim() == axes[1].get_xlim()
    assert len(figure.axes) == 3  # two panels, one colour bar


@pytest.mark.parametrize("shape", [(3,), (0, 5), (2, 3, 4)])
def test_wrong_shapes_are_refused(shape):
    with pytest.raises(ValueError, match="frames, frequencies"):
        plot_spectrogram(plt.subplots()[1], np.ones(shape))
    with pytest.raises(ValueError, match="one axis for each"):
        plot_spectrograms(plt.subplots(1, 2)[1], {"only": np.ones((2, 3))})


def players(html: str) -> list[np.ndarray]:
    found = []
    for data in re.findall(r"base64,([A-Za-z0-9+/=]+)", html):
        with wave.open(io.BytesIO(base64.b64decode(data))) as wav:
            assert (wav.getnchannels(), wav.getframerate()) == (1, 16_000)
            found.append(np.frombuffer(wav.readframes(wav.getnframes()), "<i2") / 32767)
    return found


def test_players_keep_relative_loudness():
    tone = torch.sin(torch.arange(1600) * 0.1)
    soft, loud = players(show_audio({"soft": 0.5 * tone, "loud": 4 * tone}).data)
    np.testing.assert_allclose(8 * soft, loud, atol=1e-3)
    assert np.abs(loud).max() == pytest.approx(1.0, abs=1e-3)
    (plain,) = players(show_audio(0.5 * tone).data)
    np.testing.assert_allclose(plain, 0.5 * tone, atol=1e-4)


@pytest.mark.parametrize("bad", [np.zeros(0), np.zeros((2, 5)), np.array([np.inf])])
def test_players_refuse_bad_sound(bad):
    with pytest.raises(ValueError, match="'voice'"):
        show_audio({"voice": bad})


def test_a_table_rounds_numbers_and_leaves_words_alone():
    rows = [["$z_t$", np.float64(2 / 3), torch.tensor(-1.0), True, 7], ["[x](y)", None, 0.25, False, 8]]
    assert show_table(["a", "b", "c", "d", "e"], rows, digits=2).data.split("\n") == [
        "| a | b | c | d | e |",
        "|---|--:|--:|---|--:|",
        "| $z_t$ | 0.67 | -1.00 | yes | 7 |",
        "| [x](y) |  | 0.25 | – | 8 |",
    ]
    assert show_table(["a"], []).data == "| a |\n|---|"
    with pytest.raises(ValueError, match="rows of 2 cells"):
        show_table(["a", "b"], [["one"]])


def test_all_names_exist():
    assert set(plotting.__all__) <= set(vars(plotting))


def test_bounds_stand_one_row_a_case_and_one_line_a_training():
    _, axis = plt.subplots()
    plotting.plot_bounds(
        axis, {"one": ([(-2.0, -1.0)], "prior"), "two": (iter([(-4.0, -3.0), (-5.0, -3.5)]), "latent")}
    )
    assert [label.get_text() for label in axis.get_yticklabels()] == ["one", "two"]
    lines, dots = axis.lines[::3], [*axis.lines[1::3], *axis.lines[2::3]]
    assert [list(line.get_xdata()) for line in lines] == [[-2, -1], [-4, -3], [-5, -3.5]]
    assert lines[0].get_ydata()[0] == 0
    assert lines[1].get_ydata()[0] == pytest.approx(2 - lines[2].get_ydata()[0])
    assert [dot.get_markerfacecolor() == "white" for dot in dots] == [True] * 3 + [False] * 3
    assert axis.yaxis_inverted()
    plt.close()


def test_zero_has_no_sign_in_a_table():
    assert "| 0.00 |" in plotting.show_table(["a"], [[-0.001]], digits=2).data
    assert plotting.mean_and_range([-0.001, 0.5]) == "0.25 (0.00 to 0.50)"
    assert plotting.mean_and_range([float("nan")]) == "nan"
    assert plotting.mean_and_range([float("-inf")]) == "-inf"
