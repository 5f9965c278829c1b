import json
import logging

import numpy as np
import pytest
import torch

from dvae_lib.data.motion import (
    MOCAP_JOINTS,
    MOCAP_PARENTS,
    acclaim_corpora,
    decimate,
    expmap_to_positions,
    load_cmu,
    load_h36m,
    load_hdm05,
    load_mocap,
    read_amc,
    read_asf,
    read_expmap,
)
from dvae_lib.data.places import find_folder
from dvae_lib.resources import resource_path

CMU, HDM05 = find_folder("cmu-mocap"), find_folder("hdm05")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DVAE_CACHE", str(tmp_path / "cache"))


class TestDecimation:
    def test_keeps_every_fourth(self):
        np.testing.assert_array_equal(decimate(np.arange(10.0), 120, 30), [0, 4, 8])

    @pytest.mark.parametrize("fps", [0, 25, 50, 240])
    def test_refuses_other_rates(self, fps):
        with pytest.raises(ValueError, match="fps must be one of 1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 24, 30"):
            decimate(np.zeros(4), 120, fps)


def test_nothing_found_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setenv("DVAE_DATA", str(tmp_path))
    for load, advice in ((load_cmu, "mocap.cs.cmu.edu"), (load_hdm05, "mpi-inf"), (load_h36m, "licence")):
        with pytest.raises(FileNotFoundError, match=f"is not here.*{advice}"):
            load()
        with pytest.raises(FileNotFoundError, match=f"is not a folder.*{advice}"):
            load(tmp_path / "nowhere")
        with pytest.raises(FileNotFoundError, match=f"holds no .*{advice}"):
            load(tmp_path)


