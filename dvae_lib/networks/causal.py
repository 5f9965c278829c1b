r"""What a causal memory is: one protocol for all networks that carry the past of a sequence to its present."""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["Memory"]


class Memory(nn.Module):
    r"""A network whose output :math:`\mathbf{h}_t` is a function of the inputs up to t, and of no later ones.

    Whole sequences are run at once, for training; a stream is run frame by frame, or in pieces of any length, from the
    state that the piece before has left. Both are one method, `forward`, and give the same outputs.

    Attributes:
        in_dim: Size of the inputs.
        out_dim: Size of the outputs.
        receptive_field: Number R of inputs that an output looks at, :math:`\mathbf{h}_t =
            \mathbf{h}(\mathbf{u}_{t-R+1:t})`; None where it looks at all of the past.
        is_recurrent: Whether the past reaches an output through a state of fixed size, in the spec's notation ``h_t <-
            u_t, h_{t-1}``; otherwise it looks at its inputs directly, ``h_t <- u_{t-R+1:t}``.
        state_names: Names of the tensors in its state.
    """

    in_dim: int
    out_dim: int
    receptive_field: int | None = None
    is_recurrent: ClassVar[bool] = False
    state_names: tuple[str, ...]

    def initial_state(self, batch_size: int) -> dict[str, Tensor]:
        """The state before the first frame: tensors by name, the batch first."""
        raise NotImplementedError(f"{type(self).__name__} needs initial_state")

    def forward(
        self, u: Float[Tensor, "batch time in_dim"], state: dict[str, Tensor] | None = None
    ) -> tuple[Float[Tensor, "batch time out_dim"], dict[str, Tensor]]:
        """The outputs of all frames, and the state after the last.

        Arguments:
            u: The inputs; of one frame for a step.
            state: What an earlier call returned, to continue from there; by default the initial state.
        """
        raise NotImplementedError(f"{type(self).__name__} needs forward")

    def step(
        self, u_t: Float[Tensor, "batch in_dim"], state: dict[str, Tensor]
    ) -> tuple[Float[Tensor, "batch out_dim"], dict[str, Tensor]]:
        """One frame: its output, and the state after it."""
        outputs, state = self(u_t[:, None], state)
        return outputs[:, 0], state

    @torch.no_grad()
    def state_size(self, num_frames: int) -> int:
        """How many numbers are kept of a sequence after so many frames."""
        parameter = next(self.parameters())
        _, state = self(parameter.new_zeros(1, num_frames, self.in_dim))
        return sum(value.numel() for value in state.values())
