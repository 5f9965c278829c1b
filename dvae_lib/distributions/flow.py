r"""Normalizing flows: densities of any shape, made from a Gaussian by invertible maps (Section 14.3.2)."""

import math
from abc import abstractmethod
from collections.abc import Sequence
from functools import lru_cache
from typing import ClassVar, TypeVar

import torch
from jaxtyping import Float
from torch import Generator, Size, Tensor
from torch.distributions import Distribution, constraints

__all__ = ["FLOWS", "Flow", "InverseAutoregressiveFlow", "PlanarFlow"]

Own = TypeVar("Own", bound="Flow")
POINTS = 128  # of which the moments are averages


class Flow(Distribution):
    r"""A vector made from standard normal noise by invertible steps, and then scaled and moved.

    .. math::
        \boldsymbol\epsilon_k = f_k(\boldsymbol\epsilon_{k-1}), \qquad
        \mathbf{z} = \boldsymbol\mu + \boldsymbol\sigma \odot \boldsymbol\epsilon_K, \qquad
        \log q(\mathbf{z}) = \log \mathcal{N}(\boldsymbol\epsilon_0; \mathbf{0}, \mathbf{I})
        - \sum_k \log \Big| \det \frac{\partial f_k}{\partial \boldsymbol\epsilon_{k-1}} \Big|
        - \sum_d \log \sigma_d

    Without steps it is the diagonal Gaussian. What a step's numbers are is its class's; whatever they are, finite, its
    scale stays within bounds, so that no step can blow up or flatten what it is given. Of its own sample the density is
    known from the way there; any other value is taken back through the steps.

    Arguments:
        mean: The vector :math:`\boldsymbol\mu`, shape ``(*batch, D)``; the mean only where there is no step.
        logvar: The vector :math:`\log \boldsymbol\sigma^2`, same shape.
        steps: One tensor for each step, of shape ``(*batch, step_size(D))``.

    Raises:
        ValueError: A step of another size.
    """

    arg_constraints = {}
    support = constraints.real_vector
    has_rsample = True

    def __init__(
        self, mean: Float[Tensor, "*batch dim"], logvar: Float[Tensor, "*batch dim"], *steps: Float[Tensor, "*batch _"]
    ) -> None:
        self.loc, self.logvar, self.steps = mean, logvar, steps
        wanted = self.step_size(mean.shape[-1])
        for number, step in enumerate(steps, start=1):
            if step.shape[-1] != wanted:
                raise ValueError(
                    f"a step of {type(self).__name__} over {mean.shape[-1]} entries has {wanted} numbers; step "
                    f"{number} has {step.shape[-1]}: see step_size"
                )
        self._drawn: tuple[Tensor, Tensor] | None = None
        super().__init__(mean.shape[:-1], mean.shape[-1:], validate_args=False)

    @staticmethod
    @abstractmethod
    def step_size(dim: int) -> int:
        """How many numbers a step over that many entries has."""

    @staticmethod
    @abstractmethod
    def identity(like: Float[Tensor, "*batch dim"], generator: Generator | None = None) -> Float[Tensor, "*batch _"]:
        """A step that changes nothing, and that a gradient can move, in the batch shape and for the size of `like`."""

    @abstractmethod
    def _forward(self, k: int, epsilon: Tensor) -> tuple[Tensor, Tensor]:
        """Step k at some noise, and the logarithm of its Jacobian's determinant."""

    @abstractmethod
    def _inverse(self, k: int, after: Tensor) -> Tensor:
        """The noise that step k has made this of."""

    @classmethod
    def from_output(cls: type[Own], output: Float[Tensor, "*batch outputs"], dim: int) -> Own:
        """The flow whose parameters are a network's output: mean, log-variance, then one step after the other."""
        return cls(*output.split([dim, dim, *[cls.step_size(dim)] * cls.steps_in(output.shape[-1], dim)], -1))

    @classmethod
    def steps_in(cls, outputs: int, dim: int) -> int:
        """How many steps a network's output of that size makes."""
        return (outputs - 2 * dim) // cls.step_size(dim)

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """Mean, log-variance, and the numbers of each step."""
        return self.loc, self.logvar, *self.steps

    def rsample(self, sample_shape: Sequence[int] = (), *, generator: Generator | None = None) -> Tensor:
        """A reparameterised sample, whose density is known from then on."""
        shape = self._extended_shape(Size(sample_shape))
        noise = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device, generator=generator)
        epsilon, stretched = noise, noise.new_zeros(shape[:-1])
        for k in range(len(self.steps)):
            epsilon, determinant = self._forward(k, epsilon)
            stretched = stretched + determinant
        value = self.loc + (0.5 * self.logvar).exp() * epsilon
        self._drawn = value, self._density(noise, stretched)
        return value

    def remember(self, value: Float[Tensor, "*batch dim"], frames: Sequence[tuple["Flow", Tensor]]) -> None:
        """Take over what the flows of single frames know of their own draws, which `value` holds along time.

        The way back through steps that stretch a lot is lost to rounding; the way there is not.

        Arguments:
            value: The draws, stacked along the last dimension of the batch.
            frames: Each frame's flow, and its draw.
        """
        known = [flow._drawn[1] for flow, draw in frames if flow._drawn is not None and flow._drawn[0] is draw]
        if len(known) == len(frames):
            self._drawn = value, torch.stack(known, -1)

    def sample(self, sample_shape: Sequence[int] = (), *, generator: Generator | None = None) -> Tensor:
        """A sample through which no gradient flows."""
        with torch.no_grad():
            return self.rsample(sample_shape, generator=generator)

    def log_prob(self, value: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch"]:
        """Log-density of the vector, in nats."""
        if self._drawn is not None and value is self._drawn[0] and (self._drawn[1].requires_grad or not _learns(self)):
            return self._drawn[1]
        epsilon = (value - self.loc) * (-0.5 * self.logvar).exp()
        stretched = epsilon.new_zeros(epsilon.shape[:-1])
        for k in reversed(range(len(self.steps))):
            epsilon = self._inverse(k, epsilon)
            stretched = stretched + self._forward(k, epsilon)[1]
        return self._density(epsilon, stretched)

    def _density(self, noise: Tensor, stretched: Tensor) -> Tensor:
        """The log-density of what the steps have made of some noise."""
        normal = -0.5 * (noise.square() + math.log(2 * math.pi)).sum(-1)
        return normal - stretched - 0.5 * self.logvar.sum(-1)

    @property
    def mean(self) -> Tensor:
        """The mean vector, as an average over fixed quasi-random points, in pairs of opposite sign."""
        return self.loc + (0.5 * self.logvar).exp() * self._points().mean(0)

    @property
    def variance(self) -> Tensor:
        """The variance of each entry, over the same points; a little too small, as they lack the far tails."""
        return self.logvar.exp() * self._points().var(0, unbiased=False)

    def _points(self) -> Tensor:
        """What the steps make of the fixed points, ``(points, *batch, D)``."""
        points = _normal_points(self.loc.shape[-1]).to(self.loc)
        epsilon = points.reshape(len(points), *[1] * (self.loc.ndim - 1), -1).expand(-1, *self.loc.shape)
        for k in range(len(self.steps)):
            epsilon = self._forward(k, epsilon)[0]
        return epsilon

    def expand(self, batch_shape: Sequence[int], _instance: None = None) -> "Flow":
        """The same distribution with its batch dimensions expanded."""
        return type(self)(*(p.expand(*batch_shape, p.shape[-1]) for p in self.parameters))

    def __getitem__(self, index: object) -> "Flow":
        """The distributions at some places of the batch: indexing acts on the batch dimensions."""
        index = index if isinstance(index, tuple) else (index,)
        if Ellipsis not in index:
            index = (*index, Ellipsis)
        return type(self)(*(p[(*index, slice(None))] for p in self.parameters))


class PlanarFlow(Flow):
    r"""Steps that stretch or squeeze space across a plane: with one of them a Gaussian gets two modes.

    .. math:: f(\boldsymbol\epsilon) = \boldsymbol\epsilon + \mathbf{u} \tanh(\mathbf{w}^\top \boldsymbol\epsilon + b),
        \qquad \det = 1 + \big(1 - \tanh^2(\cdot)\big)\, \mathbf{w}^\top \mathbf{u}

    A step has 2 D + 1 numbers: :math:`\mathbf{w}`, :math:`\mathbf{u}` and b, each bounded to ±10 by a tanh. It is
    invertible where :math:`\mathbf{w}^\top \mathbf{u} > -1`; a :math:`\mathbf{u}` that goes further is shortened to
    -0.99, so the determinant lies between 0.01 and 1 + 100 D. The way back is one monotone equation in
    :math:`\mathbf{w}^\top \boldsymbol\epsilon`, whatever D is.

    The arguments are those of `Flow`.

    Example:
        >>> step = torch.tensor([[5.0, 2.0, 0.0]])  # w, u, b
        >>> q = PlanarFlow(torch.zeros(1, 1), torch.zeros(1, 1), step)
        >>> q.log_prob(torch.tensor([[0.0], [2.5]])).argmax()  # not at 0, where it is stretched
        tensor(1)

    Source: Rezende and Mohamed (2015), "Variational inference with normalizing flows".
    """

    least: ClassVar[float] = 0.01

    @staticmethod
    def step_size(dim: int) -> int:
        """2 D + 1."""
        return 2 * dim + 1

    @staticmethod
    def identity(like: Float[Tensor, "*batch dim"], generator: Generator | None = None) -> Float[Tensor, "*batch _"]:
        """A plane at random, and nothing done across it: u is zero."""
        plane = torch.randn(*like.shape[:-1], like.shape[-1] + 1, generator=generator, device=like.device).to(like)
        w, b = plane.split([like.shape[-1], 1], -1)
        return torch.cat([w, torch.zeros_like(like), b], -1)

    def _parts(self, k: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """w, u, b, and their product w u, as the step uses them."""
        dim = self.loc.shape[-1]
        w, u, b = _bounded(self.steps[k], 10.0).split([dim, dim, 1], -1)
        product = (w * u).sum(-1, keepdim=True)
        shorter = (-product / (1 - self.least)).clamp_min(1.0)
        return w, u / shorter, b, product / shorter

    def _forward(self, k: int, epsilon: Tensor) -> tuple[Tensor, Tensor]:
        w, u, b, product = self._parts(k)
        h = ((w * epsilon).sum(-1, keepdim=True) + b).tanh()
        return epsilon + u * h, (1 + (1 - h.square()) * product)[..., 0].log()

    def _inverse(self, k: int, after: Tensor) -> Tensor:
        w, u, b, product = self._parts(k)
        target = (w * after).sum(-1, keepdim=True) + b  # of a + product tanh(a)
        with torch.no_grad():
            low, high = target - product.abs(), target + product.abs()
            for _ in range(12):
                middle = (low + high) / 2
                above = middle + product * middle.tanh() > target
                low, high = torch.where(above, low, middle), torch.where(above, middle, high)
            found = (low + high) / 2
            for _ in range(5):  # Newton's steps, near enough now to double its digits
                h = found.tanh()
                step = (found + product * h - target) / (1 + product * (1 - h.square()))
                found = torch.minimum(torch.maximum(found - step, low), high)
        h = found.tanh()  # one more, through which the gradient of the solution passes
        found = found - (found + product * h - target) / (1 + product * (1 - h.square()))
        return after - u * found.tanh()


class InverseAutoregressiveFlow(Flow):
    r"""Steps in which each entry is scaled and moved by what the entries before it say (IAF).

    .. math:: f(\boldsymbol\epsilon)_d = \epsilon_d \exp\big(s_d(\boldsymbol\epsilon_{1:d-1})\big)
        + m_d(\boldsymbol\epsilon_{1:d-1}), \qquad \log \det = \sum_d s_d

    A draw takes all entries at once, since the noise before the step is known; the way back goes entry by entry. The
    autoregressive network is linear here, with weights of each distribution's own, m = M ε + a and s = S ε + b with
    strictly lower-triangular M and S: D (D + 1) numbers for a step. M and a are bounded to ±10, s to ±3, by a tanh.
    Every second step goes through the entries in reverse order. One step with S = 0 is a Gaussian of any covariance;
    with one entry nothing stands before it, and a step does nothing that a Gaussian cannot.

    The arguments are those of `Flow`.

    Example:
        >>> step = torch.tensor([[2.0, 0.0, 0.0, 0.0, 0.0, 0.0]])  # the second entry leans on the first
        >>> q = InverseAutoregressiveFlow(torch.zeros(1, 2), torch.zeros(1, 2), step)
        >>> z = q.sample((5000,), generator=torch.Generator().manual_seed(0))[:, 0]
        >>> bool(torch.corrcoef(z.T)[0, 1] > 0.8)
        True

    Source: Kingma, Salimans, Jozefowicz, Chen, Sutskever and Welling (2016), "Improved variational inference with
    inverse autoregressive flow".
    """

    @staticmethod
    def step_size(dim: int) -> int:
        """D (D + 1)."""
        return dim * (dim + 1)

    @staticmethod
    def identity(like: Float[Tensor, "*batch dim"], generator: Generator | None = None) -> Float[Tensor, "*batch _"]:
        """Zeros."""
        dim = like.shape[-1]
        return like.new_zeros(*like.shape[:-1], dim * (dim + 1))

    def _parts(self, k: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """M, S, a and b, as the step uses them."""
        dim = self.loc.shape[-1]
        below = dim * (dim - 1) // 2
        move, scale, a, b = self.steps[k].split([below, below, dim, dim], -1)
        return _lower(_bounded(move, 10.0), dim), _lower(scale, dim), _bounded(a, 10.0), b

    def _forward(self, k: int, epsilon: Tensor) -> tuple[Tensor, Tensor]:
        move, scale, a, b = self._parts(k)
        epsilon = epsilon.flip(-1) if k % 2 else epsilon
        s = _bounded((scale @ epsilon[..., None])[..., 0] + b, 3.0)
        after = epsilon * s.exp() + (move @ epsilon[..., None])[..., 0] + a
        return after.flip(-1) if k % 2 else after, s.sum(-1)

    def _inverse(self, k: int, after: Tensor) -> Tensor:
        move, scale, a, b = self._parts(k)
        after = after.flip(-1) if k % 2 else after
        found: list[Tensor] = []
        for d in range(after.shape[-1]):
            before = torch.stack(found, -1) if found else after[..., :0]
            m = (move[..., d, :d] * before).sum(-1) + a[..., d]
            s = _bounded((scale[..., d, :d] * before).sum(-1) + b[..., d], 3.0)
            found.append((after[..., d] - m) * (-s).exp())
        epsilon = torch.stack(found, -1)
        return epsilon.flip(-1) if k % 2 else epsilon


FLOWS: dict[str, type[Flow]] = {"planar": PlanarFlow, "iaf": InverseAutoregressiveFlow}
"""The flows that a posterior can be, by name."""


def _bounded(value: Tensor, bound: float) -> Tensor:
    """The value where it is small; never beyond the bound."""
    return bound * (value / bound).tanh()


def _lower(entries: Tensor, dim: int) -> Tensor:
    """A strictly lower-triangular matrix of its entries, row by row."""
    rows, columns = torch.tril_indices(dim, dim, -1, device=entries.device)
    matrix = entries.new_zeros(*entries.shape[:-1], dim, dim)
    matrix[..., rows, columns] = entries
    return matrix


def _learns(flow: Flow) -> bool:
    """Whether a gradient of the density would reach a parameter now."""
    return torch.is_grad_enabled() and any(p.requires_grad for p in flow.parameters)


@lru_cache(maxsize=32)
def _normal_points(dim: int) -> Tensor:
    uniform = torch.quasirandom.SobolEngine(dim, scramble=True, seed=0).draw(POINTS // 2, dtype=torch.float64)
    points: Tensor = math.sqrt(2) * torch.erfinv(2 * uniform.clamp(1e-6, 1 - 1e-6) - 1)
    return torch.cat([points, -points])
