"""What a model lets in: every public method asks here first."""

from collections.abc import Mapping

import torch
from torch import Tensor

from dvae_lib.distributions import blocks_of, inside_values, neutral_values
from dvae_lib.models.checks import (
    check_latents,
    check_lengths,
    check_probability,
    check_sequences,
    warn_of_raw_data,
)
from dvae_lib.models.reading import Reading
from dvae_lib.objectives import frame_mask
from dvae_lib.objectives.missing import Observed, as_observed, check_observed, check_whole_frames
from dvae_lib.objectives.terms import Lengths, as_lengths, check_tensor

__all__ = ["Admission"]


class Admission(Reading):
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
        self,
        x: Tensor,
        u: Tensor | None = None,
        lengths: Lengths | None = None,
        feedback: float = 0.0,
        observed: Observed | None = None,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """What the model is run on: checked, `lengths` as a tensor, and zeros in the frames beyond them.

        What stands there, such as the 1e20 of a masked array, would overflow in a layer or a density, and infinity
        times the mask's zero is no gradient. In place of what was not observed stands the neutral value of the
        observation model's family (`dvae_lib.distributions.neutral_of`), whatever stood there before, NaN too.

        Raises:
            ValueError, TypeError: See `check`; also for a mask that is not boolean or of another shape, and a sequence
                of which nothing was observed.
        """
        lengths = as_lengths(lengths, x)
        seen = as_observed(observed, x)
        self.check(
            x if seen is None else torch.where(seen, x, inside_values(self.observation, x)), u, lengths, feedback
        )
        inside = frame_mask(lengths, x.shape[1])
        if seen is not None:
            check_observed(seen, inside, apart=self._entries_apart)
            x = torch.where(seen, x, neutral_values(self.observation, x))
        if inside is None:
            return x, u, None
        zero = x.new_zeros(())
        blanked = None if u is None else torch.where(inside[..., None], u, zero)
        return torch.where(inside[..., None], x, zero), blanked, lengths

    def _check_inputs(self, u: Tensor | None, batch_size: int, num_steps: int, start: int = 0) -> None:
        """Refuse inputs of new frames, and of a prefix before them, that the model cannot be run on."""
        wanted = (batch_size, start + num_steps, self.u_dim) if self.u_dim else None
        if u is not None:
            check_tensor(u, "u")
        got = None if u is None else tuple(u.shape)
        if wanted != got:
            frames = f"{start} frames of the prefix and {num_steps} new ones" if start else f"{num_steps} new frames"
            raise ValueError(f"expected {f'u of shape {wanted}' if wanted else 'no u'}, for {frames}; got {got}")
        if u is not None:
            extremes = check_sequences(u, "u", self.u_dim, next(self.parameters()))
            warn_of_raw_data(u, "u", extremes, self, "input_standardizer")

    @property
    def _entries_apart(self) -> bool:
        """Whether the entries of a frame are variables of their own."""
        return all(getattr(block.family, "entries_apart", True) for block in blocks_of(self.observation))

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

    def _admit_frame(self, x_t: Tensor, u_t: Tensor | None, observed: Observed | None) -> tuple[Tensor, Tensor | None]:
        """Single frames, checked, with the neutral value in place of what was not observed; and what was, if not all.

        Raises:
            ValueError, TypeError: See `admit`; but of a frame nothing at all may have been observed.
        """
        check_tensor(x_t, "x_t")
        seen = as_observed(observed, x_t, of="x_t") if x_t.ndim == 2 else None
        self._check_frame(
            x_t if seen is None else torch.where(seen, x_t, inside_values(self.observation, x_t)),
            u_t,
            "x_t",
            observed=True,
        )
        if seen is None:
            return x_t, None
        if not self._entries_apart:
            check_whole_frames(seen)
        return torch.where(seen, x_t, neutral_values(self.observation, x_t)), seen

    def _check_frame(self, x_t: Tensor, u_t: Tensor | None, name: str, *, observed: bool = False) -> None:
        """Refuse single frames that the model cannot be run on; observed ones need a probability."""
        parameter = next(self.parameters())
        check_tensor(x_t, name)
        if x_t.ndim != 2:
            raise ValueError(f"{name} must have shape (batch, {self.x_dim}); got {tuple(x_t.shape)}")
        observation = self.observation if observed else None
        check_sequences(x_t[:, None], name, self.x_dim, parameter, observation=observation)
        if u_t is not None:
            check_tensor(u_t, "u_t")
        if (u_t is None) != (self.u_dim == 0) or (u_t is not None and u_t.shape != (len(x_t), self.u_dim)):
            wanted = f"u_t of shape {(len(x_t), self.u_dim)}" if self.u_dim else "no u_t"
            raise ValueError(f"expected {wanted}; got {None if u_t is None else tuple(u_t.shape)}")
        if u_t is not None:
            check_sequences(u_t[:, None], "u_t", self.u_dim, parameter)

    def _check_latents(
        self, latents: object, wanted: Mapping[str, tuple[int, ...]], *, complete: bool = False
    ) -> Mapping[str, Tensor]:
        """The latents, none where None is given; refused where they are not the model's."""
        given = {} if latents is None else latents
        if not isinstance(given, Mapping):
            raise TypeError(f"latents must be a dictionary of tensors by name; got {type(given).__name__}")
        check_latents(given, wanted, complete=complete)
        parameter = next(self.parameters())
        for name, value in given.items():
            # Under mixed precision a model's own latents have the dtype that a layer gave them.
            known = value.dtype in (parameter.dtype, self._precision) or torch.is_autocast_enabled(value.device.type)
            if value.device != parameter.device or not value.is_floating_point() or not known:
                raise TypeError(
                    f"values of {name} are {value.dtype} on {value.device}, the model is {parameter.dtype} on "
                    f"{parameter.device}: use {name}.to({parameter.device.type!r}, {parameter.dtype})"
                )
        return given

    def _check_state(self, state: object, rows: int, source: str) -> None:
        """Refuse what is no state of that many sequences."""
        if not isinstance(state, Mapping):
            raise TypeError(f"state must be what {source} has returned; got {type(state).__name__}")
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape[:1] != (rows,):
                raise ValueError(
                    f"the frame has {rows} sequences, but {name!r} in the state is of shape {tuple(value.shape)}"
                )
