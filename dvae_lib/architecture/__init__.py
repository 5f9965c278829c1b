"""What a model is made of, read off the running model: its networks, their sizes, and which feeds which."""

from dvae_lib.architecture.comparison import check_networks
from dvae_lib.architecture.drawing import draw_architecture
from dvae_lib.architecture.flow import PROCESSES, Process, Term, data_flow
from dvae_lib.architecture.notation import layers
from dvae_lib.architecture.showing import show_architecture
from dvae_lib.architecture.table import Part, Weights, architecture, count_weights, to_markdown

__all__ = [
    "PROCESSES",
    "Part",
    "Process",
    "Term",
    "Weights",
    "architecture",
    "check_networks",
    "count_weights",
    "data_flow",
    "draw_architecture",
    "layers",
    "show_architecture",
    "to_markdown",
]
