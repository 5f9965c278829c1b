import csv
import hashlib
import itertools
import logging
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import soundfile
import torch

from dvae_lib.data import (
    AudioError,
    DownloadError,
    FrontEndSettings,
    MissingCorpusError,
    SpeechCorpus,
    SpeechFrontEnd,
    Utterance,
    catalogue,
    corpus_info,
    default_corpus,
    describe,
    fetch_corpus,
    librispeech_part,
    list_corpora,
    load_corpus,
)
from dvae_lib.data.speech import librispeech, prompts
from dvae_lib.resources import resource_path

PARTS = ("train", "validation", "test")


def parts_of(corpus):
    return {part: [u.name for u in corpus._listed[part]] for part in ("train", "validation", "test")}


def rows(name):
    with resource_path("splits", name).open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture
def folder(tmp_path, write_speech):
    """Five speakers with three files each: two of a second, one of half a second."""
    for speaker, take in itertools.product("abcde", range(3)):
        seed = 10 * ord(speaker) + take
        write_speech(tmp_path / "mine" / speaker / f"{take}.wav", 0.5 if take == 2 else 1.1 + take / 2, seed=seed)
    return tmp_path / "mine"


class TestAnyFolder:
    def test_parts_share_no_speaker_and_lose_no_file(self, folder, cache):
        corpus = load_corpus(folder, progress=False)
        parts = parts_of(corpus)
        assert sorted(itertools.chain(*parts.values())) == sorted(f"{s}/{t}.wav" for s in "abcde" for t in range(3))
        speakers = [{name[0] for name in names} for names in parts.values()]
        assert sorted(map(len, speakers)) == [1, 1, 3]
        assert len(set.union(*speakers)) == 5
        assert parts_of(load_corpus(str(folder), progress=False)) == parts

    def test_sequences_for_training_and_whole_utterances_for_testing(self, folder, cache, caplog):
        corpus = load_corpus(folder, progress=False)
        assert {tuple(x.shape) for x in corpus.train} == {(50, 513)}
        assert {tuple(x.shape) for x in corpus.validation} == {(50, 513)}
        assert len(corpus.test) == 2
        for x, utterance in zip(corpus.test, corpus.utterances("test"), strict=True):
            power, phase, length = corpus.analyse(utterance)
            assert torch.equal(x, power)
            waveform = corpus.waveform(utterance)
            assert length == len(waveform)
            assert (corpus.front_end.synthesise(power, phase, length) - waveform).abs().max() < 1e-5
        assert corpus.train.skipped == 3
        assert corpus.test.skipped == 1
        assert (
            "mine, train: skipped 3 of 9 utterances, which are shorter than a sequence (50 frames, 0.80 s)"
            in caplog.text
        )

    def test_a_training_sequence_is_a_piece_of_its_utterance(self, folder, cache):
        corpus = load_corpus(folder, sequence_length=20, hop=10, progress=False)
        name = corpus.train.names[-1]
        start = int(name.split("[")[1].split(":")[0])
        assert torch.equal(corpus.train[-1], corpus.analyse(name).power[start : start + 20])
        assert corpus.utterance(name).path.is_file()

    def test_summary(self, folder, cache):
        lines = load_corpus(folder, progress=False).summary().splitlines()
        assert lines[1].split() == ["part", "speakers", "utterances", "skipped", "sequences", "minutes"]
        assert lines[2].split()[:5] == ["train", "3", "6", "3", "9"]

    def test_parts_by_name(self, folder, cache):
        for part, speakers in (("train", "abc"), ("dev", "d"), ("test", "e")):
            (folder / part).mkdir()
            for speaker in speakers:
                (folder / speaker).rename(folder / part / speaker)
        corpus = load_corpus(folder, progress=False)
        assert {u.speaker for u in corpus._listed["train"]} == {"train/a", "train/b", "train/c"}
        assert parts_of(corpus)["validation"] == ["dev/d/0.wav", "dev/d/1.wav", "dev/d/2.wav"]

    def test_loose_files_are_speakers(self, tmp_path, cache, write_speech):
        for i in range(4):
            write_speech(tmp_path / "loose" / f"{i}.flac", seed=i)
        (tmp_path / "loose" / "notes.txt").write_text("not audio")
        (tmp_path / "loose" / "._0.flac").write_text("left by another system")
        assert sum(map(len, parts_of(load_corpus(tmp_path / "loose", progress=False)).values())) == 4

    def test_a_list_of_ones_own(self, folder, cache, tmp_path):
        text = "utterance,speaker,part\na/0,a,train\nb/1.wav,b,validation\nc/0.wav,c,test\n"
        (tmp_path / "list.csv").write_text(text)
        corpus = load_corpus(folder, split=tmp_path / "list.csv", progress=False)
        assert parts_of(corpus) == {"train": ["a/0"], "validation": ["b/1.wav"], "test": ["c/0.wav"]}
        assert len(corpus.test) == 1

    def test_some_of_each_part_always_the_same(self, folder, cache):
        some = parts_of(load_corpus(folder, max_utterances=2, progress=False))
        assert [len(names) for names in some.values()] == [2, 2, 2]
        assert parts_of(load_corpus(folder, max_utterances=2, progress=False)) == some
        with pytest.raises(ValueError, match="at least 1, not 0"):
            load_corpus(folder, max_utterances=0)

    def test_settings_are_used(self, folder, cache):
        settings = FrontEndSettings(window_length=512, hop_length=128)
        assert load_corpus(folder, settings=settings, progress=False).test.x_dim == 257


