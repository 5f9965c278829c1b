r"""Lossless coding with bits back: a file whose length is the bound (Section 14.4).

The coder is a stack (asymmetric numeral systems, Duda, 2009), as Townsend, Bird and Barber (2019) use it. To encode a
sequence, its latents are *decoded* from what is on the stack, with the probabilities of the posterior, which takes
:math:`-\log_2 q` bits away; then the sequence and its latents are encoded, for
:math:`-\log_2 p(\mathbf{x}, \mathbf{z})` bits. The decoder goes back, and puts the bits that were lent on the stack.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from torch.distributions import Distribution

from dvae_lib.coding.container import BITS_BACK, Reader, Writer, check_model, fingerprint
from dvae_lib.coding.grids import Code, Grid, Symbols, constriction, observation_codes
from dvae_lib.coding.latent_code import decoded_symbols
from dvae_lib.coding.walking import Inference, Walk, check_codable, gaussian, in_double
from dvae_lib.models.base import DVAE

__all__ = ["Compressed", "compress", "decompress"]

STATE = 2
"""Words of the entropy coder's state, without which nothing can be decoded."""

Sequences = Sequence[Float[Tensor, "_ x_dim"]]


class Compressed(NamedTuple):
    r"""Sequences in one file, and where its bits went.

    Attributes:
        data: The file.
        initial_bits: Random bits that the first latents were decoded from. The decoder ends with them on its stack:
            they are lent, not spent, by a file that is not alone.
        header_bits: What is no code: kind, model, lengths, grids, checksum, and the last word that is not full.
        bound_bits: The negative bound in bits, :math:`\log_2 q(\mathbf{z}) - \log_2 p(\mathbf{x}, \mathbf{z})` in
            densities, at the very latents that were coded.
    """

    data: bytes
    initial_bits: int
    header_bits: int
    bound_bits: float

    @property
    def bits(self) -> int:
        """Bits of the file."""
        return 8 * len(self.data)

    @property
    def net_bits(self) -> int:
        """Bits of the file but for those that were lent and those of the header: what the bound is the price of."""
        return self.bits - self.initial_bits - self.header_bits

    @property
    def quantisation_bits(self) -> float:
        """What it costs that latents stand on a grid, and probabilities are whole multiples of a smallest one."""
        return self.net_bits - self.bound_bits


class BitStack:
    """The entropy coder. Where it is too empty to decode from, random words are put under what is there.

    Arguments:
        words: What was encoded.
        seed: Of the random words; None where there are to be none.
    """

    def __init__(self, words: NDArray[np.uint32], seed: int | None = None) -> None:
        self.coder: Any = constriction().stream.stack.AnsCoder(words) if len(words) else _empty()
        self.random = None if seed is None else np.random.default_rng(seed)
        self.lent = 0

    def pop(self, codes: Sequence[Code], size: int) -> Symbols:
        """Decode a vector."""
        # No entry takes more than a word, and two words are the coder's own state.
        while self.random is not None and self.coder.num_words() < size + STATE:
            trial = self.coder.clone()
            symbols = decoded_symbols(trial, iter(codes), size)
            if trial.num_words() >= STATE:
                self.coder = trial
                return symbols
            word = self.random.integers(1, 2**32, 1, dtype=np.uint32)
            self.coder = constriction().stream.stack.AnsCoder(np.concatenate([word, self.coder.get_compressed()]))
            self.lent += 1
        return decoded_symbols(self.coder, iter(codes), size)

    def push(self, symbols: Symbols, codes: Sequence[Code]) -> None:
        """Encode a vector, so that `pop` with the same codes gives it back."""
        for where, family, parameters in reversed(codes):
            self.coder.encode_reverse(symbols[where], family, *parameters)


def _empty() -> Any:
    return constriction().stream.stack.AnsCoder()


