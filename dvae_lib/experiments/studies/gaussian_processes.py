"""Missing pixels of rotating digits, filled in by VAEs that know of time in different ways.

    python -m dvae_lib.experiments.studies.gaussian_processes [NAME ...] [--seeds 0 1 2]

A VAE, an SVAE (linear dynamics), Gaussian-process VAEs with different posteriors, and linear interpolation over time.
All networks are of the same sizes, all see the same films of ten frames with 60 % of the pixels missing, bright ones
twice as likely as dark ones, and are trained on what was observed alone, for the same number of steps; nothing is
chosen by any result. Films of training and test differ in angles, speeds and gaps, and come from the same 1,797
images. A training takes about ten seconds on a core. The result is data/results/gaussian_processes.json: errors on the
missing pixels of the test films.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from dvae_lib.data.toy import RotatingDigits, rotating_digits
from dvae_lib.distributions import FixedGaussian
from dvae_lib.experiments.records import Record
from dvae_lib.experiments.results import ResultFile, Task, complete
from dvae_lib.experiments.studies.command import RESULTS, parser, select
from dvae_lib.models import DVAE, build_model

__all__ = [
    "CONTESTANTS",
    "KEY",
    "DigitsProtocol",
    "digits_task",
    "interpolated",
    "main",
    "missing_scores",
    "train_digits",
]

KEY = ("name", "seed")

CONTESTANTS: dict[str, dict[str, Any]] = {
    "vae": {"name": "vae"},
    "svae": {"name": "svae"},
    "mean-field": {"name": "gpvae", "posterior": "mean_field"},
    "positive": {"name": "gpvae", "sign": "positive"},
    "free": {"name": "gpvae"},
    "exact": {"name": "gpvae", "posterior": "exact"},
    "interpolation": {},
}
"""How each model is built; interpolation is none."""


@dataclass(frozen=True)
class DigitsProtocol:
    """How the models are built, trained and tested.

    Attributes:
        films: Number of films to train on.
        test_films: Number of films to test on.
        frames: Frames of a film.
        missing: Share of the pixels that are missing.
        z_dim: Size of the latent vectors.
        hidden: Size of the hidden layer of encoder and decoder.
        length_scale: Of the Cauchy kernel, in frames.
        scale: Standard deviation of a pixel given the latents.
        steps: Steps of a training (Adam).
        batch_size: Films of a step.
        learning_rate: At the start; it falls to zero along a cosine.
        num_samples: Draws of the posterior that a test averages over.
    """

    films: int = 1000
    test_films: int = 200
    frames: int = 10
    missing: float = 0.6
    z_dim: int = 8
    hidden: int = 128
    length_scale: float = 2.0
    scale: float = 0.15
    steps: int = 1000
    batch_size: int = 50
    learning_rate: float = 2e-3
    num_samples: int = 20

    def films_of(self, part: str) -> RotatingDigits:
        """The films of the training or the test: the same for all models and seeds."""
        count, seed = {"training": (self.films, 1), "test": (self.test_films, 2)}[part]
        return rotating_digits(count, self.frames, missing=self.missing, generator=Generator().manual_seed(seed))

    def model(self, name: str) -> DVAE:
        """A contestant, with its initial weights drawn from torch's global generator."""
        options = dict(CONTESTANTS[name])
        kind = options.pop("name")
        if kind == "gpvae":
            options["length_scale"] = self.length_scale
        hidden = (self.hidden,)
        observation = f"gaussian(scale={self.scale})"
        sizes: dict[str, Any] = {"x_dim": 64, "z_dim": self.z_dim, "encoder": hidden, "decoder": hidden}
        return build_model(kind, observation=observation, **sizes, **options)


