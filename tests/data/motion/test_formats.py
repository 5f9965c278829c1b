import math
import re

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from dvae_lib.data.motion import (
    H36M_JOINTS,
    H36M_PARENTS,
    Skeleton,
    expmap_to_positions,
    read_amc,
    read_asf,
    read_expmap,
)
from dvae_lib.data.places import find_folder

ASF = """\
# a small skeleton: a pelvis, a leg of two bones, and a bone that cannot turn
:version 1.10
:name small
:units
  mass 1.0
  length 0.45
  angle deg
:documentation
  made for a test
:root
  order TX TY TZ RX RY RZ
  axis XYZ
  position 0 0 0
  orientation 0 0 0
:bonedata
  begin
    id 1
    name hip
    direction 0.6 -0.8 0
    length 2.0
    axis 0 0 0 XYZ
  end
  begin
    id 2
    name thigh
    direction 0 -1 0
    length 7.0
    axis 10 -20 30 XYZ
    dof rx ry rz
    limits (-160.0 20.0)
           (-70.0 70.0)
           (-60.0 70.0)
  end
  begin
    id 3
    name shin
    direction 0 -0.6 0.8
    length 6.5
    axis 0 0 20 XYZ
    dof rx rz
  end
:hierarchy
  begin
    root hip
    hip thigh
    thigh shin
  end
"""
HEADER = "#!made for a test\n:FULLY-SPECIFIED\n:DEGREES\n"


def frame(number, values):
    root, thigh, shin = values[:6], values[6:9], values[9:]
    lines = [str(number)]
    lines += [f"{name} {' '.join(map(repr, v))}" for name, v in (("root", root), ("thigh", thigh), ("shin", shin))]
    return "\n".join(lines) + "\n"


@pytest.fixture
def files(tmp_path):
    motion = np.random.default_rng(0).uniform(-50, 50, size=(5, 11)).round(4)
    asf, amc = tmp_path / "small.asf", tmp_path / "small_01.amc"
    asf.write_text(ASF)
    amc.write_text(HEADER + "".join(frame(k + 1, row.tolist()) for k, row in enumerate(motion)))
    return asf, amc, motion


def scalar_kinematics(asf_text, row):
    """Joint positions of one frame of the small skeleton by plain recursion, with scipy's rotations and numbers read
    off the text above: an implementation that shares nothing with the library's."""
    unit = 0.0254 / 0.45
    turn = Rotation.from_euler("xyz", row[3:6], degrees=True)
    position = {"root": np.array(row[:3]) * unit}
    orientation = {"root": turn}
    bones = {
        "hip": ("root", [0.6, -0.8, 0], 2.0, [0, 0, 0], None),
        "thigh": ("hip", [0, -1, 0], 7.0, [10, -20, 30], row[6:9]),
        "shin": ("thigh", [0, -0.6, 0.8], 6.5, [0, 0, 20], [row[9], 0.0, row[10]]),
    }
    for name, (parent, direction, length, axis, angles) in bones.items():
        axes = Rotation.from_euler("xyz", axis, degrees=True)
        own = Rotation.identity() if angles is None else Rotation.from_euler("xyz", angles, degrees=True)
        orientation[name] = orientation[parent] * axes * own * axes.inv()
        position[name] = position[parent] + orientation[name].apply(np.array(direction) * length * unit)
    return np.stack(list(position.values()))


