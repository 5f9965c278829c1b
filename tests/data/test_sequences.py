import itertools
import json
import logging

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from dvae_lib.data import (
    Batch,
    SequenceDataset,
    Standardizer,
    from_arrays,
    from_csv_folder,
    identity,
    split_by_group,
)


def ramps(*lengths, x_dim=2, offset=0.0):
    """Sequences whose values tell which one, which frame and which dimension they are."""
    return [
        torch.stack([1000.0 * i + torch.arange(n) + 0.1 * d + offset for d in range(x_dim)], dim=1).float()
        for i, n in enumerate(lengths)
    ]


class TestBatches:
    def test_equal_lengths_need_no_lengths(self):
        clips = ramps(4, 4, 4)
        batch = SequenceDataset(clips).batch([2, 0])
        assert batch.lengths is None
        assert batch.u is None
        torch.testing.assert_close(batch.x, torch.stack([clips[2], clips[0]]), rtol=0, atol=0)

    def test_mixed_lengths_are_padded_with_zeros(self):
        clips, inputs = ramps(3, 5, 1), ramps(3, 5, 1, x_dim=1, offset=0.5)
        batch = SequenceDataset(clips, inputs).batch([0, 1, 2])
        assert batch.lengths.tolist() == [3, 5, 1]
        assert batch.lengths.dtype == torch.int64
        for i, n in enumerate(batch.lengths):
            assert torch.equal(batch.x[i, :n], clips[i])
            assert torch.equal(batch.u[i, :n], inputs[i])
            assert not batch.x[i, n:].any()
            assert not batch.u[i, n:].any()

    @settings(max_examples=60, deadline=None)
    @given(
        lengths=st.lists(st.integers(1, 30), min_size=1, max_size=8),
        sequence_length=st.integers(1, 12),
        hop=st.integers(1, 9),
    )
    def test_pieces_are_those_of_a_plain_loop(self, lengths, sequence_length, hop):
        clips = ramps(*lengths)
        expected, names = [], []
        for i, clip in enumerate(clips):
            for start in range(0, len(clip) - sequence_length + 1, hop):
                expected.append(clip[start : start + sequence_length])
                names.append(f"{i}[{start}:{start + sequence_length}]")
        if not expected:
            with pytest.raises(ValueError, match=f"the longest of {len(lengths)} has {max(lengths)}"):
                SequenceDataset(clips, sequence_length=sequence_length, hop=hop)
            return
        dataset = SequenceDataset(clips, sequence_length=sequence_length, hop=hop)
        assert torch.equal(dataset.batch(range(len(dataset))).x, torch.stack(expected))
        assert dataset.names == tuple(names)
        assert dataset.skipped == sum(n < sequence_length for n in lengths)
        assert dataset.num_frames == len(expected) * sequence_length

    def test_one_item(self):
        clips = ramps(3, 5)
        dataset = SequenceDataset(clips, names=["a", "b"])
        assert torch.equal(dataset[1], clips[1])
        assert torch.equal(dataset[-2], clips[0])
        assert dataset.names == ("a", "b")
        assert (dataset.x_dim, dataset.u_dim, len(dataset)) == (2, 0, 2)
        with pytest.raises(IndexError, match="beyond the 2 sequences"):
            dataset[2]
        with pytest.raises(ValueError, match="at least one index"):
            dataset.batch([])

    def test_iterating_ends(self):
        assert [len(clip) for clip in SequenceDataset(ramps(3, 5))] == [3, 5]

    @pytest.mark.parametrize("options", [{}, {"collate_fn": identity}])
    def test_a_loader_gets_every_sequence_once(self, options):
        dataset = SequenceDataset(ramps(9, 7, 20), sequence_length=3)
        loader = DataLoader(dataset, 4, shuffle=True, generator=torch.Generator().manual_seed(0), **options)
        batches = list(loader)
        assert all(isinstance(batch, Batch) for batch in batches)
        rows = torch.cat([batch.x for batch in batches])
        everything = dataset.batch(range(len(dataset))).x
        assert sorted(rows[:, 0, 0].tolist()) == everything[:, 0, 0].tolist()
        assert rows[:, 0, 0].tolist() != everything[:, 0, 0].tolist()

    def test_a_loader_gets_batches_with_and_without_lengths(self):
        for clips, u in ((ramps(3, 3), None), (ramps(3, 5), ramps(3, 5, x_dim=1))):
            dataset = SequenceDataset(clips, u)
            (batch,) = DataLoader(dataset, batch_size=2)
            for part, wanted in zip(batch, dataset.batch([0, 1]), strict=True):
                assert part is wanted is None or torch.equal(part, wanted)

    def test_moving(self):
        dataset = SequenceDataset(ramps(3, 5), ramps(3, 5, x_dim=1))
        batch = dataset.to("meta").batch([0, 1])
        assert {t.device.type for t in (batch.x, batch.lengths, batch.u)} == {"meta"}
        assert dataset.batch([0]).x.device.type == "cpu"
        assert dataset.batch([0, 1]).to("meta").u.device.type == "meta"
        assert dataset.batch([0]).to("meta").lengths is None

    def test_a_memory_map_is_not_copied(self, tmp_path):
        clips = ramps(6, 4)
        np.save(tmp_path / "frames.npy", torch.cat(clips).numpy())
        frames = np.load(tmp_path / "frames.npy", mmap_mode="c")
        dataset = SequenceDataset.from_frames(frames, [0, 6], [6, 4], names=["a", "b"], sequence_length=2)
        assert dataset._frames.data_ptr() == frames.ctypes.data
        assert torch.equal(dataset.batch([1, 4]).x, torch.stack([clips[0][2:4], clips[1][2:4]]))
        assert dataset.names[-1] == "b[2:4]"

    @pytest.mark.parametrize(("starts", "lengths"), [([0, 6], [6, 5]), ([-1, 6], [6, 4]), ([0, 6], [0, 4])])
    def test_frames_beyond_the_block_are_refused(self, starts, lengths):
        with pytest.raises(ValueError, match="lies within the 10 frames"):
            SequenceDataset.from_frames(torch.zeros(10, 2), starts, lengths)

    def test_unmatched_starts_are_refused(self):
        with pytest.raises(ValueError, match="do not match"):
            SequenceDataset.from_frames(torch.zeros(10, 2), [0], [5, 5])
        with pytest.raises(ValueError, match="of floats"):
            SequenceDataset.from_frames(torch.zeros(10, 2, dtype=torch.int32), [0], [5])

    def test_double_precision_on_request(self):
        dataset = SequenceDataset([np.full((3, 1), 0.1)], dtype=torch.float64)
        assert dataset[0][0, 0].item() == 0.1


