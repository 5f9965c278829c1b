"""What the latent vectors of trained models do, dimension by dimension (Sections 13.3.4 and 13.4.4).

    python -m dvae_lib.experiments.studies.latent_vectors [SET ...] [--models FOLDER ...]

Three sets of trained models, those of both blocks of Table 13.1 (`librispeech-power`, whose networks read powers, and
`librispeech`) and those of Table 13.2 (`mocap`), on recordings that come with the library. Of each model that is at
hand, and of each dimension of z: its KL divergence, by frame and by sequence; variances of posterior and prior; how far
the mean moves. Of predictive models also what has become of the weights around z since training began, which is known
from the seed. Nothing is trained. It takes two minutes on a CPU core.

The result is data/results/latent-vectors.json.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from dvae_lib.data import load_corpus
from dvae_lib.data.motion import load_mocap
from dvae_lib.data.sequences import SequenceDataset
from dvae_lib.experiments.corpora import data_facts, evenly, load_experiment
from dvae_lib.experiments.protocol import REVIEW_MODELS, SCHEDULED, SCHEDULED_ENDING, Run, protocol
from dvae_lib.experiments.records import Record
from dvae_lib.experiments.results import ResultFile, Task, rounded
from dvae_lib.experiments.review import LABELS
from dvae_lib.experiments.studies.command import RESULTS, completed, model_folders, parser, select
from dvae_lib.experiments.trainings import starting_model
from dvae_lib.models import DVAE

__all__ = [
    "KEY",
    "PANELS",
    "SETS",
    "LatentPath",
    "a_throw",
    "activity",
    "by_dimension",
    "infer",
    "main",
    "motion_sequences",
    "roughness",
    "set_tasks",
    "speech_sequences",
    "trained_name",
    "weights_since_start",
]

KEY = ("set", "name")
SETS = ("librispeech-power", "librispeech", "mocap")
PANELS = ("mean", "logvar", "sample", "kl")
"""Of Figures 13.5 to 13.8."""
READERS = {"storn": "phi_z", "vrnn": "phi_z", "srnn": "d_x", "dkf": "d_x"}
"""The network of the generative model that reads z first, of models whose senders and readers are compared."""


class LatentPath(NamedTuple):
    """What inference says of sequences: mean, log-variance, sample and KL divergence, and the prior's log-variance."""

    mean: Float[Tensor, "batch time z_dim"]
    logvar: Float[Tensor, "batch time z_dim"]
    sample: Float[Tensor, "batch time z_dim"]
    kl: Float[Tensor, "batch time z_dim"]
    prior_logvar: Float[Tensor, "batch time z_dim"]


@torch.no_grad()
def infer(model: DVAE, x: Float[Tensor, "batch time x_dim"], feedback: float = 0.0) -> LatentPath:
    """The panels of Figures 13.5 to 13.8, for sequences of one length.

    Arguments:
        model: With latent vectors z for the frames, and a posterior that is diagonal.
        x: The sequences.
        feedback: 1 for generation mode.
    """
    z = model(x, feedback=feedback, generator=torch.Generator().manual_seed(0)).latents["z"]
    bound = model.vlb(x, feedback=feedback, generator=torch.Generator().manual_seed(0))
    q, p = z.posterior, z.prior
    return LatentPath(q.mean, q.logvar, z.sample, bound.kl_per_dim["z"], p.logvar.expand_as(q.logvar))


def by_dimension(seen: LatentPath) -> Record:
    """Of each dimension: KL divergence in nats per frame, variances, and how far the mean moves.

    Arguments:
        seen: See `infer`.

    Returns:
        Lists with an entry for each dimension: `kl`, the mean; `kl_frames`, the 5 % and the 95 % quantile over frames;
        `kl_sequences`, the smallest and the largest mean of a sequence; `often`, the share of sequences with a mean
        above 0.1 nats; `variance` and `prior_variance`, means; `moves`, the standard deviation of the posterior's mean
        in time, as a multiple of the posterior's own.
    """
    kl, sequences = seen.kl.mean((0, 1)), seen.kl.mean(1)
    variance = seen.logvar.exp().mean((0, 1))
    frames = seen.kl.flatten(0, 1).quantile(torch.tensor([0.05, 0.95]), 0)
    return {
        "kl": _list(kl),
        "kl_frames": [_list(row) for row in frames],
        "kl_sequences": [_list(sequences.amin(0)), _list(sequences.amax(0))],
        "often": _list((sequences > 0.1).float().mean(0)),
        "variance": _list(variance),
        "prior_variance": _list(seen.prior_logvar.exp().mean((0, 1))),
        "moves": _list(seen.mean.std(1).mean(0) / variance.sqrt()),
    }