class TestBadFolders:
    def test_missing(self, tmp_path, cache):
        with pytest.raises(MissingCorpusError, match=r"there is no folder .*nowhere"):
            load_corpus(tmp_path / "nowhere")

    def test_without_audio(self, tmp_path, cache):
        with pytest.raises(MissingCorpusError, match=r"holds no audio file. Looked for the endings .*\.aif.*\.wav"):
            load_corpus(tmp_path)

    def test_too_few_speakers(self, folder, cache):
        for speaker in "cde":
            shutil.rmtree(folder / speaker)
        with pytest.raises(ValueError, match=r"has 2 speakers .*: a, b. .*give a split list"):
            load_corpus(folder)

    def test_damaged_files_are_named(self, folder, cache):
        for speaker in "abcde":
            (folder / speaker / "0.wav").write_text("oops")
            soundfile.write(folder / speaker / "1.wav", torch.zeros(16_000).numpy(), 16_000)
        with pytest.raises(
            AudioError, match=r"cannot be used:\n.*0\.wav cannot be read.*\n.*1\.wav holds only silence"
        ):
            load_corpus(folder, progress=False).test  # noqa: B018

    def test_all_too_short(self, folder, cache):
        with pytest.raises(ValueError, match=r"No sequence has 500 frames; the longest of 9 has 1\d\d\."):
            load_corpus(folder, sequence_length=500, progress=False).train  # noqa: B018

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("file,part\na/0.wav,train\n", "expected a CSV file with the columns utterance, speaker, part"),
            ("utterance,speaker,part\na/0,a,training\n", "line 2: the part is one of train, validation, test"),
            ("utterance,speaker,part\na/9.wav,a,train\n", r"1 of the 1 recordings .*a/9\.wav is missing"),
            ("utterance,speaker,part,bytes\na/0.wav,a,train,5\n", "bytes instead of 5"),
            ("utterance,speaker,part\na/0.wav,a,train\nb/0.wav,b,test\n", "no utterance for validation"),
            ("utterance,speaker,part\na/0,a,train\na/1,a,test\nb/1,b,validation\n", "Speaker a is in two parts"),
        ],
    )
    def test_bad_lists(self, folder, cache, tmp_path, text, message):
        (tmp_path / "list.csv").write_text(text)
        with pytest.raises(ValueError, match=message):
            load_corpus(folder, split=tmp_path / "list.csv")

    def test_unknown_names(self, cache):
        with pytest.raises(ValueError, match=r"no corpus is called 'promts'\. There are .*librispeech, "):
            load_corpus("promts")
        corpus = SpeechCorpus("x", [Utterance(p, p, p, Path(p)) for p in PARTS], SpeechFrontEnd())
        assert "train: 1 utterances" in repr(corpus)
        with pytest.raises(ValueError, match="has no utterance 'y'"):
            corpus.utterance("y")
        with pytest.raises(ValueError, match="A part is one of"):
            corpus.dataset("training")