class TestTheDoor:
    @pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
    def test_what_is_not_finite_is_named(self, bad):
        clips = ramps(4, 5)
        clips[1][3, 1] = bad
        with pytest.raises(ValueError, match=r"Sequence walk is not finite: -?(nan|inf) at frame 3, dimension 1"):
            SequenceDataset(clips, names=["sit", "walk"])
        with pytest.raises(ValueError, match="Input of sequence 1 is not finite"):
            SequenceDataset(ramps(4, 5), clips)

    def test_what_the_asked_dtype_cannot_hold_is_named_as_it_came(self):
        with pytest.raises(ValueError, match=r"too large: 1e\+300 at frame 0.*dtype=torch.float64"):
            SequenceDataset([np.full((2, 1), 1e300)])
        assert SequenceDataset([np.full((2, 1), 1e300)], dtype=torch.float64)[0][0, 0] == 1e300

    def test_masked_values_are_missing_ones(self):
        walk = np.ma.masked_equal(np.array([[1.0, 2.0], [3.0, -9999.0], [5.0, 6.0]]), -9999.0)
        with pytest.raises(ValueError, match=r"Sequence 0 holds 1 masked value\(s\), the first at \[1, 1\]"):
            SequenceDataset([walk])
        with pytest.raises(ValueError, match="Input of sequence 0 holds 1 masked"):
            SequenceDataset([np.zeros((3, 2))], [walk])
        assert torch.equal(SequenceDataset([walk[:1]])[0], torch.tensor([[1.0, 2.0]]))

    @pytest.mark.parametrize("kind", [">f4", ">f8", "<i2", ">u2", "u8", "?", "f2"])
    def test_arrays_of_every_kind(self, kind):
        walk = np.array([[0, 1], [1, 0], [1, 1]])
        for array in (
            walk.astype(kind)[::-1],
            np.asfortranarray(walk.astype(kind))[::-1],
            walk[::-1].astype(kind).tolist(),
        ):
            assert torch.equal(SequenceDataset([array])[0], torch.tensor([[1.0, 1.0], [1.0, 0.0], [0.0, 1.0]]))

    def test_tables_of_pandas(self):
        pandas = pytest.importorskip("pandas")
        table = pandas.DataFrame({"a": [1.0, 2.0, 3.0], "b": [4, 5, 6]}, index=[7, 8, 9])
        assert torch.equal(SequenceDataset([table])[0], torch.tensor([[1.0, 4.0], [2.0, 5.0], [3.0, 6.0]]))
        with pytest.raises(ValueError, match=r"One sequence x alone: from_arrays\(\[x\]"):
            from_arrays(table)
        with pytest.raises(ValueError, match=r"shape \(3,\).*x\.to_frame\(\)"):
            from_arrays([table["a"]])
        with pytest.raises(TypeError, match="Sequence 0 has a column 'when'"):
            SequenceDataset([table.assign(when=pandas.date_range("2024", periods=3))])
        table.loc[8, "a"] = None
        with pytest.raises(ValueError, match=r"nan at frame 1, dimension 0.*missing"):
            SequenceDataset([table])

    @pytest.mark.parametrize("one", [np.zeros((5, 3)), torch.zeros(5, 3), np.zeros(5)])
    def test_one_sequence_is_no_list_of_them(self, one):
        for door in (from_arrays, SequenceDataset):
            with pytest.raises(ValueError, match=r"is no list of sequences.*One sequence x alone: .*\(\[x\]"):
                door(one)
        with pytest.raises(TypeError, match=r"list\(d\.values\(\)\)"):
            from_arrays({"a": np.zeros((5, 3))})

    @pytest.mark.parametrize(
        ("clips", "error", "message"),
        [
            ([], ValueError, "at least one sequence"),
            ([torch.zeros(3)], ValueError, r"shape \(3,\).*x\[:, None\]"),
            ([torch.zeros(2, 3, 4)], ValueError, r"shape \(2, 3, 4\)"),
            ([torch.zeros(0, 3)], ValueError, "neither of them empty"),
            ([torch.zeros(2, 3), torch.zeros(2, 4)], ValueError, "Sequence 1 has 4 dimensions, 0 has 3"),
            ([torch.zeros(2, 3, dtype=torch.complex64)], TypeError, "complex"),
            ([np.array([["a", "b"]])], TypeError, "Sequence 0 is not an array of numbers"),
        ],
    )
    def test_wrong_data(self, clips, error, message):
        with pytest.raises(error, match=message):
            SequenceDataset(clips)

    def test_wrong_options(self):
        with pytest.raises(ValueError, match="3 names for 2 sequences"):
            SequenceDataset(ramps(3, 3), names=["a", "b", "c"])
        with pytest.raises(ValueError, match="Sequence 1 has 3 frames, but its input has 4"):
            SequenceDataset(ramps(3, 3), ramps(3, 4))
        with pytest.raises(ValueError, match="got 1"):
            SequenceDataset(ramps(3, 3), ramps(3))
        with pytest.raises(ValueError, match="needs a sequence_length"):
            SequenceDataset(ramps(3), hop=2)
        with pytest.raises(ValueError, match="sequence_length must be at least 1, got 0"):
            SequenceDataset(ramps(3), sequence_length=0)
        with pytest.raises(ValueError, match="for 3 dimensions, the data have 2"):
            SequenceDataset(ramps(3), standardizer=Standardizer.fit([torch.rand(5, 3)]))

    def test_skipped_sequences_are_reported(self, caplog):
        with caplog.at_level(logging.WARNING, logger="dvae_lib.data"):
            dataset = SequenceDataset(ramps(2, 5, 1), names=["a", "b", "c"], sequence_length=4)
        assert dataset.skipped == 2
        assert dataset.skipped_names == ("a", "c")
        assert "Skipped 2 of 3 sequences with fewer than 4 frames (first: a)" in caplog.text
        caplog.clear()
        SequenceDataset(ramps(2, 5), sequence_length=4, report_skipped=False)
        assert not caplog.text

    def test_integers_become_floats(self):
        assert SequenceDataset([np.arange(6).reshape(3, 2)])[0].dtype == torch.float32

    def test_the_readers_array_is_left_alone(self):
        array = np.zeros((4, 2), dtype=np.float32)
        array.flags.writeable = False
        SequenceDataset([array])[0].fill_(7)
        assert not array.any()


