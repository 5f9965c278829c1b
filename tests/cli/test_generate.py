"""``dvae generate``: music and motion as files, written as the files of the training were read."""

from pathlib import Path

import numpy as np
import pytest
import torch
from commands import dvae

from dvae_lib import DVAE, SRNN
from dvae_lib.data import midi_to_roll, read_midi, write_midi
from dvae_lib.data.motion import read_bvh, rest_skeleton, write_bvh

SMALL = ("-O", "h_dim=4", "-O", "g_dim=4", "--z-dim", 1, "--epochs", 1, "--folder", "run")


def trained(*data):
    dvae("train", "srnn", "--data", *data, *SMALL)
    return DVAE.from_pretrained("run/best")


def made(model, steps, **options):
    with torch.no_grad():
        return model.generate(steps, generator=torch.Generator().manual_seed(5), **options).x[0]


@pytest.fixture
def tunes():
    rng = np.random.default_rng(0)
    Path("tunes").mkdir()
    for k in range(5):
        write_midi(f"tunes/{k}.mid", np.eye(88)[rng.integers(30, 50, 16)], steps=2)
    return "tunes"


@pytest.mark.parametrize(
    ("read", "steps_a_quarter", "tempo"), [((), 4, 120), (("-D", "steps=2"), 2, 90), (("-D", "per=second"), 3, 80)]
)
def test_music_has_the_steps_of_the_training(tunes, read, steps_a_quarter, tempo):
    """Four steps a second are three a quarter note at 80 a minute."""
    model = trained(tunes, *read)
    assert "new.mid (24 frames)" in dvae(
        "generate", "run", "-o", "new.mid", "--steps", 24, "--seed", 5, "--tempo", tempo
    )
    expected = made(model, 24).numpy()
    roll = midi_to_roll("new.mid", steps_a_quarter)
    np.testing.assert_array_equal(roll, expected[: len(roll)])
    assert not expected[len(roll) :].any()  # a roll ends with its last note
    assert read_midi("new.mid").tempos[0][1] == pytest.approx(tempo, rel=1e-5)


@pytest.mark.parametrize("read", [(), ("-D", "fps=15", "-D", "metres_per_unit=0.1", "-D", "centre=false")])
def test_motion_has_the_skeleton_and_the_rate_of_the_training(read):
    rng = np.random.default_rng(0)
    rest = np.cumsum(rng.normal(size=(1, 4, 3)), 1)
    skeleton = rest_skeleton(("hip", "knee", "foot", "spine"), (-1, 0, 1, 0), rest)
    Path("walks").mkdir()
    for k in range(5):
        angles = 10 * rng.normal(size=(60, skeleton.num_dof)).cumsum(0) / 8
        write_bvh(f"walks/{k}.bvh", skeleton, angles, fps=30)
    model = trained("walks", *read, "--sequence-length", 20)
    dvae("generate", "run", "-o", "new.bvh", "--steps", 10, "--seed", 5, "--emission", "mean")
    units = 0.1 if read else 0.01
    new, old = read_bvh("new.bvh", metres_per_unit=units), read_bvh("walks/0.bvh", metres_per_unit=units)
    assert (new.skeleton.joints, new.fps) == (old.skeleton.joints, 15 if read else 30)
    np.testing.assert_allclose(new.skeleton.bone_lengths, old.skeleton.bone_lengths, atol=1e-6)
    positions = made(model, 10, emission="mean").reshape(10, 4, 3).double().numpy()
    found = new.skeleton.positions(new.motion)
    np.testing.assert_allclose(found[:, 0], positions[:, 0], atol=1e-5)
    bones = [p[:, 2] - p[:, 1] for p in (found, positions)]  # below a knee hangs one bone, which points where it should
    directions = [bone / np.linalg.norm(bone, axis=-1, keepdims=True) for bone in bones]
    np.testing.assert_allclose(*directions, atol=1e-4)


def test_what_is_missing_is_said(tunes):
    trained(tunes)
    assert "must end in .mid" in dvae("generate", "run", "-o", "new.wav", code=1)
    said = dvae("generate", "run", "-o", "new.bvh", code=1)
    assert "was trained on MIDI files, and does not say which skeleton" in said
    SRNN(x_dim=88, z_dim=1, h_dim=4, g_dim=4, observation="bernoulli").save_pretrained("bare")
    said = dvae("generate", "bare", "-o", "new.mid", code=1)
    assert "does not say how many steps a quarter note has" in said
    assert "There is no folder" in dvae("generate", "run", "-o", "no/new.mid", code=1)
    assert "zeros and ones" in dvae("generate", "run", "-o", "new.mid", "--emission", "mean", code=1)
    assert not Path("new.mid").exists()
