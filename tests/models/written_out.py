"""What tests that write a model's equations out frame by frame have in common: four sequences, a cell, a linear one."""

import torch
from torch import nn

from dvae_lib.networks import InternalState


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


class LinearState(InternalState):
    """h_t = W [u_t, z] + A h_{t-1}, in place of an LSTM."""

    def __init__(self, in_dim, h_dim):
        super().__init__(in_dim, h_dim, cell="rnn")
        for parameter in self.double().parameters():
            nn.init.normal_(parameter, std=0.5)
        self.W, self.A = (self.layers.get_parameter(name) for name in ("weight_ih_l0", "weight_hh_l0"))

    def forward(self, u, state=None):
        h, states = (self.initial_state(len(u)) if state is None else state)["h"][:, 0], []
        for t in range(u.shape[1]):
            h = u[:, t] @ self.W.T + h @ self.A.T
            states.append(h)
        return torch.stack(states, 1), {"h": h[:, None]}