class TestStandardizer:
    def test_against_numpy(self):
        rng = np.random.default_rng(0)
        clips = [rng.normal([3, -50], [0.1, 20], size=(n, 2)) for n in (10, 3, 200)]
        standardizer = Standardizer.fit(clips)
        everything = np.concatenate(clips)
        np.testing.assert_allclose(standardizer.mean, everything.mean(0), rtol=1e-12)
        np.testing.assert_allclose(standardizer.scale, everything.std(0), rtol=1e-12)
        x = torch.as_tensor(everything)
        z = standardizer.transform(x)
        torch.testing.assert_close(z.mean(0), torch.zeros(2, dtype=torch.float64), atol=1e-12, rtol=0)
        torch.testing.assert_close(standardizer.inverse(z), x)

    def test_a_large_offset_costs_no_digits(self):
        rng = np.random.default_rng(1)
        clip = 1e8 + rng.normal(size=(1000, 1))
        np.testing.assert_allclose(Standardizer.fit([clip]).scale, clip.std(0), rtol=1e-7)

    def test_a_constant_dimension_keeps_its_scale(self):
        standardizer = Standardizer.fit([torch.tensor([[0.1, 0.0], [0.1, 0.0], [0.1, 0.0]])])
        assert standardizer.scale.tolist() == [1, 1]

    def test_it_survives_json(self):
        standardizer = Standardizer.fit([torch.rand(7, 3)])
        again = Standardizer.from_dict(json.loads(json.dumps(standardizer.to_dict())))
        assert torch.equal(again.mean, standardizer.mean)
        assert torch.equal(again.scale, standardizer.scale)

    def test_dataset_and_fit_on_its_own_pieces_only(self):
        clips = ramps(5, 4)  # with pieces of 4 the last frame of the first is left out
        pieces = SequenceDataset(clips, sequence_length=4)
        np.testing.assert_allclose(Standardizer.fit(pieces).mean, torch.cat([clips[0][:4], clips[1]]).mean(0))
        standardizer = Standardizer.fit(clips)
        dataset = SequenceDataset(clips, standardizer=standardizer)
        torch.testing.assert_close(dataset[0], standardizer.transform(clips[0]))
        batch = dataset.batch([0, 1])
        assert not batch.x[1, 4:].any()  # padding stays zero, in standardised units too
        again = Standardizer.fit(dataset)  # the raw data count, or it would be (0, 1)
        torch.testing.assert_close(again.mean, standardizer.mean)

    def test_nonsense_is_refused(self):
        with pytest.raises(ValueError, match="at least one frame"):
            Standardizer.fit([])
        with pytest.raises(ValueError, match="keys 'mean' and 'scale'"):
            Standardizer.from_dict({"mean": [0.0]})
        with pytest.raises(ValueError, match="scale positive"):
            Standardizer(torch.zeros(2), torch.tensor([1.0, 0.0]))
        with pytest.raises(ValueError, match="same size"):
            Standardizer(torch.zeros(2), torch.ones(3))


