"""Handwritten digits drawn in one step or in several, on the whole picture or through a window.

    python -m dvae_lib.experiments.studies.drawing [NAME ...] [--seeds 0 1 2]

The 1,797 digits of scikit-learn, 8 x 8 pixels, each pixel black or white. `draw-K` is DRAW in K steps that draw on the
whole picture, `window-4` draws four through windows of 3 x 3 filters, and `vae` is a VAE with as many latent numbers
as eight steps have together. All have nearly the same number of weights, since steps share theirs. All are trained for
the same number of updates on the same images, but `vae-long`: the VAE with ten times as many, since eight steps
multiply eight times as often. The bound on the validation images is looked at after each tenth of a training, and the
weights with the best one are kept. By it, with seed 0 and before any test, the rate was chosen from 0.002 and 0.005;
that it still rises after 1,000 updates was seen, and longer trainings were afforded to the VAE alone. A training takes
3 to 30 seconds of a core. The result is data/results/drawing.json: bounds on the test images.
"""

import copy
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from dvae_lib.data.toy.images import digits
from dvae_lib.experiments.records import Record
from dvae_lib.experiments.results import ResultFile, Task, complete
from dvae_lib.experiments.studies.command import RESULTS, parser, select
from dvae_lib.models import DVAE, build_model

__all__ = ["CONTESTANTS", "KEY", "DrawingProtocol", "drawing_task", "main", "train_drawing"]

KEY = ("name", "seed")

WHOLE: dict[str, Any] = {"h_dim": 64, "e_dim": 64}
VAE: dict[str, Any] = {"z_dim": 32, "encoder": (392,), "decoder": (392,)}
WINDOW: dict[str, Any] = {"h_dim": 80, "e_dim": 80, "attention": 3, "image": (8, 8)}
CONTESTANTS: dict[str, dict[str, Any]] = {
    "vae": VAE,
    "vae-long": VAE,
    **{f"draw-{k}": {"steps": k, **WHOLE} for k in (1, 2, 4, 8)},
    "window-4": {"steps": 4, **WINDOW},
}
"""How each model is built; all have between 87,000 and 89,000 weights."""


@dataclass(frozen=True)
class DrawingProtocol:
    """How the models are trained and tested.

    Attributes:
        test_images: Number of images to test on.
        validation_images: Number of images to choose by; the others are trained on.
        z_dim: Size of the latent vector of each step of DRAW.
        updates: Updates of a training (Adam); of `vae-long` ten times as many.
        batch_size: Images of an update.
        learning_rate: At the start; it falls to zero along a cosine.
        num_samples: Draws of the posterior in the importance-weighted bound.
        layers: Options that replace those of `CONTESTANTS`.
    """

    test_images: int = 360
    validation_images: int = 300
    z_dim: int = 4
    updates: int = 1000
    batch_size: int = 50
    learning_rate: float = 5e-3
    num_samples: int = 50
    layers: tuple[tuple[str, Any], ...] = ()

    def images(self, part: str) -> Float[Tensor, "images 1 64"]:
        """The images of a part, as sequences of one frame: the same for all models and seeds."""
        grey = digits()[0].flatten(1)
        chosen = torch.randperm(len(grey), generator=Generator().manual_seed(0))
        black = (grey[chosen] > 0.5).to(torch.float32)[:, None]
        sizes = (self.test_images, self.validation_images, len(black) - self.test_images - self.validation_images)
        parts: dict[str, Tensor] = dict(zip(("test", "validation", "training"), black.split(sizes), strict=True))
        return parts[part]

    def model(self, name: str) -> DVAE:
        """A contestant, with its initial weights drawn from torch's global generator."""
        options = {"z_dim": self.z_dim, **CONTESTANTS[name], **dict(self.layers)}
        return build_model(name.split("-")[0].replace("window", "draw"), x_dim=64, observation="bernoulli", **options)


class Trained(NamedTuple):
    """A trained contestant.

    Attributes:
        model: With the weights that were kept.
        validation: Bound on the validation images after each tenth of the training, in nats per image.
    """

    model: DVAE
    validation: list[float]


def train_drawing(name: str, seed: int, protocol: DrawingProtocol) -> Trained:
    """Train a contestant, and keep the weights that are best on the validation images.

    Arguments:
        name: One of `CONTESTANTS`.
        seed: Of the initial weights, the batches and the samples.
        protocol: How.
    """
    training, validation = protocol.images("training"), protocol.images("validation")
    updates = protocol.updates * (10 if name == "vae-long" else 1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = protocol.model(name)
    generator = Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=protocol.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, updates)
    bounds: list[float] = []
    for update in range(1, updates + 1):
        rows = torch.randint(len(training), (protocol.batch_size,), generator=generator)
        bound = model.vlb(training[rows], generator=generator)
        optimizer.zero_grad()
        (-bound.value.mean()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        schedule.step()
        if update % max(1, updates // 10) == 0:
            bounds.append(_bound(model, validation, seed))
            if bounds[-1] == max(bounds):
                best = copy.deepcopy(model.state_dict())
    model.load_state_dict(best)
    return Trained(model.eval(), bounds)


@torch.no_grad()
def _bound(model: DVAE, images: Tensor, seed: int) -> float:
    """With the same draws each time."""
    return _mean(model.vlb(images, num_samples=3, generator=Generator().manual_seed(2000 + seed)).value)


def drawing_task(name: str, seed: int, protocol: DrawingProtocol) -> Task:
    """Train one contestant and test it.

    Arguments:
        name: One of `CONTESTANTS`.
        seed: Of the training.
        protocol: How.
    """

    def compute() -> list[Record]:
        begun = time.perf_counter()
        training, test = protocol.images("training"), protocol.images("test")
        model, validation = train_drawing(name, seed, protocol)
        generator = Generator().manual_seed(1000 + seed)
        with torch.no_grad():
            bound = model.vlb(test, num_samples=5, generator=generator)
            tighter = model.importance_weighted_bound(test, num_samples=protocol.num_samples, generator=generator)
            own = model.vlb(training, generator=generator)
        return [
            {
                "name": name,
                "seed": seed,
                "weights": sum(p.numel() for p in model.parameters()),
                "bound": _mean(bound.value),
                "iw": _mean(tighter),
                "reconstruction": _mean(bound.reconstruction),
                "kl": [_mean(term) for term in bound.kl.values()],
                "training_bound": _mean(own.value),
                "validation": validation,
                "updates": protocol.updates * (10 if name == "vae-long" else 1),
                "seconds": round(time.perf_counter() - begun, 1),
            }
        ]

    return Task([{"name": name, "seed": seed}], compute)


def _mean(values: Tensor) -> float:
    return round(float(values.mean()), 3)


def main(arguments: Sequence[str] | None = None, protocol: DrawingProtocol | None = None) -> int:
    """The command line."""
    options = parser(__doc__)
    options.add_argument("names", nargs="*", metavar="NAME", help=", ".join(CONTESTANTS))
    options.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options.add_argument("--output", type=Path, default=RESULTS / "drawing.json")
    options.add_argument("--again", action="store_true", help="compute also what is in the file already")
    chosen = options.parse_args(arguments)
    settings = DrawingProtocol() if protocol is None else protocol
    names = select(options, chosen.names, list(CONTESTANTS))
    tasks = (drawing_task(name, seed, settings) for seed in chosen.seeds for name in names)
    complete(ResultFile(chosen.output, KEY), tasks, again=chosen.again)
    return 0


if __name__ == "__main__":
    sys.exit(main())
