r"""A lossy code of one sequence: its latents on a grid, written with the probabilities that the model predicts.

What is coded is the mean of the posterior; what is decoded, the mean of :math:`p(\mathbf{x}_t | \cdot)` at the
quantised latents. The code is causal: the decoder gives each frame as soon as its latents are read.
"""

import math
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from torch.distributions import Distribution

from dvae_lib.coding.container import LATENT_CODE, CodecError, Reader, Writer, check_model, fingerprint
from dvae_lib.coding.grids import Code, Grid, Symbols, bits_of, constriction
from dvae_lib.coding.walking import Inference, Walk, check_codable, gaussian, in_double
from dvae_lib.models.base import DVAE

__all__ = ["NATURAL_STEP", "CodedSequence", "LatentCode", "Loop", "decode", "decode_frames", "encode", "encode_frames"]

Loop = Literal["closed", "open"]

NATURAL_STEP = math.sqrt(12)
"""In standard deviations of the posterior: rounding to it makes an error as large as the posterior's own variance."""


class LatentCode(NamedTuple):
    """The code of a sequence, before it is a file.

    Attributes:
        grids: The grid of each latent variable.
        words: What the entropy coder has made.
        check: A checksum of all numbers, which tells a decoder that computes otherwise.
        bits: What an ideal code would take, the negative logarithm of the numbers' probabilities.
        reconstruction: What the decoder will give.
    """

    grids: dict[str, Grid]
    words: NDArray[np.uint32]
    check: int
    bits: float
    reconstruction: Float[Tensor, "time x_dim"]


class CodedSequence(NamedTuple):
    """A coded sequence.

    Attributes:
        data: The file.
        estimated_bits: The information content of the quantised latents under the model, in bits; the file has its
            header besides.
        header_bits: The bits of the file that are not the code of latents.
        reconstruction: What `decode` gives.
    """

    data: bytes
    estimated_bits: float
    header_bits: int
    reconstruction: Float[Tensor, "time x_dim"]

    @property
    def bits(self) -> int:
        """Bits of the file."""
        return 8 * len(self.data)


@torch.no_grad()
def encode(
    model: DVAE, x: Float[Tensor, "time x_dim"], *, step: float = NATURAL_STEP, loop: Loop = "closed"
) -> CodedSequence:
    r"""Code a sequence by its latents, quantised with a uniform step.

    In a closed loop the encoder runs the decoder's own steps: each posterior looks back on the latents as they were
    quantised, and in predictive models on the frames as they were decoded. In an open loop it looks back on what only
    it has, the exact latents and the true frames, and the decoder's errors go on to its later frames. The decoder is
    the same for both. The closed loop is that of the feedback recurrent autoencoder (Yang et al., 2020), for which a
    patent was granted in the United States (US 11,526,734 B2).

    Arguments:
        model: A causal model with Gaussian latents, undriven; as a float64 copy it is run on the processor.
        x: One sequence, in the values that the model was trained on.
        step: The quantiser's step, in units of the posterior's deviation (of its root mean precision over the file),
            entry by entry. A larger one gives a smaller file and a larger error.
        loop: "closed" or "open".

    Raises:
        NotImplementedError: The model cannot be coded so; see `check_codable`.
        ValueError: A step that is not positive, another loop, a sequence that the model does not observe.
        ImportError: The package `constriction` is missing.

    Example:
        >>> from dvae_lib import DKF
        >>> model = DKF(x_dim=3, z_dim=2)
        >>> file = encode(model, torch.zeros(10, 3))
        >>> bool((decode(model, file.data) == file.reconstruction).all())
        True
    """
    twin = in_double(model)
    found = encode_frames(twin, x, step, loop)
    writer = Writer(LATENT_CODE)
    writer.raw(fingerprint(twin))
    writer.number(len(x))
    write_latents(writer, twin, found)
    data = writer.file()
    return CodedSequence(data, found.bits, 8 * len(data) - 32 * len(found.words), found.reconstruction.to(x.dtype))


@torch.no_grad()
def decode(model: DVAE, data: bytes) -> Float[Tensor, "time x_dim"]:
    """The sequence from a file that `encode` made with the same model.

    Raises:
        CodecError: No such file, of another model, cut off or damaged; or this machine computes otherwise.
    """
    twin = in_double(model)
    check_codable(twin)
    reader = Reader(data, LATENT_CODE)
    check_model(twin, reader.raw(4))
    decoded = read_latents(reader, twin, reader.number())
    return decoded.to(next(model.parameters()).dtype)


