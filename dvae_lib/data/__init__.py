"""Data: sequences of vectors from speech, motion, music and toy systems, and from your own arrays and files.

What each module offers stands in its own ``__all__``, and there alone.
"""

from dvae_lib.data import (
    catalogue,
    exhibits,
    fetch,
    heldout,
    loading,
    motion,
    music,
    own_files,
    places,
    pretrained,
    segments,
    sequences,
    speech,
    splits,
    standardize,
    steps,
    tables,
    toy,
)
from dvae_lib.data.catalogue import *  # noqa: F403
from dvae_lib.data.exhibits import *  # noqa: F403
from dvae_lib.data.fetch import *  # noqa: F403
from dvae_lib.data.heldout import *  # noqa: F403
from dvae_lib.data.loading import *  # noqa: F403
from dvae_lib.data.motion import *  # noqa: F403
from dvae_lib.data.music import *  # noqa: F403
from dvae_lib.data.own_files import *  # noqa: F403
from dvae_lib.data.places import *  # noqa: F403
from dvae_lib.data.pretrained import *  # noqa: F403
from dvae_lib.data.segments import *  # noqa: F403
from dvae_lib.data.sequences import *  # noqa: F403
from dvae_lib.data.speech import *  # noqa: F403
from dvae_lib.data.splits import *  # noqa: F403
from dvae_lib.data.standardize import *  # noqa: F403
from dvae_lib.data.steps import *  # noqa: F403
from dvae_lib.data.tables import *  # noqa: F403
from dvae_lib.data.toy import *  # noqa: F403

__all__ = sorted(
    {
        name
        for module in (
            catalogue,
            exhibits,
            fetch,
            heldout,
            loading,
            motion,
            music,
            own_files,
            places,
            pretrained,
            segments,
            sequences,
            speech,
            splits,
            standardize,
            steps,
            tables,
            toy,
        )
        for name in module.__all__
    }
)
