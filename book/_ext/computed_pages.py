"""What pages show of the models as a whole, computed while the site is built: drawings, cards, formulas, one movement.

A page says where with a comment, such as ``<!-- computed: gallery -->``. Nothing is written here that the library
knows: names, chapters and classes come from `dvae_lib.MODELS`, everything else from the specs.

- ``family``: a drawing for each model, which leads to its chapter.
- ``gallery``: a card for each model.
- ``cheat-sheet``: factorisation, exact posterior, gap and bound of each model of Chapters 2 to 11.
- ``sounds`` and ``walk``: the first page's recording before and after, and a movement continued by a model.
- ``citation``: the book's own entry for a bibliography.
"""

from __future__ import annotations

import html
import inspect
import json
import math
import os
import re
import string
from functools import cache
from pathlib import Path
from typing import Any

from for_machines import date_of_the_text
from sphinx.application import Sphinx

from dvae_lib import DVAE, MODELS, __version__
from dvae_lib.architecture import count_weights
from dvae_lib.graphs import DependencySpec
from dvae_lib.graphs.links import links, runs_online
from dvae_lib.models import PRESETS, build_model

MARK = re.compile(r"^<!-- computed: ([a-z-]+) -->$", re.MULTILINE)
STATIC = Path(__file__).resolve().parents[1] / "_static"
# What no spec knows, in the words of "Which model?".
PURPOSES = {
    "VAE": "Frames whose neighbours do not matter; the measure for all others.",
    "DKF": "A state that carries everything: forecasts, gaps, interpretation.",
    "KVAE": "Linear dynamics behind pictures or the like: gaps filled by an exact smoother.",
    "SVAE": "Linear dynamics behind a network: gaps of any kind, without training for them.",
    "BlackBoxSSM": "A state-space model that you know, with any observations: its states, with their uncertainty.",
    "STORN": "The likelihood of the next frame, in the simplest way; a filter without a loop.",
    "VRNN": "The likelihood of the next frame; the most general model.",
    "ImprovedVRNN": "A VRNN whose latent vectors fall silent.",
    "SRNN": "The likelihood of the next frame, with what is drawn kept apart from what is computed.",
    "RVAE": "A clean model within noisy data: nothing noisy is fed back.",
    "LVRNN": "Learning by particle filters: proposals that cover the posterior, latents of any kind.",
    "DVBF": "Movement in pictures: the state is trained by what it leads to.",
    "DSSM": "Sequences that each move by a law of their own.",
    "RSSM": "Futures under actions that were never tried: planning.",
    "SwitchingSSM": "Behaviour that changes between a few modes: segments found without labels.",
    "DSAE": "Something constant throughout (a speaker, an object), kept apart from what changes.",
    "FHVAE": "A speaker apart from what is said, where sequences are strings of segments.",
    "DRAW": "A frame made in steps that build on each other, such as a drawing; with a window, a part at a time.",
    "SVG": "The next frame where there is something to decide, such as video: the prior says when, and how much.",
    "VRAE": "A map of whole sequences: one point for each, from which the sequence can be made again.",
    "STCN": "Long sequences, trained at all frames at once; a filter that is its own smoother.",
    "GPVAE": "Latent vectors that move smoothly by assumption: missing pixels and frames filled in, with their doubt.",
}
# Names that are no acronym with a variant.
LABELS = {"black-box": "Black-box SSM"}


def label(name: str) -> str:
    """How a model is called in running text: ``RVAE (causal)`` for ``rvae-causal``."""
    if name in LABELS:
        return LABELS[name]
    stem, _, variant = name.partition("-")
    return f"{stem.upper()} ({variant})" if variant else stem.upper()


@cache
def model(name: str) -> DVAE:
    """A model of the sizes that the review has for speech, where it has them."""
    return (
        build_model(name, preset="speech")
        if name in PRESETS["speech"].layers
        else build_model(name, x_dim=513, z_dim=16)
    )


