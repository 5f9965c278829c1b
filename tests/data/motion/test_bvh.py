"""BVH in and out: against closed forms, scipy's rotations, and back again."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from dvae_lib.data import load
from dvae_lib.data.motion import MOCAP_JOINTS, MOCAP_PARENTS, Skeleton, pose, read_bvh, rest_skeleton, write_bvh

HIERARCHY = """\
HIERARCHY
ROOT Hips
{
  OFFSET 1.0 2.0 3.0
  CHANNELS 6 Xposition Yposition Zposition Zrotation Xrotation Yrotation
  JOINT Left Leg
  {
    OFFSET 10 0 0
    CHANNELS 3 Yrotation Zrotation Xrotation
    End Site
    {
      OFFSET 0 -20 0
    }
  }
  JOINT Spine {
    OFFSET 0 5 1
    CHANNELS 3 Xrotation Yrotation Zrotation
    End Site { OFFSET 0 8 0 }
  }
}
"""
JOINTS = ("Hips", "Left Leg", "Left Leg end", "Spine", "Spine end")


def text(frames, hierarchy=HIERARCHY, seconds=1 / 30):
    lines = [" ".join(f"{value:.6f}" for value in frame) for frame in frames]
    return "\n".join([hierarchy + "MOTION", f"Frames: {len(frames)}", f"Frame Time: {seconds:.7f}", *lines, ""])


def write(path, *arguments, **options):
    path.write_text(text(*arguments, **options))
    return path


@pytest.fixture
def frames():
    return np.random.default_rng(0).uniform(-85, 85, (6, 12)).round(6)


class TestRead:
    def test_by_hand(self, tmp_path):
        """Hips turned by 90 degrees about z, the leg's bone by another 90: x becomes y, and -y becomes -(-y) = y."""
        still = [0.0] * 12
        turned = [100.0, 0, 0, 90, 0, 0, 0, 90, 0, 0, 0, 0]
        clip = read_bvh(write(tmp_path / "a.bvh", [still, turned]))
        assert clip.skeleton.joints == JOINTS
        assert clip.skeleton.parents == (-1, 0, 1, 0, 3)
        assert clip.fps == 30
        positions = clip.skeleton.positions(clip.motion)
        rest = [[1, 2, 3], [11, 2, 3], [11, -18, 3], [1, 7, 4], [1, 15, 4]]
        np.testing.assert_allclose(positions[0], np.array(rest) / 100, atol=1e-12)
        after = [[101, 2, 3], [101, 12, 3], [101, 32, 3], [96, 2, 4], [88, 2, 4]]
        np.testing.assert_allclose(positions[1], np.array(after) / 100, atol=1e-12)

    def test_rotations_are_listed_from_the_outermost(self, tmp_path, frames):
        """Z X Y is R_z R_x R_y: scipy's intrinsic rotations in the order of the file."""
        clip = read_bvh(write(tmp_path / "a.bvh", frames), metres_per_unit=1.0)
        hips = Rotation.from_euler("ZXY", frames[:, 3:6], degrees=True)
        leg = hips * Rotation.from_euler("YZX", frames[:, 6:9], degrees=True)
        spine = hips * Rotation.from_euler("XYZ", frames[:, 9:12], degrees=True)
        root = frames[:, :3] + [1, 2, 3]
        knee, back = root + hips.apply([10, 0, 0]), root + hips.apply([0, 5, 1])
        wanted = [root, knee, knee + leg.apply([0, -20, 0]), back, back + spine.apply([0, 8, 0])]
        np.testing.assert_allclose(clip.skeleton.positions(clip.motion), np.stack(wanted, 1), atol=1e-10)

    def test_positions_of_other_joints(self, tmp_path):
        moved = HIERARCHY.replace("CHANNELS 3 Xrot", "CHANNELS 4 Yposition Xrot")
        path = write(tmp_path / "a.bvh", [[0.0] * 9 + [7.0, 0, 0, 0]], moved)
        for shifts, height in (("instead", 7.0), ("added", 12.0)):
            clip = read_bvh(path, metres_per_unit=1.0, shifts=shifts)
            y = clip.skeleton.positions(clip.motion)[0]
            np.testing.assert_allclose(y[3] - y[0], [0, height, 1])

    @pytest.mark.parametrize(
        ("seconds", "fps"),
        [
            *((0.0083333, 120), (0.008333, 120), (0.00833, 120), (0.0166667, 60), (0.016667, 60)),
            *((0.033333, 30), (0.0333, 30), (0.04, 25), (0.0416667, 24), (0.04167, 24)),
            *((s, 1 / s) for s in (0.03, 0.0333667, 0.033367, 0.0166833, 0.016683, 0.0417083, 0.041708, 5.0)),
        ],
    )
    def test_frame_times(self, tmp_path, seconds, fps):
        assert read_bvh(write(tmp_path / "a.bvh", np.zeros((2, 12)), seconds=seconds)).fps == pytest.approx(
            fps, abs=1e-9
        )

    @pytest.mark.parametrize(
        ("old", "new", "message"),
        [
            ("HIERARCHY", "HIERARCH", r"a\.bvh:1: expected HIERARCHY, got 'HIERARCH'"),
            ("OFFSET 10 0 0", "OFFSET 10 0", r"a\.bvh:8: OFFSET needs three finite numbers"),
            ("OFFSET 10 0 0", "OFFSET 10 0 nan", r"a\.bvh:8: OFFSET needs three finite numbers"),
            ("CHANNELS 3 Yr", "CHANNELS 4 Yr", r"a\.bvh:9: CHANNELS '4 Yrotation Zrotation Xrotation' should be"),
            ("CHANNELS 3 Yrotation", "CHANNELS 3 Zrotation", r"a\.bvh:9: CHANNELS"),
            ("CHANNELS 3 Yrotation", "CHANNELS 3 Wrotation", r"a\.bvh:9: CHANNELS"),
            ("JOINT Spine", "JOINT Hips", r"a\.bvh:15: the joint name 'Hips' is empty or used twice"),
            ("JOINT Spine", "ROOT Spine", r"a\.bvh:15: a second root"),
            ("JOINT Spine", "BONE Spine", r"a\.bvh:15: 'BONE Spine' is not expected here"),
            ("  OFFSET 0 5 1\n", "", r"a\.bvh:18: 'Spine' ends without OFFSET|a\.bvh:17: "),
            ("8 0 }\n  }\n}", "8 0 }\n  }", r"a\.bvh:19: 'Hips' is not closed: the file is cut short"),
            ("8 0 }\n  }\n}", "8 0 }\n  }\n}\n}", r"a\.bvh:21: this } closes nothing"),
            ("MOTION", "MOTIONS", r"a\.bvh:\d+: there is no line MOTION"),
            ("Frames: 6", "Frames: six", r"a\.bvh:22: expected 'Frames:' and a positive number, got 'Frames: six'"),
            ("Frames: 6", "Frames: 7", r"a\.bvh:29: 6 frames, but line 22 says 7; the file is cut short"),
            ("Frame Time: 0", "Frame Time: -0", r"a\.bvh:23: expected 'Frame Time:'"),
        ],
    )
    def test_errors_name_the_line(self, tmp_path, frames, old, new, message):
        assert old in text(frames)
        (tmp_path / "a.bvh").write_text(text(frames).replace(old, new, 1))
        with pytest.raises(ValueError, match=message):
            read_bvh(tmp_path / "a.bvh")

    def test_a_damaged_frame(self, tmp_path, frames):
        lines = text(frames).splitlines()
        for new, message in (("1 2 3", "has 3 numbers, the channels are 12"), ("nan " * 12, "not a finite number")):
            (tmp_path / "a.bvh").write_text("\n".join([*lines[:25], new, *lines[26:]]))
            with pytest.raises(ValueError, match=rf"a\.bvh:26: the frame .*{message}"):
                read_bvh(tmp_path / "a.bvh")
        (tmp_path / "b.bvh").write_text("\n".join(lines[:21]))
        with pytest.raises(ValueError, match=r"b\.bvh:21: number of frames or frame time is missing"):
            read_bvh(tmp_path / "b.bvh")


