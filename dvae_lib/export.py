r"""A trained model's step as a program of its own, for `torch.export` or ONNX: no class of this library is needed.

The step takes in one frame and says what it makes of it, as `DVAE.filter` does with a single particle that is never
drawn: every latent vector is put at the mean of its posterior, and the next one at the mean of its prior,

.. math::
    \bar{\mathbf{z}}_t = \mathbb{E}_q[\mathbf{z}_t | \bar{\mathbf{z}}_{1:t-1}, \mathbf{x}_{1:t}], \qquad
    p(\mathbf{x}_{t+1} | \bar{\mathbf{z}}_{t+1}, \cdot) \quad \text{with} \quad
    \bar{\mathbf{z}}_{t+1} = \mathbb{E}_p[\mathbf{z}_{t+1} | \bar{\mathbf{z}}_{1:t}, \mathbf{x}_{1:t}] .

Equal inputs give equal outputs. An inference network that looks ahead is run as if the sequence ended at the frame.
"""

import copy
import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from dvae_lib._version import __version__
from dvae_lib.data.standardize import Standardizer
from dvae_lib.extras import needed, require
from dvae_lib.files import written_whole
from dvae_lib.models import DVAE, MODELS, build_model
from dvae_lib.models.draws import Draws, Given, Past, State, split_state

__all__ = ["StreamingStep", "export_reconstruction", "export_step"]

METADATA = "dvae.json"
"""Name under which a file holds what its inputs and outputs are called, and the state before the first frame."""

_PAST = "past."


class _Means(Given):
    """Latents at the means of their priors."""

    def draw(self, name: str, prior: Distribution, known: Any) -> Tensor:
        return prior.mean


class _Begun(Past):
    """A past that keeps what its recursions were before they saw the first frame."""

    def __init__(self) -> None:
        super().__init__(streaming=True)
        self.before: dict[str, Any] = {}

    def shift(self, name: str, frames: Tensor) -> Tensor:
        self.before[name] = torch.zeros_like(frames[:, -1])
        return super().shift(name, frames)

    def run(
        self, name: str, recurrence: nn.Module, inputs: Tensor | Sequence[Tensor], lengths: Tensor | None = None
    ) -> Tensor:
        states = super().run(name, recurrence, inputs, lengths)
        if name in self.carried:
            start = getattr(recurrence, "initial_state", None)
            last, frames = self.carried[name], inputs if isinstance(inputs, Tensor) else inputs[0]
            self.before[name] = tuple(map(torch.zeros_like, last)) if start is None else start(len(frames))
        return states


def _flat(carried: dict[str, Any]) -> State:
    """What is carried over as tensors by name, the batch first."""
    found: State = {}
    for name, value in carried.items():
        if isinstance(value, Tensor):
            found[_PAST + name] = value
        elif isinstance(value, dict):
            found |= {f"{_PAST}{name}.{key}": item for key, item in value.items()}
        else:  # of torch's layers, the layers first
            found |= {f"{_PAST}{name}.{k}": item.transpose(0, 1) for k, item in enumerate(value)}
    return found


def _nested(state: State) -> dict[str, Any]:
    """`_flat` undone."""
    carried: dict[str, Any] = {}
    for full, value in state.items():
        name, _, key = full.removeprefix(_PAST).partition(".")
        if not key:
            carried[name] = value
        elif key.isdigit():
            carried[name] = (*carried.get(name, ()), value.transpose(0, 1).contiguous())
        else:
            carried.setdefault(name, {})[key] = value
    return carried