def chapter_page(name: str, chapters: dict[str, str]) -> str | None:
    """The page of a model's chapter, without folder and ending; None for a model that the book does not tell of.

    The digit after the point is the page's letter where a chapter has several: 12.3 stands on page 12c.
    """
    chapter = MODELS[name].chapter
    if math.isinf(chapter):
        return None
    number, section = int(chapter), round(10 * (chapter % 1))
    page = chapters.get(f"{number}{string.ascii_lowercase[section - 1]}") if section else None
    page = page or chapters.get(str(number))
    return page and page.removeprefix("book/")


def online_variants(name: str) -> list[str]:
    """Which inference models of a causal model run online; the default one is called "default"."""
    entry = MODELS[name]
    if not links(model(name).spec).causal:
        return []
    found = ["default"] if runs_online(model(name).spec) else []
    for options in entry.variants:
        if set(options) == {"inference_model"} and runs_online(entry.cls(4, 2, **{**entry.options, **options}).spec):
            found.append(options["inference_model"])
    return found[:1] if found[:1] == ["default"] else found


def written(kind: Any, spec: DependencySpec) -> str:
    """A formula of a spec, on a line of its own."""
    body = spec.latex(kind).replace("\n\n", "\n")
    return f"$$\n{body}\n$$"


def about(name: str) -> str:
    """What a model is, in one sentence: the first of its class."""
    return inspect.getdoc(MODELS[name].cls).split("\n")[0]  # type: ignore[union-attr]


def in_formulas(text: str) -> str:
    """A sentence whose variables (``a_t``) are formulas."""
    return re.sub(r"\b([a-z])_t\b", r"$\\mathbf{\1}_t$", text)


def picture(name: str) -> str:
    """The drawing of a generative model, as HTML."""
    text = f"The {label(name)} over three frames: {in_words(MODELS[name].cls, model(name).spec)}."
    return f'<img src="../_static/family/{name}.svg" alt="{html.escape(text)}" loading="lazy">'


def in_words(cls: type[DVAE], spec: DependencySpec) -> str:
    """Who depends on whom, in words."""
    sentences = []
    for key, parents in spec.compact().items():
        names = ", ".join(str(parent) for parent in sorted(parents, reverse=True))
        sentences.append(f"{key} depends on {names or 'nothing'}")
    return "; ".join(sentences).replace("{", "").replace("}", "")


def family(chapters: dict[str, str]) -> str:
    """All models that have a page of their own, or share it as equals, each a link to it."""
    cards = []
    for name in MODELS:
        page = chapter_page(name, chapters)
        whole = chapters.get(str(int(MODELS[name].chapter)), "").removeprefix("book/") if page else ""
        if page is not None and (MODELS[name].chapter == int(MODELS[name].chapter) or page != whole):
            cards.append(
                f'<a class="model" href="{page}.html">{picture(name)}<span class="model-name">{label(name)}</span>'
                f'<span class="model-about">{html.escape(about(name))}</span></a>'
            )
    return '<div class="model-family">\n' + "\n".join(cards) + "\n</div>"


def gallery(chapters: dict[str, str]) -> str:
    """A card for each model: drawing, formula, and what one asks first."""
    cards = []
    for name, entry in MODELS.items():
        spec, found = model(name).spec, links(model(name).spec)
        page, weights = chapter_page(name, chapters), count_weights(model(name))
        online = online_variants(name)
        if not found.causal:
            when = "no: it generates all frames together"
        elif online == ["default"]:
            when = "yes"
        else:
            when = (
                "with `inference_model=" + "` or `".join(f'"{variant}"' for variant in online) + "`" if online else "no"
            )
        sizes = "" if name in PRESETS["speech"].layers else " (the class's own layers)"
        facts = [
            ("For", PURPOSES.get(entry.cls.__name__, "")),
            ("Autoregressive", "yes" if found.predictive else "no"),
            ("Online", when),
            ("Weights for speech", f"{weights.total:,}{sizes}"),
            ("Class", f"`dvae_lib.{entry.cls.__name__}`, `build_model(\"{name}\")`"),
        ]  # fmt: skip
        head = f"[{label(name)}]({page}.ipynb)" if page else label(name)
        lines = "\n".join(f"- **{key}**: {value}" for key, value in facts if value)
        cards.append(
            f"::::{{div}} model-card\n## {head}\n\n<div>{picture(name)}</div>\n\n{in_formulas(about(name))}\n\n"
            f"{written('joint', spec)}\n\n{lines}\n::::"
        )
    return ":::::{div} model-gallery\n" + "\n\n".join(cards) + "\n:::::"