@torch.no_grad()
def compress(model: DVAE, sequences: Sequences, *, step: float = 0.5, seed: int = 0) -> Compressed:
    r"""Code sequences of zeros and ones, or of counts, without loss.

    The latents of a whole sequence are decoded before its first frame is encoded, since posteriors look back on the
    latents before, and so does the generator. Only where frames have nothing to do with each other, in a static VAE, is
    each frame a sequence of its own, and little need be lent.

    Arguments:
        model: A causal, undriven model with Gaussian latents, a proposal of each frame, and an observation model of
            zeros and ones or of counts. A float64 copy is run on the processor.
        sequences: Each (T, x_dim).
        step: The step of the latents' grid, in units of the posterior's deviation (or the prior's, if that is smaller),
            entry by entry. With a large one less is lent, and the file is no longer that of the bound.
        seed: Of the bits that are lent.

    Raises:
        NotImplementedError: Another kind of model; see `check_codable`.
        ValueError: A step that is not positive, no sequences, values that are not whole.
        ImportError: The package `constriction` is missing.

    Example:
        >>> from dvae_lib import VRNN
        >>> model = VRNN(x_dim=3, z_dim=2, observation="bernoulli")
        >>> x = (torch.rand(9, 3) < 0.5).float()
        >>> bool((decompress(model, compress(model, [x]).data)[0] == x).all())
        True
    """
    twin = in_double(model)
    check_codable(twin)
    if not (math.isfinite(step) and step > 0):
        raise ValueError(f"step must be positive; got {step}")
    admitted = [twin.admit(x[None].to("cpu", torch.float64), None, None, 0.0, None)[0] for x in sequences]
    if not admitted:
        raise ValueError("there are no sequences to compress")
    for i, x in enumerate(admitted):
        if not bool((x == x.round()).all()):
            raise ValueError(
                f"sequence {i} holds values that are not whole: lossless coding takes zeros and ones, or counts"
            )
    most = int(max(x.max() for x in admitted))
    grids = _grids(twin, admitted, step)
    stack, bound = BitStack(np.zeros(0, np.uint32), seed), 0.0
    for x in _pieces(twin, admitted):
        bound += _encode(twin, x, grids, stack, most)
    writer = Writer(BITS_BACK)
    writer.raw(fingerprint(twin))
    writer.number(most)
    writer.number(len(admitted))
    for x in admitted:
        writer.number(x.shape[1])
    for name in twin.spec.latents:
        writer.raw(grids[name].code)
    writer.words(stack.coder.get_compressed())
    data = writer.file()
    return Compressed(data, 32 * stack.lent, 8 * len(data) - stack.coder.num_valid_bits(), -bound / math.log(2))


@torch.no_grad()
def decompress(model: DVAE, data: bytes) -> list[Float[Tensor, "_ x_dim"]]:
    """The sequences from a file that `compress` made with the same model, equal bit for bit.

    Raises:
        CodecError: No such file, of another model, cut off or damaged; or this machine computes otherwise.
    """
    twin = in_double(model)
    check_codable(twin)
    reader = Reader(data, BITS_BACK)
    check_model(twin, reader.raw(4))
    most = reader.number()
    lengths = [reader.number() for _ in range(reader.number())]
    grids = {name: Grid.decoded(reader.raw(twin.latent_dim(name))) for name in twin.spec.latents}
    stack = BitStack(reader.words())
    pieces = [1] * sum(lengths) if twin.frames_are_independent else lengths
    found = [_decode(twin, num_frames, grids, stack, most) for num_frames in reversed(pieces)]
    frames = torch.cat(found[::-1], 1)[0].to(next(model.parameters()).dtype)
    return list(frames.split(lengths))


def _grids(twin: DVAE, sequences: Sequence[Tensor], step: float) -> dict[str, Grid]:
    """Steps from the mean precisions over all frames, of posteriors or, where these are sharper, of priors."""
    precisions: dict[str, list[Tensor]] = {name: [] for name in twin.spec.latents}
    for x in sequences:
        for name, latent in twin(x, draw="mean").latents.items():
            both = (gaussian(twin, name, d).variance for d in (latent.posterior, latent.prior))
            least = torch.minimum(*torch.broadcast_tensors(*both))
            precisions[name].append(least.reciprocal().reshape(-1, least.shape[-1]))
    return {name: Grid(step * torch.cat(found).mean(0).rsqrt()) for name, found in precisions.items()}