def encode_frames(twin: DVAE, x: Float[Tensor, "time x_dim"], step: float, loop: Loop) -> LatentCode:
    """The code of a sequence. See `encode`; the model is from `in_double`."""
    check_codable(twin)
    if not (math.isfinite(step) and step > 0):
        raise ValueError(f"step must be positive; got {step}")
    if loop not in get_args(Loop):
        raise ValueError(f"loop must be one of {', '.join(get_args(Loop))}; got {loop!r}")
    x, _, _ = twin.admit(x[None].to("cpu", torch.float64), None, None, 0.0, None)
    exact = twin.inference(x, draw="mean")
    grids = {}
    for name in twin.spec.latents:
        precision = gaussian(twin, name, exact[name].posterior).variance.reciprocal()
        grids[name] = Grid(step * precision.reshape(-1, precision.shape[-1]).mean(0).rsqrt())
    if loop == "closed":
        inference = Inference(twin, x, closed=True)
        return _encoded(twin, x, grids, inference)
    return _encoded(twin, x, grids, _Known(twin, {name: latent.sample for name, latent in exact.items()}))


class _Known:
    """In place of `Inference`: values that were inferred beforehand, with nothing but the truth in view."""

    def __init__(self, model: DVAE, values: Mapping[str, Tensor]) -> None:
        self.model, self.values, self.t = model, values, -1

    def begin(self, of_sequence: Mapping[str, Tensor]) -> None: ...

    def next_frame(self) -> None:
        self.t += 1

    def target(self, name: str, known: Mapping[str, Tensor]) -> Tensor:
        value = self.values[name]
        return value[:, self.t] if name in self.model.frame_latents else value

    def remember(self, latents: Mapping[str, Tensor]) -> None: ...

    def look_back_on(self, x_t: Tensor) -> None: ...


def _encoded(twin: DVAE, x: Tensor, grids: dict[str, Grid], inference: Inference | _Known) -> LatentCode:
    coder = constriction().stream.queue.RangeEncoder()
    check, bits = 0, 0.0

    def choose(name: str, prior: Distribution, known: Mapping[str, Tensor]) -> Tensor:
        nonlocal check, bits
        believed = gaussian(twin, name, prior)
        if isinstance(inference, Inference):
            wanted = inference.posterior(name, known).mean
        else:
            wanted = inference.target(name, known)
        symbols = grids[name].nearest(wanted, believed)
        for where, family, parameters in grids[name].codes(believed, believed):
            coder.encode(symbols[where], family, *parameters)
            bits += bits_of(symbols[where], *parameters)
        check = zlib.crc32(symbols.astype("<i4").tobytes(), check)
        return grids[name].value(symbols, believed)

    walk = Walk(twin, choose)
    inference.begin(walk.of_sequence)
    frames = []
    for _ in range(x.shape[1]):
        inference.next_frame()
        mean = walk.step().mean
        inference.remember(walk.latents)
        walk.look_back_on(mean)
        inference.look_back_on(mean)
        frames.append(mean[0])
    return LatentCode(grids, coder.get_compressed(), check, bits, torch.stack(frames))


def decode_frames(
    twin: DVAE, num_frames: int, grids: Mapping[str, Grid], words: NDArray[np.uint32], check: int
) -> Iterator[Float[Tensor, " x_dim"]]:
    """The frames of a sequence, one after the other. See `decode`; the model is from `in_double`."""
    coder: Any = constriction().stream.queue.RangeDecoder(words)
    found = 0

    def choose(name: str, prior: Distribution, known: Mapping[str, Tensor]) -> Tensor:
        nonlocal found
        believed = gaussian(twin, name, prior)
        symbols = decoded_symbols(coder, grids[name].codes(believed, believed), twin.latent_dim(name))
        found = zlib.crc32(symbols.astype("<i4").tobytes(), found)
        return grids[name].value(symbols, believed)

    walk = Walk(twin, choose)
    for _ in range(num_frames):
        mean = walk.step().mean
        walk.look_back_on(mean)
        yield mean[0]
    if found != check:
        raise CodecError(_OTHERWISE)


_OTHERWISE = (
    "the file is whole, but this machine computes other probabilities from the model than the one that wrote it: "
    "decode it with the same versions of dvae-lib and torch, or on the machine that encoded it"
)


def decoded_symbols(coder: Any, codes: Iterator[Code], size: int) -> Symbols:
    """The numbers of a vector, from an entropy decoder."""
    symbols = np.zeros(size, np.int32)
    try:
        for where, family, parameters in codes:
            symbols[where] = coder.decode(family, *parameters)
    except (AssertionError, ValueError) as error:  # what the package says of a code that cannot be
        raise CodecError(_OTHERWISE) from error
    return symbols


def write_latents(writer: Writer, twin: DVAE, code: LatentCode) -> None:
    """The grids, the checksum and the code: the end of a file."""
    for name in twin.spec.latents:
        writer.raw(code.grids[name].code)
    writer.raw(code.check.to_bytes(4, "little"))
    writer.words(code.words)


@torch.no_grad()
def read_latents(reader: Reader, twin: DVAE, num_frames: int) -> Float[Tensor, "time x_dim"]:
    """The sequence from the end of a file."""
    grids = {name: Grid.decoded(reader.raw(twin.latent_dim(name))) for name in twin.spec.latents}
    check = int.from_bytes(reader.raw(4), "little")
    return torch.stack(list(decode_frames(twin, num_frames, grids, reader.words(), check)))
