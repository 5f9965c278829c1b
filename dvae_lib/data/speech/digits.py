"""The free spoken digit dataset: six speakers say ten digits fifty times each; speaker and content are crossed."""

from dataclasses import replace
from functools import partial
from pathlib import Path

from dvae_lib.data.fetch import DownloadError, download, unpack_tar
from dvae_lib.data.places import cache_folder, find_folder, one_at_a_time, whole_or_nothing
from dvae_lib.data.speech.corpus import Part, Utterance, damaged, from_list, register_speech
from dvae_lib.data.speech.front_end import FrontEndSettings
from dvae_lib.resources import resource_path

FOLDER = "fsdd"
VERSION = "1.0.10"
ADDRESS = f"https://github.com/Jakobovski/free-spoken-digit-dataset/archive/refs/tags/v{VERSION}.tar.gz"
SETTINGS = FrontEndSettings(sample_rate=8_000, window_length=512, hop_length=128)
"""The review's front end, 64 ms with a hop of 16 ms, at the rate of these recordings."""


def _split_list() -> Path:
    return resource_path("splits", "digits.csv")


def _by_speaker(folder: Path) -> list[Utterance]:
    _check(folder)
    return from_list(folder, _split_list())


def _by_take(folder: Path) -> list[Utterance]:
    """Everybody in every part: takes 0 to 4 for testing, as the dataset itself divides, 5 to 9 for validation."""

    def part(recording: Utterance) -> Part:
        take = int(Path(recording.name).stem.rpartition("_")[2])
        return "test" if take < 5 else "validation" if take < 10 else "train"

    return [replace(recording, part=part(recording)) for recording in _by_speaker(folder)]


def _check(folder: Path) -> None:
    if wrong := damaged(folder, _split_list()):
        raise ValueError(
            f"{len(wrong)} recordings in {folder} are missing or not those of the list (first: {wrong[0]}). Delete the "
            "folder and fetch the corpus again"
        )


def _find() -> Path | None:
    folder = find_folder(FOLDER, "free-spoken-digit-dataset")
    return folder if folder is not None and (folder / "recordings").is_dir() else None


def _fetch(progress: bool) -> Path:
    corpora, archive = cache_folder() / "corpora", cache_folder() / "downloads" / f"fsdd-{VERSION}.tar.gz"
    folder = corpora / FOLDER
    with one_at_a_time(corpora / f".{FOLDER}.lock"):
        if folder.is_dir():  # another process was faster
            return folder
        # An archive that is packed when it is asked for has no lasting checksum: what is in it has.
        download(ADDRESS, archive, checksum=None, progress=progress)
        try:
            with whole_or_nothing(folder) as draft:
                prefix = f"free-spoken-digit-dataset-{VERSION}/recordings"
                unpack_tar(archive, draft / "recordings", prefix=prefix, progress=progress)
                _check(draft)
        except ValueError as error:
            raise DownloadError(f"what came from {ADDRESS} is not the corpus: {error}") from error
        finally:
            archive.unlink()
    return folder


_register = partial(
    register_speech,
    size="3,000 recordings, 22 minutes; 10 MB to fetch",
    licence="CC BY-SA 4.0",
    attribution="Free Spoken Digit Dataset (Jackson and contributors), Jakobovski/free-spoken-digit-dataset",
    find=_find,
    fetch=_fetch,
    packages=("soundfile",),
    settings=SETTINGS,
    sequence_length=None,
)
_INSTRUCTIONS = (
    "Run 'dvae data fetch {}', or put the repository's folder 'recordings' (Jakobovski/free-spoken-digit-dataset on "
    f"GitHub) into a folder '{FOLDER}' inside a folder that DVAE_DATA names."
)
_register(
    _by_speaker,
    name="digits",
    about="spoken digits at 8 kHz, six speakers, each in one part",
    instructions=_INSTRUCTIONS.format("digits"),
)
_register(
    _by_take,
    name="digits-by-take",
    about="spoken digits at 8 kHz, six speakers, all of them in every part",
    instructions=_INSTRUCTIONS.format("digits-by-take"),
    speakers_apart=False,
)
