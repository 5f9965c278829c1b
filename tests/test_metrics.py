import json
import math
import os
import subprocess
import sys
import textwrap
from importlib.util import find_spec as real_find_spec

import numpy as np
import pesq as pesq_package
import pystoi
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.audio import scale_invariant_signal_distortion_ratio

from dvae_lib import metrics
from dvae_lib.metrics import (
    ScoreTable,
    UndefinedScoreError,
    estoi,
    itu_pesq,
    mpjpe,
    pesq,
    processes,
    raw_pesq,
    si_sdr,
    speech_metrics,
)
from dvae_lib.metrics.processes import ProcessDied, map_in_processes

RATE = 16_000


def speech_like(seconds: float = 2.0, seed: int = 0) -> np.ndarray:
    """Voiced sound with syllables and pauses: enough for the utterance detector of PESQ."""
    rng = np.random.default_rng(seed)
    time = np.arange(int(seconds * RATE)) / RATE
    pitch = 120 + 20 * np.sin(2 * np.pi * 0.7 * time + seed)
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    voice = sum(np.sin(k * phase) / k for k in range(1, 30))
    syllables = np.clip(np.sin(2 * np.pi * 2.5 * time + seed), 0, None) ** 0.5
    return 0.1 * (syllables * voice + 0.01 * rng.standard_normal(time.size))


def noisy(signal_: np.ndarray, level: float = 0.01, seed: int = 1) -> np.ndarray:
    return signal_ + level * np.random.default_rng(seed).standard_normal(signal_.size)


@pytest.fixture(scope="module")
def recordings() -> tuple[list[np.ndarray], list[np.ndarray]]:
    references = [speech_like(1.5 + 0.25 * i, seed=i) for i in range(4)]
    return references, [noisy(reference, 0.01 * (i + 1), seed=i) for i, reference in enumerate(references)]


# --- agreement with the packages' own calls ---


def test_the_measures_are_the_packages_own(recordings):
    for reference, estimate in zip(*recordings, strict=True):
        s, s_hat = torch.from_numpy(reference), torch.from_numpy(estimate)
        for zero_mean in (False, True):
            theirs = float(scale_invariant_signal_distortion_ratio(s_hat, s, zero_mean=zero_mean))
            assert si_sdr(reference, estimate, zero_mean=zero_mean) == pytest.approx(theirs, rel=1e-12)
            assert si_sdr(s, s_hat, zero_mean=zero_mean) == pytest.approx(theirs, rel=1e-12)
        assert pesq(reference, estimate) == pesq_package.pesq(RATE, reference, estimate, "nb")
        assert pesq(reference, estimate, band="wide") == pesq_package.pesq(RATE, reference, estimate, "wb")
        assert estoi(reference, estimate) == pytest.approx(
            pystoi.stoi(reference, estimate, RATE, extended=True), abs=1e-10
        )


def test_estoi_repeats_bit_for_bit_and_leaves_the_global_generator_alone():
    reference = speech_like()
    before = np.random.get_state()[2], np.random.get_state()[1].tolist()  # noqa: NPY002 - what pystoi draws from
    assert estoi(reference, noisy(reference)) == estoi(reference, noisy(reference))
    assert (np.random.get_state()[2], np.random.get_state()[1].tolist()) == before  # noqa: NPY002


# --- closed forms ---


@settings(max_examples=30, deadline=None)
@given(ratio=st.floats(-20, 40), scale=st.floats(1e-2, 1e2), sign=st.sampled_from([-1, 1]))
def test_si_sdr_of_orthogonal_noise_is_the_ratio_of_energies_whatever_the_scale(ratio, scale, sign):
    phase = np.arange(4_000) * 2 * np.pi / 50
    estimate = np.sin(phase) + 10 ** (-ratio / 20) * np.cos(phase)
    assert si_sdr(np.sin(phase), sign * scale * estimate) == pytest.approx(ratio, abs=1e-6)


def test_si_sdr_counts_an_offset_unless_the_means_are_removed():
    phase = np.arange(4_000) * 2 * np.pi / 50
    offset = np.sin(phase) + 0.1
    assert si_sdr(np.sin(phase), offset) == pytest.approx(10 * math.log10(0.5 / 0.01), abs=1e-6)
    assert si_sdr(np.sin(phase), offset, zero_mean=True) > 100