class TestSplits:
    @settings(max_examples=100, deadline=None)
    @given(groups=st.lists(st.integers(0, 12), min_size=1, max_size=60), seed=st.integers(0, 5))
    def test_no_group_is_in_two_parts(self, groups, seed):
        if len(set(groups)) < 3:
            with pytest.raises(ValueError, match="3 parts need 3 groups"):
                split_by_group(groups, seed=seed)
            return
        parts = split_by_group(groups, seed=seed)
        assert sorted(itertools.chain(*parts)) == list(range(len(groups)))
        members = [{groups[i] for i in part} for part in parts]
        assert all(members)
        assert sum(map(len, members)) == len(set(groups))

    def test_the_order_of_items_does_not_matter(self):
        groups = [f"speaker {i % 20}" for i in range(100)]
        train, *_ = split_by_group(groups, seed=3)
        backwards, *_ = split_by_group(groups[::-1], seed=3)
        assert {groups[i] for i in train} == {groups[::-1][i] for i in backwards}
        assert {groups[i] for i in train} != {groups[i] for i in split_by_group(groups, seed=4)[0]}

    def test_this_split_is_the_same_everywhere_and_for_ever(self):
        assert split_by_group("abcdefghij", (0.5, 0.3, 0.2), seed=0) == (
            [3, 5, 6, 7, 9],  # as `printf 0:a | sha256sum` and so on order them
            [0, 2, 8],
            [1, 4],
        )

    def test_fractions_are_met(self):
        train, validation, test = split_by_group(range(1000), (0.7, 0.2, 0.1))
        assert (len(train), len(validation), len(test)) == (700, 200, 100)

    @pytest.mark.parametrize("fractions", [(0.5, 0.6), (1.5, -0.5), (1.0, 0.0)])
    def test_wrong_fractions(self, fractions):
        with pytest.raises(ValueError, match="add up to 1"):
            split_by_group(range(5), fractions)