def cheat_sheet(chapters: dict[str, str]) -> str:
    """What follows from the specs of Chapters 2 to 11, on two sheets of paper."""
    parts = []
    for name in (name for name, entry in MODELS.items() if entry.chapter < 12):
        spec = model(name).spec
        gaps = []
        for key, gap in spec.inference_gap().items():
            variable = spec.conditions([key])
            lacks, extra = spec.conditions(gap.missing), spec.conditions(gap.extra)
            said = [f"lacks {lacks}"] if gap.missing else []
            said += [f"has {extra} too much"] if gap.extra else []
            gaps.append(f"{variable} " + (" and ".join(said) or "lacks nothing"))
        page = chapter_page(name, chapters)
        head = f"[{label(name)}]({page}.ipynb)" if page else label(name)
        parts.append(
            f"::::{{div}} sheet-model\n## {head}\n\n{written('joint', spec)}\n\n{written('exact', spec)}\n\n"
            f"{written('posterior', spec)}\n\nIts inference model: {'; '.join(gaps)}.\n\n{written('vlb', spec)}\n::::"
        )
    return ":::::{div} cheat-sheet\n" + "\n\n".join(parts) + "\n:::::"


def sounds(chapters: dict[str, str]) -> str:
    """A recording in noise and what a model makes of it."""
    made = json.loads((STATIC / "front/sounds.json").read_text(encoding="utf-8"))
    players = "\n".join(
        f'<figure class="sound"><figcaption>{title}: {made[key]:.1f} dB</figcaption>'
        f'<audio controls preload="none" aria-label="{title}" src="../_static/front/{name}.mp3"></audio></figure>'
        for title, name, key in (
            ("In noise", "noisy", "si_sdr_noisy"),
            ("Enhanced", "enhanced", "si_sdr_enhanced"),
        )
    )
    least, most = made["gains"][0], made["gains"][-1]
    return (
        f'<div class="sounds">\n{players}\n</div>\n\n*Sound.* A reader whom the model has never heard, in '
        f"{made['noise']} noise, and the same after a recurrent VAE has been at work. The numbers are SI-SDR; of "
        f"{len(made['gains'])} such readers this is the one who gains the median (all: {least:.1f} to {most:.1f} dB). "
        f"[Speech, and its enhancement](10b_speech_enhancement.ipynb) says how. {made['licence']}."
    )


@cache
def walk(given: int = 45, new: int = 45) -> str:
    """A recorded walk, and how a model goes on from its first half."""
    import torch

    from dvae_lib.data.motion import MOCAP_PARENTS, load_mocap
    from dvae_lib.plotting import animate_skeletons

    test = load_mocap(excerpt=True).test
    x = test[test.names.index("03_03")][300 : 300 + given + new]
    dvae = DVAE.from_pretrained("srnn-mocap-scheduled")
    generator = torch.Generator().manual_seed(0)
    ahead = dvae.generate(new, prefix=x[None, :given], emission="mean", generator=generator).x[0]
    movements = {"recorded": x, "continued by an SRNN": torch.cat([x[:given], ahead])}
    player = animate_skeletons(movements, MOCAP_PARENTS, marks=(len(x), given)).data
    return re.sub(r"\n\s*\n", "\n", player).strip()  # a blank line would end the block of HTML


