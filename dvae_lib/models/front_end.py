"""What a model of speech hears through: the front end that it was trained with."""

from dvae_lib.data.speech import FrontEndSettings, SpeechFrontEnd
from dvae_lib.models.base import DVAE

__all__ = ["check_bins", "front_end_of"]


def front_end_of(model: DVAE) -> SpeechFrontEnd:
    """The front end that a model was trained with, from what is saved beside its weights; else the review's.

    Raises:
        ValueError: The model does not observe the spectrograms of this front end.
    """
    saved = model.metadata.get("front_end")
    front_end = SpeechFrontEnd(None if saved is None else FrontEndSettings.from_dict(saved))
    check_bins(model, front_end)
    return front_end


def check_bins(model: DVAE, front_end: SpeechFrontEnd) -> None:
    """Refuse a front end whose spectra are no observations of the model.

    Raises:
        ValueError: They have another size.
    """
    if model.x_dim != front_end.settings.num_bins:
        raise ValueError(
            f"This model observes vectors of size {model.x_dim}, the front end gives spectra of "
            f"{front_end.settings.num_bins} bins: it was not trained on such speech"
        )