class TestWrite:
    def test_read_again_it_is_the_same(self, tmp_path, frames):
        clip = read_bvh(write(tmp_path / "a.bvh", frames))
        write_bvh(tmp_path / "b.bvh", clip.skeleton, clip.motion, fps=clip.fps)
        again = read_bvh(tmp_path / "b.bvh")
        assert again.skeleton.joints == clip.skeleton.joints
        assert again.skeleton.dof == clip.skeleton.dof
        assert again.fps == clip.fps
        np.testing.assert_allclose(again.motion, clip.motion, atol=1e-6)
        np.testing.assert_allclose(again.skeleton.offsets, clip.skeleton.offsets, atol=1e-8)

    def test_joints_in_another_order(self, tmp_path):
        """A file lists limb after limb; a skeleton may list level after level. The columns go with the joints."""
        joints, parents = ("root", "a", "b", "a tip", "b tip"), (-1, 0, 0, 1, 2)
        rng = np.random.default_rng(0)
        skeleton = rest_skeleton(joints, parents, rng.normal(size=(1, 5, 3)))
        motion = rng.uniform(-50, 50, (4, skeleton.num_dof))
        write_bvh(tmp_path / "a.bvh", skeleton, motion)
        clip = read_bvh(tmp_path / "a.bvh")
        assert clip.skeleton.joints == ("root", "a", "a end", "b", "b end")
        read = clip.skeleton.positions(clip.motion)[:, [0, 1, 3, 2, 4]]
        np.testing.assert_allclose(read, skeleton.positions(motion), atol=1e-7)

    @pytest.mark.parametrize("shifts", ["added", "instead"])
    def test_joints_that_are_shifted_come_back_where_they_were(self, tmp_path, shifts):
        """Along y only, or along all axes: what is read is the whole vector, whatever the skeleton adds."""
        moved = HIERARCHY.replace("CHANNELS 3 Xrot", "CHANNELS 4 Yposition Xrot")
        moved = moved.replace("CHANNELS 3 Yrot", "CHANNELS 6 Zposition Xposition Yposition Yrot")
        frames = np.random.default_rng(0).uniform(-50, 50, (4, 16)).round(6)
        clip = read_bvh(write(tmp_path / "a.bvh", frames, moved), shifts=shifts, metres_per_unit=0.5)
        positions = clip.skeleton.positions(clip.motion)
        write_bvh(tmp_path / "b.bvh", clip.skeleton, clip.motion)
        again = read_bvh(tmp_path / "b.bvh", metres_per_unit=0.5)
        np.testing.assert_allclose(again.skeleton.positions(again.motion), positions, atol=1e-5)

    def test_what_cannot_be_written(self, tmp_path, frames):
        clip = read_bvh(write(tmp_path / "a.bvh", frames))
        for motion in (frames[:, :5], frames[:0], frames * np.nan):
            with pytest.raises(ValueError, match=r"expected finite frames \(T, 12\)"):
                write_bvh(tmp_path / "b.bvh", clip.skeleton, motion)
        acclaim = Skeleton(("root",), (-1,), np.zeros((1, 3)), np.eye(3)[None], (("tx",),), ("xyz",), 1.0)
        with pytest.raises(ValueError, match=r"rest_skeleton\(joints, parents, positions\)"):
            write_bvh(tmp_path / "b.bvh", acclaim, np.zeros((3, 1)))
        assert not (tmp_path / "b.bvh").exists()