def roughness(x: Float[Tensor, "batch time size"]) -> float:
    r"""How far a trajectory goes in one frame: its root-mean-square step over its standard deviation in time.

    Near 0 for a slow movement, :math:`\sqrt 2` for white noise; the mean over sequences and dimensions that vary. The
    first three frames, in which everything is new, do not count.

    Example:
        >>> round(roughness(torch.randn(1, 5000, 3, generator=torch.Generator().manual_seed(0))), 1)
        1.4
    """
    x = x[:, 3:]
    deviation = x.std(1)
    steps = x.diff(dim=1).square().mean(1).sqrt()
    return float((steps / deviation)[deviation > 1e-3].mean())


def activity(seen: LatentPath) -> Record:
    """How active latent vectors are: the review's measures, and one in the posterior's own unit.

    The first and the last three frames do not count.

    Arguments:
        seen: See `infer`.

    Returns:
        `range`, of the posterior's mean over a sequence; `ratio`, of this range to that of the log-variance; `swing`,
        the mean's standard deviation in time over the posterior's own: medians over sequences and dimensions. `kl`, the
        mean KL divergence of a frame, and `kl_99`, its 99 % quantile. `rough`, the roughness of the means.
    """
    mean, logvar, kl = (part[:, 3:-3] for part in (seen.mean, seen.logvar, seen.kl.sum(-1)))
    extents = [part.amax(1) - part.amin(1) for part in (mean, logvar)]
    swing = mean.std(1) / (0.5 * logvar).exp().mean(1)
    return {
        "range": rounded(extents[0].median().item()),
        "ratio": rounded((extents[0] / extents[1]).median().item()),
        "swing": rounded(swing.median().item()),
        "kl_of_frames": rounded(kl.mean().item()),
        "kl_99": rounded(kl.quantile(0.99).item()),
        "rough": rounded(roughness(_in_pieces(seen.mean))),
    }


def weights_since_start(model: DVAE, start: DVAE, reader: str) -> Record:
    """What has become of the weights around each dimension of z in a training.

    Arguments:
        model: After it.
        start: The same model before it.
        reader: The generative model's network that reads z first.

    Returns:
        Of the rows of the inference model's output layer, for mean and log-variance: their norms over those at the
        start (`mean`, `logvar`), and their cosines with what they were (`mean_cosine`, `logvar_cosine`); and of the
        columns by which the generative model reads z, the norms over those at the start (`reader`).
    """
    now, then = (m.get_submodule("z_head.linear").get_parameter("weight").detach() for m in (model, start))
    size = len(now) // 2
    found: Record = {}
    for name, rows in (("mean", slice(0, size)), ("logvar", slice(size, None))):
        found[name] = _list(now[rows].norm(dim=1) / then[rows].norm(dim=1))
        found[f"{name}_cosine"] = _list(torch.cosine_similarity(now[rows], then[rows]))
    now, then = (m.get_parameter(f"{reader}.0.weight").detach()[:, :size].norm(dim=0) for m in (model, start))
    return found | {"reader": _list(now / then)}


# --------------------------------------------------------------------------------------------------------- sequences


def speech_sequences(frames: int = 250) -> Float[Tensor, "batch time x_dim"]:
    """The beginnings of test utterances that come with the library, as power spectrograms.

    Arguments:
        frames: So many of each; shorter utterances are left out.
    """
    voices = load_corpus("librispeech-excerpt", progress=False)
    powers = [voices.front_end.analyse(voices.waveform(one)).power for one in voices.utterances("test")]
    return torch.stack([power[:frames] for power in powers if len(power) >= frames])


def motion_sequences(number: int = 60) -> Float[Tensor, "batch time x_dim"]:
    """Test sequences of movement that come with the library, evenly over all of them."""
    test = load_experiment("mocap-excerpt").test
    return torch.stack([test[i] for i in evenly(len(test), number)])


def a_throw() -> Float[Tensor, "frames x_dim"]:
    """Somebody of the test part throws a ball: 50 frames."""
    test = load_mocap(excerpt=True).test
    return test[test.names.index("HDM_dg_throwBasketball_008_120")][10:60]