def _pieces(twin: DVAE, sequences: Sequence[Tensor]) -> list[Tensor]:
    """What is coded one after the other: sequences, or frames that are independent."""
    if not twin.frames_are_independent:
        return list(sequences)
    return [frame for x in sequences for frame in x.split(1, 1)]


def _encode(twin: DVAE, x: Tensor, grids: Mapping[str, Grid], stack: BitStack, most: int) -> float:
    """Put a sequence on the stack; the bound in nats, at the latents that it took from there."""
    inference = Inference(twin, x)
    pushed: list[tuple[Symbols, list[Code]]] = []
    bound = 0.0

    def choose(name: str, prior: Distribution, known: Mapping[str, Tensor]) -> Tensor:
        nonlocal bound
        believed, posterior, grid = gaussian(twin, name, prior), inference.posterior(name, known), grids[name]
        symbols = stack.pop(list(grid.codes(posterior, believed)), twin.latent_dim(name))
        pushed.append((symbols, list(grid.codes(believed, believed))))
        value = grid.value(symbols, believed)
        bound += float(believed.log_prob(value) - posterior.log_prob(value))
        return value

    walk = Walk(twin, choose)
    inference.begin(walk.of_sequence)
    for x_t in x.unbind(1):
        inference.next_frame()
        observation = walk.step()
        inference.remember(walk.latents)
        walk.look_back_on(x_t)
        bound += float(observation.log_prob(x_t))
        pushed.append((x_t[0].numpy().astype(np.int32), list(observation_codes(observation, most))))
    for symbols, codes in reversed(pushed):
        stack.push(symbols, codes)
    return bound


def _decode(twin: DVAE, num_frames: int, grids: Mapping[str, Grid], stack: BitStack, most: int) -> Tensor:
    """Take a sequence from the stack, and give back what its latents were decoded from."""
    popped: list[Symbols] = []

    def read(name: str, prior: Distribution, known: Mapping[str, Tensor]) -> Tensor:
        believed, grid = gaussian(twin, name, prior), grids[name]
        popped.append(stack.pop(list(grid.codes(believed, believed)), twin.latent_dim(name)))
        return grid.value(popped[-1], believed)

    walk = Walk(twin, read)
    frames = []
    for _ in range(num_frames):
        codes = list(observation_codes(walk.step(), most))
        x_t = torch.from_numpy(stack.pop(codes, twin.x_dim).astype(np.float64))[None]
        walk.look_back_on(x_t)
        frames.append(x_t)
    x = torch.stack(frames, 1)
    _give_back(twin, x, grids, stack, popped)
    return x


def _give_back(twin: DVAE, x: Tensor, grids: Mapping[str, Grid], stack: BitStack, popped: Sequence[Symbols]) -> None:
    """Encode latents with the posterior's probabilities, last first: what the encoder has decoded."""
    inference = Inference(twin, x)
    lent: list[tuple[Symbols, list[Code]]] = []

    def known_already(name: str, prior: Distribution, known: Mapping[str, Tensor]) -> Tensor:
        believed, grid = gaussian(twin, name, prior), grids[name]
        symbols = popped[len(lent)]
        lent.append((symbols, list(grid.codes(inference.posterior(name, known), believed))))
        return grid.value(symbols, believed)

    walk = Walk(twin, known_already)
    inference.begin(walk.of_sequence)
    for x_t in x.unbind(1):
        inference.next_frame()
        walk.step()
        inference.remember(walk.latents)
        walk.look_back_on(x_t)
    for symbols, codes in reversed(lent):
        stack.push(symbols, codes)
