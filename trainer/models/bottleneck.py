"""One residual block of a ResNeXt: narrow, convolve in groups, widen, add."""

from torch import Tensor, nn
from torch.nn import functional as F

from trainer.models.convolution import convolve_and_normalise

EXPANSION = 2  # output channels per inner channel


class Bottleneck(nn.Module):
    """Names and layout as torchvision's, so that its weights fit."""

    def __init__(self, inputs: int, width: int, stride: int, groups: int) -> None:
        super().__init__()
        outputs = width * EXPANSION
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H / stride, W / stride), sizes rounded up."""
        y = F.relu(convolve_and_normalise(x, self.conv1, self.bn1), inplace=True)
        y = F.relu(convolve_and_normalise(y, self.conv2, self.bn2), inplace=True)
        y = convolve_and_normalise(y, self.conv3, self.bn3)
        y += self._identity(x)
        return F.relu(y, inplace=True)

    def _identity(self, x: Tensor) -> Tensor:
        if self.downsample is None:
            return x
        convolution, norm = self.downsample
        assert isinstance(convolution, nn.Conv2d)  # as made above
        return convolve_and_normalise(x, convolution, norm)


def residual_stage(inputs: int, width: int, blocks: int, stride: int, groups: int) -> nn.Sequential:
    """The first block changes size and channels, the others keep both."""
    first = Bottleneck(inputs, width, stride, groups)
    return nn.Sequential(first, *(Bottleneck(width * EXPANSION, width, 1, groups) for _ in range(blocks - 1)))
