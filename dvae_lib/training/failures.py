"""What is said of an objective or a gradient that is not finite."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from dvae_lib.training.evaluator import Rows

__all__ = ["NonFiniteError", "non_finite"]


class NonFiniteError(FloatingPointError):
    """An objective or a gradient became NaN or infinite. The weights are still those from before the step.

    Attributes:
        epoch: The epoch, counted from 1.
        step: The optimiser's step, counted from 1; 0 in validation before any.
        sequences: Names of the sequences at fault, or of the batch where only its gradient was non-finite.
        parameters: Names of the parameters whose gradient (or own value) is not finite.
    """

    def __init__(self, message: str, *, epoch: int, step: int, sequences: list[str], parameters: list[str]) -> None:
        super().__init__(message)
        self.epoch, self.step, self.sequences, self.parameters = epoch, step, sequences, parameters


def non_finite(
    where: str,
    terms: Mapping[str, Tensor],
    totals: Mapping[str, float],
    rows: Rows,
    parameters: Mapping[str, Tensor],
    gradients: Mapping[str, Tensor],
    *,
    epoch: int,
    step: int,
) -> NonFiniteError:
    """The error of a batch: which terms, sequences and parameters are concerned.

    Arguments:
        where: The place in the training.
        terms: Of this process's rows.
        totals: Their sums over all processes.
        rows: What was evaluated.
        parameters: The model's, by name.
        gradients: Theirs; none in validation.
        epoch: Counted from 1.
        step: Counted from 1.
    """
    bad_terms = [name for name, value in totals.items() if not math.isfinite(value)]
    concerned = [name for name, p in parameters.items() if not bool(torch.isfinite(p).all())]
    if bad_terms:
        at_fault, what = _sequences_at_fault(bad_terms, terms, rows)
    else:
        at_fault, what = rows.indices.tolist(), "the gradient is not finite, though the objective is; batch of"
        concerned += [n for n, g in gradients.items() if n not in concerned and not bool(torch.isfinite(g).all())]
    sequences = [rows.data.names[i] for i in at_fault]
    listed = ", ".join(f"{i} ({name})" for i, name in zip(at_fault[:5], sequences[:5], strict=True))
    more = f" and {len(at_fault) - 5} more" if len(at_fault) > 5 else ""
    message = f"{where}: {what} {listed or 'of another process'}{more}."
    if concerned:
        message += f" Parameters concerned: {', '.join(concerned)}."
    message += " The step was not made. Look at these data; a smaller learning_rate, gradient_clip or beta warm-up"
    message += " often helps"
    return NonFiniteError(message, epoch=epoch, step=step, sequences=sequences, parameters=concerned)


def _sequences_at_fault(bad_terms: list[str], terms: Mapping[str, Tensor], rows: Rows) -> tuple[list[int], str]:
    """Indices of this process's sequences whose terms are not finite, and the words for it."""
    share = rows.share
    bad = torch.zeros(share.stop - share.start, dtype=torch.bool, device="cpu")
    for name in bad_terms:
        bad |= ~torch.isfinite(terms[name]).cpu()
    at_fault: list[int] = rows.indices[share.start : share.stop][bad].tolist()
    if at_fault or share.total > share.stop - share.start:
        return at_fault, f"{', '.join(bad_terms)} not finite, sequences"
    # Each sequence has a value, and their sum is beyond the largest number of the format.
    largest = terms[bad_terms[0]].detach().abs()
    return [int(rows.indices[int(largest.argmax())])], (
        f"the sum of {' and of '.join(bad_terms)} over the batch overflows, with values of up to "
        f"{largest.max().item():.1e}. Data or inputs u of that size want to be standardised first. The "
        "largest is of sequence"
    )