class TestForwardKinematics:
    def test_agrees_with_a_scalar_implementation(self, files):
        asf, amc, motion = files
        skeleton = read_asf(asf)
        read = read_amc(amc, skeleton)
        np.testing.assert_array_equal(read, motion)
        expected = np.stack([scalar_kinematics(ASF, row) for row in motion])
        np.testing.assert_allclose(skeleton.positions(read), expected, atol=1e-14)

    def test_rest_pose_and_units(self, files):
        skeleton = read_asf(files[0])
        assert skeleton.joints == ("root", "hip", "thigh", "shin")
        assert skeleton.parents == (-1, 0, 1, 2)
        assert skeleton.edges == [(0, 1), (1, 2), (2, 3)]
        np.testing.assert_allclose(skeleton.bone_lengths, np.array([2.0, 7.0, 6.5]) * 0.0254 / 0.45)
        rest = skeleton.positions(np.zeros((1, skeleton.num_dof)))[0]
        np.testing.assert_allclose(np.diff(rest, axis=0), skeleton.offsets[1:], atol=1e-15)

    def test_radians_mean_the_same(self, files, tmp_path):
        asf, _, motion = files
        skeleton = read_asf(asf)
        in_radians = motion.copy()
        in_radians[:, 3:] = np.deg2rad(motion[:, 3:])
        other = tmp_path / "radians.amc"
        other.write_text(
            HEADER.replace(":DEGREES", ":RADIANS")
            + "".join(frame(k + 1, row.tolist()) for k, row in enumerate(in_radians))
        )
        np.testing.assert_allclose(read_amc(other, skeleton), motion, atol=1e-12)

    def test_order_of_rotations_is_the_one_of_the_file(self, files, tmp_path):
        other = tmp_path / "zyx.asf"
        other.write_text(ASF.replace("axis 10 -20 30 XYZ", "axis 10 -20 30 ZYX"))
        axes = read_asf(other).axes[2]
        expected = Rotation.from_euler("zyx", [30, -20, 10], degrees=True).as_matrix()
        np.testing.assert_allclose(axes, expected, atol=1e-15)

    def test_wrong_number_of_columns(self, files):
        with pytest.raises(ValueError, match="11 values, the motion has 3"):
            read_asf(files[0]).positions(np.zeros((1, 3)))


class TestReadingAmc:
    def test_bones_in_any_order(self, files, tmp_path):
        asf, _, motion = files
        shuffled = tmp_path / "shuffled.amc"
        text = HEADER
        for k, row in enumerate(motion):
            number, *bones = frame(k + 1, row.tolist()).splitlines()
            text += "\n".join([number, *(bones if k % 2 else bones[::-1])]) + "\n"
        shuffled.write_text(text)
        np.testing.assert_array_equal(read_amc(shuffled, read_asf(asf)), motion)

    def test_windows_line_ends_and_latin_1(self, files, tmp_path):
        asf, amc, motion = files
        other = tmp_path / "windows.amc"
        other.write_bytes(amc.read_text().replace("#!made", "#!für").replace("\n", "\r\n").encode("latin-1"))
        np.testing.assert_array_equal(read_amc(other, read_asf(asf)), motion)

    @pytest.mark.parametrize(
        ("damage", "line", "message"),
        [
            (lambda t: t[: t.rindex("shin")], 22, "frame 5 ends after 2 of 3 bones, without shin; .* cut short"),
            (lambda t: t[: t.rindex(" ")], 23, "bone 'shin' needs 2 finite numbers"),
            (lambda t: t.replace("thigh", "tail", 1), 6, "bone 'tail' is not one that moves"),
            (lambda t: t.replace("\n3\nroot", "\n4\nroot"), 12, "frame 4 follows frame 2; expected 3"),
            (lambda t: re.sub(r"\nshin \S+ \S+\n2\n", "\n2\n", t), 6, "frame 1 ends after 2 of 3 bones"),
            (lambda t: re.sub(r"\nshin \S+", "\nshin nan", t), 7, "needs 2 finite numbers, the line has 'nan"),
            (lambda t: re.sub(r"\nshin \S+", "\nshin -1.#IND", t), 7, "needs 2 finite numbers"),
            (lambda t: re.sub(r"(\nthigh [^\n]*)", r"\1\1", t, count=1), 7, "bone 'thigh' comes twice in frame 1"),
            (lambda t: HEADER, 3, "no frame in this file"),
            (lambda t: "", 1, "no frame in this file"),
        ],
    )
    def test_damage_is_named_with_its_line(self, files, tmp_path, damage, line, message):
        asf, amc, _ = files
        bad = tmp_path / "bad.amc"
        bad.write_text(damage(amc.read_text()))
        with pytest.raises(ValueError, match=f"{re.escape(str(bad))}:{line}: .*{message}"):
            read_amc(bad, read_asf(asf))