class TestWSJ0:
    @pytest.fixture(params=["wsj0", "disc/wsj0", "disc/WSJ0"])
    def folder(self, request, tmp_path, write_speech):
        for subset, speaker in (("si_tr_s", "011"), ("si_tr_s", "012"), ("si_dt_05", "050"), ("si_et_05", "440")):
            upper = str.upper if "WSJ0" in request.param else str
            place = tmp_path / "made" / request.param / upper(subset) / speaker
            for take in range(2):
                write_speech(place / upper(f"{speaker}c020{take}.wv1"), seed=int(speaker) + take, format="NIST")
                write_speech(place / upper(f"{speaker}c020{take}.wv2"), seed=0, format="NIST")  # the second microphone
        return tmp_path / "made"

    def test_the_reviews_subsets(self, folder, cache):
        corpus = load_corpus(folder, progress=False)
        assert parts_of(corpus) == {
            "train": [f"si_tr_s/{s}c020{t}" for s in ("011", "012") for t in range(2)],
            "validation": ["si_dt_05/050c0200", "si_dt_05/050c0201"],
            "test": ["si_et_05/440c0200", "si_et_05/440c0201"],
        }
        assert {u.speaker for u in corpus.utterances("train")} == {"011", "012"}
        assert len(corpus.test) == 2

    def test_a_converted_file_wins(self, folder, cache, write_speech):
        file = next(folder.rglob("440c0200.wv1"), None) or next(folder.rglob("440C0200.WV1"))
        write_speech(file.with_suffix(".wav"))
        assert {u.path.suffix.lower() for u in load_corpus(folder)._listed["test"]} == {".wav", ".wv1"}

    def test_a_missing_subset_is_named(self, folder, cache):
        for place in [p for p in folder.rglob("*") if p.name.lower() == "si_et_05"]:
            shutil.rmtree(place)
        with pytest.raises(MissingCorpusError, match="holds no recordings of si_et_05; expected files such as"):
            load_corpus(folder)

    def test_it_is_found_by_name(self, folder, cache, monkeypatch):
        place = next(p for p in folder.rglob("*") if p.name.lower() == "wsj0")
        monkeypatch.setenv("DVAE_DATA", str(place.parent))
        assert len(load_corpus("wsj0")._listed["train"]) == 4

    def test_where_it_is_missing(self, cache):
        with pytest.raises(MissingCorpusError, match=r"no program may fetch it.*Linguistic Data Consortium.*DVAE_DATA"):
            load_corpus("wsj0")


class TestLibriSpeech:
    @pytest.fixture
    def make(self, tmp_path, write_speech):
        def make(*subsets):
            for subset in subsets:
                for speaker in ("84", "174", "251", "2086", "3081", "5536", "8842", "1919"):
                    seed = int(hashlib.sha256(f"{subset}{speaker}".encode()).hexdigest()[:4], 16)
                    file = f"{speaker}{len(subset)}/1/{speaker}-1-0000.flac"
                    write_speech(tmp_path / "data" / "LibriSpeech" / subset / file, seed=seed)
            return tmp_path / "data" / "LibriSpeech"

        return make

    def test_one_subset_is_split_by_speaker_number(self, make, cache, monkeypatch):
        monkeypatch.setattr(
            librispeech, "librispeech_part", lambda s: {"849": "validation", "1749": "test"}.get(s, "train")
        )
        monkeypatch.setenv("DVAE_DATA", str(make("dev-clean").parent))
        corpus = load_corpus("librispeech", progress=False)
        assert {u.speaker for u in corpus._listed["validation"]} == {"849"}
        assert corpus._listed["test"][0].name == "dev-clean/1749/1/174-1-0000.flac"
        assert len(corpus._listed["train"]) == 6

    def test_all_three_are_the_corpus_own_parts(self, make, cache):
        folder = make("train-clean-100", "dev-clean", "test-clean", "train-other-500")
        parts = parts_of(load_corpus(folder, progress=False))
        for part, subset in (("train", "train-clean-100"), ("validation", "dev-clean"), ("test", "test-clean")):
            assert {name.split("/")[0] for name in parts[part]} == {subset}

    def test_the_rule_depends_on_the_number_alone(self):
        drawn = [librispeech_part(str(i)) for i in range(3000)]
        assert 240 < drawn.count("validation") < 360
        assert 240 < drawn.count("test") < 360
        digest = hashlib.sha256(b"librispeech:7:84").digest()
        assert (int.from_bytes(digest[:8], "big") % 10 > 1) == (librispeech_part("84") == "train")

    def test_the_written_list_follows_the_rule(self):
        listed = rows("librispeech.csv")
        assert len(listed) == len({row["speaker"] for row in listed}) == 251
        assert all(row["part"] == librispeech_part(row["speaker"]) for row in listed)
        assert all(row["utterance"].split("/")[1] == row["speaker"] for row in listed)

    def test_a_folder_without_recordings(self, tmp_path, cache):
        (tmp_path / "dev-clean").mkdir()
        with pytest.raises(MissingCorpusError, match="holds no LibriSpeech recordings"):
            load_corpus(tmp_path)

    def test_fetching(self, cache, tmp_path, make, monkeypatch, full_disk):
        """The download itself is tested with `download`; here is what follows it."""
        archive = shutil.make_archive(str(tmp_path / "dev"), "gztar", make("dev-clean").parent, "LibriSpeech")

        def downloaded(url, destination, *, checksum, progress):
            assert url == "https://www.openslr.org/resources/12/dev-clean.tar.gz"
            assert checksum == "md5:42e2234ba48799c1f50f24a7926300a1"
            destination.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(archive, destination)

        monkeypatch.setattr(librispeech, "download", downloaded)
        with monkeypatch.context():
            full_disk("8842", 10)
            with pytest.raises(OSError, match="The disk is full"):
                fetch_corpus("librispeech", progress=False)
        monkeypatch.undo()
        monkeypatch.setenv("DVAE_CACHE", str(cache))
        monkeypatch.delenv("DVAE_DATA", raising=False)
        monkeypatch.setattr(librispeech, "download", downloaded)
        assert catalogue.corpus_info("librispeech").find() is None  # no half a corpus
        folder = fetch_corpus("librispeech", progress=False)
        assert folder == cache / "corpora" / "LibriSpeech"
        assert len(list(folder.glob("dev-clean/*/*/*.flac"))) == 8
        assert not list((cache / "downloads").iterdir())
        monkeypatch.setattr(librispeech, "download", None)
        assert fetch_corpus("librispeech") == folder

    @pytest.mark.skipif(corpus_info("librispeech").folder is None, reason="no LibriSpeech on the search path")
    def test_the_list_and_the_recordings(self):
        corpus = load_corpus("librispeech", split=resource_path("splits", "librispeech.csv"), progress=False)
        assert [len(corpus._listed[part]) for part in PARTS] == [199, 27, 25]
        power, phase, length = corpus.analyse(corpus._listed["test"][0])
        waveform = corpus.waveform(corpus._listed["test"][0])
        assert (corpus.front_end.synthesise(power, phase, length) - waveform).abs().max() < 1e-5


