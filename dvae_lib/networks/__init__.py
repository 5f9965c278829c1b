r"""The networks that the models are built from: :math:`d_x`, :math:`e_z`, the recursions and the output layers."""

from dvae_lib.networks.causal import Memory
from dvae_lib.networks.layers import (
    MLP,
    CategoricalHead,
    FlowHead,
    GatedTransition,
    GaussianHead,
    ObservationHead,
    append_input,
    prepend_input,
    side_by_side,
)
from dvae_lib.networks.memory import MEMORIES, TCN, CausalAttention, LinearRecurrence, make_memory
from dvae_lib.networks.recurrence import (
    FrameByFrame,
    InternalState,
    LocallyLinear,
    PrecomputedInput,
    Recurrence,
    reverse_time,
    sample_chain,
    sample_with_state,
    shift,
)

__all__ = [
    "MEMORIES",
    "MLP",
    "TCN",
    "CategoricalHead",
    "CausalAttention",
    "FlowHead",
    "FrameByFrame",
    "GatedTransition",
    "GaussianHead",
    "InternalState",
    "LinearRecurrence",
    "LocallyLinear",
    "Memory",
    "ObservationHead",
    "PrecomputedInput",
    "Recurrence",
    "append_input",
    "make_memory",
    "prepend_input",
    "reverse_time",
    "sample_chain",
    "sample_with_state",
    "shift",
    "side_by_side",
]