class TestPose:
    def test_positions_of_a_moving_skeleton_are_met(self, tmp_path, frames):
        skeleton = read_bvh(write(tmp_path / "a.bvh", frames)).skeleton
        positions = skeleton.positions(frames)
        np.testing.assert_allclose(skeleton.positions(pose(skeleton, positions)), positions, atol=1e-7)

    def test_where_bones_say_all_the_angles_are_found(self):
        """A joint with three bones that are not in one plane has one orientation."""
        rest = np.array([[0.0, 0, 0], [1, 0, 0], [0, 2, 0], [0, 0, 3]])
        skeleton = rest_skeleton("abcd", (-1, 0, 0, 0), rest[None])
        motion = np.random.default_rng(0).uniform(-80, 80, (5, 6))
        for frame in np.split(skeleton.positions(motion), 5):  # one by one: there is none before that decides
            np.testing.assert_allclose(pose(skeleton, frame), motion[:1], atol=1e-5)
            motion = motion[1:]

    def test_no_twist_where_nothing_moves(self):
        rest = np.array([[0.0, 0, 0], [0, 1, 0], [0, 2, 0]])[None].repeat(3, 0)
        skeleton = rest_skeleton("abc", (-1, 0, 1), rest)
        np.testing.assert_allclose(pose(skeleton, rest)[:, 3:], 0, atol=1e-6)

    def test_angles_do_not_jump(self):
        """A bone that turns round and round about z: its angle goes on over 180 degrees."""
        angle = np.linspace(0, 4 * np.pi, 50)
        tip = np.stack([np.cos(angle), np.sin(angle), 0 * angle], 1)
        positions = np.stack([0 * tip, tip], 1)
        motion = pose(rest_skeleton("ab", (-1, 0), positions), positions)
        np.testing.assert_allclose(motion[:, 3], np.rad2deg(angle), atol=1e-4)

    def test_angles_do_not_jump_where_the_middle_one_passes_a_right_angle(self):
        """Beyond 90 degrees a matrix has angles below them, with half a turn more in both others."""
        rest = np.array([[0.0, 0, 0], [1, 0, 0], [0, 2, 0], [0, 0, 3]])
        skeleton = rest_skeleton("abcd", (-1, 0, 0, 0), rest[None])
        t = np.linspace(0, 1, 81)
        motion = np.stack([0 * t, t, -t, 20 - 30 * t, 710 * t, 40 + 15 * t], 1)  # about z, x, y: x in the middle
        found = pose(skeleton, skeleton.positions(motion))
        np.testing.assert_allclose(found, motion, atol=1e-4)

    def test_a_bone_without_length_in_the_first_frame(self):
        positions = np.zeros((3, 3, 3))
        positions[:, 1, 0] = 1
        positions[:, 2] = [[1, 0, 0], [1, 2, 0], [1, 0, 4]]
        skeleton = rest_skeleton("abc", (-1, 0, 1), positions)
        np.testing.assert_allclose(skeleton.offsets, [[0, 0, 0], [1, 0, 0], [0, 2, 0]])  # (0 + 2 + 4) / 3 upwards

    def test_positions_that_are_not_finite(self):
        positions = np.random.default_rng(0).normal(size=(4, 3, 3))
        skeleton = rest_skeleton("abc", (-1, 0, 1), positions)
        positions[2, 1, 0] = np.nan
        for call in (pose, lambda _, positions: rest_skeleton("abc", (-1, 0, 1), positions)):
            with pytest.raises(ValueError, match="positions must be finite; those of joint 1 are not in frame 2"):
                call(skeleton, positions)

    def test_a_root_that_moves_without_channels_for_it(self, tmp_path, frames):
        fixed = HIERARCHY.replace("CHANNELS 6 Xposition Yposition Zposition", "CHANNELS 4 Yposition")
        skeleton = read_bvh(write(tmp_path / "a.bvh", frames[:, :10], fixed)).skeleton
        positions = skeleton.positions(frames[:, :10])
        np.testing.assert_allclose(skeleton.positions(pose(skeleton, positions)), positions, atol=1e-7)
        positions[3:] += [0.1, 0, 0]
        with pytest.raises(ValueError, match="the root 'Hips' moves, but has no channels for its position along x, z"):
            pose(skeleton, positions)

    def test_the_books_corpus_goes_through_a_file(self, tmp_path):
        """What travels with the library, as a model would generate it: joint positions, here with true lengths."""
        clip = load("mocap-excerpt", centre=False, standardize=False).test[0].double().numpy()
        positions = clip.reshape(len(clip), -1, 3)
        skeleton = rest_skeleton(MOCAP_JOINTS, MOCAP_PARENTS, positions)
        write_bvh(tmp_path / "a.bvh", skeleton, pose(skeleton, positions), fps=30)
        read = read_bvh(tmp_path / "a.bvh")
        found = read.skeleton.positions(read.motion)
        order = [read.skeleton.joints.index(name) for name in MOCAP_JOINTS if name in read.skeleton.joints]
        kept = [k for k, name in enumerate(MOCAP_JOINTS) if name in read.skeleton.joints]
        error = np.linalg.norm(found[:, order] - positions[:, kept], axis=-1)
        assert np.median(error) < 0.005
        assert error.max() < 0.02  # the bones at the pelvis and the neck turn each by itself, which one joint cannot

    def test_what_has_no_pose(self, tmp_path, frames):
        skeleton = read_bvh(write(tmp_path / "a.bvh", frames)).skeleton
        with pytest.raises(ValueError, match=r"expected positions \(T, 5, 3\)"):
            pose(skeleton, np.zeros((3, 4, 3)))
        stiff = HIERARCHY.replace("CHANNELS 3 Yrotation Zrotation Xrotation", "CHANNELS 1 Zrotation")
        stiff = read_bvh(write(tmp_path / "b.bvh", frames[:, :10], stiff)).skeleton
        with pytest.raises(ValueError, match="joint 'Left Leg' must turn the bones after it freely"):
            pose(stiff, np.zeros((3, 5, 3)))
        with pytest.raises(ValueError, match="parents before children"):
            rest_skeleton("abc", (-1, 2, 0), np.zeros((1, 3, 3)))