class TestPrompts:
    def test_the_list(self):
        listed = rows("prompts.csv")
        assert len(listed) == 2745
        by_part = {part: {row["speaker"] for row in listed if row["part"] == part} for part in PARTS}
        assert by_part == {
            "train": {"Allison Smith", "Carlo Flora"},  # the English and the Spanish voice are one person
            "validation": {"June Wallack"},
            "test": {"ivrvoice.ru"},
        }
        assert len({row["utterance"].split("/")[0] for row in listed}) == 5
        names = {row["utterance"].split("/", 1)[1] for row in listed}
        assert not [n for n in names if n.startswith(("silence/", "beep")) or "2tone" in n]
        assert not names & {"tt-monkeys.g722", "confbridge-join.g722", "confbridge-leave.g722"}

    @pytest.fixture
    def small(self, cache, tmp_path, monkeypatch):
        """A distribution of three packages with one prompt each, and the list that goes with it."""
        voices = {"en_US_f_Allison": "train", "fr_CA_f_June": "validation", "ru_RU_f_IvrvoiceRU": "test"}
        codec = pytest.importorskip("G722")
        lines = ["utterance,speaker,part,bytes,sha256"]
        contents = {}
        for voice, part in voices.items():
            tone = (8_000 * torch.sin(torch.arange(20_000) * 0.2)).to(torch.int16).numpy()
            contents[voice] = codec.G722(16_000, 64_000).encode(tone)
            digest = hashlib.sha256(contents[voice]).hexdigest()[:16]
            lines.append(f"{voice}/hello.g722,{voice},{part},{len(contents[voice])},{digest}")
        (tmp_path / "prompts.csv").write_text("\n".join(lines))

        def unpacked(checksums, downloads, folder, *, progress):
            downloads.mkdir(parents=True)
            for number, (voice, content) in enumerate(contents.items()):
                sounds, doc = folder / "usr/share/asterisk/sounds" / voice, folder / f"usr/share/doc/package{number}"
                sounds.mkdir(parents=True)
                doc.mkdir(parents=True)
                (sounds / "hello.g722").write_bytes(content)
                (doc / "copyright").write_text("CC-BY")

        monkeypatch.setattr(prompts, "_split_list", lambda: tmp_path / "prompts.csv")
        monkeypatch.setattr(prompts, "fetch_debian_packages", unpacked)
        return contents

    def test_fetching(self, small, cache):
        folder = fetch_corpus("prompts", progress=False)
        assert sorted(p.name for p in folder.iterdir()) == [
            *("en_US_f_Allison", "fr_CA_f_June", "package0.copyright.txt", "package1.copyright.txt"),
            *("package2.copyright.txt", "ru_RU_f_IvrvoiceRU"),
        ]
        assert not (cache / "downloads" / "prompts").exists()
        corpus = load_corpus("prompts", progress=False)
        assert [len(corpus.dataset(part)) for part in PARTS] == [1, 1, 1]
        assert "CC BY" in corpus.licence
        assert "Allison Smith" in corpus.attribution

    def test_another_version_is_refused_whole(self, small, cache):
        small["fr_CA_f_June"] = b"something else"
        with pytest.raises(DownloadError, match=r"1 recordings .*\(first: fr_CA_f_June/hello\.g722\)"):
            fetch_corpus("prompts", progress=False)
        assert catalogue.corpus_info("prompts").find() is None
        assert list((cache / "corpora").iterdir()) == []

    def test_a_truncated_prompt_is_found_before_it_is_decoded(self, small, cache):
        folder = fetch_corpus("prompts", progress=False)
        os.truncate(folder / "fr_CA_f_June" / "hello.g722", 100)
        with pytest.raises(AudioError, match=r"hello\.g722 has 100 bytes instead of 10,000.*fetch the corpus again"):
            load_corpus("prompts", progress=False)

    def test_where_it_is_missing_and_may_not_be_fetched(self, cache):
        with pytest.raises(MissingCorpusError, match=r"'prompts' is not here. Run 'dvae data fetch prompts'"):
            load_corpus("prompts", fetch=False)

    @pytest.mark.skipif(catalogue.corpus_info("prompts").find() is None, reason="prompts have not been fetched")
    def test_the_recordings_are_those_of_the_list(self):
        prompts._check(catalogue.corpus_info("prompts").find())