class StreamingStep(nn.Module):
    """The step of a model as a function of tensors alone: what is exported.

    Arguments:
        model: A causal `DVAE` with a proposal per frame, and no latent of the whole sequence.

    Raises:
        NotImplementedError: Of another model; the message says which models there are.

    Example:
        >>> from dvae_lib import SRNN
        >>> step = StreamingStep(SRNN(x_dim=3, z_dim=2, h_dim=4, g_dim=4))
        >>> state = step.initial_state(5)
        >>> for x_t in torch.zeros(7, 5, 3):
        ...     outputs, state = step(x_t, state)
        >>> {name: tuple(value.shape) for name, value in outputs.items()}  # doctest: +NORMALIZE_WHITESPACE
        {'z_mean': (5, 2), 'z_variance': (5, 2), 'next_mean': (5, 3), 'next_variance': (5, 3)}
    """

    def __init__(self, model: DVAE) -> None:
        super().__init__()
        if not _has_step(model):
            why = "it remembers frames otherwise than by a state of fixed size"
            if not model.has_proposal:
                why = "its generation must be causal, and its inference model forwards in time"
            elif model.sequence_latents:
                why = f"its latent {', '.join(model.sequence_latents)} belongs to the whole sequence"
            raise NotImplementedError(
                f"{type(model).__name__} has no step that could be exported: {why}. {_who_has_a_step()}"
            )
        self.model = model
        self.in_units = _Units(model.standardizer)
        self.inputs_in_units = _Units(model.input_standardizer)

    @torch.no_grad()
    def initial_state(self, batch_size: int = 1) -> State:
        """The state before the first frame."""
        state, past = _begun(self.model, batch_size)
        return {**state, **_flat(past.before)}

    def forward(
        self, x: Tensor, state: State, u: Tensor | None = None, next_u: Tensor | None = None
    ) -> tuple[dict[str, Tensor], State]:
        """One frame.

        Arguments:
            x: The frame, (B, x_dim), in the units of the data that the model was trained on.
            state: From `initial_state` or the step before.
            u: The input of this frame, for a driven model.
            next_u: The input of the next frame.

        Returns:
            Tensors by name, and the state. Mean and variance of each latent's posterior, such as ``z_mean`` and
            ``z_variance``; mean and variance of the next frame, in the units of the data, where the family has them.
        """
        model, past = self.model, Past(streaming=True)
        past.carried = _nested({name: value for name, value in state.items() if name.startswith(_PAST)})
        own = {name: value for name, value in state.items() if not name.startswith(_PAST)}
        read = model.read(self.in_units.taken(x))
        u, next_u = (None if value is None else self.inputs_in_units.taken(value) for value in (u, next_u))
        context = model._context(read[:, None], None if u is None else u[:, None], None, Draws(how="mean"), past)
        proposal = model._proposal(own, context.at(0), read, u, {}, "mean", None, ahead=False)
        outputs: dict[str, Tensor] = {}
        for name, latent in proposal.latents.items():
            outputs[f"{name}_mean"] = latent.posterior.mean
            outputs[f"{name}_variance"] = latent.posterior.variance
        generator, _, x_prev = split_state(proposal.state)
        following, _ = model._filter_step(generator, x_prev, next_u, _Means())
        outputs |= self.in_units.given(following, "next_")
        return outputs, {**proposal.state, **_flat(past.carried)}


class _Units(nn.Module):
    """A standardisation within the program."""

    mean: Tensor
    scale: Tensor

    def __init__(self, standardizer: Standardizer | None) -> None:
        super().__init__()
        self.used = standardizer is not None
        if standardizer is not None:
            self.register_buffer("mean", standardizer.mean)
            self.register_buffer("scale", standardizer.scale)

    def taken(self, x: Tensor) -> Tensor:
        return (x - self.mean.to(x)) / self.scale.to(x) if self.used else x

    def given(self, distribution: Distribution, prefix: str) -> dict[str, Tensor]:
        """Mean and variance in the units of the data."""
        mean = distribution.mean
        found = {f"{prefix}mean": mean * self.scale.to(mean) + self.mean.to(mean) if self.used else mean}
        try:
            variance = distribution.variance
        except NotImplementedError:
            return found
        found[f"{prefix}variance"] = variance * self.scale.to(mean).square() if self.used else variance
        return found


class _Reconstruction(nn.Module):
    """Analysis and resynthesis of whole sequences with every latent at its posterior's mean."""

    def __init__(self, model: DVAE) -> None:
        super().__init__()
        self.model, self.in_units = model, _Units(model.standardizer)
        self.inputs_in_units = _Units(model.input_standardizer)

    def forward(self, x: Tensor, u: Tensor | None = None) -> dict[str, Tensor]:
        model = self.model
        read = model.read(self.in_units.taken(x))
        u = None if u is None else self.inputs_in_units.taken(u)
        latents, states = model._infer(read, u, None, Draws(how="mean"))
        values = {name: latent.sample for name, latent in latents.items()}
        observation = model._generate(read, values, u, None, states).observation
        found = {f"{name}_mean": value for name, value in values.items()}
        return found | self.in_units.given(observation, "reconstruction_")