class TestDoor:
    def test_a_folder_of_bvh_files_is_motion(self, tmp_path):
        rng = np.random.default_rng(0)
        for k in range(6):
            write(tmp_path / f"{k}.bvh", rng.uniform(-50, 50, (120, 12)), seconds=1 / 120)
        found = load(tmp_path, fps=60, sequence_length=20)
        assert (found.kind, found.train.x_dim, found.train.num_frames) == ("motion", 15, 4 * 60)
        names = {name: part for part in found.parts for name in part.names}
        assert len(names) >= 6
        assert found.train.standardizer is None  # in metres, as the review's likelihood of motion wants them
        np.testing.assert_array_equal(found.test[0][:, :3], 0)  # the root stands in the origin
        assert load(tmp_path, standardize=True).train.standardizer is not None

    def test_files_that_do_not_agree(self, tmp_path, frames):
        write(tmp_path / "a.bvh", frames)
        write(tmp_path / "b.bvh", frames, HIERARCHY.replace("Spine", "Back"))
        with pytest.raises(ValueError, match=r"b\.bvh has other joints than .*a\.bvh"):
            load(tmp_path)
        write(tmp_path / "b.bvh", frames, seconds=1 / 60)
        with pytest.raises(ValueError, match=r"b\.bvh has other frames per second .* \(60 and 30\): fps="):
            load(tmp_path)