class TestCatalogue:
    def test_speech(self):
        names = [info.name for info in list_corpora("speech")]
        assert names == ["digits", "digits-by-take", "librispeech", "librispeech-excerpt", "prompts", "wsj0"]
        assert {info.kind for info in list_corpora()} <= {"speech", "motion", "music", "sequences"}
        names = [info.name for info in list_corpora()]
        assert len(names) == len(set(names))

    def test_other_kinds_are_listed_and_say_how_they_are_loaded(self):
        assert {info.name for info in list_corpora()} >= {"cmu", "hdm05", "h36m", "chorales"}
        with pytest.raises(ValueError, match=r"'cmu' is a corpus of motion: load it with dvae_lib.data.load\('cmu'\)"):
            load_corpus("cmu")

    @pytest.mark.parametrize("name", ["prompts", "librispeech", "wsj0"])
    def test_descriptions(self, cache, name):
        text = describe(name)
        assert text.startswith(f"{name} (speech): ")
        assert "not here     " in text
        assert "licence" in text

    def test_where_it_is(self, cache, tmp_path, monkeypatch):
        (tmp_path / "data" / "wsj0").mkdir(parents=True)
        monkeypatch.setenv("DVAE_DATA", str(tmp_path / "data"))
        assert f"here         {tmp_path / 'data' / 'wsj0'}" in describe("wsj0")
        assert fetch_corpus("wsj0") == tmp_path / "data" / "wsj0"

    def test_the_default_where_apt_is(self, cache, monkeypatch, caplog):
        monkeypatch.setattr(shutil, "which", lambda tool: f"/usr/bin/{tool}")
        assert default_corpus() == "prompts"
        assert not caplog.text

    def test_the_default_elsewhere_is_said(self, cache, monkeypatch, capsys, caplog):
        monkeypatch.setattr(shutil, "which", lambda tool: None)
        assert default_corpus() == "librispeech"
        assert "Using the corpus 'librispeech': 'prompts' comes in packages of Debian" in capsys.readouterr().out
        with caplog.at_level(logging.INFO, logger="dvae_lib"):  # as in the command line
            default_corpus()
        assert "Using the corpus 'librispeech'" in caplog.text
        assert capsys.readouterr().out == ""
        (cache / "corpora" / "prompts").mkdir(parents=True)  # fetched on another machine and copied here
        assert default_corpus() == "prompts"
        assert capsys.readouterr().out == ""

    def test_a_fetch_is_announced_whatever_the_progress(self, cache, monkeypatch, capsys):
        info = catalogue.corpus_info("prompts")
        fetched = replace(info, fetch=lambda progress: cache / "corpora" / "prompts")
        monkeypatch.setitem(catalogue._CORPORA, "prompts", fetched)
        fetch_corpus("prompts", progress=False)
        assert "Fetching the corpus prompts, once (125 minutes; 55 MB to fetch" in capsys.readouterr().out

    @pytest.mark.parametrize(("name", "package"), [("prompts", "G722"), ("librispeech", "soundfile")])
    def test_a_missing_package_is_named_before_anything_is_fetched(self, cache, monkeypatch, name, package):
        monkeypatch.setattr(catalogue, "find_spec", lambda module: None)
        monkeypatch.setattr(catalogue, "fetch_corpus", None)
        with pytest.raises(
            ImportError, match=rf"'{name}' is read with {package}, .*dvae-lib\[speech\].*dvae-lib\[audio\]"
        ):
            load_corpus(name)