def test_a_perfect_copy_reaches_the_top_of_every_scale():
    reference = speech_like()
    assert si_sdr(reference, reference) > 100
    assert pesq(reference, reference) == pytest.approx(4.549, abs=1e-3)
    assert pesq(reference, reference, band="wide") == pytest.approx(4.644, abs=1e-3)
    assert raw_pesq(pesq(reference, reference)) == pytest.approx(4.5, abs=1e-3)
    assert estoi(reference, reference) == pytest.approx(1, abs=1e-9)


def test_raw_pesq_inverts_the_mapping_of_the_standard():
    for raw in (-0.5, 1.0, 2.5, 4.5):
        assert raw_pesq(0.999 + 4 / (1 + math.exp(-1.4945 * raw + 4.6607))) == pytest.approx(raw)
    assert math.isnan(raw_pesq(math.nan))
    with pytest.raises(ValueError, match=r"between 0\.999 and 4\.999"):
        raw_pesq(5.0)


def test_more_noise_scores_lower():
    reference = speech_like()
    for measure in (si_sdr, pesq, estoi):
        scores = [measure(reference, noisy(reference, level)) for level in (0.003, 0.03, 0.3)]
        assert scores == sorted(scores, reverse=True)


# --- motion ---


def test_mpjpe_is_the_mean_distance_of_joints():
    torch.manual_seed(0)
    reference, estimate = torch.randn(3, 7, 12, dtype=torch.float64), torch.randn(3, 7, 12, dtype=torch.float64)
    loops = torch.tensor(
        [
            np.mean([[math.dist(r[t, 3 * j : 3 * j + 3], e[t, 3 * j : 3 * j + 3]) for j in range(4)] for t in range(7)])
            for r, e in zip(reference.numpy(), estimate.numpy(), strict=True)
        ]
    )
    torch.testing.assert_close(mpjpe(reference, estimate, unit="mm"), loops)
    torch.testing.assert_close(mpjpe(reference, estimate), 1_000 * loops)


def test_mpjpe_ignores_what_is_padded():
    torch.manual_seed(0)
    reference, estimate = torch.randn(2, 9, 6), torch.randn(2, 9, 6)
    lengths = torch.tensor([9, 4])
    reference[1, 4:] = math.nan
    alone = torch.cat([mpjpe(reference[:1], estimate[:1]), mpjpe(reference[1:, :4], estimate[1:, :4])])
    torch.testing.assert_close(mpjpe(reference, estimate, lengths=lengths), alone)


def test_mpjpe_does_not_change_under_a_common_rotation_and_shift():
    torch.manual_seed(0)
    reference, estimate = torch.randn(5, 6, dtype=torch.float64), torch.randn(5, 6, dtype=torch.float64)
    rotation, _ = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))

    def moved(x):
        return (x.reshape(5, 2, 3) @ rotation + 2.5).reshape(5, 6)

    torch.testing.assert_close(mpjpe(moved(reference), moved(estimate)), mpjpe(reference, estimate))


@pytest.mark.parametrize(
    ("reference", "estimate", "options", "message"),
    [
        (torch.zeros(2, 5, 6), torch.zeros(2, 4, 6), {}, "differ in shape"),
        (torch.zeros(2, 5, 7), torch.zeros(2, 5, 7), {}, "x, y, z for every joint"),
        (torch.zeros(2, 0, 6), torch.zeros(2, 0, 6), {}, "T > 0"),
        (torch.full((1, 5, 6), math.nan), torch.zeros(1, 5, 6), {}, "NaN"),
        (torch.zeros(1, 5, 6), torch.zeros(1, 5, 6), {"lengths": torch.tensor([6])}, "between 1 and the 5"),
        (torch.zeros(1, 5, 6), torch.zeros(1, 5, 6), {"lengths": torch.tensor([0])}, "between 1 and the 5"),
    ],
)
def test_mpjpe_refuses(reference, estimate, options, message):
    # The shape checker that the test run installs would speak first where shapes differ.
    with pytest.raises(Exception, match=message if reference.shape == estimate.shape else "."):
        mpjpe(reference, estimate, **options)


# --- what has no score, and what cannot be compared ---


