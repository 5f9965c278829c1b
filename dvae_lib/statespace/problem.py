"""A linear-Gaussian model and its data as the recursions take them: time first, and all series in one dimension."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dvae_lib.scans import Method, is_differentiated
from dvae_lib.statespace.choice import LEAST_STEADY_STEPS, Choice, check_choice, chosen
from dvae_lib.statespace.model import (
    LinearGaussianSSM,
    broadcast,
    check_finite,
    check_input,
    holds,
    in_double,
    state_offsets,
    surely_finite,
)
from dvae_lib.statespace.series import Series, as_mask, as_series, columns, time_first, without_missing


@dataclass(frozen=True)
class Problem:
    """A model and data with time first and all batch dimensions in one.

    Covariances have the batch dimension N of the model and the mask. Where N = 1, all series stand in the K columns
    of one matrix; elsewhere K = 1 and there is one entry per series. Matrices that do not change have a time axis
    of length 1.
    """

    A: Tensor  # (T - 1 or 1, N or 1, L, L), of steps 2..T
    C: Tensor  # (T or 1, N or 1, D, L)
    Q: Tensor  # (T - 1 or 1, N or 1, L, L)
    R: Tensor  # (T or 1, N or 1, D, D)
    P_1: Tensor  # (N, L, L)
    mu_1: Tensor  # (1, N or series, L, K), with B_1 u_1
    offsets: Tensor | None  # (T - 1, N or series, L, K), B_t u_t + m_t of steps 2..T; None where there are none
    y: Tensor  # (T, N or series, D, K): x_t - n_t, zero where missing
    num_observed: Tensor  # (*series): how many numbers are observed
    batch: torch.Size  # of the covariances, padded with ones to the length of `series`
    series: torch.Size  # of the data
    asked: Choice
    method: Method  # what that comes to, here
    dtype: torch.dtype  # of the results; what is here is float64

    @classmethod
    def of(cls, ssm: LinearGaussianSSM, x: Series, u: Series | None, mask: Series | None, asked: Choice) -> "Problem":
        """Reads, checks and brings into form what a public function was given."""
        check_choice(asked)
        dtype, ssm, (x, u, mask) = ssm.dtype, in_double(ssm), read_data(ssm, x, u, mask)
        check_data(ssm, x)
        T = x.shape[-2]
        check_input(ssm, u, T)
        observed = observed_components(x, mask)
        x = x if observed is None else torch.where(observed, x, 0)
        check_finite(x)
        masks = torch.Size() if observed is None else observed.shape[:-2]
        if observed is not None and masks.numel() > 1:
            flat = observed.reshape(masks.numel(), *observed.shape[-2:])
            if bool((flat == flat[0]).all()):  # one pattern for all series: one set of covariances
                observed, masks = flat[0], torch.Size()
        inputs = torch.Size() if u is None else u.shape[:-2]
        try:
            series = broadcast(ssm.batch_shape, x.shape[:-2], masks, inputs)
        except RuntimeError:
            raise ValueError(
                f"The batch dimensions of the model {tuple(ssm.batch_shape)}, of x {tuple(x.shape[:-2])} and of u "
                f"{tuple(inputs)} do not broadcast"
            ) from None
        batch = broadcast(ssm.covariance_batch_shape, masks, torch.Size((1,) * len(series)))

        def matrices(name: str, first: int = 0) -> Tensor:
            value = ssm.stepwise(name)
            value = value[..., first:, :, :] if ssm.per_step(name) else value
            return time_first(value, batch)

        C, R = matrices("C"), matrices("Sigma")
        if observed is not None:
            same = observed[..., :1, :]
            same = same if bool((same == observed).all()) else observed
            C, R = without_missing(C, R, time_first(same, batch, event=1))
        P_1 = time_first(ssm.Lambda_1.unsqueeze(-3), batch)[0].expand(batch.numel(), -1, -1)
        y = x if ssm.n is None else x - ssm.stepwise("n")
        if observed is not None and ssm.n is not None:
            y = torch.where(observed, y, 0)
        by_column = batch.numel() == 1
        moved = ssm.B is not None or ssm.m is not None
        offsets = state_offsets(ssm, u, T if moved else 1)
        counted = torch.full((), T * ssm.x_dim) if observed is None else observed.sum(dim=(-2, -1))
        A, Q = matrices("A", 1), matrices("Lambda", 1)
        return cls(
            A=A,
            C=C,
            Q=Q,
            R=R,
            P_1=P_1,
            mu_1=columns(offsets[..., :1, :], series, by_column),
            offsets=columns(offsets[..., 1:, :], series, by_column) if moved else None,
            y=columns(y, series, by_column),
            num_observed=counted.to(x).expand(series),
            batch=batch,
            series=series,
            asked=asked,
            method=chosen(asked, num_steps=T, models=batch.numel(), z_dim=ssm.z_dim, device=x.device),
            dtype=dtype,
        )

    @property
    def num_steps(self) -> int:
        """T."""
        return self.y.shape[0]

    def gradient_of_covariances(self) -> bool:
        """Whether a derivative of the covariances is asked for."""
        return is_differentiated(self.A, self.C, self.Q, self.R, self.P_1)

    def may_be_steady(self) -> bool:
        """Whether one model of constant matrices serves all series, long ones, and no derivative is asked for."""
        matrices = (self.A, self.C, self.Q, self.R)
        means = (self.mu_1, self.y, *(() if self.offsets is None else (self.offsets,)))
        constant = self.batch.numel() == 1 and all(len(value) == 1 for value in matrices)
        long = self.num_steps >= LEAST_STEADY_STEPS and self.series.numel() > 0
        return long and constant and not is_differentiated(*means, *matrices, self.P_1)

    def model(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """A, C, Q and R where there is one of each, `(n, n)` and so on."""
        return self.A[0, 0], self.C[0, 0], self.Q[0, 0], self.R[0, 0]

    def by_series(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """mu_1 `(K, n)`, y `(K, T, D)` and the offsets `(K, T - 1, n)` of series that share a model."""
        mu_1, y = (value[:, 0].permute(2, 0, 1) for value in (self.mu_1, self.y))
        return mu_1[:, 0], y, None if self.offsets is None else self.offsets[:, 0].permute(2, 0, 1)

    def head(self, num_steps: int) -> "Problem":
        """The first steps, in float64."""
        return replace(
            self,
            offsets=None if self.offsets is None else self.offsets[: num_steps - 1],
            y=self.y[:num_steps],
            num_observed=self.num_observed * (num_steps / self.num_steps),
            method=chosen(
                self.asked,
                num_steps=num_steps,
                models=self.batch.numel(),
                z_dim=self.P_1.shape[-1],
                device=self.y.device,
            ),
            dtype=self.y.dtype,
        )

    def for_series(self, value: Tensor, num_steps: int) -> Tensor:
        """Spreads `(K, N or 1, a, b)` over all steps and, where there are several models, over all series."""
        value = last_stands(value, num_steps)
        if self.batch.numel() == 1 or self.batch == self.series:
            return value
        event = value.shape[-2:]
        value = value.expand(-1, self.batch.numel(), -1, -1).reshape(num_steps, *self.batch, *event)
        return value.expand(-1, *self.series, -1, -1).reshape(num_steps, self.series.numel(), *event)

    def means(self, value: Tensor) -> Tensor:
        """Back from `(T, N or series, L, K)` to `(*series, T, L)`."""
        value = value[:, 0].movedim(-1, 0) if self.batch.numel() == 1 else value[..., 0].transpose(0, 1)
        value = value.to(self.dtype)
        return value.reshape(*self.series, *value.shape[-2:])

    def covariances(self, value: Tensor, num_steps: int) -> Tensor:
        """Back from `(K, N, L, L)`, the last standing for all later ones, to `(*series, T, L, L)`."""
        value = last_stands(value.to(self.dtype), num_steps)
        value = value.transpose(0, 1).reshape(*self.batch, num_steps, *value.shape[-2:])
        return value.expand(*self.series, -1, -1, -1)


def read_data(
    ssm: LinearGaussianSSM, x: Series, u: Series | None, mask: Series | None
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Observations and inputs in float64, and the mask."""
    inputs = None if u is None else as_series(u, "u", ssm.dtype, ssm.device, padding=0.0)
    return as_series(x, "x", ssm.dtype, ssm.device), inputs, (None if mask is None else as_mask(mask, ssm.device))