def export_step(model: DVAE, path: str | Path) -> dict[str, Any]:
    """Write a trained model's streaming step to a file that runs without this library.

    A file ``.pt2`` is read by ``torch.export.load(path).module()``, called as `StreamingStep.forward` is. A file
    ``.onnx`` has the same tensors as inputs and outputs, by name: the state ``s`` goes in as ``s`` and comes out as
    ``new_s``, with dots in names as underscores. The batch may have any size. Both hold, as JSON, the names and the
    state of one sequence before the first frame: under "dvae.json" in a file ``.pt2``
    (``extra_files={"dvae.json": ""}`` takes it out), in ``metadata_props`` of ONNX.

    Arguments:
        model: A trained model. Frames go in and come out in the units of its data.
        path: The file, ``.pt2`` or ``.onnx``.

    Returns:
        The JSON's content.

    Raises:
        NotImplementedError: Of a model that has no such step; the message says which models have one.
        ValueError: Another ending.
        ImportError: ONNX is asked for, and its packages are missing.
        ArithmeticError: The program of torch.export does not compute what the model does; nothing is written. What
            ONNX's converter makes of it is checked for its form alone.
    """
    kind = _kind(path)
    model = copy.deepcopy(model).eval()  # the caller's goes on as it is
    step = StreamingStep(model).eval()
    state = step.initial_state(3)
    parameter = next(model.parameters())
    generator = torch.Generator().manual_seed(0)

    def some(size: int) -> Tensor:
        return torch.rand(3, size, generator=generator).to(parameter)

    given: dict[str, Any] = {"x": some(model.x_dim), "state": state}
    if model.u_dim:
        given |= {"u": some(model.u_dim), "next_u": some(model.u_dim)}
    about = {
        "what": "streaming step",
        "inputs": [name for name in given if name != "state"],
        "state": {name: value[0].tolist() for name, value in step.initial_state(1).items()},
        "outputs": list(step(**given)[0]),
    }
    return _write(model, step, given, {0: "batch"}, about, Path(path), kind)


def export_reconstruction(model: DVAE, path: str | Path, *, num_frames: int | None = None) -> dict[str, Any]:
    """Write analysis and resynthesis of sequences to a file that runs without this library.

    All latents are at the means of their posteriors. Of any length it goes for models without a recursion over frames,
    such as the VAE: torch unrolls a recursion, and so fixes the length. The others take `num_frames`, or have a step,
    which a short loop repeats.

    Arguments:
        model: A trained model.
        path: The file, ``.pt2`` or ``.onnx``; see `export_step`.
        num_frames: The length of all sequences that the program will take; None leaves it free. A long one makes a
            large program: its size, and the time of writing it, grow with the number of frames.

    Returns:
        The JSON's content.

    Raises:
        NotImplementedError: The model's loops cannot be exported with a free length.
        ValueError, ImportError, ArithmeticError: See `export_step`.
    """
    kind = _kind(path)
    if num_frames is not None and num_frames < 1:
        raise ValueError(f"num_frames must be at least 1; got {num_frames}")
    model = copy.deepcopy(model).eval()  # the caller's goes on as it is
    generator = torch.Generator().manual_seed(0)
    parameter = next(model.parameters())
    sizes = {"x": model.x_dim} | ({"u": model.u_dim} if model.u_dim else {})
    frames = num_frames or 7
    given = {name: torch.rand(3, frames, size, generator=generator).to(parameter) for name, size in sizes.items()}
    whole = _Reconstruction(model).eval()
    about: dict[str, Any] = {"what": "reconstruction", "inputs": list(given), "outputs": list(whole(**given))}
    about |= {} if num_frames is None else {"num_frames": num_frames}
    free = {0: "batch"} | ({1: "time"} if num_frames is None else {})
    return _write(model, whole, given, free, about, Path(path), kind)


def _kind(path: str | Path) -> Literal["pt2", "onnx"]:
    """The format, by the file's ending; what writes it must be there."""
    version = tuple(int(number) for number in torch.__version__.split(".")[:2])
    if version < (2, 6):
        raise ImportError(
            f"exporting needs PyTorch 2.6 or newer, for torch.export with free sizes; this is {torch.__version__}"
        )
    suffix = Path(path).suffix.lower()
    if suffix == ".onnx":
        require("onnx", "Exporting to ONNX", "onnx")
        require("onnxscript", "Exporting to ONNX", "onnx")
        return "onnx"
    if suffix != ".pt2":
        raise ValueError(f"{path} must end in .pt2 (torch.export) or .onnx")
    return "pt2"


def _who_has_a_step() -> str:
    with torch.random.fork_rng(devices=[]):
        names = [
            name for name, entry in MODELS.items() if _has_step(build_model(name, x_dim=2, z_dim=1, **entry.small))
        ]
    return f"These have a step: {', '.join(names)}"