@pytest.mark.parametrize("measure", [si_sdr, pesq, estoi])
def test_silence_has_no_score(measure):
    voice = speech_like()
    with pytest.raises(UndefinedScoreError, match="estimate is silent"):
        measure(voice, np.zeros_like(voice))
    with pytest.raises(UndefinedScoreError, match="reference is silent"):
        measure(np.zeros_like(voice), voice)
    with pytest.raises(UndefinedScoreError, match="estimate is silent"):
        measure(voice, np.full_like(voice, 0.5))  # a constant is not heard; PESQ alone would give it 4.5


def test_too_short_has_no_perceptual_score():
    voice = speech_like()[1_000:]
    for samples in (10, 500, 3_000):
        with pytest.raises(UndefinedScoreError, match="quarter of a second"):
            pesq(voice[:samples], voice[:samples])
        with pytest.raises(UndefinedScoreError, match="30 active frames"):
            estoi(voice[:samples], voice[:samples])


def test_pesq_without_an_utterance_has_no_score():
    syllable = speech_like()[1_000:5_500]
    with pytest.raises(UndefinedScoreError, match=r"finds no utterance in these 0\.28 s"):
        pesq(syllable, syllable)


def test_pesq_refuses_what_its_code_has_no_room_for():
    long = speech_like(41.0)
    with pytest.raises(UndefinedScoreError, match=r"41\.0 s are too long for PESQ"):
        pesq(long, long)


@pytest.mark.parametrize("measure", [si_sdr, pesq, estoi])
@pytest.mark.parametrize(
    ("reference", "estimate", "error", "message"),
    [
        (np.ones(100), np.ones(90), ValueError, "reference has 100 samples, the estimate 90"),
        (np.ones(100), np.full(100, np.nan), ValueError, "estimate holds 100 NaN or infinite samples, the first at 0"),
        (np.array([0.0, np.inf]), np.ones(2), ValueError, "reference holds 1 NaN or infinite"),
        (np.ones((2, 100)), np.ones((2, 100)), ValueError, r"one channel of shape \(samples,\), not \(2, 100\)"),
        (np.ones(100, dtype=np.int64), np.ones(100), TypeError, "reference holds int64.*scale it to"),
        (np.ones(0), np.ones(0), ValueError, "no samples"),
    ],
)
def test_what_cannot_be_compared_is_refused(measure, reference, estimate, error, message):
    with pytest.raises(error, match=message):
        measure(reference, estimate)


def test_sample_rates_are_checked():
    voice = speech_like()
    with pytest.raises(ValueError, match="narrow-band is defined at 8,000 or 16,000 Hz, but sample_rate is 22,050"):
        pesq(voice, voice, sample_rate=22_050)
    with pytest.raises(ValueError, match="wide-band is defined at 16,000 Hz"):
        pesq(voice, voice, sample_rate=8_000, band="wide")
    with pytest.raises(ValueError, match="positive"):
        estoi(voice, voice, sample_rate=0)
    assert estoi(voice, noisy(voice), sample_rate=22_050) > 0


# --- tables ---


def test_the_table_does_not_depend_on_the_number_of_processes(recordings):
    alone, together = (speech_metrics(*recordings, num_workers=n, progress=n == 1) for n in (1, 3))
    assert alone == together
    assert list(alone.columns) == list(metrics.SPEECH_METRICS)
    for metric, values in speech_metrics(*recordings, num_workers=0).columns.items():
        assert alone.columns[metric] == pytest.approx(values, rel=1e-9)  # sums of two threads round differently


def test_summary_is_the_textbook_one():
    values = (1.0, 2.0, 4.0, math.nan)
    (line,) = ScoreTable(tuple("abcd"), {"estoi": values}, {("d", "estoi"): "silent"}).summary(confidence=0.9)
    mean, std = 7 / 3, math.sqrt((16 / 9 + 1 / 9 + 25 / 9) / 2)
    half = 2.91998558 * std / math.sqrt(3)  # Student's t, 2 degrees of freedom, 95th percentile (tables)
    assert (line.count, line.undefined) == (3, 1)
    assert (line.mean, line.std) == (pytest.approx(mean), pytest.approx(std))
    assert (line.low, line.high) == (pytest.approx(mean - half), pytest.approx(mean + half))


