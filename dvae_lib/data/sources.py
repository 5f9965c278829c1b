"""The former path of `dvae_lib.data.loading`."""

from dvae_lib.data.loading import Source, load_source, source_names

__all__ = ["Source", "load_source", "source_names"]
