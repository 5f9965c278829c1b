r"""A window on an image that can be moved, zoomed and blurred: the selective attention of DRAW.

Gregor, Danihelka, Graves, Rezende and Wierstra (2015), "DRAW: a recurrent neural network for image generation".
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["WindowReader", "Window", "WindowHead", "WindowWriter", "filter_bank"]


def filter_bank(
    centre: Float[Tensor, "*batch"], stride: Float[Tensor, "*batch"], logvar: Float[Tensor, "*batch"], n: int, size: int
) -> Float[Tensor, "*batch n size"]:
    r"""Gaussian filters along one axis of an image, each of which sums to one.

    .. math::
        F_{ia} = \frac{1}{Z_i} \exp\Big({-\frac{(a - \mu_i)^2}{2 \sigma^2}}\Big), \qquad
        \mu_i = g + \Big(i - \frac{n + 1}{2}\Big) \delta, \qquad i = 1, \dots, n, \quad a = 1, \dots, A

    Arguments:
        centre: :math:`g`, in pixels: the first pixel's centre lies at 1, the last one's at A.
        stride: Distance :math:`\delta` of the filters, in pixels.
        logvar: :math:`\log \sigma^2`, of a width in pixels.
        n: Number of filters.
        size: Number A of pixels.

    Example:
        >>> bank = filter_bank(torch.tensor(2.0), torch.tensor(1.0), torch.tensor(-9.0), n=3, size=3)
        >>> bank.round(decimals=3)
        tensor([[1., 0., 0.],
                [0., 1., 0.],
                [0., 0., 1.]])
    """
    pixel = torch.arange(1, size + 1, dtype=centre.dtype, device=centre.device)
    place = torch.arange(1, n + 1, dtype=centre.dtype, device=centre.device) - (n + 1) / 2
    mean = centre[..., None] + place * stride[..., None]
    # A softmax divides by the sum without underflow where a filter lies far outside the image.
    distance = (pixel - mean[..., None]).square()
    return (-0.5 * distance * (-logvar).exp()[..., None, None]).softmax(-1)


class Window(NamedTuple):
    """Where to look, or to draw: a grid of n x n filters on an image of H x W pixels.

    Attributes:
        rows: Filters along the height.
        columns: Filters along the width.
        gain: By how much what is read is amplified, and what is drawn is weakened.
    """

    rows: Float[Tensor, "*batch n height"]
    columns: Float[Tensor, "*batch m width"]
    gain: Float[Tensor, "*batch"]

    def read(self, image: Float[Tensor, "*batch planes height width"]) -> Float[Tensor, "*batch planes n m"]:
        r"""The patch :math:`\gamma F_Y \mathbf{x} F_X^\top` of an image, plane by plane."""
        patch = self.rows[..., None, :, :] @ image @ self.columns[..., None, :, :].mT
        return self.gain[..., None, None, None] * patch

    def draw(self, patch: Float[Tensor, "*batch planes n m"]) -> Float[Tensor, "*batch planes height width"]:
        r"""The image :math:`\frac{1}{\gamma} F_Y^\top \mathbf{w} F_X` of a patch, plane by plane."""
        image = self.rows[..., None, :, :].mT @ patch @ self.columns[..., None, :, :]
        return image / self.gain[..., None, None, None]


class WindowHead(nn.Module):
    r"""A linear layer to the five numbers that say where a window is.

    .. math::
        (\tilde g_Y, \tilde g_X, \log \sigma^2, \log \tilde\delta, \log \gamma) = W \mathbf{h}, \qquad
        g_X = \frac{W + 1}{2} (\tilde g_X + 1), \qquad
        \delta = \frac{\max(H, W) - 1}{\max(n - 1, 1)} \, \tilde\delta,

    and :math:`g_Y` likewise: at zero the window lies in the middle, and its filters reach over the whole image.

    Arguments:
        in_dim: Size of the features.
        image: Height H and width W.
        size: Number of filters along an axis; no more than its pixels are used.
    """

    def __init__(self, in_dim: int, image: tuple[int, int], size: int) -> None:
        super().__init__()
        self.image, self.patch = image, (min(size, image[0]), min(size, image[1]))
        self.reach = (max(image) - 1) / max(*(side - 1 for side in self.patch), 1)
        self.linear = nn.Linear(in_dim, 5)

    def forward(self, features: Float[Tensor, "*batch in_dim"]) -> Window:
        """The window, with the batch shape of the features."""
        y, x, logvar, log_stride, log_gain = self.linear(features).unbind(-1)
        stride = self.reach * log_stride.exp()
        (height, width), (n, m) = self.image, self.patch
        rows = filter_bank((height + 1) / 2 * (y + 1), stride, logvar, n, height)
        columns = filter_bank((width + 1) / 2 * (x + 1), stride, logvar, m, width)
        return Window(rows, columns, log_gain.exp())


class WindowReader(nn.Module):
    r"""What is taken in of an image: all of it, or the patch under a window that :math:`\mathbf{h}` places.

    Arguments:
        h_dim: Size of :math:`\mathbf{h}`.
        planes: Number of images, one upon the other, that are read through the same window.
        image: Height H and width W.
        size: Number of the window's filters along an axis; None: all is read.
    """

    def __init__(self, h_dim: int, planes: int, image: tuple[int, int], size: int | None) -> None:
        super().__init__()
        self.image = image
        self.window = None if size is None else WindowHead(h_dim, image, size)
        patch = image if self.window is None else self.window.patch
        self.out_dim = planes * patch[0] * patch[1]

    def forward(self, planes: Float[Tensor, "*batch planes pixels"], h: Float[Tensor, "*batch h_dim"]) -> Tensor:
        """What is read, as vectors."""
        if self.window is None:
            return planes.flatten(-2)
        window: Window = self.window(h)
        return window.read(planes.unflatten(-1, self.image)).flatten(-3)


class WindowWriter(nn.Module):
    r"""What a step adds to the canvas: an image, or a patch at a window that :math:`\mathbf{h}` places.

    Arguments:
        h_dim: Size of :math:`\mathbf{h}`.
        outputs: Size of the canvas; where there is a window, that of several images, one upon the other.
        image: Height H and width W.
        size: Number of the window's filters along an axis; None: all is drawn on.

    Attributes:
        blank: The canvas before the first step, learned from zero on.
    """

    def __init__(self, h_dim: int, outputs: int, image: tuple[int, int], size: int | None) -> None:
        super().__init__()
        self.window = None if size is None else WindowHead(h_dim, image, size)
        self.patch = (outputs,) if self.window is None else (outputs // (image[0] * image[1]), *self.window.patch)
        self.linear = nn.Linear(h_dim, math.prod(self.patch))
        self.blank = nn.Parameter(torch.zeros(outputs))

    def forward(self, h: Float[Tensor, "*batch h_dim"]) -> Float[Tensor, "*batch outputs"]:
        """What is added, plane after plane, pixels row by row."""
        stroke: Tensor = self.linear(h)
        if self.window is None:
            return stroke
        window: Window = self.window(h)
        return window.draw(stroke.unflatten(-1, self.patch)).flatten(-3)
