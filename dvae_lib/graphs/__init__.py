"""Who depends on whom: specs, d-separation, drawings, LaTeX, and the check against running code."""

from dvae_lib.graphs.entries import EntryGroups, entry_groups
from dvae_lib.graphs.explorer import explore
from dvae_lib.graphs.language import Index, Reference, SpecError
from dvae_lib.graphs.separation import d_separated, explain
from dvae_lib.graphs.spec import DependencySpec, Gap
from dvae_lib.graphs.verification import Edge, Verification, verify_dependencies

__all__ = [
    "DependencySpec",
    "Edge",
    "EntryGroups",
    "Gap",
    "Index",
    "Reference",
    "SpecError",
    "Verification",
    "d_separated",
    "entry_groups",
    "explain",
    "explore",
    "verify_dependencies",
]
