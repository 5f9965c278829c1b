"""Telephone announcements, five voices: packages of Debian and Ubuntu, which nobody must sign for."""

import shutil
from pathlib import Path

from dvae_lib.data.fetch import DownloadError, fetch_debian_packages
from dvae_lib.data.places import cache_folder, find_folder, one_at_a_time, whole_or_nothing
from dvae_lib.data.speech.corpus import damaged, from_list, register_speech
from dvae_lib.resources import resource_path

PACKAGES = {
    "asterisk-core-sounds-en-g722": "sha256:38c5261820b406dcb0ecb37675720da2b0864850690690352ca52707eb623806",
    "asterisk-core-sounds-es-g722": "sha256:e4e3b4281057d3b81b779298fd6be705f57411513955c518eed1bcaabbd615b8",
    "asterisk-core-sounds-fr-g722": "sha256:7add61d5e42279ecff1bbdf842a5a946ac3644fac9a0fe44384731aa7270c8e0",
    "asterisk-core-sounds-it-g722": "sha256:46b4cf7afc508a5fcfc051b7ea233251c0d195dd4ef83cc4b7facb4c6429b016",
    "asterisk-core-sounds-ru-g722": "sha256:673b4238a6b8269960f055d868c6a11083f7a0d00979167cb01554046b48ed9b",
}


def _split_list() -> Path:
    return resource_path("splits", "prompts.csv")


def _fetch(progress: bool) -> Path:
    corpora, downloads = cache_folder() / "corpora", cache_folder() / "downloads" / "prompts"
    folder = corpora / "prompts"
    with one_at_a_time(corpora / ".prompts.lock"):
        if folder.is_dir():  # another process was faster
            return folder
        with whole_or_nothing(folder) as draft:
            packages = draft / "packages"
            packages.mkdir()
            fetch_debian_packages(PACKAGES, downloads, packages, progress=progress)
            for voice in sorted((packages / "usr/share/asterisk/sounds").iterdir()):
                voice.rename(draft / voice.name)
            for licence in sorted((packages / "usr/share/doc").glob("*/copyright")):
                shutil.copyfile(licence, draft / f"{licence.parent.name}.copyright.txt")
            shutil.rmtree(packages)
            _check(draft)
        shutil.rmtree(downloads, ignore_errors=True)
    return folder


def _check(folder: Path) -> None:
    """Every recording that the split list names must be there, bit for bit."""
    if wrong := damaged(folder, _split_list()):
        raise DownloadError(
            f"{len(wrong)} recordings of the packages are not those of the list (first: {wrong[0]}). This "
            "distribution may carry another version of them; use the corpus 'librispeech' instead"
        )


register_speech(
    lambda folder: from_list(folder, _split_list()),
    name="prompts",
    about="telephone announcements at 16 kHz: five voices of four speakers (two of them one bilingual speaker)",
    size="125 minutes; 55 MB to fetch",
    licence="CC BY-SA 3.0 (English, Spanish, French), CC BY 3.0 (Italian, Russian)",
    attribution="Asterisk core sounds: Allison Smith (English, Spanish), June Wallack (French), "
    "Carlo Flora (Italian), ivrvoice.ru (Russian)",
    instructions="Run 'dvae data fetch prompts' on Debian or Ubuntu (it needs apt-get and dpkg-deb, no root), or "
    "unpack the packages asterisk-core-sounds-{en,es,fr,it,ru}-g722 yourself and put the five folders of "
    "usr/share/asterisk/sounds into a folder 'prompts' inside a folder that DVAE_DATA names.",
    find=lambda: find_folder("prompts"),
    fetch=_fetch,
    packages=("G722",),
    recognises=lambda folder: (folder / "en_US_f_Allison").is_dir(),
)
