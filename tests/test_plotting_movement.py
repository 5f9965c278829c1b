import json
import re

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from dvae_lib.plotting import animate_skeletons, plot_piano_roll, plot_skeleton

PARENTS = (-1, 0, 1, 0)


@pytest.fixture
def ax():
    figure, axes = plt.subplots()
    yield axes
    plt.close(figure)


def movement(num_frames=6):
    return np.random.default_rng(0).normal(size=(num_frames, 4, 3))


class TestPianoRoll:
    def test_a_key_stands_at_its_pitch(self, ax):
        roll = np.zeros((10, 88))
        roll[3, 39] = 1  # middle C
        image = plot_piano_roll(ax, torch.tensor(roll), keys=(48, 72))
        assert ax.get_ylim() == (47.5, 72.5)
        assert [label.get_text() for label in ax.get_yticklabels()] == ["C3", "C4", "C5"]
        left, right, low, high = image.get_extent()
        column, row = np.argwhere(image.get_array().T == 1)[0]
        assert left + (column + 0.5) * (right - left) / 10 == 3.5
        assert low + (row + 0.5) * (high - low) / 88 == 60

    def test_shows_what_sounds(self, ax):
        roll = np.zeros((4, 88))
        roll[0, [30, 40]] = 1
        plot_piano_roll(ax, roll, start=16.0)
        assert ax.get_ylim() == (49.5, 62.5)
        assert ax.get_xlim() == (16, 20)

    def test_silence(self, ax):
        plot_piano_roll(ax, np.zeros((4, 88)))

    def test_refuses(self, ax):
        for bad in (np.full((4, 88), 2.0), np.zeros(88), np.zeros((0, 88))):
            with pytest.raises(ValueError, match="roll must be"):
                plot_piano_roll(ax, bad)


class TestSkeleton:
    def test_one_line_for_each_bone_and_pose(self, ax):
        plot_skeleton(ax, movement(20), PARENTS, num_poses=5)
        assert len(ax.lines) == 5 * 3
        assert [text.get_text() for text in ax.texts] == ["0", "5", "10", "14", "19"]

    def test_bones_keep_their_height(self, ax):
        poses = movement(1)
        plot_skeleton(ax, poses.reshape(1, -1), PARENTS)
        for line, (parent, joint) in zip(ax.lines, ((0, 1), (1, 2), (0, 3)), strict=True):
            np.testing.assert_allclose(line.get_ydata(), poses[0, [parent, joint], 1])

    def test_refuses(self, ax):
        with pytest.raises(ValueError, match=r"positions must be \(T, 4, 3\) or \(T, 12\)"):
            plot_skeleton(ax, np.zeros((5, 15)), PARENTS)


class TestAnimation:
    @staticmethod
    def data(html):
        return json.loads(re.search(r'<script type="application/json">(.*?)</script>', html, re.DOTALL).group(1))

    def test_page_holds_the_movement(self):
        poses = movement()
        data = self.data(
            animate_skeletons({"a": poses, "b": torch.tensor(poses[:3])}, PARENTS, fps=25.0, marks=[2]).data
        )
        assert data["fps"] == 25
        assert data["parents"] == list(PARENTS)
        assert [figure["name"] for figure in data["figures"]] == ["a", "b"]
        assert [figure["mark"] for figure in data["figures"]] == [2, 3]
        np.testing.assert_allclose(np.array(data["figures"][0]["frames"]).reshape(6, 4, 3) / 1000, poses, atol=6e-4)

    def test_the_movement_stands_in_it_once(self):
        page = animate_skeletons({"alone": movement()}, PARENTS, fps=30.0).data
        assert page.count('"alone"') == 1

    def test_nothing_is_loaded_from_elsewhere(self):
        html = animate_skeletons(movement(), PARENTS).data
        assert "http" not in html
        assert "src=" not in html

    def test_a_name_cannot_end_the_script(self):
        html = animate_skeletons({"</script><b>": movement()}, PARENTS).data
        assert self.data(html)["figures"][0]["name"] == "</script><b>"
        assert "</script><b>" not in html

    def test_refuses(self):
        with pytest.raises(ValueError, match="no movement"):
            animate_skeletons({}, PARENTS)
        with pytest.raises(ValueError, match="positions must be"):
            animate_skeletons(np.zeros((3, 5, 3)), PARENTS)
        with pytest.raises(ValueError, match="'x' holds values that are not finite"):
            animate_skeletons({"x": np.full((2, 4, 3), np.nan)}, PARENTS)
