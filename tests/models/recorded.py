"""What every model computed before the base class owned the public methods: the numbers that must not change.

``python tests/models/recorded.py FILE`` writes them anew; `test_recorded.py` compares.
"""

import json
import sys
from pathlib import Path

import torch

from dvae_lib.graphs.links import links
from dvae_lib.models import GRNN, build_model

FILE = Path(__file__).with_name("recorded.json")
LENGTHS = torch.tensor([6, 1, 4, 2])
FEATURES = {"feature_x": (8,), "h_dim": 8}
SMALL = {
    "vae": {},
    "dkf": {"g_dim": 8, "encoder": (8,), "decoder": (8,)},
    "kvae": {"weights_dim": 6},
    "storn": {**FEATURES, "feature_z": (6,), "decoder": (8,), "encoder": (8,), "g_dim": 8, "head": (8,)},
    "vrnn": {**FEATURES, "feature_z": (6,), "g_dim": 8},
    "vrnn-improved": {**FEATURES, "feature_z": (6,), "b_dim": 8, "auxiliary": (6,)},
    "srnn": {**FEATURES, "prior": (8,), "decoder": (8,), "encoder": (8,), "g_dim": 8, "head": (8,)},
    "rvae-causal": {"h_dim": 8, "decoder": (8,), "encoder": (8,), "g_dim": 8, "head": (8,)},
    "rvae-noncausal": {"h_dim": 8, "decoder": (8,), "encoder": (8,), "g_dim": 8, "head": (8,)},
    "dsae": {"v_dim": 2, "h_dim": 8, "prior": (8,), "decoder": (8,), "encoder": (8,), "g_dim": 8, "head": (8,)},
}
DKF_VARIANTS = ("smoother", "bidirectional", "filter", "instantaneous", "local", "past", "whole")
VARIANTS = {
    "vae": [{}],
    "dkf": [{"inference_model": name} for name in DKF_VARIANTS],
    "kvae": [{"mixture": 1}, {"mixture": 3}],
    "storn": [{"inference_model": name} for name in ("filter", "lagged", "smoother")],
    "vrnn": [{"inference_model": name} for name in ("filter", "smoother")],
    "vrnn-improved": [{}],
    "srnn": [{"inference_model": name} for name in ("smoother", "filter")],
    "rvae-causal": [{}, {"inference_model": "filter"}, {"generation_model": "instantaneous"}],
    "rvae-noncausal": [{"inference_model": name} for name in ("smoother", "filter")],
    "dsae": [{"inference_model": name} for name in ("full", "factorised", "structured")] + [{"head_rnn": 7}],
    "grnn": [{"mode": "predictive"}, {"mode": "undriven"}],
}


def cases():
    """Name and maker of every variant, undriven and, where its equations admit an input, driven."""
    for name, variants in VARIANTS.items():
        for options in variants:
            for u_dim in (0, 2):
                if u_dim and (name == "vae" or options.get("mode") == "undriven"):
                    continue
                label = " ".join([name, *(f"{k}={v}" for k, v in options.items()), *(["driven"] if u_dim else [])])
                yield label, name, {**options, "u_dim": u_dim}


def make(name, options):
    torch.manual_seed(0)
    if name == "grnn":
        return GRNN(5, 8, **options).double()
    return build_model(name, x_dim=5, z_dim=3, **SMALL[name], **options).double()


def seeded():
    return torch.Generator().manual_seed(3)


def numbers(model):
    """Tensors by what they are: bounds, posteriors, conditionals, samples, gradients."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(4, 6, 5, generator=generator, dtype=torch.float64)
    u = torch.randn(4, 9, 2, generator=generator, dtype=torch.float64) if model.u_dim else None
    u_x, u_new = (None, None) if u is None else (u[:, :6], u[:, :5])
    found = {}
    bound = model.vlb(x, u_x, lengths=LENGTHS, generator=seeded())
    found["vlb"] = bound.value
    found |= {f"kl {name}": term for name, term in bound.kl.items()}
    bound.value.sum().backward()
    found["gradient"] = torch.stack([p.grad.sum() for p in model.parameters() if p.grad is not None])
    found["sampled"] = model.vlb(x, u_x, kl="sampled", num_samples=2, beta=0.5, generator=seeded()).value
    found["weighted"] = model.importance_weighted_bound(x, u_x, num_samples=3, chunk_size=2, generator=seeded())
    if links(model.spec).predictive:
        for feedback in (0.5, 1.0):
            bound = model.vlb(x, u_x, lengths=LENGTHS, feedback=feedback, generator=seeded())
            found[f"fed back {feedback}"] = bound.value
    found["reconstruction"] = model.reconstruct(x, u_x, lengths=LENGTHS, latents="mean").mean
    inside = torch.arange(6) < LENGTHS[:, None]
    x = torch.where(inside[..., None], x, 0.0)
    u_x = None if u_x is None else torch.where(inside[..., None], u_x, 0.0)
    latents = model.inference(x, u_x, lengths=LENGTHS, generator=seeded())
    values = {name: latent.sample for name, latent in latents.items()}
    for name, latent in latents.items():
        found[f"posterior {name}"] = latent.posterior.mean
        found[f"sample {name}"] = latent.sample
    generated = model.generation(x, values, u_x, lengths=LENGTHS)
    found |= {f"prior {name}": p.mean + p.variance for name, p in generated.prior.items()}
    found["observation"] = generated.observation.log_prob(x)
    given = model.inference(x, u_x, latents=values)
    found |= {f"posterior {name} given": latent.posterior.mean for name, latent in given.items()}
    found["new"] = model.generate(5, 4, u=u_new, generator=seeded()).x
    found["continued"] = model.generate(3, prefix=x, u=u, generator=seeded()).x
    return {name: value.detach() for name, value in found.items()}


def summary(value):
    """A tensor as three numbers: its size, its sum, and a weighted sum that a permutation changes."""
    flat = value.double().flatten()
    weights = torch.linspace(1, 2, len(flat), dtype=torch.float64)
    return [len(flat), float(flat.sum()), float((flat * weights).sum())]


def record(path):
    """Write the numbers of all cases: exactly as a file of torch, or summed up as JSON."""
    every = {label: numbers(make(name, options)) for label, name, options in cases()}
    if path.suffix == ".pt":
        torch.save(every, path)
    else:
        short = {label: {name: summary(value) for name, value in found.items()} for label, found in every.items()}
        path.write_text(json.dumps(short, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    record(Path(sys.argv[1]) if len(sys.argv) > 1 else FILE)
