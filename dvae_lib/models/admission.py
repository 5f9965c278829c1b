"""What a model lets in: every public method asks here first."""

import torch
from torch import Tensor

from dvae_lib.models.checks import (
    check_lengths,
    check_probability,
    check_sequences,
    warn_of_raw_data,
)
from dvae_lib.models.equations import Equations
from dvae_lib.objectives import frame_mask
from dvae_lib.objectives.terms import Lengths, as_lengths

__all__ = ["Admission"]


class Admission(Equations):
    """The checks of a model's public methods; see `DVAE`."""

    def check(
        self,
        x: Tensor,
        u: Tensor | None = None,
        lengths: Tensor | None = None,
        feedback: float = 0.0,
    ) -> None:
        """Refuse what the model cannot be run on, saying what was expected.

        Raises:
            ValueError: Wrong shapes, sizes, lengths, non-finite data, data to which the observation model gives no
                probability, feedback outside [0, 1] or on a model whose generation does not look at past
                observations.
            TypeError: Wrong dtypes or devices.
        """
        parameter = next(self.parameters())
        extremes = check_sequences(x, "x", self.x_dim, parameter, observation=self.observation, lengths=lengths)
        warn_of_raw_data(x, "x", extremes, self, "standardizer")
        if self.u_dim == 0 and u is not None:
            raise ValueError("this model was built with u_dim=0 (undriven) and takes no input u")
        if self.u_dim > 0:
            if u is None:
                raise ValueError(
                    f"this model is driven (u_dim={self.u_dim}): pass u of shape (batch, time, {self.u_dim})"
                )
            extremes = check_sequences(u, "u", self.u_dim, parameter)
            warn_of_raw_data(u, "u", extremes, self, "input_standardizer")
            if u.shape[:2] != x.shape[:2]:
                raise ValueError(
                    f"u must have as many sequences and frames as x, {tuple(x.shape[:2])}; got {tuple(u.shape[:2])}"
                )
        if lengths is not None:
            check_lengths(lengths, x)
        check_probability(feedback)
        if feedback > 0.0:
            self.check_feedback()

    def admit(
        self, x: Tensor, u: Tensor | None = None, lengths: Lengths | None = None, feedback: float = 0.0
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """What the model is run on: checked, `lengths` as a tensor, and zeros in the frames beyond them.

        What stands there, such as the 1e20 of a masked array, would overflow in a layer or a density, and infinity
        times the mask's zero is no gradient.

        Raises:
            ValueError, TypeError: See `check`.
        """
        lengths = as_lengths(lengths, x)
        self.check(x, u, lengths, feedback)
        inside = frame_mask(lengths, x.shape[1])
        if inside is None:
            return x, u, None
        zero = x.new_zeros(())
        blanked = None if u is None else torch.where(inside[..., None], u, zero)
        return torch.where(inside[..., None], x, zero), blanked, lengths

    def check_feedback(self) -> None:
        """Refuse a model without a predictive link.

        Raises:
            ValueError: The model does not generate from past observations.
        """
        if not self.links.predictive:
            raise ValueError(
                f"{type(self).__name__} does not generate from past observations: it has no predictive link, so "
                "nothing can be fed back, and there is no scheduled sampling; use feedback=0"
            )

    def _check_frame(self, x_t: Tensor, u_t: Tensor | None) -> None:
        """Refuse single frames that the model cannot be run on."""
        parameter = next(self.parameters())
        if x_t.ndim == 2:
            check_sequences(x_t[:, None], "x_prev", self.x_dim, parameter)
        else:
            raise ValueError(f"x_prev must have shape (batch, {self.x_dim}); got {tuple(x_t.shape)}")
        if (u_t is None) != (self.u_dim == 0) or (u_t is not None and u_t.shape != (len(x_t), self.u_dim)):
            wanted = f"u_t of shape {(len(x_t), self.u_dim)}" if self.u_dim else "no u_t"
            raise ValueError(f"expected {wanted}; got {None if u_t is None else tuple(u_t.shape)}")
        if u_t is not None:
            check_sequences(u_t[:, None], "u_t", self.u_dim, parameter)