class TestYourOwnData:
    def test_parts_share_one_standardiser_learned_on_training_data(self):
        rng = np.random.default_rng(0)
        clips = [rng.normal(i, 1 + i, size=(30 + i, 2)) for i in range(20)]
        train, validation, test = from_arrays(clips, names=[f"clip{i}" for i in range(20)], sequence_length=10)
        frames = train.batch(range(len(train))).x.double().flatten(0, 1)
        torch.testing.assert_close(frames.mean(0), torch.zeros(2, dtype=torch.float64), atol=1e-6, rtol=0)
        torch.testing.assert_close(frames.std(0, unbiased=False), torch.ones(2, dtype=torch.float64))
        assert train.standardizer is validation.standardizer is test.standardizer
        assert {len(clip) for clip in train} == {10}
        assert min(len(clip) for clip in test) >= 30
        sources = [{name.split("[")[0] for name in part.names} for part in (train, validation, test)]
        assert sorted(map(len, sources)) == [2, 2, 16]
        assert len(set.union(*sources)) == 20

    def test_one_array_of_all_sequences(self):
        train, *_ = from_arrays(np.random.default_rng(0).normal(size=(10, 7, 3)), standardize=False)
        assert train.batch(range(8)).lengths is None
        assert train.standardizer is None

    def test_inputs_and_groups(self):
        clips, inputs = ramps(*[4] * 6), ramps(*[4] * 6, x_dim=1)
        as_they_are = {"standardize": False, "standardize_inputs": False}
        parts = from_arrays(clips, inputs, groups=list("aabbcc"), fractions=(0.34, 0.33, 0.33), **as_they_are)
        for part in parts:
            assert part.u_dim == 1
            assert len({("aabbcc")[int(name)] for name in part.names}) == 1
            assert torch.equal(part.batch([0]).u[0], inputs[int(part.names[0])])

    def test_messages_use_the_readers_numbering(self):
        clips = ramps(*[4] * 10)
        clips[7][0, 0] = float("nan")
        with pytest.raises(ValueError, match="Sequence 7 is not finite"):
            from_arrays(clips)
        with pytest.raises(ValueError, match="2 groups for 10 sequences"):
            from_arrays(clips, groups=[1, 2])

    def test_in_time(self):
        clips, inputs = ramps(100, 40), ramps(100, 40, x_dim=1, offset=0.5)
        parts = from_arrays(
            clips, inputs, names=["a", "b"], split="time", fractions=(0.5, 0.25, 0.25), sequence_length=5
        )
        assert parts.train.names[:2] == ("a[0:50][0:5]", "a[0:50][5:10]")
        assert parts.test.names == ("a[75:100]", "b[30:40]")
        raw = parts.test.standardizer.inverse(parts.test[1].double())
        torch.testing.assert_close(raw, clips[1][30:].double(), rtol=0, atol=1e-3)
        # Learned on what came before: on nothing of the other parts.
        past = np.concatenate([clips[0][:50], clips[1][:20]])
        np.testing.assert_allclose(parts.train.standardizer.mean, past.mean(0), rtol=1e-6)
        np.testing.assert_allclose(
            parts.train.input_standardizer.mean, np.concatenate([u[: len(u) // 2] for u in inputs]).mean(0)
        )

    def test_one_long_series_and_two_parts(self):
        series = np.arange(30.0)[:, None]
        parts = from_arrays([series], split="time", fractions=(0.8, 0.2), standardize=False)
        assert torch.equal(parts.train[0], torch.arange(24.0)[:, None])
        assert torch.equal(parts.validation[0], torch.arange(24.0, 30.0)[:, None])
        train, validation = from_arrays([series] * 5, fractions=(0.8, 0.2))
        assert (len(train), len(validation)) == (4, 1)
        with pytest.raises(ValueError, match="Sequence 0 has 4 frames, too few to be cut in time"):
            from_arrays([series[:4]], split="time")
        with pytest.raises(ValueError, match="groups go to one part each"):
            from_arrays([series], split="time", groups=["a"])
        with pytest.raises((ValueError, TypeError), match="'group'"):
            from_arrays([series], split="day")
        with pytest.raises(ValueError, match="has 30 frames, but its input has 29"):
            from_arrays([series], [series[1:]], split="time")

    def test_inputs_are_standardised_like_the_data(self):
        rng = np.random.default_rng(0)
        clips = [rng.normal(size=(20, 2)) for _ in range(10)]
        inputs = [5000 * rng.choice([-1.0, 1.0], size=(20, 1)) + 100 for _ in range(10)]
        train, validation, test = from_arrays(clips, inputs)
        everything = train.batch(range(len(train)))
        torch.testing.assert_close(everything.u.mean(), torch.tensor(0.0), atol=1e-6, rtol=0)
        torch.testing.assert_close(everything.u.std(unbiased=False), torch.tensor(1.0))
        assert train.input_standardizer is validation.input_standardizer is test.input_standardizer
        raw = test.input_standardizer.inverse(test.batch([0]).u[0].double())
        np.testing.assert_allclose(raw, inputs[int(test.names[0])], rtol=1e-6)
        plain, *_ = from_arrays(clips, inputs, standardize_inputs=False)
        assert plain.input_standardizer is None
        np.testing.assert_array_equal(plain.batch([0]).u[0], inputs[int(plain.names[0])].astype("f4"))
        with pytest.raises(ValueError, match="standardiser of the inputs is for 2 dimensions, the inputs have 1"):
            SequenceDataset(clips, inputs, input_standardizer=Standardizer.fit(clips))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_doubles_are_standardised_before_they_are_rounded(self, dtype):
        rng = np.random.default_rng(0)
        northings = [5_432_100 + 0.05 * rng.normal(size=(200, 2)).cumsum(axis=0) for _ in range(10)]
        seconds = [1.7e9 + np.arange(40.0)[:, None] + rng.normal(size=(40, 1)) for _ in range(10)]
        nanoseconds = [(s * 1e9).astype(np.int64) for s in seconds]
        for data in (northings, seconds, nanoseconds):
            train = from_arrays(data, [d[:, :1] for d in data], dtype=dtype).train
            wanted = np.concatenate([data[int(name)] for name in train.names]).astype(float)
            wanted = (wanted - wanted.mean(0)) / wanted.std(0)
            batches = [train.batch([i]) for i in range(len(train))]
            x, u = (torch.cat([getattr(b, which)[0] for b in batches]).double().numpy() for which in "xu")
            bound = {torch.float32: 1e-6, torch.bfloat16: 0.05}[dtype]
            assert np.abs(x - wanted).max() < bound
            assert np.abs(u - wanted[:, :1]).max() < bound

    def test_what_needs_no_more_digits_is_as_it_was(self):
        rng = np.random.default_rng(0)
        data = [rng.normal(2.0, 3.0, size=(50, 2)) for _ in range(10)]
        twice, once = from_arrays(data).train, from_arrays([d.astype("f4") for d in data]).train
        assert twice._frames_rest is None
        assert torch.equal(twice.batch(range(8)).x, once.batch(range(8)).x)
        # Not standardised they are the rounded ones, whatever is kept beside them.
        far = [d + 1e6 for d in data]
        plain = from_arrays(far, standardize=False).train
        assert plain._frames_rest is not None
        assert torch.equal(plain[0], torch.as_tensor(far[int(plain.names[0])]).float())

    def test_costly_rounding_is_said(self, caplog):
        far = [np.random.default_rng(0).normal(1.7e9, 1.0, size=(20, 1)) for _ in range(3)]
        with caplog.at_level(logging.WARNING):
            from_arrays(far, standardize=False)
        assert "Rounding to torch.float32 costs up to" in caplog.text
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            from_arrays(far)
            from_arrays(far, standardize=False, dtype=torch.float64)
        assert not caplog.text

    def test_values_outside_an_interval_are_found(self):
        clips = ramps(3, 4)
        dataset = SequenceDataset(clips, names=["a", "b"])
        assert dataset.first_outside(0.0, 2000.0) is None
        assert dataset.first_outside(0.0, 1000.0) == ("b", 0, 1, pytest.approx(1000.1))
        assert dataset.first_outside(0.05, 2000.0) == ("a", 0, 0, 0.0)
        assert dataset.first_outside(0.0, 2000.0, whole=True)[:3] == ("a", 0, 1)
        standardised = SequenceDataset(clips, names=["a", "b"], standardizer=Standardizer.fit(clips))
        assert standardised.first_outside(0.0, 1e9)[:3] == ("a", 0, 0)
        # Frames that no sequence has do not count, and NaN in a block that nobody has searched does.
        block = torch.tensor([[1.0], [-1.0], [2.0]])
        assert SequenceDataset.from_frames(block, [0, 2], [1, 1]).first_outside(0.0, 9.0) is None
        block[2] = torch.nan
        assert SequenceDataset.from_frames(block, [0, 2], [1, 1]).first_outside(-9.0, 9.0)[:3] == ("1", 0, 0)

    def write(self, folder, name, text):
        (folder / name).write_text(text, encoding="utf-8")

    def test_csv_files(self, tmp_path):
        for i in range(10):
            rows = "\n".join(f"{t};{i + t};{-t}" for t in range(5 + i))
            self.write(tmp_path, f"day{i}.csv", f"time;sales;price\n{rows}\n\n")
        train, _validation, test = from_csv_folder(
            tmp_path, columns=["sales"], input_columns=["price"], standardize=False
        )
        assert (train.x_dim, train.u_dim) == (1, 1)
        day = int(test.names[0][-5])
        assert torch.equal(test[0][:, 0], torch.arange(5.0 + day) + day)
        every, *_ = from_csv_folder(tmp_path, standardize=False)
        assert every.x_dim == 2  # not the time

    def test_csv_without_names(self, tmp_path):
        for i in range(3):
            self.write(tmp_path, f"{i}.csv", "1,2\n3,4\n")
        train, *_ = from_csv_folder(tmp_path, standardize=False)
        assert torch.equal(train[0], torch.tensor([[1.0, 2.0], [3.0, 4.0]]))

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", r"b\.csv is empty"),
            ("x,y\n", r"b\.csv has a line of column names and no data"),
            ("x,y\n1,2\n3,oops\n", r"b\.csv, line 3, column 'y': expected a number, found 'oops'"),
            ("x,y\n1,2\n3\n", r"b\.csv, line 3: 1 fields, but 2"),
            ("x,z\n1,2\n", r"b\.csv has 2 columns \(x, z\), but .*a\.csv has 2 \(x, y\)"),
            ("x,y\n1,nan\n", r"b\.csv, line 2, column 'y': the value is missing \('nan'\)"),
            ("x,y\n1,inf\n", r"b\.csv is not finite: inf at frame 0, dimension 1"),
            ('x,y\n1,"a\nb"\n', r"b\.csv has a text over several lines"),
        ],
    )
    def test_a_bad_csv_file_is_named(self, tmp_path, text, message):
        self.write(tmp_path, "a.csv", "x,y\n1,2\n")
        self.write(tmp_path, "b.csv", text)
        self.write(tmp_path, "c.csv", "x,y\n1,2\n")
        with pytest.raises(ValueError, match=message):
            from_csv_folder(tmp_path)

    def test_bad_folders(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"has no file \*\.csv"):
            from_csv_folder(tmp_path)
        with pytest.raises(FileNotFoundError, match="does not exist"):
            from_csv_folder(tmp_path / "nowhere")
        (tmp_path / "a.csv").write_bytes(b"\xff\xfe\x00")
        with pytest.raises(ValueError, match="not a text file"):
            from_csv_folder(tmp_path)
        self.write(tmp_path, "a.csv", "x,y\n1,2\n")
        with pytest.raises(ValueError, match="No column z in"):
            from_csv_folder(tmp_path, columns=["z"])


class TestIndices:
    @pytest.mark.parametrize("wrong", [torch.tensor([True, False, True]), [True, False, True], [0.0, 1.7]])
    def test_a_mask_is_no_list_of_numbers(self, wrong):
        data = SequenceDataset(ramps(3, 4, 5))
        for method in (data.batch, data.select):
            with pytest.raises(TypeError, match=r"indices must be whole numbers, got torch\.(bool|float32)"):
                method(wrong)

    def test_whole_numbers_of_any_kind(self):
        data = SequenceDataset(ramps(3, 4, 5))
        for which in ([2, 0], np.array([2, 0], np.uint16), torch.tensor([2, 0], dtype=torch.int32), range(2, -1, -2)):
            assert data.select(which).names == ("2", "0")
            assert data.batch(which).lengths.tolist() == [5, 3]


class TestWhatIsAskedFor:
    @pytest.mark.parametrize("name", ["sequence_length", "hop", "min_length"])
    def test_lengths_are_whole(self, name):
        options = {"sequence_length": 2} | {name: True}
        with pytest.raises(ValueError, match=f"{name} must be a whole number, got True"):
            SequenceDataset(ramps(3, 4), **options)

    def test_what_is_no_list_of_sequences(self, tmp_path):
        for path in (tmp_path, "a.csv"):
            with pytest.raises(TypeError, match=r"got (PosixPath|WindowsPath|str): files are read by"):
                from_arrays(path)
        with pytest.raises(TypeError, match=r"Expected a list of arrays.*got NoneType$"):
            from_arrays(None)
        with pytest.raises(TypeError, match=r"Sequence 0 is a tensor on cpu.*sparse_coo.*to_dense"):
            SequenceDataset([torch.eye(2).to_sparse()])
        with pytest.raises(TypeError, match=r"Sequence 0 is a tensor on meta.*it has no values"):
            SequenceDataset([torch.eye(2, device="meta")])

    def test_an_array_of_arrays_is_a_list(self):
        arrays = np.empty(2, dtype=object)
        arrays[:] = [np.zeros((3, 2)), np.ones((4, 2))]
        assert SequenceDataset(arrays).lengths.tolist() == [3, 4]

    @pytest.mark.parametrize("missing", [True, False])
    def test_infinity_is_not_cured_by_missing(self, missing):
        with pytest.raises(ValueError, match=r"is not finite: inf at frame 0.*before training\.$"):
            SequenceDataset([[[np.inf], [1.0]]], missing=missing)
