"""The Wall Street Journal corpus, which the review used and whose licence must be signed."""

from pathlib import Path

from dvae_lib.data.catalogue import MissingCorpusError
from dvae_lib.data.places import find_folder
from dvae_lib.data.speech.corpus import Part, Utterance, register_speech

_SUBSETS: dict[str, Part] = {"si_tr_s": "train", "si_dt_05": "validation", "si_et_05": "test"}


def _list(folder: Path) -> list[Utterance]:
    """The review's three subsets, wherever in the folder they lie (the discs have them under ``wsj0/``)."""
    found: dict[str, Utterance] = {}
    # Sorted, .flac and .wav come before .wv1, so a converted file wins.
    for file in sorted(folder.rglob("*"), key=lambda path: path.as_posix().casefold()):
        subset = next((p.casefold() for p in file.parts if p.casefold() in _SUBSETS), None)
        if subset is None or file.suffix.casefold() not in (".wav", ".flac", ".wv1") or not file.is_file():
            continue
        stem = file.stem.casefold()
        found.setdefault(stem, Utterance(f"{subset}/{stem}", stem[:3], _SUBSETS[subset], file))
    missing = [subset for subset, part in _SUBSETS.items() if part not in {u.part for u in found.values()}]
    if missing:
        raise MissingCorpusError(
            f"{folder} holds no recordings of {', '.join(missing)}; expected files such as "
            f"{missing[0]}/SPEAKER/UTTERANCE.wv1 somewhere in it"
        )
    return sorted(found.values(), key=lambda utterance: utterance.name)


def _is_wsj0(folder: Path) -> bool:
    """At most three levels down, as on the discs: disc/wsj0/si_tr_s."""
    return any(p.name.casefold() in _SUBSETS for depth in ("*", "*/*", "*/*/*") for p in folder.glob(depth))


register_speech(
    _list,
    name="wsj0",
    about="read news from the Wall Street Journal (Garofolo et al., 1993), the review's corpus, 16 kHz",
    size="about 29 hours in the three subsets used",
    licence="LDC user agreement (licensed; LDC93S6A)",
    attribution="CSR-I (WSJ0) Complete, Linguistic Data Consortium, LDC93S6A",
    instructions="Get it from the Linguistic Data Consortium (LDC93S6A), then put a folder 'wsj0' with si_tr_s, "
    "si_dt_05 and si_et_05 inside a folder that DVAE_DATA names, or give its path to load_corpus. Compressed "
    "SPHERE files must first be converted with the LDC's sph2pipe.",
    find=lambda: find_folder("wsj0", "WSJ0"),
    packages=("soundfile",),
    recognises=_is_wsj0,
)