def _in_pieces(x: Tensor, frames: int = 50) -> Tensor:
    """Sequences cut to the length of those in training."""
    return torch.cat(x[:, : x.shape[1] // frames * frames].split(frames, 1))


# ------------------------------------------------------------------------------------------------------- the command


def trained_name(name: str, chosen: str) -> str:
    """The name of a trained model of a set.

    Arguments:
        name: Of the model, perhaps with the ending of scheduled sampling.
        chosen: One of `SETS`.

    Example:
        >>> trained_name("srnn-scheduled", "librispeech-power"), trained_name("srnn", "mocap")
        ('srnn-librispeech-scheduled-power', 'srnn-mocap')
    """
    corpus, dash, scale = chosen.partition("-")
    ending = SCHEDULED_ENDING * name.endswith(SCHEDULED_ENDING)
    return f"{name.removesuffix(SCHEDULED_ENDING)}-{corpus}{ending}{dash}{scale}"


def set_tasks(
    chosen: str,
    folders: Mapping[str, Path],
    x: Float[Tensor, "batch time x_dim"],
    shown: Float[Tensor, "frames x_dim"],
) -> Iterator[Task]:
    """A record for the sequences, and one for each trained model.

    Arguments:
        chosen: One of `SETS`.
        folders: Those of its trained models, by names as "srnn" and "srnn-scheduled".
        x: Sequences.
        shown: The sequence of Figures 13.5 to 13.8, whose trajectories are kept for the SRNNs.
    """
    frames = x if chosen == "mocap" else x.log()
    yield _task(chosen, "data", {"rough": rounded(roughness(_in_pieces(frames)))}, x)
    for name, folder in folders.items():
        label = LABELS[name.removesuffix(SCHEDULED_ENDING)] + "-GM" * name.endswith(SCHEDULED_ENDING)
        key = {"set": chosen, "name": label}
        yield Task([key], partial(_records, key, name, folder, x, shown))


def _task(chosen: str, name: str, record: Record, x: Tensor) -> Task:
    key = {"set": chosen, "name": name}
    return Task([key], lambda: [{**key, **record, "data": _facts(x)}])


def _records(key: Record, name: str, folder: Path, x: Tensor, shown: Tensor) -> list[Record]:
    model, scheduled = DVAE.from_pretrained(folder), name.endswith(SCHEDULED_ENDING)
    seen = infer(model, x, float(scheduled))
    record: Record = {**key, "seed": model.metadata.get("seed"), **by_dimension(seen), **activity(seen)}
    if name in READERS:
        chosen, run = protocol("motion" if key["set"] == "mocap" else "speech"), Run(name, False, int(record["seed"]))
        start = starting_model(run.seed, lambda: chosen.build(run, x.shape[-1]))
        record["weights"] = weights_since_start(model, start, READERS[name])
    if name.removesuffix(SCHEDULED_ENDING) == "srnn":
        one = infer(model, shown[None], float(scheduled))
        record["shown"] = {panel: [_list(row, 3) for row in getattr(one, panel)[0].T] for panel in PANELS}
    return [record | {"data": _facts(x)}]


def _facts(x: Tensor) -> Record:
    return data_facts(test=SequenceDataset(list(x)))


def _list(values: Tensor, digits: int = 5) -> list[float | None]:
    return [rounded(value, digits) for value in values.tolist()]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    options = parser(__doc__)
    options.add_argument("sets", nargs="*", metavar="SET", help=", ".join(SETS))
    options.add_argument("--models", type=Path, nargs="+", help="folders of trained models; the library's otherwise")
    options.add_argument("--output", type=Path, default=RESULTS / "latent-vectors.json")
    options.add_argument("--again", action="store_true", help="also what is in the file already")
    chosen = options.parse_args(arguments)
    names = [*REVIEW_MODELS, *(name + SCHEDULED_ENDING for name in SCHEDULED)]

    def every() -> Iterator[Task]:
        for one in select(options, chosen.sets, SETS):
            found: dict[str, Any] = {n: model_folders(trained_name(n, one), chosen.models)[:1] for n in names}
            folders = {name: folder[0] for name, folder in found.items() if folder}
            x = motion_sequences() if one == "mocap" else speech_sequences()
            yield from set_tasks(one, folders, x, a_throw() if one == "mocap" else x[0, :125])

    return completed(ResultFile(chosen.output, KEY), every(), again=chosen.again)


if __name__ == "__main__":
    sys.exit(main())
