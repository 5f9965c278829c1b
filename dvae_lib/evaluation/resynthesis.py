"""How well a trained model resynthesises what it analyses, after Section 13.3.1.

The latents of a test sequence are inferred, the observations generated from them, and the result compared with the
original: speech as a waveform, by SI-SDR, PESQ and ESTOI; other sequences in the units of their data.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from tqdm.auto import tqdm

from dvae_lib.data.sequences import SequenceDataset
from dvae_lib.data.speech import SpeechFrontEnd
from dvae_lib.devices import Device, brought_back, chosen_device, generator_on
from dvae_lib.metrics import METRICS, ScoreTable, metrics_of, speech_metrics
from dvae_lib.models.base import DVAE, Draw
from dvae_lib.models.front_end import check_bins, front_end_of
from dvae_lib.objectives import variational_lower_bound
from dvae_lib.waveforms import Waveform, as_waveform

__all__ = ["Resynthesis", "analysis_resynthesis", "resynthesise", "score_sequences"]

Utterance = Waveform | str | Path


class Resynthesis(NamedTuple):
    """An utterance before and after.

    Attributes:
        name: Its file, or its number.
        original: The waveform, trimmed and normalised by the front end.
        resynthesised: The waveform made of the model's spectrogram and the original's phase.
        power: The power spectrogram that the model has seen.
        reconstruction: The one that it gave back, the mean of p(x_t | .).
        bound: The VLB in nats per frame, a one-sample estimate.
    """

    name: str
    original: Float[Tensor, " samples"]
    resynthesised: Float[Tensor, " samples"]
    power: Float[Tensor, "frames bins"]
    reconstruction: Float[Tensor, "frames bins"]
    bound: float


def resynthesise(
    model: DVAE,
    utterances: Sequence[Utterance],
    *,
    front_end: SpeechFrontEnd | None = None,
    feedback: float = 0.0,
    latents: Draw = "sample",
    batch_size: int = 16,
    generator: Generator | None = None,
    device: Device = None,
) -> Iterator[Resynthesis]:
    """Analyse utterances and synthesise them from the model's spectrograms and the original phases.

    Arguments:
        model: A model of power spectrograms.
        utterances: Audio files, or waveforms of shape (samples,) at the front end's rate.
        front_end: By default the one that the model was trained with.
        feedback: Probability that the generative model is fed its own output: 0 is teacher forcing, 1 generation
            mode (Section 13.3.3).
        latents: A sample of the posterior, as in training, or its mean.
        batch_size: Utterances that are run side by side.
        generator: Source of the latents' noise.
        device: Where the model is run: "auto" takes the machine's GPU where it has one; by default where the model is.
            Afterwards the model is where it was; results are on the CPU.

    Yields:
        One result per utterance, in order.

    Raises:
        ValueError: The model's vectors are not this front end's spectra, or an utterance that cannot be analysed, by
            its name.
    """
    front_end = front_end_of(model) if front_end is None else front_end
    check_bins(model, front_end)
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1; got {batch_size}")
    named = [(str(u) if isinstance(u, str | Path) else str(i), u) for i, u in enumerate(utterances)]
    for start in range(0, len(named), batch_size):
        yield from _resynthesise_batch(
            model, named[start : start + batch_size], front_end, feedback, latents, generator, device
        )


@torch.no_grad()
def _resynthesise_batch(
    model: DVAE,
    named: Sequence[tuple[str, Utterance]],
    front_end: SpeechFrontEnd,
    feedback: float,
    latents: Draw,
    generator: Generator | None,
    device: Device,
) -> list[Resynthesis]:
    originals = [
        front_end.read(u)
        if isinstance(u, str | Path)
        else front_end.prepare(as_waveform(u, f"Utterance {name}").cpu().float(), name=f"Utterance {name}")
        for name, u in named
    ]
    analyses = [front_end.analyse(original) for original in originals]
    dataset = SequenceDataset(
        [analysis.power for analysis in analyses],
        names=[name for name, _ in named],
        standardizer=model.standardizer,
        dtype=analyses[0].power.dtype,
    )
    means, bounds = _evaluate_batch(model, dataset, range(len(dataset)), feedback, latents, generator, device)
    results = []
    for (name, _), original, (power, phase, length), mean, bound in zip(
        named, originals, analyses, means, bounds, strict=True
    ):
        # Standardised models may leave the range of powers.
        reconstruction = mean.clamp(min=front_end.settings.power_floor)
        resynthesised = front_end.synthesise(reconstruction, phase, length)
        results.append(Resynthesis(name, original, resynthesised, power, reconstruction, bound))
    return results


def analysis_resynthesis(
    model: DVAE,
    utterances: Sequence[Utterance],
    *,
    names: Sequence[str] | None = None,
    front_end: SpeechFrontEnd | None = None,
    feedback: float = 0.0,
    latents: Draw = "sample",
    batch_size: int = 16,
    metrics: Sequence[str] | None = None,
    num_workers: int | None = None,
    progress: bool = False,
    generator: Generator | None = None,
    device: Device = None,
) -> ScoreTable:
    """The experiment behind Table 13.1: SI-SDR, PESQ and ESTOI of resynthesised utterances, and the VLB.

    Arguments:
        model: A model of power spectrograms.
        utterances: Audio files, or waveforms.
        names: Of the rows; by default the files or numbers.
        front_end: See `resynthesise`, also for the following.
        feedback: See `resynthesise`.
        latents: See `resynthesise`.
        batch_size: See `resynthesise`.
        metrics: See `dvae_lib.metrics.speech_metrics`, also for the following.
        num_workers: See `dvae_lib.metrics.speech_metrics`.
        progress: Show progress bars.
        generator: Source of the latents' noise; with the same one the table is the same.
        device: See `resynthesise`.

    Returns:
        One row per utterance; the columns are the measures and ``bound``, in nats per frame.
    """
    results = resynthesise(
        model,
        utterances,
        front_end=front_end,
        feedback=feedback,
        latents=latents,
        batch_size=batch_size,
        generator=generator,
        device=device,
    )
    kept = [
        (result.name, result.original, result.resynthesised, result.bound)
        for result in tqdm(results, "Resynthesis", len(utterances), leave=False, disable=not progress, unit="utterance")
    ]
    if not kept:
        raise ValueError("There are no utterances to resynthesise")
    found, originals, resynthesised, bounds = zip(*kept, strict=True)
    table = speech_metrics(
        originals,
        resynthesised,
        sample_rate=(front_end or front_end_of(model)).settings.sample_rate,
        metrics=metrics,
        names=found if names is None else names,
        num_workers=num_workers,
        progress=progress,
    )
    return table.with_column("bound", bounds)


def score_sequences(
    model: DVAE,
    dataset: SequenceDataset,
    *,
    positions: Literal["m", "mm"] | None = None,
    feedback: float = 0.0,
    latents: Draw = "sample",
    batch_size: int = 16,
    generator: Generator | None = None,
    device: Device = None,
) -> ScoreTable:
    """Bound and reconstruction error of sequences that are no speech.

    Arguments:
        model: A model.
        dataset: The sequences, with the standardiser that the model was trained with.
        positions: The unit of joint positions, which adds the MPJPE of human motion (Table 13.2).
        feedback: See `resynthesise`, also for the following.
        latents: See `resynthesise`.
        batch_size: See `resynthesise`.
        generator: Source of the latents' noise.
        device: See `resynthesise`.

    Returns:
        One row per sequence: ``bound`` in nats per frame of what the model sees (standardised data, where they are),
        and the registered measures of sequences (``rmse``, in the data's own units) and, of positions, of motion
        (``mpjpe``), of the mean of p(x_t | .). Where the data have gaps, of what was observed.

    Raises:
        ValueError: Data of another size, or standardised otherwise than the model's.
    """
    learned, used = model.standardizer, dataset.standardizer
    if (learned is None) != (used is None) or (
        learned is not None
        and used is not None
        and not (torch.equal(learned.mean, used.mean) and torch.equal(learned.scale, used.scale))
    ):
        raise ValueError(
            "The data are not standardised as the model's training data were: set dataset.standardizer to "
            "model.standardizer, or to None where the model has none"
        )
    measured = [*metrics_of("sequences"), *(metrics_of("motion") if positions is not None else ())]
    columns: dict[str, list[float]] = {"bound": [], **{name: [] for name in measured}}
    for start in range(0, len(dataset), batch_size):
        indices = range(start, min(start + batch_size, len(dataset)))
        means, bounds = _evaluate_batch(model, dataset, indices, feedback, latents, generator, device)
        columns["bound"] += bounds
        for i, estimate in zip(indices, means, strict=True):
            original = dataset[i] if used is None else used.inverse(dataset[i])
            seen: Any = ~original.isnan() if dataset.missing else ...
            for name in measured:
                metric, metres = METRICS[name], 1e-3 if positions == "mm" else 1.0
                scale = metres if metric.kind == "motion" else 1.0
                assert metric.function is not None  # what `metrics_of` promises
                columns[name].append(float(metric.function(scale * original[seen], scale * estimate[seen])))
    return ScoreTable(dataset.names, {name: tuple(values) for name, values in columns.items()})


@torch.no_grad()
def _evaluate_batch(
    model: DVAE,
    dataset: SequenceDataset,
    indices: Sequence[int],
    feedback: float,
    latents: Draw,
    generator: Generator | None,
    device: Device,
) -> tuple[list[Tensor], list[float]]:
    """For each sequence the mean of p(x_t | .) in the data's units, on the CPU, and the bound in nats per frame.

    Both come from the same sample of the latents, so that the model is run once, where its bound is that of Eq. (4.24).
    """
    there, parameter = chosen_device(device, model), next(model.parameters())
    generator = generator_on(there, generator)
    cpu = dataset.batch(list(indices))
    x, lengths, u = cpu._replace(
        x=cpu.x.to(parameter.dtype), u=None if cpu.u is None else cpu.u.to(parameter.dtype)
    ).to(there)
    gaps: dict[str, Any] = {} if cpu.observed is None else {"observed": cpu.observed.to(there)}
    training = model.training
    with brought_back(model):
        model.to(there).eval()
        try:
            if latents == "sample" and not _has_own_bound(model):
                output = model(x, u, lengths=lengths, **gaps, feedback=feedback, generator=generator)
                observation, bound = output.observation, variational_lower_bound(output, x, lengths=lengths, **gaps)
            else:  # the bound is an expectation over samples, which their mean is not; the KVAE has its own estimate
                observation = model.reconstruct(
                    x, u, lengths=lengths, **gaps, feedback=feedback, latents=latents, generator=generator
                )
                bound = model.vlb(x, u, lengths=lengths, **gaps, feedback=feedback, generator=generator)
        finally:
            model.train(training)
    mean, value = observation.mean.to("cpu", cpu.x.dtype), bound.reconstruction - bound.total_kl
    if dataset.standardizer is not None:
        mean = dataset.standardizer.inverse(mean)
    num_frames = dataset.lengths[list(indices)]
    return [mean[i, :n] for i, n in enumerate(num_frames.tolist())], (value.cpu() / num_frames).tolist()


def _has_own_bound(model: DVAE) -> bool:
    """Whether its class computes the bound in another way than from what `forward` returns."""
    kind = type(model)
    return (kind.vlb, kind.single_sample_bound) != (DVAE.vlb, DVAE.single_sample_bound)
