"""What separates the factors behind data: time, a total correlation with a weight, a vector for what does not move.

    python -m dvae_lib.experiments.studies.disentanglement [PART ...] [--seeds 0 1 2]

Three parts. "sources": two independent AR(1) sources in six noisy channels, their mixing a rotation; Gaussian-process
VAEs with linear networks, whose entries have dynamics of their own or all the same, a VAE, and a weight on the total
correlation of trajectories of 2, 4 or 20 frames. "ball": single frames of a ball in a box, a VAE with a weight on the
whole KL term or on the total correlation alone. "sequence": a source that never changes in a sequence and one that
does, the DSAE, and the FHVAE with segments of one frame, with and without its discriminative term. Nothing is chosen by
any result; what is tested is drawn apart from what is trained on. A training takes some seconds on a core. The result
is data/results/disentanglement.json.
"""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from dvae_lib.data.toy import bouncing_ball
from dvae_lib.experiments.records import Record
from dvae_lib.experiments.results import ResultFile, Task, complete
from dvae_lib.experiments.studies.command import RESULTS, parser, select
from dvae_lib.metrics import mutual_information_gap
from dvae_lib.models import DSAE, DVAE, FHVAE, GPVAE, VAE
from dvae_lib.objectives import kl_terms, total_correlation, vlb

__all__ = [
    "CONTESTANTS",
    "KEY",
    "DisentanglementProtocol",
    "main",
    "mixed_sources",
    "separation",
    "train",
]

KEY = ("part", "name", "seed")

DIFFERENT, EQUAL = (0.95, 0.5), (0.8, 0.8)

CONTESTANTS: dict[str, dict[str, dict[str, Any]]] = {
    "sources": {
        "own": {"scales": (20.0, 2.0), "rhos": DIFFERENT},
        "same": {"scales": (5.0, 5.0), "rhos": DIFFERENT},
        "vae": {"rhos": DIFFERENT},
        "own-equal": {"scales": (20.0, 2.0), "rhos": EQUAL},
        "tc-2": {"scales": (5.0, 5.0), "rhos": DIFFERENT, "beta": 10.0, "frames": 2},
        "tc-4": {"scales": (5.0, 5.0), "rhos": DIFFERENT, "beta": 10.0, "frames": 4},
        "tc-20": {"scales": (5.0, 5.0), "rhos": DIFFERENT, "beta": 10.0, "frames": 20},
    },
    "ball": {
        "plain": {"alpha": 1.0, "beta": 1.0, "gamma": 1.0},
        "beta-4": {"alpha": 4.0, "beta": 4.0, "gamma": 4.0},
        "beta-16": {"alpha": 16.0, "beta": 16.0, "gamma": 16.0},
        "tc-4": {"alpha": 1.0, "beta": 4.0, "gamma": 1.0},
        "tc-16": {"alpha": 1.0, "beta": 16.0, "gamma": 1.0},
    },
    "sequence": {"dsae": {}, "fhvae": {"alpha": 0.0}, "fhvae-10": {"alpha": 10.0}},
}
"""What is trained in each part: time constants of model and data, weights of the terms, frames of a sequence."""


@dataclass(frozen=True)
class DisentanglementProtocol:
    """How the models are built and trained.

    Attributes:
        sequences: Number of sequences to train on, and of frames of the ball.
        test_sequences: Number of sequences to test on.
        frames: Frames of a sequence.
        channels: Observed channels of the sources.
        noise: Standard deviation of a channel given the sources.
        steps: Steps of a training (Adam).
        batch_size: Sequences of a step.
        learning_rate: At the start; it falls to zero along a cosine.
        hidden: Size of hidden layers, where networks are not linear.
        box: Pixels of a side of the ball's box.
    """

    sequences: int = 2000
    test_sequences: int = 200
    frames: int = 20
    channels: int = 6
    noise: float = 0.3
    steps: int = 800
    batch_size: int = 100
    learning_rate: float = 1e-2
    hidden: int = 64
    box: int = 12