def train_digits(name: str, seed: int, protocol: DigitsProtocol, films: RotatingDigits) -> DVAE:
    """Train a contestant on the observed pixels of the films.

    Arguments:
        name: One of `CONTESTANTS`.
        seed: Of the initial weights, the batches and the samples.
        protocol: How.
        films: The films to train on.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = protocol.model(name)
    generator = Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=protocol.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, protocol.steps)
    for _ in range(protocol.steps):
        rows = torch.randint(len(films.x), (protocol.batch_size,), generator=generator)
        bound = model.vlb(films.x[rows], observed=films.observed[rows], generator=generator)
        optimizer.zero_grad()
        (-bound.value.mean()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 100.0)
        optimizer.step()
        schedule.step()
    return model.eval()


def interpolated(
    x: Float[Tensor, "films frames pixels"], observed: Bool[Tensor, "films frames pixels"]
) -> Float[Tensor, "films frames pixels"]:
    """Each missing pixel on a straight line between the frames before and after in which it was observed.

    Before the first and after the last it stays as it was there; one that was never observed has the mean of all pixels
    that were.
    """
    filled = torch.where(observed, x, x[observed].mean())
    frames = np.arange(x.shape[1])
    for film, row, seen in zip(filled, x, observed, strict=True):
        for pixel in seen.any(0).nonzero().flatten().tolist():
            known = seen[:, pixel].numpy()
            values = np.interp(frames, frames[known], row[:, pixel].numpy()[known])
            film[:, pixel] = torch.as_tensor(values, dtype=x.dtype)
    return filled


@torch.no_grad()
def missing_scores(
    model: DVAE, films: RotatingDigits, num_samples: int, generator: Generator
) -> tuple[Float[Tensor, "films frames pixels"], dict[str, float]]:
    r"""What a model fills in, and its errors on the missing pixels.

    Arguments:
        model: A trained model that is not predictive.
        films: The films.
        num_samples: Number K of draws of the posterior.
        generator: Source of randomness.

    Returns:
        The films filled in with the mean; the mean squared error, and the negative log-likelihood per missing pixel in
        nats, :math:`-\log \tfrac1K \sum_k p(\mathbf{x}_m | \mathbf{z}^{(k)})` of each film's missing pixels together.
    """
    hidden = torch.where(films.observed, films.x, torch.nan)
    means, log_probs = [], []
    for _ in range(num_samples):
        observation: Any = model.reconstruct(hidden, observed=films.observed, generator=generator)
        means.append(observation.mean)
        per_dim = observation.log_prob_per_dim(films.x)
        log_probs.append(torch.where(films.observed, 0.0, per_dim).flatten(1).sum(1))
    mean = torch.stack(means).mean(0)
    log_prob = torch.stack(log_probs).logsumexp(0) - float(np.log(num_samples))
    return torch.where(films.observed, films.x, mean), _scores(mean, films, log_prob)


def _scores(mean: Tensor, films: RotatingDigits, log_prob: Tensor) -> dict[str, float]:
    gaps = ~films.observed
    nll = -float(log_prob.sum() / gaps.sum())
    return {"mse": round(float((mean - films.x)[gaps].square().mean()), 5), "nll": round(nll, 4)}


def digits_task(name: str, seed: int, films: RotatingDigits, test: RotatingDigits, protocol: DigitsProtocol) -> Task:
    """Train one contestant and test it.

    Arguments:
        name: One of `CONTESTANTS`.
        seed: Of the training.
        films: The films to train on.
        test: The films to test on.
        protocol: How.
    """

    def compute() -> list[Record]:
        begun = time.perf_counter()
        generator = Generator().manual_seed(1000 + seed)
        record: Record = {"name": name, "seed": seed}
        if name == "interpolation":
            filled = interpolated(test.x, test.observed)
            log_prob = FixedGaussian.of(protocol.scale).from_output(filled).log_prob_per_dim(test.x)
            scores = _scores(filled, test, torch.where(test.observed, 0.0, log_prob).flatten(1).sum(1))
            record |= {"truth": _hundredths(test.x[0]), "observed": test.observed[0].int().tolist()}
        else:
            model = train_digits(name, seed, protocol, films)
            filled, scores = missing_scores(model, test, protocol.num_samples, generator)
            with torch.no_grad():
                bound = model.vlb(test.x, observed=test.observed, num_samples=5, generator=generator)
            record |= {
                "weights": sum(p.numel() for p in model.parameters()),
                "bound": round(float(bound.value.mean()), 2),
                "kl": round(float(bound.total_kl.mean()), 2),
            }
        seconds = round(time.perf_counter() - begun)
        film = _hundredths(filled[0])  # the first one, for the book to show
        return [{**record, **scores, "steps": protocol.steps, "film": film, "seconds": seconds}]

    return Task([{"name": name, "seed": seed}], compute)


def _hundredths(film: Float[Tensor, "frames pixels"]) -> list[list[int]]:
    return [[round(100 * value) for value in frame] for frame in film.tolist()]


def main(arguments: Sequence[str] | None = None, protocol: DigitsProtocol | None = None) -> int:
    """The command line."""
    options = parser(__doc__)
    options.add_argument("names", nargs="*", metavar="NAME", help=", ".join(CONTESTANTS))
    options.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options.add_argument("--output", type=Path, default=RESULTS / "gaussian_processes.json")
    options.add_argument("--again", action="store_true", help="compute also what is in the file already")
    chosen = options.parse_args(arguments)
    settings = DigitsProtocol() if protocol is None else protocol
    names = select(options, chosen.names, list(CONTESTANTS))
    films, test = settings.films_of("training"), settings.films_of("test")
    # Interpolation has nothing that a seed would change.
    tasks = (
        digits_task(name, seed, films, test, settings)
        for seed in chosen.seeds
        for name in names
        if name != "interpolation" or seed == chosen.seeds[0]
    )
    complete(ResultFile(chosen.output, KEY), tasks, again=chosen.again)
    return 0


if __name__ == "__main__":
    sys.exit(main())
