"""Data: sequences of vectors from speech, motion, music and toy systems, and from your own arrays and files.

Names are imported when they are first used, so that ``import dvae_lib`` stays quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

# Module by module, the public names of this package. A new module adds its line here and below.
_PUBLIC = {
    "sequences": (
        "Batch",
        "SequenceDataset",
        "Splits",
        "Standardizer",
        "from_arrays",
        "from_csv_folder",
        "identity",
        "split_by_group",
    ),
}
_MODULE_OF = {name: module for module, names in _PUBLIC.items() for name in names}

if TYPE_CHECKING:  # what editors and type checkers see
    from dvae_lib.data.sequences import (
        Batch,
        SequenceDataset,
        Splits,
        Standardizer,
        from_arrays,
        from_csv_folder,
        identity,
        split_by_group,
    )

__all__ = [
    "Batch",
    "SequenceDataset",
    "Splits",
    "Standardizer",
    "from_arrays",
    "from_csv_folder",
    "identity",
    "split_by_group",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value  # the next access finds it without coming here
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
