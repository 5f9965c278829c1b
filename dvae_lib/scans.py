r"""Affine recursions over time, one step after the other or as associative scans, and their derivatives.

Time is the first axis throughout. Two recursions have the same shape,

- with matrices, :math:`y_t = F_t y_{t-1} + b_t`: means and samples of Gaussian chains (`dvae_lib.statespace`);
- with a diagonal matrix, real or complex, entry by entry: the memory of `dvae_lib.networks.LinearRecurrence`.

Neither records its steps for automatic differentiation. The derivative is again an affine recursion, run backwards with
the (conjugate) transposed matrices, and is written down as such: a long series costs one more recursion and no tape.

These derivatives are made of the recursions themselves, so they can be differentiated again (`create_graph=True`).
Forward mode and the transforms of `torch.func`, which nest in ways that a derivative written by hand does not see, get
plain recorded steps instead.
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
from jaxtyping import Float, Inexact
from torch import Tensor
from torch.autograd import forward_ad

__all__ = ["Method", "affine_recursion", "diagonal_recursion"]

Method = Literal["sequential", "parallel"]
Element = tuple[Tensor, ...]


def check_method(method: str) -> None:
    """Refuses anything but the two methods."""
    if method not in ("sequential", "parallel"):
        raise ValueError(f'method must be "sequential" or "parallel", got {method!r}')


# ---- two ways through time -------------------------------------------------------------------------------------


def scan(
    first: Tensor,
    elements: Element,
    apply: Callable[[Tensor, Element], Tensor],
    combine: Callable[[Element, Element], Element],
) -> Tensor:
    """States 1..T by an associative scan that is O(log T) deep and takes fewer than 2 T steps of work.

    Pairs of neighbouring steps are combined into one; the half as long scan gives every second state, and one
    parallel step the others (Blelloch, 1990).

    Arguments:
        first: The state at the first step, `(...)`.
        elements: What leads from each step to the next, tensors of shape `(T - 1, ...)`.
        apply: The state after an element, given the state before it.
        combine: The element that stands for an earlier and a later one. It must be associative.

    Returns:
        All states, `(T, ...)`.
    """
    steps = elements[0].shape[0]
    if steps == 0:
        return first.unsqueeze(0)
    if steps == 1:
        return torch.cat([first.unsqueeze(0), apply(first.unsqueeze(0), elements)])
    pairs = combine(tuple(e[0:-1:2] for e in elements), tuple(e[1::2] for e in elements))
    every_second = scan(first, pairs, apply, combine)
    between = apply(every_second[: (steps + 1) // 2], tuple(e[0::2] for e in elements))
    pairs_of_states = torch.stack([every_second[: len(between)], between], dim=1).flatten(0, 1)
    return pairs_of_states if steps % 2 else torch.cat([pairs_of_states, every_second[-1:]])


def loop(first: Tensor, elements: Element, apply: Callable[[Tensor, Element], Tensor]) -> Tensor:
    """States 1..T one after the other; the arguments are those of `scan`."""
    states = [first]
    for element in zip(*(e.unbind(0) for e in elements), strict=True):
        states.append(apply(states[-1], element))
    return torch.stack(states)


# ---- affine ----------------------------------------------------------------------------------------------------


def affine_recursion(
    F: Float[Tensor, "steps *#batch n n"], b: Float[Tensor, "time *#batch n columns"], method: Method = "sequential"
) -> Float[Tensor, "time *batch n columns"]:
    r"""Solves :math:`y_1 = b_1`, :math:`y_t = F_t y_{t-1} + b_t`, differentiably.

    Arguments:
        F: The matrices of steps 2..T.
        b: The offsets of steps 1..T. Series that share the matrices stand in its columns.
        method: One step after the other, or an associative scan.

    Returns:
        y_1..y_T, of the shape of b.
    """
    time, own = b.shape[0], F.shape[1:-2]
    batch = torch.broadcast_shapes(own, b.shape[1:-2])
    n, columns = b.shape[-2:]
    if own.numel() == 1:  # one matrix for all: the batch moves to the columns
        F = F.reshape(time - 1, 1, n, n)
        b = b.expand(time, *batch, n, columns).reshape(time, batch.numel(), n, columns)
        b = b.permute(0, 2, 1, 3).reshape(time, 1, n, batch.numel() * columns)
    else:
        F = F.reshape(time - 1, *(1,) * (len(batch) - len(own)), *own, n, n)
        F = F.expand(time - 1, *batch, n, n).reshape(time - 1, batch.numel(), n, n)
        b = b.expand(time, *batch, n, columns).reshape(time, batch.numel(), n, columns)
    y = _affine_differentiable(F, b, method)
    if own.numel() == 1:
        y = y.reshape(time, n, batch.numel(), columns).permute(0, 2, 1, 3)
    return y.reshape(time, *batch, n, columns)


def _affine(F: Tensor, b: Tensor, method: Method) -> Tensor:
    if F.shape[1] == 1:  # two- and three-dimensional products cost less per call
        F, b = F[:, 0], b[:, 0]
        if method == "parallel":
            return scan(b[0], (F, b[1:]), _affine_apply, _affine_combine).unsqueeze(1)
        return loop(b[0], (F, b[1:]), lambda y, e: torch.addmm(e[1], e[0], y)).unsqueeze(1)
    if method == "parallel":
        return scan(b[0], (F, b[1:]), _affine_apply, _affine_combine)
    return loop(b[0], (F, b[1:]), _affine_apply)


def _affine_apply(y: Tensor, element: Element) -> Tensor:
    F, b = element
    return torch.baddbmm(b, F, y) if y.ndim == 3 else torch.matmul(F, y).add_(b)


def _affine_combine(earlier: Element, later: Element) -> Element:
    return later[0] @ earlier[0], _affine_apply(earlier[1], later)


def _affine_differentiable(F: Tensor, b: Tensor, method: Method) -> Tensor:
    if not is_differentiated(F, b) or records_steps(F, b):
        return _affine(F, b, method)
    y: Tensor = _Affine.apply(F, b, method)  # type: ignore[no-untyped-call]
    return y


class _Affine(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, F: Tensor, b: Tensor, method: Method) -> Tensor:
        y = _affine(F, b, method)
        ctx.save_for_backward(F, y)
        ctx.method = method
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, None]:
        F, y = ctx.saved_tensors
        adjoint = _affine_differentiable(F.mT.flip(0), gradient.flip(0), ctx.method).flip(0)
        return adjoint[1:] @ y[:-1].mT if ctx.needs_input_grad[0] else None, adjoint, None


# ---- affine, with a diagonal matrix ----------------------------------------------------------------------------


def diagonal_recursion(
    a: Inexact[Tensor, "steps *#batch"], b: Inexact[Tensor, "time *batch"], method: Method = "parallel"
) -> Inexact[Tensor, "time *batch"]:
    r"""Solves :math:`y_1 = b_1`, :math:`y_t = a_t \odot y_{t-1} + b_t`, differentiably; real or complex.

    Arguments:
        a: The factors of steps 2..T; dimensions of size 1 stand for all.
        b: The offsets of steps 1..T.
        method: One step after the other, or an associative scan that is O(log T) deep.

    Returns:
        y_1..y_T, of the shape of b.

    Example:
        >>> diagonal_recursion(torch.full((3, 1), 0.5), torch.tensor([[8.0], [0.0], [0.0], [1.0]])).flatten()
        tensor([8., 4., 2., 2.])
    """
    check_method(method)
    return _diagonal_differentiable(a, b, method)


def _diagonal(a: Tensor, b: Tensor, method: Method) -> Tensor:
    elements = (a, b[1:])
    return (
        scan(b[0], elements, _diagonal_apply, _diagonal_combine)
        if method == "parallel"
        else loop(b[0], elements, _diagonal_apply)
    )


def _diagonal_apply(y: Tensor, element: Element) -> Tensor:
    a, b = element
    return torch.addcmul(b, a, y)


def _diagonal_combine(earlier: Element, later: Element) -> Element:
    return later[0] * earlier[0], _diagonal_apply(earlier[1], later)


def _diagonal_differentiable(a: Tensor, b: Tensor, method: Method) -> Tensor:
    if not is_differentiated(a, b) or records_steps(a, b):
        return _diagonal(a, b, method)
    y: Tensor = _Diagonal.apply(a, b, method)  # type: ignore[no-untyped-call]
    return y


class _Diagonal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, method: Method) -> Tensor:
        y = _diagonal(a, b, method)
        ctx.save_for_backward(a, y)
        ctx.method = method
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, None]:
        a, y = ctx.saved_tensors
        adjoint = _diagonal_differentiable(a.conj().flip(0), gradient.flip(0), ctx.method).flip(0)
        # Where one factor stands for many entries, theirs is the sum.
        needed = ctx.needs_input_grad[0]
        return (adjoint[1:] * y[:-1].conj()).sum_to_size(a.shape) if needed else None, adjoint, None


# ---- what kind of derivative is asked for ----------------------------------------------------------------------


def is_differentiated(*values: Tensor) -> bool:
    """Whether a derivative with respect to any of the values may be asked for."""
    return (torch.is_grad_enabled() and any(value.requires_grad for value in values)) or records_steps(*values)


def writes_down() -> bool:
    """Whether torch.compile or torch.jit writes down what is done, which must not be a function of Python then."""
    return torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None


def records_steps(*values: Tensor) -> bool:
    """Whether a derivative may be asked for in another way than by `backward` and `torch.autograd.grad`."""
    # Within a transform of torch.func a tensor does not show what the outer transforms ask of it.
    if torch._C._are_functorch_transforms_active():
        return True
    return forward_ad._current_level >= 0 and any(forward_ad.unpack_dual(value).tangent is not None for value in values)