class TestVariants:
    """Other writers of the same formats."""

    def test_case_and_a_mark_of_utf8(self, files, tmp_path):
        skeleton, motion = read_asf(files[0]), read_amc(files[1], read_asf(files[0]))
        asf, amc = tmp_path / "B.ASF", tmp_path / "B_01.AMC"
        text = files[0].read_text().replace("begin", "Begin").replace("  end", "  END").replace(":units", ":UNITS")
        asf.write_bytes(b"\xef\xbb\xbf" + text.encode())
        amc.write_bytes(b"\xef\xbb\xbf" + files[1].read_text().replace("thigh", "Thigh").encode())
        again = read_asf(asf)
        assert again.joints == skeleton.joints
        np.testing.assert_array_equal(again.offsets, skeleton.offsets)
        np.testing.assert_array_equal(read_amc(amc, again), motion)

    def test_degrees_of_a_motion_for_a_skeleton_in_radians(self, files, tmp_path):
        skeleton = read_asf(files[0])
        expected = skeleton.positions(read_amc(files[1], skeleton))
        radians = tmp_path / "radians.asf"
        text = files[0].read_text().replace("angle deg", "angle rad")
        text = re.sub(
            r"axis (\S+) (\S+) (\S+) XYZ",
            lambda m: "axis " + " ".join(str(np.deg2rad(float(v))) for v in m.groups()) + " XYZ",
            text,
        )
        radians.write_text(text)
        same = read_asf(radians)
        np.testing.assert_allclose(same.positions(read_amc(files[1], same)), expected, atol=1e-12)

    def test_another_unit_of_length(self, files, tmp_path):
        inches, centimetres = read_asf(files[0]), read_asf(files[0], metres_per_unit=0.01)
        np.testing.assert_allclose(centimetres.offsets, inches.offsets * 0.01 * 0.45 / 0.0254)
        assert centimetres.metres_per_unit == 0.01
        other = tmp_path / "other.asf"
        other.write_text(files[0].read_text().replace("length 0.45", "length cm"))
        with pytest.raises(ValueError, match=r"other\.asf: the unit of length is 'cm'.*metres_per_unit"):
            read_asf(other)
        assert read_asf(other, metres_per_unit=0.01).metres_per_unit == 0.01
        with pytest.raises(ValueError, match="metres_per_unit must be a positive number"):
            read_asf(files[0], metres_per_unit=0.0)

    def test_exponential_maps_between_blanks(self, tmp_path):
        frames = np.random.default_rng(0).normal(size=(3, 99))
        np.savetxt(tmp_path / "a.txt", frames)
        np.testing.assert_allclose(read_expmap(tmp_path / "a.txt"), frames)


class TestReadingAsf:
    @pytest.mark.parametrize(
        ("damage", "line", "message"),
        [
            (lambda t: t[: t.index("    limits")], 23, "no end: the file is cut short"),
            (lambda t: t.replace("    hip thigh", "    hip tail"), 45, "bone 'tail' of the hierarchy"),
            (lambda t: t.replace("    hip thigh", "    hip thigh\n    hip shin"), 47, "'shin' has two parents"),
            (lambda t: t.replace("    root hip\n", ""), 16, "bone 'hip' does not hang on the root"),
            (lambda t: t.replace("length 7.0", "length seven"), 23, "'length' should hold 1 numbers"),
            (lambda t: t.replace("dof rx rz", "dof rx tz"), 34, "dof .*; expected"),
            (lambda t: t.replace("name thigh", "name hip"), 33, "'hip' is empty or used twice"),
        ],
    )
    def test_damage_is_named_with_its_line(self, tmp_path, damage, line, message):
        bad = tmp_path / "bad.asf"
        bad.write_text(damage(ASF))
        with pytest.raises(ValueError, match=f"{re.escape(str(bad))}:{line}: .*{message}"):
            read_asf(bad)

    def test_another_format(self, tmp_path):
        other = tmp_path / "walk.bvh"
        other.write_text("HIERARCHY\nROOT Hips\n")
        with pytest.raises(ValueError, match="no complete ASF skeleton"):
            read_asf(other)


CMU = find_folder("cmu-mocap")


@pytest.fixture(scope="module")
def clip():
    """A recorded walk: the skeleton, the file's frames, the joints' positions."""
    folder = CMU / "subjects" / "02"
    skeleton = read_asf(folder / "02.asf")
    motion = read_amc(folder / "02_01.amc", skeleton)
    return skeleton, motion, skeleton.positions(motion)