def mixed_sources(
    num_sequences: int, num_steps: int, rhos: Sequence[float], channels: int, noise: float, generator: Generator
) -> tuple[Float[Tensor, "batch time channels"], Float[Tensor, "batch time sources"]]:
    r"""Stationary AR(1) sources of variance one, mixed by orthonormal columns, in white noise.

    .. math:: s_{t,l} = \rho_l \, s_{t-1,l} + \sqrt{1 - \rho_l^2} \, \epsilon_{t,l}, \qquad
        \mathbf{x}_t = Q \mathbf{s}_t + \sigma \boldsymbol\eta_t, \quad Q^\top Q = I

    Arguments:
        num_sequences: N.
        num_steps: T.
        rhos: :math:`\rho_l` of each source; 1 for one that never changes.
        channels: F. The mixing is the same for each number of channels and sources.
        noise: :math:`\sigma`.
        generator: Source of randomness.

    Returns:
        The channels and the sources.
    """
    rho = torch.tensor(rhos)
    new = torch.randn(num_sequences, num_steps, len(rho), generator=generator)
    frames = [new[:, 0]]
    for t in range(1, num_steps):
        frames.append(rho * frames[-1] + (1 - rho**2).sqrt() * new[:, t])
    s = torch.stack(frames, 1)
    Q = torch.linalg.qr(torch.randn(channels, len(rho), generator=Generator().manual_seed(7)))[0]
    return s @ Q.mT + noise * torch.randn(*s.shape[:2], channels, generator=generator), s


def separation(
    codes: Float[Tensor, "*batch sources"], sources: Float[Tensor, "*batch sources"]
) -> Float[Tensor, "sources sources"]:
    """Squared correlations of each entry of the code (rows) with each source (columns)."""
    both = torch.cat([codes.flatten(0, -2), sources.flatten(0, -2)], 1).double()
    L = codes.shape[-1]
    return torch.corrcoef(both.mT)[:L, L:].square()


def train(
    model: DVAE,
    x: Float[Tensor, "batch time x_dim"],
    objective: Callable[..., Any],
    protocol: DisentanglementProtocol,
    seed: int,
) -> DVAE:
    """Maximise an objective on random batches.

    Arguments:
        model: The model; it is changed.
        x: The sequences.
        objective: A function of model and batch, with a `generator`, whose `value` is maximised.
        protocol: How.
        seed: Of batches and noise.
    """
    generator = Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=protocol.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, protocol.steps)
    for _ in range(protocol.steps):
        rows = torch.randint(len(x), (protocol.batch_size,), generator=generator)
        optimizer.zero_grad()
        (-objective(model, x[rows], generator=generator).value.mean()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 100.0)
        optimizer.step()
        schedule.step()
    return model.eval()


def _codes(model: DVAE, x: Tensor, name: str) -> Tensor:
    with torch.no_grad():
        mean: Tensor = model.inference(x, draw="mean")[name].posterior.mean
    return mean


def _sources(name: str, seed: int, protocol: DisentanglementProtocol) -> Record:
    options = CONTESTANTS["sources"][name]
    sizes = protocol.channels, protocol.noise
    frames = min(options.get("frames", protocol.frames), protocol.frames)
    x, _ = mixed_sources(protocol.sequences, frames, options["rhos"], *sizes, Generator().manual_seed(1))
    test, s = mixed_sources(protocol.test_sequences, frames, options["rhos"], *sizes, Generator().manual_seed(2))
    linear: dict[str, Any] = {"encoder": (), "decoder": (), "observation": f"gaussian(scale={protocol.noise})"}
    model: DVAE
    if "scales" in options:
        # The same family for all; with a weight on the total correlation, the one without recurrence.
        posterior = "mean_field" if "beta" in options else "chain"
        dynamics = {"kernel": "matern12", "length_scale": options["scales"], "posterior": posterior, "window": 1}
        model = GPVAE(protocol.channels, 2, **dynamics, **linear)
    else:
        model = VAE(protocol.channels, 2, **linear)

    def objective(model: DVAE, batch: Tensor, *, generator: Generator) -> Any:
        if "beta" not in options:
            return vlb(model, batch, generator=generator)
        return total_correlation(model, batch, beta=options["beta"], num_data=len(x), generator=generator)

    train(model, x, objective, protocol, seed)
    codes = _codes(model, test, "z")
    with torch.no_grad():
        bound = model.vlb(test, generator=Generator().manual_seed(3)).value.mean() / frames
    found = mutual_information_gap(codes, s, bins=10)
    table = separation(codes, s)
    return {
        "bound": round(float(bound), 4),
        "mig": round(found.value, 4),
        "r2": _rounded(table),
        "separation": round(float(max(table.trace(), table.flip(0).trace()) / 2), 4),
    }