class TestAnySpeech:
    """`load_corpus()` without a name takes whichever speech there is."""

    @pytest.fixture
    def shelf(self, cache, tmp_path, monkeypatch, write_speech):
        """A LibriSpeech of our own on the search path."""
        speakers = {librispeech_part(str(number)): str(number) for number in range(100)}  # one of each part
        for speaker in speakers.values():
            write_speech(tmp_path / f"shelf/LibriSpeech/dev-clean/{speaker}/1/{speaker}-1-0000.flac", 1.1)
        monkeypatch.setenv("DVAE_DATA", str(tmp_path / "shelf"))

    @staticmethod
    def broken(name, *, progress):
        raise DownloadError(f"no {name} today.")

    def test_what_is_here_where_the_other_cannot_be_fetched(self, shelf, monkeypatch, capsys):
        monkeypatch.setattr(shutil, "which", lambda tool: f"/usr/bin/{tool}")
        monkeypatch.setattr(catalogue, "fetch_corpus", self.broken)
        assert load_corpus(progress=False).name == "librispeech"
        said = capsys.readouterr().out
        assert "'prompts' is not to be had. no prompts today." in said
        assert "Using the corpus 'librispeech' instead." in said

    def test_what_is_here_where_the_other_could_not_be_read(self, shelf, monkeypatch, capsys):
        """G.722 is decoded by a package that is compiled where there is no wheel."""
        monkeypatch.setattr(shutil, "which", lambda tool: f"/usr/bin/{tool}")
        monkeypatch.setattr(catalogue, "find_spec", lambda package: None if package == "G722" else object())
        monkeypatch.setattr(catalogue, "fetch_corpus", None)
        assert load_corpus(progress=False).name == "librispeech"
        assert "read with G722, which is not installed" in capsys.readouterr().out

    def test_what_is_here_where_nothing_may_be_fetched(self, shelf, monkeypatch):
        monkeypatch.setattr(shutil, "which", lambda tool: f"/usr/bin/{tool}")
        monkeypatch.setattr(catalogue, "fetch_corpus", None)
        assert load_corpus(fetch=False, progress=False).name == "librispeech"

    def test_without_apt(self, shelf, monkeypatch):
        monkeypatch.setattr(shutil, "which", lambda tool: None)
        monkeypatch.setattr(catalogue, "fetch_corpus", None)
        assert load_corpus(progress=False).name == "librispeech"

    def test_a_name_is_a_name(self, shelf, monkeypatch):
        monkeypatch.setattr(catalogue, "fetch_corpus", self.broken)
        with pytest.raises(DownloadError, match="no prompts today"):
            load_corpus("prompts", progress=False)

    def test_nothing_here_and_no_network(self, cache, monkeypatch):
        monkeypatch.setattr(shutil, "which", lambda tool: f"/usr/bin/{tool}")
        monkeypatch.setattr(catalogue, "fetch_corpus", self.broken)
        with pytest.raises(DownloadError, match=r"No speech is here.*no prompts today.*no librispeech today"):
            load_corpus(progress=False)


class TestUnknown:
    def test_an_unknown_corpus(self):
        for function in (describe, fetch_corpus):
            with pytest.raises(ValueError, match="no corpus is called 'wsj'"):
                function("wsj")
