"""What is refused before anything is written or trained: model, data and configuration that do not fit together."""

from torch import nn

from dvae_lib.data.labels import Labels, difference
from dvae_lib.data.sequences import SequenceDataset
from dvae_lib.distributions import blocks_of, standardized_columns, support_of
from dvae_lib.models.base import DVAE
from dvae_lib.training.config import TrainingConfig
from dvae_lib.training.encoder import inference_parameters
from dvae_lib.training.schedules import Schedule

__all__ = ["check_fit"]


def check_fit(
    model: nn.Module, train: SequenceDataset, validation: SequenceDataset | None, config: TrainingConfig
) -> None:
    """Refuse what does not fit together before anything is written or trained."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module; got {type(model).__name__}")
    if not isinstance(config, TrainingConfig):
        raise TypeError(f"config must be a TrainingConfig; got {type(config).__name__}")
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not parameters:
        raise ValueError(f"{type(model).__name__} has no parameter that could be trained")
    if any(p.is_inference() for p in parameters.values()):
        raise ValueError("The model was built under torch.inference_mode and can have no gradients: build it outside")
    for prefix in config.freeze:
        if not any(name.startswith(prefix) for name in parameters):
            raise ValueError(
                f"freeze names {prefix!r}, but no parameter's name begins like that; there are {', '.join(parameters)}"
            )
    if any(steps > 0 for _, steps in config.extra_steps.points):
        inference_parameters(model)  # refuses a model that has none
    fed_back = any(value > 0 for _, value in config.schedule.get("feedback", Schedule.constant(0)).points)
    if fed_back and isinstance(model, DVAE):
        model.check_feedback()
    for part, data in (("train", train), ("validation", validation)):
        if data is None and part == "validation":
            continue
        if not isinstance(data, SequenceDataset):
            raise TypeError(
                f"{part} must be a SequenceDataset; got {type(data).__name__}. "
                "SequenceDataset(arrays) makes one from arrays of shape (T_i, x_dim)"
            )
        if len(data) == 0:
            raise ValueError(f"{part} holds no sequence")
        for size in ("x_dim", "u_dim"):
            wanted, got = getattr(model, size, None), getattr(data, size)
            if wanted is not None and wanted != got:
                raise ValueError(f"The model has {size}={wanted}, but the {part} data have {size}={got}")
        _check_columns(_columns(model) or train.labels.columns, part, data)
        if isinstance(model, DVAE):
            _check_support(model.observation, part, data)
        dtype, wanted_dtype = data.batch([0]).x.dtype, next(iter(parameters.values())).dtype
        if dtype != wanted_dtype:
            raise TypeError(
                f"The {part} data are {dtype}, the model is {wanted_dtype}: "
                f"SequenceDataset(..., dtype={wanted_dtype}) converts them"
            )


def _columns(model: nn.Module) -> tuple[str, ...] | None:
    """The columns that a model was trained on, or built for."""
    return Labels.from_dict(getattr(model, "metadata", {}).get("table", {})).columns


def _check_columns(wanted: tuple[str, ...] | None, part: str, data: SequenceDataset) -> None:
    """Refuse tables with other columns than those that the model knows, or in another order."""
    found = data.labels.columns
    wrong = None if wanted is None or found is None else difference(found, wanted, f"the {part} part")
    if wrong:
        raise ValueError(f"{wrong[0].upper()}{wrong[1:]}")


def _check_support(observation: str, part: str, data: SequenceDataset) -> None:
    """Refuse data to which the observation model gives no probability, once for all batches."""
    for block in blocks_of(observation):
        support, columns = support_of(block.family), block.columns
        outside = None
        if not support.everything:
            outside = data.first_outside(support.low, support.high, whole=support.whole, columns=columns)
        if outside is None:
            continue
        name, frame, dim, value = outside
        advice = f"Choose another observation model, such as 'gaussian', or bring the data to {support}."
        learned = data.standardizer
        if learned is not None and not (learned.mean[dim] == 0 and learned.scale[dim] == 1):
            advice = (
                f"The data are standardised, which such a model does not bear: use standardize="
                f"{standardized_columns(observation)} (on the command line, name the observation model or say "
                "--no-standardize), or another observation model, such as 'gaussian'."
            )
        where = f"dimension {dim}" if data.labels.columns is None else f"column {data.labels.columns[dim]!r}"
        raise ValueError(
            f"The {part} data hold {value:g} (sequence {name}, frame {frame}, {where}), but the observation model "
            f"{observation!r} gives a probability to {support} only{'' if columns == slice(None) else ' there'}. "
            f"{advice}"
        )
