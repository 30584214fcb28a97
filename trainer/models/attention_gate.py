"""What each stage of the audio head lets through: a gate made from the stage's input."""

from torch import Tensor, nn
from torch.nn import functional as F

from trainer.models.convolution import convolve, convolve_and_normalise


class AttentionGate(nn.Module):
    """Max-pooled input, a depthwise and a pointwise convolution, batch normalisation, a sigmoid.

    The kernels look along frequency or along time, in turn. The biases of both convolutions come before a
    normalisation: in training, their gradient is zero but for rounding.
    """

    def __init__(self, inputs: int, outputs: int, kernel: tuple[int, int]) -> None:
        super().__init__()
        height, width = kernel
        self.conv_depth = nn.Conv2d(inputs, inputs, kernel, padding=(height // 2, width // 2), groups=inputs)
        self.conv_point = nn.Conv2d(inputs, outputs, 1)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, inputs, H, W) -> factors in (0, 1) of shape (B, outputs, *size)."""
        pooled = x if x.shape[2:] == size else F.adaptive_max_pool2d(x, size)
        gate = convolve_and_normalise(convolve(pooled, self.conv_depth), self.conv_point, self.bn)
        return gate.sigmoid()