def _has_step(model: DVAE) -> bool:
    """Whether a model filters frame by frame in a state of fixed size, without a latent of the whole sequence."""
    if not model.has_proposal or model.sequence_latents:
        return False
    state, past = _begun(model, 1)
    return set(past.before) == set(past.carried) and bool(state)


def _begun(model: DVAE, batch_size: int) -> tuple[State, _Begun]:
    """The state of generator and inference model before the first frame, and a past that has seen a blank one."""
    state, _ = model._begin(batch_size, {}, None)
    blank = next(model.parameters()).new_zeros(batch_size, 1, model.x_dim)
    u = blank.new_zeros(batch_size, 1, model.u_dim) if model.u_dim else None
    past = _Begun()
    model._context(blank, u, None, Draws(how="mean"), past)
    return state, past


@torch.no_grad()
def _write(
    model: DVAE,
    program: nn.Module,
    given: dict[str, Any],
    free: dict[int, str],
    about: dict[str, Any],
    path: Path,
    kind: Literal["pt2", "onnx"],
) -> dict[str, Any]:
    """Export, compare with the model at other sizes, and only then write."""
    about = {"dvae_lib": __version__, "model": type(model).__name__, **about}
    try:
        with _silent():
            exported = torch.export.export(program, (), given, dynamic_shapes=_shapes(given, free), strict=False)
    except Exception as error:  # torch has many classes for what it cannot trace
        hint = "; num_frames=... fixes its length, or export_step exports its step, to be repeated" if 1 in free else ""
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise NotImplementedError(
            f"the {about['what']} of {type(model).__name__} cannot be exported{hint}. torch says: {said}"
        ) from error
    other = _resized(given, {0: 5, 1: 11} if len(free) > 1 else {0: 5})
    for inputs in (given, other):
        _compare(program(**inputs), exported.module()(**inputs))
    text = json.dumps(about)
    if kind == "pt2":
        with written_whole(path) as file, _silent():
            torch.export.save(exported, file, extra_files={METADATA: text})
        return about
    _to_onnx(exported, given, program(**given), path, text)
    return about


def _shapes(given: dict[str, Any], free: dict[int, str]) -> dict[str, Any]:
    """Which sizes are free: the same name is the same size."""
    dims = {axis: torch.export.Dim(name, min=1) for axis, name in free.items()}
    return {
        name: {key: {0: dims[0]} for key in value} if isinstance(value, dict) else dims for name, value in given.items()
    }


def _resized(given: Any, sizes: dict[int, int]) -> Any:
    """The same inputs in other numbers, repeated."""
    if isinstance(given, dict):
        return {name: _resized(value, sizes) for name, value in given.items()}
    for axis, size in sizes.items():
        rows = torch.arange(size) % given.shape[axis]
        given = given.index_select(axis, rows)
    return given


def _compare(wanted: Any, found: Any) -> None:
    pairs = zip(torch.utils._pytree.tree_leaves(wanted), torch.utils._pytree.tree_leaves(found), strict=True)
    worst = torch.stack([((a - b).abs() / (1 + a.abs())).max() for a, b in pairs]).max().item()  # NaN stays NaN
    if not worst < 1e-5:
        raise ArithmeticError(
            f"the exported program is off by {worst:.2g} of what the model computes; nothing is written"
        )


def _to_onnx(exported: Any, given: dict[str, Any], outputs: Any, path: Path, text: str) -> None:
    """By torch's exporter; names are those of the tensors."""
    plain = {name: value for name, value in given.items() if name != "state"}
    state = [name.replace(".", "_") for name in given.get("state", {})]
    inputs = [*(["x"] if "x" in plain else []), *state, *(name for name in plain if name != "x")]
    named, new = outputs if isinstance(outputs, tuple) else (outputs, {})
    following = [f"new_{name.replace('.', '_')}" for name in new]
    onnx = needed("onnx", "Exporting to ONNX", "onnx")
    with _silent():
        converted = torch.onnx.export(
            exported, input_names=inputs, output_names=[*named, *following], dynamo=True, verbose=False
        )
    assert converted is not None
    proto = converted.model_proto
    entry = proto.metadata_props.add()
    entry.key, entry.value = METADATA, text
    onnx.checker.check_model(proto)
    with written_whole(path) as file:
        file.write(proto.SerializeToString())


@contextmanager
def _silent() -> Iterator[None]:
    """Without the notes that torch's exporters leave on the way, of which nobody can make use here."""
    loggers = [logging.getLogger(name) for name in ("torch.export", "torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
