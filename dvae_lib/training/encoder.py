"""Which weights are the inference model's alone: those that a training with extra encoder steps moves in these."""

import torch
from torch import nn

from dvae_lib.models.base import DVAE
from dvae_lib.randomness import isolated_randomness

__all__ = ["inference_parameters"]


def inference_parameters(model: nn.Module) -> frozenset[str]:
    r"""The names of the weights that :math:`p_\theta(\mathbf{x}_{1:T}, \mathbf{z}_{1:T})` does not depend on.

    They are found by differentiating it, at a sequence that the model makes: networks that both models share, such as
    the VRNN's :math:`d_h`, count as the generative model's.

    Arguments:
        model: A `DVAE`.

    Raises:
        TypeError: The model is none.
        ValueError: There are no such weights.

    Example:
        >>> from dvae_lib.models import VAE
        >>> sorted({name.split(".")[0] for name in inference_parameters(VAE(3, 2))})
        ['e_z', 'z_head']
    """
    if not isinstance(model, DVAE):
        raise TypeError(f"encoder_steps needs a DVAE, whose two models can be told apart; got {type(model).__name__}")
    weights = {name: p for name, p in model.named_parameters() if p.requires_grad}
    first = next(model.parameters())
    with isolated_randomness(0, first.device), torch.enable_grad():
        u = first.new_zeros(1, 3, model.u_dim) if model.u_dim else None
        sample = model.generate(3, u=u)
        generated = model.generation(sample.x, sample.latents, u)
        joint = generated.observation.log_prob(sample.x).sum()
        for name, prior in generated.prior.items():
            joint = joint + prior.log_prob(sample.latents[name]).sum()
        gradients = torch.autograd.grad(joint, list(weights.values()), allow_unused=True)
    own = frozenset(name for name, g in zip(weights, gradients, strict=True) if g is None)
    if not own:
        raise ValueError(
            f"encoder_steps trains the inference model by itself, and {type(model).__name__} has no weights that are "
            "the inference model's alone: leave it out"
        )
    return own