def test_tables_are_written_as_json_and_csv():
    table = ScoreTable(("a", "b"), {"si_sdr": (1.5, math.nan)}, {("b", "si_sdr"): "silent"})
    assert table.to_csv() == "name,si_sdr\na,1.5\nb,\n"
    data = json.loads(json.dumps(table.to_dict(), allow_nan=False))
    assert data["recordings"] == [{"name": "a", "si_sdr": 1.5}, {"name": "b", "si_sdr": None}]
    assert data["summary"][0]["std"] is None
    assert data["undefined"] == [{"name": "b", "metric": "si_sdr", "reason": "silent"}]
    assert "SI-SDR (dB)" in str(table)
    assert "<td>SI-SDR (dB)</td>" in table._repr_html_()
    assert table.with_column("bound", [1.0, 2.0]).rows()[1]["bound"] == 2.0
    with pytest.raises(ValueError, match="1 values for 2 recordings"):
        table.with_column("bound", [1.0])


def test_undefined_scores_are_nan_with_their_reason(recordings):
    references, estimates = [list(side) for side in recordings]
    estimates[1] = np.zeros_like(estimates[1])
    table = speech_metrics(references, estimates, num_workers=0, names=list("abcd"))
    assert math.isnan(table.columns["si_sdr"][1])
    assert table.reasons["b", "si_sdr"] == "the estimate is silent (below -120 dB)"
    assert {name for name, _ in table.reasons} == {"b"}
    assert table.summary()[0].count == 3


@pytest.mark.parametrize("num_workers", [0, 2])
def test_errors_name_the_recording(recordings, num_workers):
    references, estimates = [list(side) for side in recordings]
    estimates[1], estimates[3] = estimates[1][:-1], estimates[3][:-1]
    with pytest.raises(ValueError, match="recording 1: the reference has"):
        speech_metrics(references, estimates, num_workers=num_workers)


def test_files(tmp_path, recordings):
    paths = []
    for i, (reference, estimate) in enumerate(zip(*recordings, strict=True)):
        paths.append((tmp_path / f"{i}.flac", str(tmp_path / f"{i}_estimate.wav")))
        soundfile.write(paths[i][0], reference, RATE, subtype="PCM_24")
        soundfile.write(paths[i][1], estimate, RATE, subtype="FLOAT")
    from_files = speech_metrics(*zip(*paths, strict=True))
    singles = [[waveform.astype(np.float32) for waveform in side] for side in recordings]
    assert speech_metrics(*singles, num_workers=0).columns.keys() == from_files.columns.keys()
    assert from_files.names == tuple(estimate for _, estimate in paths)
    for metric, values in speech_metrics(*recordings, num_workers=0).columns.items():
        assert from_files.columns[metric] == pytest.approx(values, abs=1e-3)


def test_bad_files_are_named(tmp_path):
    voice = speech_like()
    good, stereo, other_rate, text = (tmp_path / name for name in ("good.wav", "stereo.wav", "rate.wav", "text.wav"))
    soundfile.write(good, voice, RATE)
    soundfile.write(stereo, np.stack([voice, voice], 1), RATE)
    soundfile.write(other_rate, voice, 8_000)
    text.write_text("not audio")
    for estimate, message in {
        stereo: "stereo.wav has 2 channels",
        other_rate: "sampled at 16,000 Hz, the estimate at 8,000 Hz",
        text: "text.wav is not an audio file",
        tmp_path / "none.wav": "none.wav does not exist",
    }.items():
        with pytest.raises(ValueError, match=message):
            speech_metrics([good], [estimate])


def test_wrong_lists_are_refused():
    voice = speech_like()
    with pytest.raises(ValueError, match="2 references but 1 estimates"):
        speech_metrics([voice, voice], [voice])
    with pytest.raises(ValueError, match="no recordings"):
        speech_metrics([], [])
    with pytest.raises(ValueError, match="'loudness' is none of si_sdr"):
        speech_metrics([voice], [voice], metrics=["loudness"])
    with pytest.raises(ValueError, match="1 names for 2"):
        speech_metrics([voice, voice], [voice, voice], names=["a"])
    with pytest.raises(ValueError, match="num_workers"):
        speech_metrics([voice], [voice], num_workers=-1)