def citation(chapters: dict[str, str]) -> str:
    """The book's own entry, with version and date."""
    import yaml

    cited = yaml.safe_load((STATIC.parents[1] / "CITATION.cff").read_text(encoding="utf-8"))
    date = date_of_the_text()
    fields = {
        "title": f"{{{cited['title']}}}", "author": "{{" + cited["authors"][0]["name"] + "}}",
        "version": f"{{{__version__}}}", "year": f"{{{date[:4]}}}", "note": f"{{As of {date}}}",
        "url": f"{{{cited['repository-code']}}}",
    }  # fmt: skip
    lines = ",\n".join(f"  {key:7} = {value}" for key, value in fields.items())
    return f"```bibtex\n@misc{{dvaebook,\n{lines}\n}}\n```"


COMPUTED = {
    "family": family,
    "gallery": gallery,
    "cheat-sheet": cheat_sheet,
    "sounds": sounds,
    "walk": lambda chapters: walk(),
    "citation": citation,
}


def fill_in(text: str, chapters: dict[str, str]) -> str:
    """A page with everything that its comments ask for.

    Raises:
        KeyError: if a comment asks for what is not computed.
    """
    return MARK.sub(lambda mark: COMPUTED[mark[1]](chapters), text)


def enrich(app: Sphinx, docname: str, source: list[str]) -> None:
    """Fill in a page that is about to be parsed, before plain_markdown links what it names."""
    source[0] = fill_in(source[0], app.env.plain_markdown_index.chapters)  # type: ignore[attr-defined]


def read_again(app: Sphinx, env: Any, *_: object) -> list[str]:
    """The pages with computed parts, which may have changed though their files have not."""
    paths = ((name, Path(env.doc2path(name))) for name in env.found_docs)
    return [name for name, path in paths if path.suffix == ".md" and MARK.search(path.read_text(encoding="utf-8"))]


def draw(app: Sphinx, error: Exception | None) -> None:
    """Draw all models, and the picture that previews of links to the book show."""
    if error is not None or app.builder.format != "html":
        return
    folder = Path(app.outdir, "_static/family")
    folder.mkdir(parents=True, exist_ok=True)
    for name in MODELS:
        draw_model(name, folder / f"{name}.svg")
    draw_preview(Path(app.outdir, "_static/preview.png"))


def draw_model(name: str, path: Path) -> None:
    """One model's generative graph as SVG, the same bytes each time."""
    import matplotlib as mpl

    with mpl.rc_context({"svg.hashsalt": name}):
        figure = model(name).spec.draw("generation", "compact")
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None}, bbox_inches="tight")


def draw_preview(path: Path) -> None:
    """Title and some of the graphs, in the size that previews have: 1200 by 630."""
    import io

    from matplotlib.figure import Figure
    from matplotlib.image import imread

    from dvae_lib.plotting import CARD, COLOURS

    figure = Figure(figsize=(12, 6.3), facecolor=CARD)
    figure.text(0.05, 0.86, "Dynamical variational autoencoders", fontsize=38, weight="bold", color="#11151C")
    figure.text(
        0.05, 0.77, "A textbook that runs: derivations, code, experiments", fontsize=22, color=COLOURS["latent"]
    )
    shown = [name for name in MODELS if MODELS[name].chapter in (5, 7, 9)]
    for position, name in enumerate(shown):
        drawn = io.BytesIO()
        model(name).spec.draw("generation", "compact").savefig(drawn, format="png", dpi=160, bbox_inches="tight")
        drawn.seek(0)
        axes = figure.add_axes((0.04 + position * 0.96 / len(shown), 0.1, 0.88 / len(shown), 0.58))
        axes.imshow(imread(drawn))
        axes.axis("off")
        figure.text(
            0.04 + (position * 0.96 + 0.44) / len(shown), 0.05, label(name), fontsize=22, ha="center", color="#11151C"
        )
    figure.savefig(path, dpi=100, facecolor=CARD)


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    app.connect("source-read", enrich, priority=400)
    # After plain_markdown has read its index (priority 500).
    app.connect("env-get-outdated", read_again, priority=600)
    app.connect("build-finished", draw)
    return {"version": "1.0", "parallel_read_safe": True, "parallel_write_safe": True}
