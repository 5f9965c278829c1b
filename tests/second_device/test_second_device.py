"""The stand-in for a GPU computes what the CPU does, and refuses what a GPU refuses."""

import copy

import pytest
import torch
from torch import Generator, nn

from dvae_lib.devices import accelerator

REFUSED = {
    "a sum": lambda d: torch.zeros(3, device=d) + torch.zeros(3),
    "a product": lambda d: torch.zeros(2, 3, device=d) @ torch.zeros(3),
    "a choice": lambda d: torch.where(torch.ones(3, device=d) > 0, torch.zeros(3, device=d), torch.zeros(3)),
    "a stack": lambda d: torch.stack([torch.zeros((), device=d), torch.zeros(())]),
    "a layer": lambda d: nn.Linear(3, 2)(torch.zeros(3, device=d)),
    "a recurrent layer": lambda d: nn.LSTM(3, 2)(torch.zeros(4, 1, 3, device=d)),
    "values in place": lambda d: torch.zeros(3, device=d).mul_(torch.ones(3)),
    "its numbers in the CPU's tensor": lambda d: torch.zeros(3).add_(torch.ones(3, device=d)),
    "indices of the CPU's tensor": lambda d: torch.zeros(3)[torch.tensor([0], device=d)],
    "NumPy": lambda d: torch.zeros(3, device=d).numpy(),
    "the CPU's generator": lambda d: torch.randn(3, device=d, generator=Generator()),
    "its generator for the CPU": lambda d: torch.randn(3, generator=Generator(d)),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refuses_what_a_gpu_refuses(second, what):
    with pytest.raises((RuntimeError, TypeError), match=r"device|convert|Expected a 'c"):
        REFUSED[what](second)


def test_takes_what_a_gpu_takes(second):
    x = torch.arange(4.0, device=second)
    assert (x + torch.tensor(1.0)).tolist() == [1, 2, 3, 4]
    assert x[torch.tensor([0, 2])].tolist() == [0, 2]
    x[1:3] = 7.0
    x.view(2, 2)[1, 1:].neg_()
    assert x.cpu().tolist() == [0, 7, 7, -3]
    assert x.device == second == accelerator()


@pytest.mark.parametrize("net", [nn.LSTM(3, 5, 2, bidirectional=True), nn.GRU(3, 5), nn.RNN(3, 5), nn.LSTMCell(3, 4),
                                 nn.GRUCell(3, 4), nn.Linear(3, 5)], ids=lambda net: type(net).__name__)  # fmt: skip
def test_layers_and_their_gradients_are_those_of_the_cpu(second, net):
    torch.manual_seed(0)
    x = torch.randn(*((4,) if isinstance(net, nn.RNNCellBase) else (6, 4)), 3)
    results = []
    for device in ("cpu", second):
        here = copy.deepcopy(net).to(device)
        inputs = x.to(device).detach().requires_grad_()
        outputs = here(inputs)
        while isinstance(outputs, tuple):
            outputs = outputs[0]
        (outputs * torch.linspace(0, 1, outputs.numel(), device=device).reshape(outputs.shape)).sum().backward()
        results.append([outputs.cpu(), inputs.grad.cpu(), *(p.grad.cpu() for p in here.parameters())])
    torch.testing.assert_close(*results)


def test_random_numbers_can_be_had_again(second):
    first = torch.randn(5, device=second, generator=Generator(second).manual_seed(3))
    assert torch.equal(first, torch.randn(5, device=second, generator=Generator(second).manual_seed(3)))
    torch.manual_seed(0)
    state, here = torch.second.get_rng_state(), torch.rand(3, device=second)
    torch.second.set_rng_state(state)
    assert torch.equal(here, torch.rand(3, device=second))
    before = torch.get_rng_state()
    torch.rand(3, device=second)
    assert torch.equal(torch.get_rng_state(), before)


def test_linear_algebra(second):
    torch.manual_seed(0)
    a = torch.randn(4, 4, dtype=torch.float64)
    for function in (torch.linalg.qr, torch.linalg.eigh, lambda m: torch.linalg.cholesky(m @ m.mT), torch.fft.rfft):
        there, here = function(a.to(second)), function(a)
        for x, y in zip(there, here, strict=True):
            assert x.device == second
            torch.testing.assert_close(x.cpu(), y)


def test_it_is_nobodys_accelerator_otherwise():
    assert accelerator().type != "second"