@pytest.mark.skipif(CMU is None, reason="needs the folder cmu-mocap on DVAE_DATA")
class TestCmu:
    @pytest.fixture
    def small(self, tmp_path):
        """The shortest clips of each subject, by links, so that reading takes no time."""
        for subject, clips in (("01", ("01_14",)), ("02", ("02_01", "02_02")), ("03", ("03_02",))):
            folder = tmp_path / "subjects" / subject
            folder.mkdir(parents=True)
            for name in (f"{subject}.asf", *(f"{clip}.amc" for clip in clips)):
                (folder / name).symlink_to((CMU / "subjects" / subject / name).resolve())
        return tmp_path / "subjects"

    def test_positions_splits_and_cache(self, small, monkeypatch):
        train, validation, test = load_cmu(small, centre=False)
        assert (train.names, validation.names, test.names) == (("02_01",), ("01_14", "02_02"), ("03_02",))
        assert train.x_dim == 93
        skeleton = read_asf(small / "02/02.asf")
        assert skeleton.joints == MOCAP_JOINTS
        assert skeleton.parents == MOCAP_PARENTS
        expected = skeleton.positions(read_amc(small / "02/02_01.amc", skeleton))[::4].reshape(-1, 93)
        np.testing.assert_allclose(train[0].numpy(), expected, atol=1e-6)

        def fail(*_):
            raise AssertionError("read again although it was cached")

        monkeypatch.setattr(acclaim_corpora, "read_amc", fail)
        torch.testing.assert_close(load_cmu(small, centre=False).train[0], train[0], rtol=0, atol=0)
        with pytest.raises(AssertionError, match="read again"):
            load_cmu(small, fps=60)

    def test_centred_on_the_root(self, small):
        centred, free = load_cmu(small).train[0], load_cmu(small, centre=False).train[0]
        assert (centred[:, :3] == 0).all()
        torch.testing.assert_close(centred, (free.reshape(-1, 31, 3) - free[:, None, :3]).flatten(1))

    def test_cut_and_standardised(self, small):
        train, validation, test = load_cmu(small, sequence_length=50, hop=10, standardize=True)
        assert (train[0].shape, len(train)) == ((50, 93), (86 - 50) // 10 + 1)
        assert validation.standardizer is train.standardizer is test.standardizer
        assert (train[0][:, :3] == 0).all()  # a dimension without variance is left alone

    def test_part_without_clips(self, small):
        (small / "03" / "03_02.amc").unlink()
        with pytest.raises(ValueError, match="no clip of 'cmu' for the test part: there are subjects 01, 02 only"):
            load_cmu(small)

    def test_another_skeleton(self, small):
        asf = small / "02" / "02.asf"
        text = asf.read_text().replace("lthumb", "lpollex")
        asf.unlink()
        asf.write_text(text)
        with pytest.raises(ValueError, match=r"02\.asf: this skeleton is not the one of 31 joints"):
            load_cmu(small)


def test_any_case_and_folders_below(tmp_path, caplog):
    for subject, clips in (("01", ("02", "07")), ("02", ("01",)), ("03", ("01",))):
        write_person(tmp_path / subject, subject, 1.0, dict.fromkeys(clips, 60))
    expected = [load_cmu(tmp_path)[part].names for part in range(3)]
    (tmp_path / "01" / "clips").mkdir()
    (tmp_path / "01" / "01.asf").rename(tmp_path / "01" / "01.ASF")
    (tmp_path / "01" / "01_02.amc").rename(tmp_path / "01" / "clips" / "01_02.AMC")
    (tmp_path / "02" / "07_01.amc").write_text("1")
    with caplog.at_level(logging.WARNING):
        assert [load_cmu(tmp_path)[part].names for part in range(3)] == expected
    assert "1 motions without a skeleton are left out (first:" in caplog.text
    assert "07_01.amc" in caplog.text


@pytest.mark.skipif(HDM05 is None, reason="needs the folder hdm05 on DVAE_DATA")
def test_hdm05_holds_an_actor_out():
    train, validation, test = load_hdm05()
    assert {name.split("_")[1] for name in test.names} == {"dg"}
    assert {name.split("_")[1] for name in (*train.names, *validation.names)} == {"bd", "bk"}
    listed = json.loads(resource_path("splits", "hdm05.json").read_text(encoding="utf-8"))
    assert set(validation.names) == set(listed["clips"]["validation"])
    assert len(train) + len(validation) + len(test) == 188
    frames = torch.cat([sequence for part in (train, validation, test) for sequence in part]).reshape(-1, 31, 3)
    assert frames.abs().max() < 1.5  # metres from the root: no limb is longer


def write_person(folder, stem, size, clips):
    """A skeleton of the 31 joints, whose bones are as long as is said, and clips in which a leg and the neck turn."""
    folder.mkdir(parents=True, exist_ok=True)
    bones = []
    for i, name in enumerate(MOCAP_JOINTS[1:], start=1):
        direction = np.roll((0.6, -0.8, 0.0), i)
        moves = "dof rx" if name in ("lfemur", "head") else ""
        bones.append(
            f"begin\nid {i}\nname {name}\ndirection {' '.join(map(str, direction))}\nlength {size * (1 + i % 3)}\n"
            f"axis 0 0 {10 * i} XYZ\n{moves}\nend"
        )
    links = [f"{MOCAP_JOINTS[parent]} {MOCAP_JOINTS[i]}" for i, parent in enumerate(MOCAP_PARENTS) if parent >= 0]
    (folder / f"{stem}.asf").write_text(
        ":version 1.10\n:units\nmass 1.0\nlength 0.45\nangle deg\n:root\norder TX TY TZ RX RY RZ\naxis XYZ\n"
        "position 0 0 0\norientation 0 0 0\n:bonedata\n" + "\n".join(bones) + "\n:hierarchy\nbegin\n"
        + "\n".join(links) + "\nend\n"
    )  # fmt: skip
    for number, (clip, frames) in enumerate(clips.items()):
        rng = np.random.default_rng(number)
        lines = [":FULLY-SPECIFIED", ":DEGREES"]
        for t in range(1, frames + 1):
            root, leg, neck = rng.normal(size=6), 40 * np.sin(t / 9 + number), t % 30
            lines += [str(t), "root " + " ".join(f"{v:.5f}" for v in root), f"lfemur {leg:.5f}", f"head {neck}"]
        (folder / f"{stem}_{clip}.amc").write_text("\n".join(lines) + "\n")


class TestBothCorpora:
    @pytest.fixture
    def made(self, tmp_path, monkeypatch):
        """Some people of each corpus. One of HDM05 is called as one whom CMU holds out, which must not matter."""
        cmu, hdm05 = tmp_path / "shelf" / "cmu-mocap" / "subjects", tmp_path / "shelf" / "hdm05"
        for subject, size, clips in (
            ("01", 1.0, {"02": 90, "07": 61}),
            ("02", 1.1, {"01": 80}),
            ("03", 1.2, {"01": 70}),
            ("08", 1.3, {"01": 75}),
        ):
            write_person(cmu / subject, subject, size, clips)
        for actor, size, clips in (
            ("bd", 1.4, {"sneak2StepsLStart_003_120": 66, "walk_001_120": 77}),
            ("dg", 1.5, {"walk_001_120": 85}),
            ("03", 1.6, {"walk_001_120": 81}),
        ):
            write_person(hdm05, f"HDM_{actor}", size, clips)
        monkeypatch.setenv("DVAE_DATA", str(tmp_path / "shelf"))
        return tmp_path / "shelf"

    def test_people_of_both_by_the_lists_of_each(self, made):
        train, validation, test = load_mocap()
        assert train.names == ("01_02", "02_01", "HDM_03_walk_001_120", "HDM_bd_walk_001_120")
        assert validation.names == ("01_07", "08_01", "HDM_bd_sneak2StepsLStart_003_120")
        assert test.names == ("03_01", "HDM_dg_walk_001_120")

    @pytest.mark.parametrize(
        "options",
        [{}, {"fps": 60}, {"centre": False}, {"sequence_length": 12, "hop": 3}, {"sequence_length": 8}],
    )
    def test_each_part_is_that_of_cmu_and_then_that_of_hdm05(self, made, options):
        parts = zip(load_mocap(**options), load_cmu(**options), load_hdm05(**options), strict=True)
        for both, cmu, hdm05 in parts:
            assert both.names == (*cmu.names, *hdm05.names)
            assert torch.equal(both.lengths, torch.cat([cmu.lengths, hdm05.lengths]))
            assert all(torch.equal(a, b) for a, b in zip(both, [*cmu, *hdm05], strict=True))
            assert both.x_dim == 93

    def test_centred_on_the_root_in_metres(self, made):
        for part in load_mocap():
            frames = torch.cat(list(part)).reshape(-1, 31, 3)
            assert (frames[:, 0] == 0).all()
            assert 0.1 < frames.abs().max() < 3
        free = torch.cat(list(load_mocap(centre=False).train)).reshape(-1, 31, 3)
        assert free[:, 0].std() > 0.01

    def test_one_standardiser_learned_on_the_training_part_of_both(self, made):
        raw = load_mocap()
        train, validation, test = load_mocap(standardize=True)
        assert validation.standardizer is train.standardizer is test.standardizer
        frames = torch.cat(list(raw.train)).double()
        torch.testing.assert_close(train.standardizer.mean, frames.mean(0))
        moving = frames.std(0, correction=0) > 1e-6
        torch.testing.assert_close(train.standardizer.scale[moving], frames.std(0, correction=0)[moving])
        torch.testing.assert_close(test[0], test.standardizer.transform(raw.test[0]))
        assert raw.train.standardizer is None

    def test_one_of_the_two_is_not_enough(self, made):
        (made / "hdm05").rename(made / "elsewhere")
        with pytest.raises(FileNotFoundError, match=r"corpus 'hdm05' is not here.*mpi-inf.*DVAE_DATA"):
            load_mocap()
        (made / "elsewhere").rename(made / "hdm05")
        (made / "cmu-mocap").rename(made / "elsewhere")
        with pytest.raises(FileNotFoundError, match=r"corpus 'cmu' is not here.*cs.cmu.edu"):
            load_mocap()

    def test_a_part_without_clips_names_both(self, made):
        for clip in (made / "cmu-mocap/subjects/03/03_01.amc", made / "hdm05/HDM_dg_walk_001_120.amc"):
            assert load_mocap().test
            clip.unlink()
        with pytest.raises(ValueError, match=r"no clip of 'cmu' and 'hdm05' for the test part: there are .*bd only"):
            load_mocap()


class TestHuman36M:
    @pytest.fixture
    def made(self, tmp_path):
        """A folder of the layout, with two scenarios of two takes for each of the seven actors."""
        generator = np.random.default_rng(0)
        for actor in (1, 5, 6, 7, 8, 9, 11):
            folder = tmp_path / "h3.6m" / "dataset" / f"S{actor}"
            folder.mkdir(parents=True)
            for take in ("walking_1", "walking_2", "smoking_1", "smoking_2"):
                frames = generator.normal(scale=0.3, size=(121, 99))
                np.savetxt(folder / f"{take}.txt", frames, delimiter=",", fmt="%.7f")
        return tmp_path / "h3.6m"

    def test_positions_and_splits(self, made):
        train, validation, test = load_h36m(made)
        assert {name.split("/")[0] for name in train.names} == {"S1", "S6", "S7", "S8", "S9"}
        assert {name.split("/")[0] for name in validation.names} == {"S5"}
        assert test.names == ("S11/smoking_1", "S11/smoking_2", "S11/walking_1", "S11/walking_2")
        positions = expmap_to_positions(read_expmap(made / "dataset/S11/smoking_1.txt"))[::2]
        expected = (positions - positions[:, :1]).reshape(61, 96)
        np.testing.assert_allclose(test[0].numpy(), expected, atol=1e-6)

    def test_the_reviews_sequences(self, made):
        train, validation, test = load_h36m(made, sequence_length=50, hop=2, validation_per_scenario=7)
        assert len(train) == 5 * 4 * ((61 - 50) // 2 + 1)
        assert len(test) == 4 * 6
        assert test[0].shape == (50, 96)
        scenarios = [name.split("/")[1].split("_")[0] for name in validation.names]
        assert scenarios == ["smoking"] * 7 + ["walking"] * 7
        assert len(set(validation.names)) == 14
        again = load_h36m(made, sequence_length=50, hop=2, validation_per_scenario=7).validation
        assert again.names == validation.names
        whole = load_h36m(made, centre=True).validation
        first = whole[whole.names.index("S5/smoking_1")]
        position = validation.names[0].split("[")[1].split(":")[0]
        if validation.names[0].startswith("S5/smoking_1"):
            torch.testing.assert_close(validation[0], first[int(position) : int(position) + 50])

    def test_damaged_file_is_named(self, made):
        file = made / "dataset/S6/walking_2.txt"
        file.write_text(file.read_text()[:-20])
        with pytest.raises(ValueError, match=r"S6/walking_2.txt:121: expected 99 numbers"):
            load_h36m(made)


@pytest.mark.parametrize("corpus", ["cmu", "hdm05", "h36m"])
def test_split_lists_do_not_overlap(corpus):
    listed = json.loads(resource_path("splits", f"{corpus}.json").read_text(encoding="utf-8"))
    for kind in ("subjects", "clips"):
        names = [name for part in listed[kind].values() for name in part]
        assert len(names) == len(set(names))
