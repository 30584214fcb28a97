"""Convolutions and batch normalisation as PyTorch runs them fastest on a CPU, rounding as it always does.

Folding the normalisation into the convolution's weights would be faster still, but it rounds every weight
anew, and the audio head can amplify rounding: on the weights of tests/golden, embeddings moved by up to 2 %.
"""

import torch
from torch import Tensor, nn

_ONEDNN: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]  # PyTorch's


def convolve(x: Tensor, convolution: nn.Conv2d) -> Tensor:
    """`convolution(x)`, by oneDNN wherever it can: with one thread, PyTorch leaves it for kernels of 1x1."""
    if not _onednn_serves(x) or torch.is_autocast_enabled(x.device.type):
        convolved: Tensor = convolution(x)
        return convolved
    c = convolution
    assert not isinstance(c.padding, str)  # our layers give numbers
    return torch.mkldnn_convolution(x, c.weight, c.bias, c.padding, c.stride, c.dilation, c.groups)


def convolve_and_normalise(x: Tensor, convolution: nn.Conv2d, norm: nn.Module) -> Tensor:
    """`norm(convolution(x))`, the normalisation in place when no gradient will ask for its input.

    To the same bits; on a CPU, most of the time of the other way goes into fresh memory.
    """
    y = convolve(x, convolution)
    if isinstance(norm, nn.BatchNorm2d) and _overwritable(y, norm):
        scale, shift = _scale_and_shift(norm)
        return torch.addcmul(shift[:, None, None], y, scale[:, None, None], out=y)
    normalised: Tensor = norm(y)
    return normalised


def multiply(rows: Tensor, weights: Tensor) -> Tensor:
    """(R, K) rows by weights (N, K), or by what `packed` makes of them -> (R, N)."""
    if not _onednn_serves(rows):
        return rows @ weights.T
    kernel = weights if weights.is_mkldnn else weights[:, :, None, None]
    image = rows.T[None, :, :, None]  # (1, K, R, 1), channels last as it lies: a pointwise convolution
    product = torch.mkldnn_convolution(image, kernel, None, (0, 0), (1, 1), (1, 1), 1)
    return product[0, :, :, 0].T


def packed(weights: Tensor) -> Tensor:
    """(N, K) weights in oneDNN's own order, so that not every product begins with arranging them."""
    if not _onednn_serves(weights):
        return weights
    try:  # as torch.utils.mkldnn does for its modules
        kernel = weights[:, :, None, None].contiguous().to_mkldnn()
        arranged: Tensor = torch._C._nn.mkldnn_reorder_conv2d_weight(kernel, [0, 0], [1, 1], [1, 1], 1)
    except (AttributeError, TypeError, RuntimeError):  # PyTorch's private function, promised to nobody
        return weights
    return arranged


def _onednn_serves(x: Tensor) -> bool:
    here = _ONEDNN and x.device.type == "cpu" and x.dtype is torch.float32
    return here and not torch.compiler.is_compiling()


def _overwritable(y: Tensor, norm: nn.BatchNorm2d) -> bool:
    recorded = torch.is_grad_enabled() and (y.requires_grad or norm.weight.requires_grad)
    settled = not norm.training and norm.running_mean is not None
    here = y.device.type == "cpu" and y.dtype is norm.weight.dtype and not torch.compiler.is_compiling()
    return here and settled and not recorded


def _scale_and_shift(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """What PyTorch's own kernel multiplies by and adds, rounded where it rounds."""
    assert norm.running_mean is not None  # `_overwritable` has looked
    assert norm.running_var is not None
    deviation = (norm.running_var + norm.eps).double().sqrt().to(norm.weight.dtype)
    scale = norm.weight * (1 / deviation)
    shift = norm.bias.double() - norm.running_mean.double() * scale.double()
    return scale, shift.to(norm.weight.dtype)