def _ball(name: str, seed: int, protocol: DisentanglementProtocol) -> Record:
    def frames(number: int, seed: int) -> tuple[Tensor, Tensor]:
        film = bouncing_ball(number, 1, size=protocol.box, radius=2.0, generator=Generator().manual_seed(seed))
        return film.x, film.z[..., :2]

    (x, _), (test, places) = frames(protocol.sequences, 1), frames(5 * protocol.test_sequences, 2)
    layers: dict[str, Any] = {"encoder": (protocol.hidden,), "decoder": (protocol.hidden,)}
    model = VAE(protocol.box**2, 4, observation="gaussian(scale=0.2)", **layers)
    weights = CONTESTANTS["ball"][name]

    def objective(model: DVAE, batch: Tensor, *, generator: Generator) -> Any:
        if len(set(weights.values())) == 1:  # of all three terms: the beta-VAE
            return vlb(model, batch, beta=weights["beta"], generator=generator)
        return total_correlation(model, batch, **weights, num_data=len(x), generator=generator)

    train(model, x, objective, protocol, seed)
    with torch.no_grad():
        bound = model.vlb(test, generator=Generator().manual_seed(3))
        terms = kl_terms(model, test, generator=Generator().manual_seed(4))
    found = mutual_information_gap(_codes(model, test, "z"), places, bins=10)
    per_entry = bound.kl_per_dim["z"].flatten(0, 1).mean(0)
    return {
        "mig": round(found.value, 4),
        "information": _rounded(found.information / found.entropy),
        "bound": round(float(bound.value.mean()), 3),
        "reconstruction": round(float(bound.reconstruction.mean()), 3),
        "terms": [round(float(term.mean()), 4) for term in terms],
        "active": int((per_entry > 0.05).sum()),
    }


def _sequence(name: str, seed: int, protocol: DisentanglementProtocol) -> Record:
    sizes = (1.0, 0.5), protocol.channels, protocol.noise
    x, _ = mixed_sources(protocol.sequences, protocol.frames, *sizes, Generator().manual_seed(1))
    test, s = mixed_sources(5 * protocol.test_sequences, protocol.frames, *sizes, Generator().manual_seed(2))
    observation, options = f"gaussian(scale={protocol.noise})", CONTESTANTS["sequence"][name]
    model: DVAE
    if name == "dsae":
        layers: dict[str, Any] = {"h_dim": 16, "g_dim": 16, "decoder": ()}
        model = DSAE(protocol.channels, 2, v_dim=2, observation=observation, **layers)
    else:
        layers = {"encoder": (), "decoder": ()}
        model = FHVAE(protocol.channels, 2, v_dim=2, observation=observation, **layers, **options)

    def objective(model: DVAE, batch: Tensor, *, generator: Generator) -> Any:
        return vlb(model, batch, generator=generator)

    train(model, x, objective, protocol, seed)
    v, z = _codes(model, test, "v"), _codes(model, test, "z")
    if isinstance(model, FHVAE):
        v = model.posterior_of_w(v).mean
    codes = torch.cat([v[:, None].expand(-1, z.shape[1], -1), z], -1)
    found = mutual_information_gap(codes, s, bins=10)
    with torch.no_grad():
        bound = model.vlb(test, generator=Generator().manual_seed(3))
    return {
        "mig": round(found.value, 4),
        "information": _rounded(found.information / found.entropy),
        "bound": round(float((bound.reconstruction - bound.total_kl).mean()) / protocol.frames, 4),
        "kl": {
            name: round(float(term.flatten(1).sum(1).mean() if term.ndim > 1 else term.mean()), 3)
            for name, term in bound.kl.items()
        },
    }


def _rounded(table: Tensor) -> list[list[float]]:
    return [[round(value, 4) for value in row] for row in table.tolist()]


PARTS: dict[str, Callable[[str, int, DisentanglementProtocol], Record]] = {
    "sources": _sources,
    "ball": _ball,
    "sequence": _sequence,
}


def _task(part: str, name: str, seed: int, protocol: DisentanglementProtocol) -> Task:
    key: Record = {"part": part, "name": name, "seed": seed}

    def compute() -> list[Record]:
        begun = time.perf_counter()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            found = PARTS[part](name, seed, protocol)
        return [{**key, **found, "steps": protocol.steps, "seconds": round(time.perf_counter() - begun)}]

    return Task([key], compute)


def main(arguments: Sequence[str] | None = None, protocol: DisentanglementProtocol | None = None) -> int:
    """The command line."""
    options = parser(__doc__)
    options.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    options.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options.add_argument("--output", type=Path, default=RESULTS / "disentanglement.json")
    options.add_argument("--again", action="store_true", help="compute also what is in the file already")
    chosen = options.parse_args(arguments)
    settings = DisentanglementProtocol() if protocol is None else protocol
    tasks = (
        _task(part, name, seed, settings)
        for part in select(options, chosen.parts, list(PARTS))
        for seed in chosen.seeds
        for name in CONTESTANTS[part]
    )
    complete(ResultFile(chosen.output, KEY), tasks, again=chosen.again)
    return 0


if __name__ == "__main__":
    sys.exit(main())