@pytest.mark.skipif(CMU is None, reason="needs the folder cmu-mocap on DVAE_DATA")
class TestRealRecordings:
    def test_bones_keep_their_length(self, clip):
        skeleton, _, positions = clip
        parents, joints = zip(*skeleton.edges, strict=True)
        lengths = np.linalg.norm(positions[:, joints] - positions[:, parents], axis=-1)
        np.testing.assert_allclose(lengths, np.broadcast_to(skeleton.bone_lengths, lengths.shape), atol=1e-12)

    def test_root_follows_the_file(self, clip):
        _, motion, positions = clip
        assert motion.shape == (343, 62)
        np.testing.assert_allclose(positions[:, 0], motion[:, :3] / 0.45 * 0.0254, atol=1e-15)

    def test_it_is_a_walking_person(self, clip):
        skeleton, _, positions = clip
        head, feet = skeleton.joints.index("head"), [skeleton.joints.index(n) for n in ("lfoot", "rfoot")]
        height = positions[..., 1]
        assert (height.max(axis=1) == height[:, head]).mean() > 0.99
        assert 1.5 < height[:, head].mean() < 2.0
        assert (height[:, feet].min(axis=1) < 0.15).all()
        pace = np.linalg.norm(np.diff(positions[:, 0, [0, 2]], axis=0), axis=-1).mean() * 120
        assert 0.8 < pace < 2.0  # m/s
        left, right = (positions[:, f, 2] - positions[:, 0, 2] for f in feet)
        assert np.corrcoef(left, right)[0, 1] < -0.8  # the feet alternate

    def test_fast_reading_is_line_by_line_reading(self, clip, monkeypatch):
        skeleton, motion, _ = clip
        monkeypatch.setattr("dvae_lib.data.motion.acclaim._read_regular", lambda *_: None)
        np.testing.assert_array_equal(read_amc(CMU / "subjects/02/02_01.amc", skeleton), motion)


class TestExponentialMaps:
    @staticmethod
    def frames(num_frames=4, seed=0):
        generator = np.random.default_rng(seed)
        frames = generator.normal(size=(num_frames, 99))
        frames[:, :3] *= 500
        frames[0, 6:] = 0.0  # exactly zero rotations: the formula's 0 / 0
        return frames

    def test_agrees_with_scipy_and_plain_recursion(self):
        frames = self.frames()
        positions = expmap_to_positions(frames)
        rest = expmap_to_positions(np.zeros((1, 99)))[0]
        for row, got in zip(frames, positions, strict=True):
            turned, where = {}, {}
            for joint, parent in enumerate(H36M_PARENTS):
                own = Rotation.from_rotvec(row[3 + 3 * joint : 6 + 3 * joint])
                if parent < 0:
                    where[joint], turned[joint] = row[:3] / 1000, own
                else:
                    # Row vectors times matrices: the transposed, that is the inverse, rotation of columns.
                    bone = rest[joint] - rest[parent]
                    where[joint] = where[parent] + turned[parent].inv().apply(bone)
                    turned[joint] = Rotation.from_matrix(own.as_matrix() @ turned[parent].as_matrix())
            np.testing.assert_allclose(got, np.stack(list(where.values())), atol=1e-9)

    def test_rest_pose_is_a_person(self):
        rest = dict(zip(H36M_JOINTS, expmap_to_positions(np.zeros((1, 99)))[0], strict=True))
        assert math.isclose(rest["head_top"][1] - rest["left_foot"][1], 1.624, abs_tol=0.01)
        assert rest["left_up_leg"][0] > 0 > rest["right_up_leg"][0]
        assert len(H36M_JOINTS) == len(set(H36M_JOINTS)) == 32

    def test_file(self, tmp_path):
        frames, file = self.frames(), tmp_path / "walking_1.txt"
        np.savetxt(file, frames, delimiter=",", fmt="%.17g")
        np.testing.assert_array_equal(read_expmap(file), frames)

    @pytest.mark.parametrize(
        ("damage", "line", "message"),
        [
            (lambda t: t[: t.rindex(",")], 4, "expected 99 numbers separated by commas or blanks, got 98"),
            (lambda t: re.sub(r"^[^,]*", "x", t), 1, "not all of the 99 values are finite"),
            (lambda t: re.sub(r"\n[^,]*", "\ninf", t, count=1), 2, "not all of the 99 values are finite"),
            (lambda t: "\n", 1, "no frame in this file"),
        ],
    )
    def test_damage_is_named_with_its_line(self, tmp_path, damage, line, message):
        file = tmp_path / "walking_1.txt"
        np.savetxt(file, self.frames(), delimiter=",")
        file.write_text(damage(file.read_text()))
        with pytest.raises(ValueError, match=f"{re.escape(str(file))}:{line}: {message}"):
            read_expmap(file)


def test_a_skeleton_is_plain_data():
    one = Skeleton(("root",), (-1,), np.zeros((1, 3)), np.eye(3)[None], (("tx",),), ("xyz",), 1.0)
    np.testing.assert_array_equal(one.positions(np.array([[2.0]])), [[[2.0, 0.0, 0.0]]])