def test_without_pesq_the_rest_works_and_the_message_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr("dvae_lib.extras.find_spec", lambda name: None if name == "pesq" else real_find_spec(name))
    voice = speech_like()
    with pytest.raises(ImportError, match=r"needs the package pesq: pip install \"dvae-lib\[speech\]\".*C compiler"):
        pesq(voice, voice)
    with pytest.raises(ImportError, match="pesq"):
        speech_metrics([voice], [voice], metrics=["pesq_nb"])
    with pytest.warns(UserWarning, match="Left out of the table. PESQ") as caught:
        table = speech_metrics([voice], [noisy(voice)])
    assert list(table.columns) == ["si_sdr", "estoi"]
    assert len(caught) == 2


# --- processes ---


def test_a_crash_in_compiled_code_costs_one_score_and_not_the_table(monkeypatch, tmp_path):
    # A stand-in for the package, whose real crash (more than 50 utterances) writes beyond its memory first.
    (tmp_path / "pesq.py").write_text(
        textwrap.dedent("""
        import os, signal
        class NoUtterancesError(RuntimeError): pass
        class BufferTooShortError(RuntimeError): pass
        def pesq(rate, reference, estimate, mode):
            if mode == "nb" and reference.size == 28_000:
                os.kill(os.getpid(), signal.SIGSEGV)
            return 3.0
        """)
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    signals = [0.1 * np.random.default_rng(0).standard_normal(samples) for samples in (24_000, 28_000)]
    table = speech_metrics(signals, signals, metrics=["pesq_wb", "pesq_nb"], num_workers=1)
    assert table.columns["pesq_wb"] == (3.0, 3.0)
    assert table.columns["pesq_nb"][0] == 3.0
    assert math.isnan(table.columns["pesq_nb"][1])
    assert table.reasons == {("recording 1", "pesq_nb"): "the process that computed it was ended by SIGSEGV"}


def test_processes_keep_order_and_survive_the_loss_of_one():
    results = list(map_in_processes(_square_or_exit, [0, 1, 2], 1))
    assert results[::2] == [0, 4]
    assert isinstance(results[1], ProcessDied)
    assert str(results[1]) == "ended with exit status 7"


def _square_or_exit(n: int) -> int:
    if n % 2:
        os._exit(7)
    print("what a package prints does not disturb the answers")
    return n * n


def test_processes_that_cannot_start_say_so(monkeypatch, capfd):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(RuntimeError, match="ended with exit status 1 while starting"):
        list(map_in_processes(_square_or_exit, [0], 1))


def test_an_interrupt_ends_the_processes_at_once(tmp_path):
    script = """
        import threading, os, signal, time
        from dvae_lib.metrics.processes import map_in_processes
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell ignores it
        threading.Timer(2.0, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        try:
            list(map_in_processes(time.sleep, [600.0] * 4, 2))
        except KeyboardInterrupt:
            print("interrupted")
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr, done.returncode) == ("interrupted\n", "", 0)


def test_an_interrupt_reaches_a_process_that_is_just_being_started(monkeypatch):
    worker, start = processes.ChildProcess("time:sleep"), subprocess.Popen

    def interrupted(*arguments, **options):
        worker.stop()
        return start(*arguments, **options)

    monkeypatch.setattr(subprocess, "Popen", interrupted)
    assert isinstance(worker.ask(0.1), ProcessDied)
    worker.close()


def test_a_page_can_show_its_other_measures_where_one_has_no_package(monkeypatch):
    monkeypatch.setattr("dvae_lib.extras.find_spec", lambda name: None if name == "pesq" else real_find_spec(name))
    noise = np.random.default_rng(0).standard_normal((2, 16_000))
    asked = ("si_sdr", "pesq_nb")
    with pytest.raises(ImportError, match="PESQ narrow-band needs the package pesq"):
        speech_metrics([noise[0]], [noise.sum(0)], metrics=asked, num_workers=0)
    with pytest.warns(UserWarning, match=r"NaN in the table. PESQ narrow-band needs the package pesq"):
        table = speech_metrics([noise[0]], [noise.sum(0)], metrics=asked, num_workers=0, missing="nan")
    assert list(table.columns) == list(asked)
    assert math.isnan(table.columns["pesq_nb"][0])
    assert not math.isnan(table.columns["si_sdr"][0])
    assert "needs the package pesq" in table.reasons["recording 0", "pesq_nb"]


# --- what people hold their recordings in ---


def test_every_kind_of_waveform_has_the_same_score():
    reference = speech_like()
    estimate = noisy(reference)
    pcm, pcm_hat = ((16 * x * 2**11).round().astype(np.int16) for x in (reference, estimate))
    for measure in (si_sdr, pesq, estoi):
        assert measure(pcm, pcm_hat) == pytest.approx(measure(reference, estimate), abs=0.05)
        assert measure(pcm.astype(">i2"), torch.from_numpy(pcm_hat)) == measure(pcm, pcm_hat)
    single = torch.from_numpy(reference).float()
    assert si_sdr(single.requires_grad_(), estimate.tolist()) == pytest.approx(si_sdr(reference, estimate), abs=1e-3)


def test_a_batch_is_a_list_of_recordings(recordings):
    references, estimates = [np.stack([w[:20_000] for w in side]) for side in recordings]
    table = speech_metrics(references, torch.from_numpy(estimates), metrics=["si_sdr"], num_workers=0)
    assert table.columns["si_sdr"] == tuple(map(si_sdr, references, estimates))
    with pytest.raises(ValueError, match="no recordings"):
        speech_metrics(references[:0], estimates[:0])


@pytest.mark.parametrize("one", ["a.wav", np.zeros(5), torch.zeros(5)])
def test_a_single_recording_belongs_into_a_list(one):
    with pytest.raises(TypeError, match=r"references must be a list of recordings.*got (the )?one.*put it into a list"):
        speech_metrics(one, one)


def test_what_a_table_cannot_take_is_named():
    with pytest.raises(TypeError, match="recording 1: the estimate holds int64"):
        speech_metrics([np.zeros(9), np.zeros(9)], [np.zeros(9), np.zeros(9, dtype=np.int64)], metrics=["si_sdr"])


def test_mpjpe_takes_arrays():
    reference, estimate = np.zeros((2, 5, 93)), np.ones((2, 5, 93), dtype=np.int32)
    error = mpjpe(reference, estimate, lengths=[5, 3], unit="mm")
    torch.testing.assert_close(error, torch.full((2,), math.sqrt(3), dtype=error.dtype))
    with pytest.raises(ValueError, match=r"lengths must be whole numbers of shape \(2,\)"):
        mpjpe(reference, estimate, lengths=[5])
    with pytest.raises(ValueError, match=r"lengths must be whole numbers.*float"):
        mpjpe(reference, estimate, lengths=[5.0, 3.0])
    with pytest.raises(ValueError, match=r"positions \(\.\.\., T, 3 J\)"):
        mpjpe(np.zeros(6), np.zeros(6))


# --- PESQ's code ---


def words(rate: float, seconds: float) -> np.ndarray:
    """So many words a second, with pauses of half their period."""
    t = np.arange(int(seconds * RATE)) / RATE
    return (np.sin(2 * np.pi * 150 * t) + 0.5 * np.sin(2 * np.pi * 450 * t)) * ((rate * t) % 1 < 0.5) / 2


@pytest.mark.parametrize(("rate", "seconds"), [(2, 30), (1.3, 39.9), (2, 26)])
def test_more_utterances_than_pesq_has_room_for_have_no_score(rate, seconds):
    """The first ends the process that computes it; the others give scores that are wrong by 0.4, without a word."""
    reference = words(rate, seconds)
    with pytest.raises(UndefinedScoreError, match=r"room for 49 utterances, and these .* pauses for \d\d\."):
        pesq(reference, noisy(reference))
    table = speech_metrics([reference], [noisy(reference)], metrics=["pesq_nb"])
    assert math.isnan(table.columns["pesq_nb"][0])
    assert "utterances" in table.reasons["recording 0", "pesq_nb"]


@pytest.mark.parametrize(("rate", "seconds"), [(1, 39.9), (1.2, 39.9), (2, 24), (2.2, 20)])
def test_utterances_are_counted(rate, seconds):
    for noise in (0.0, 0.003):
        found = itu_pesq.count_utterances(noisy(words(rate, seconds), noise), RATE)
        assert abs(found - rate * seconds) < 3
    assert found <= itu_pesq.MOST_UTTERANCES


def test_the_process_that_dies_takes_nobody_along(monkeypatch):
    """Where the count is wrong, the overrun itself: the code's process is gone, and the next call has a new one."""
    monkeypatch.setattr(itu_pesq, "MOST_UTTERANCES", 1_000)
    reference, voice = words(2, 30), speech_like()
    before = pesq(voice, noisy(voice))
    with pytest.raises(UndefinedScoreError, match="the process that computed it was ended by SIG"):
        pesq(reference, noisy(reference))
    assert pesq(voice, noisy(voice)) == before


def test_one_process_serves_all_calls():
    voice = speech_like()
    pesq(voice, noisy(voice))
    child = itu_pesq._child
    pesq(voice, noisy(voice), band="wide")
    speech_metrics([voice], [noisy(voice)], metrics=["pesq_nb"])
    assert itu_pesq._child is child


def test_after_an_interrupt_the_next_question_gets_its_own_answer(monkeypatch):
    child = processes.ChildProcess("math:sqrt")
    assert child.ask(4.0) == 2.0

    def interrupted(file):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(processes.pickle, "load", interrupted)
        with pytest.raises(KeyboardInterrupt):
            child.ask(9.0)
    assert child.ask(16.0) == 4.0
    child.close()


# --- a measure of one's own ---


def level(reference, estimate, *, sample_rate):
    """In dB, and the rate on top of it: so the test sees that it arrives."""
    return 20 * math.log10(np.std(estimate) / np.std(reference)) + sample_rate


@pytest.fixture
def own_metric():
    yield metrics.register_metric(metrics.Metric("level", "Level", "dB", 1, "higher", level, kind="speech"))
    metrics.METRICS.pop("level", None)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_registered_measure_is_computed_beside_the_others(recordings, own_metric, num_workers):
    references, _ = recordings
    estimates = [2.0 * reference for reference in references]
    table = speech_metrics(references, estimates, metrics=["level", "si_sdr"], num_workers=num_workers)
    assert table.columns["level"] == pytest.approx([20 * math.log10(2) + RATE] * len(references))
    assert "Level (dB)" in str(table)
    assert "level" in speech_metrics(references[:1], estimates[:1], num_workers=0).columns


def test_a_measure_of_a_notebook_is_computed_in_the_notebook(recordings, own_metric):
    """Its function stands where no other process can import it."""

    def local(reference, estimate, *, sample_rate):
        return 1.0

    del metrics.METRICS["level"]
    metrics.register_metric(metrics.Metric("level", "Level", "", 1, "higher", local, kind="speech"))
    assert speech_metrics(*recordings, metrics=["level"], num_workers=2).columns["level"] == (1.0,) * 4


def test_a_name_is_taken_once(own_metric, as_a_user):
    metrics.register_metric(own_metric)  # a cell that is run again
    with pytest.raises(ValueError, match="there is a metric 'estoi' already, ESTOI; give yours another name"):
        metrics.register_metric(metrics.Metric("estoi", "ESTOI", function=level, kind="speech"))
    with pytest.raises(ValueError, match="word of letters"):
        metrics.register_metric(metrics.Metric("my level", "Level"))
    with pytest.raises(ValueError, match="'higher' or 'lower'; got 'more'"):
        metrics.register_metric(metrics.Metric("mine", "Mine", better="more"))


def test_what_is_printed_comes_from_where_the_measure_is_defined():
    assert metrics.SPEECH_METRICS == ("si_sdr", "pesq_nb", "pesq_wb", "estoi")
    assert metrics.metrics_of("motion") == ("mpjpe",)
    assert {name for name, m in metrics.METRICS.items() if not m.higher_is_better} == {"mpjpe", "rmse", "kl"}
    assert all(name == metric.name for name, metric in metrics.METRICS.items())
    table = ScoreTable(("a",), {"mpjpe": (12.345,), "estoi": (0.5,), "unknown": (1.0,)})
    assert [line[:2] for line in table.printed()[1:]] == [
        ("MPJPE (mm)", "12.3"),
        ("ESTOI", "0.50"),
        ("unknown", "1.000"),
    ]


def test_rmse_is_refused_what_it_cannot_compare():
    assert metrics.rmse(np.zeros((4, 2)), np.full((4, 2), 3.0)) == 3.0
    for wrong in (np.zeros((4, 3)), np.full((4, 2), np.nan)):
        with pytest.raises(ValueError, match="reference"):
            metrics.rmse(np.zeros((4, 2)), wrong)
    with pytest.raises(ValueError, match="hold something"):
        metrics.rmse(np.zeros((0, 2)), np.zeros((0, 2)))
