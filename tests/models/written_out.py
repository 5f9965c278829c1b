"""What tests that write a model's equations out frame by frame have in common: four sequences, and a cell."""

import torch
from torch import nn


def data(size, *, seed=1, time=5):
    return torch.randn(4, time, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def lstm(layers, batch=4):
    """torch's cell with the weights of a layer, from a state of zeros; called with inputs it gives the next h."""
    cell = nn.LSTMCell(layers.input_size, layers.hidden_size).double()
    cell.load_state_dict({name.removesuffix("_l0"): value for name, value in layers.state_dict().items()})
    state = [torch.zeros(batch, layers.hidden_size, dtype=torch.float64)] * 2

    def following(*inputs):
        state[:] = cell(torch.cat(inputs, -1), tuple(state))
        return state[0]

    return following