def observed_components(x: Tensor, mask: Tensor | None) -> Tensor | None:
    """True where observed, `(*batch, T, x_dim)`, or None where everything is."""
    missing = None if surely_finite(x) else torch.isnan(x)
    observed = None if missing is None or not holds(missing.any()) else ~missing
    if mask is None:
        return observed
    by_component = mask if mask.ndim == x.ndim else mask.unsqueeze(-1)
    fits = by_component.ndim == x.ndim and all(
        own in (1, n) for own, n in zip(by_component.shape, x.shape, strict=True)
    )
    if not fits:
        raise ValueError(
            f"mask must have shape {tuple(x.shape[:-1])}, by frame, or {tuple(x.shape)}, by component (or 1 where it "
            f"is shared); got {tuple(mask.shape)}"
        )
    # A batch dimension of one stays one: what series share is worked out once.
    by_component = by_component.expand(*by_component.shape[:-2], *x.shape[-2:])
    return by_component if observed is None else by_component & observed


def check_data(ssm: LinearGaussianSSM, x: Tensor) -> None:
    """Refuses observations of another size than the model's, and none."""
    if x.ndim < 2 or x.shape[-1] != ssm.x_dim:
        advice = " A scalar series becomes one by x[:, None]." if x.ndim == 1 and ssm.x_dim == 1 else ""
        raise ValueError(f"x must have shape (*batch, T, {ssm.x_dim}), as C says; got {tuple(x.shape)}.{advice}")
    if x.shape[-2] == 0:
        raise ValueError(
            "x has no frames (T = 0), so there is no state to infer. The prior of the first state is "
            "ssm.mu_1, ssm.Lambda_1; for a series of which nothing is observed, pass frames of NaN"
        )


def last_stands(value: Tensor, num_steps: int) -> Tensor:
    """Repeats the last entry in time up to `num_steps`."""
    if value.shape[0] >= num_steps:
        return value[:num_steps]
    if value.shape[0] == 1:
        return value.expand(num_steps, *value.shape[1:])
    return torch.cat([value, value[-1:].expand(num_steps - value.shape[0], *value.shape[1:])])
