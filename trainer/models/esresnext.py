"""The audio head: wavelet decibels through a ResNeXt-50 with five attention gates (ESResNeXt)."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainer.models.attention_gate import AttentionGate
from trainer.models.bottleneck import residual_stage
from trainer.models.convolution import convolve_and_normalise
from trainer.models.fbsp import BANDS, SAMPLE_RATE, FbspSpectrogram
from trainer.models.framing import frame_count


@dataclass(frozen=True, kw_only=True, slots=True)
class Trunk:
    """How wide and how deep the residual network is; each stage has twice the channels of the one before."""

    stem: int  # channels of the first convolution; the first stage has two and four times as many
    blocks: tuple[int, int, int, int]  # of each stage
    groups: int  # of the inner convolutions

    @property
    def features(self) -> int:
        """Channels of the last stage."""
        return 32 * self.stem


RESNEXT50 = Trunk(stem=64, blocks=(3, 4, 6, 3), groups=32)  # ResNeXt-50 32x4d, as published
TOY = Trunk(stem=8, blocks=(1, 1, 1, 1), groups=4)  # to try training out on a laptop; as many per group


class ESResNeXt(nn.Module):
    """Waveforms in [-1, 1] to class logits or to an embedding, by the number of `outputs`.

    1024 is AudioCLIP's embedding; 527, 50 and 10 are the class logits of AudioSet, ESC-50 and UrbanSound8K.

    The names of parameters and buffers are those of the published files, after their prefix `audio.` if they
    have it, but for two: `window` is `fbsp.window` here, and `fbsp.bias`, of shape (0,), is absent.

    Channels are heard one by one and their features summed, as published: a doubled mono sound has twice the
    features. In training each channel makes its own batch statistics.
    """

    sample_rate = SAMPLE_RATE

    def __init__(
        self, outputs: int = 1024, *, trunk: Trunk = RESNEXT50, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        stem, blocks, groups = trunk.stem, trunk.blocks, trunk.groups
        self.fbsp = FbspSpectrogram()
        self.conv1 = nn.Conv2d(BANDS, stem, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.layer1 = residual_stage(stem, 2 * stem, blocks=blocks[0], stride=1, groups=groups)
        self.layer2 = residual_stage(4 * stem, 4 * stem, blocks=blocks[1], stride=2, groups=groups)
        self.layer3 = residual_stage(8 * stem, 8 * stem, blocks=blocks[2], stride=2, groups=groups)
        self.layer4 = residual_stage(16 * stem, 16 * stem, blocks=blocks[3], stride=2, groups=groups)
        self.att1 = AttentionGate(stem, 4 * stem, (3, 1))  # kernels are (frequency, time)
        self.att2 = AttentionGate(4 * stem, 8 * stem, (1, 5))
        self.att3 = AttentionGate(8 * stem, 16 * stem, (3, 1))
        self.att4 = AttentionGate(16 * stem, trunk.features, (1, 5))
        self.att5 = AttentionGate(trunk.features, trunk.features, (3, 5))
        self.fc = nn.Linear(trunk.features, outputs)
        initialise(self, generator)
        self.to(memory_format=torch.channels_last)

    def forward(self, waveform: Tensor, lengths: Sequence[int] | None = None) -> Tensor:
        """(B, C, T) in [-1, 1] at 44.1 kHz -> (B, outputs) float32.

        With `lengths` in samples, clip b is `waveform[b, :, : lengths[b]]`, and its row is what it would be
        alone: no padding is heard, and clips of as many frames run together. In evaluation only: in training,
        clips share batch statistics and must be of one length.
        """
        if lengths is None:
            return self._outputs(self.fbsp(waveform))
        self._check_lengths(waveform, lengths)
        rows: list[Tensor] = [waveform] * len(lengths)
        for group in _by_frames(lengths):
            decibels = torch.cat([self.fbsp(waveform[b : b + 1, :, : lengths[b]]) for b in group])
            for b, row in zip(group, self._outputs(decibels), strict=True):
                rows[b] = row
        return torch.stack(rows)

    def _outputs(self, decibels: Tensor) -> Tensor:
        """(B, C, 3, 341, n) -> (B, outputs)."""
        if self.att5.bn.training and len(decibels) == 1:
            raise ValueError("a training batch of 1; expected at least 2: batch statistics need as many")
        if self.training:
            features = torch.stack([self._features(channel) for channel in decibels.unbind(1)], dim=1)
        else:
            features = self._features(decibels.flatten(0, 1)).view(*decibels.shape[:2], self.fc.in_features)
        with torch.autocast(decibels.device.type, enabled=False):
            outputs: Tensor = self.fc(features.sum(dim=1))
        return outputs

    def _features(self, image: Tensor) -> Tensor:
        """(B, 3, 341, n) decibels -> (B, features), in float32 from the last stage on."""
        x = F.relu(convolve_and_normalise(image, self.conv1, self.bn1), inplace=True)
        x = F.max_pool2d(x, 3, stride=2, padding=1)
        stages = ((self.layer1, self.att1), (self.layer2, self.att2), (self.layer3, self.att3))
        for layer, gate in (*stages, (self.layer4, self.att4)):
            y = layer(x)
            x = y * gate(x, y.shape[2:])
        with torch.autocast(image.device.type, enabled=False):
            x = x.to(self.fc.weight.dtype)
            pooled = x.mean(dim=(2, 3), keepdim=True)
            gated: Tensor = pooled * self.att5(x, (1, 1))
        return gated.flatten(1)

    def _check_lengths(self, waveform: Tensor, lengths: Sequence[int]) -> None:
        if self.training:
            raise ValueError("lengths in training; expected clips of one length: crop or pad them first")
        if len(lengths) != len(waveform):
            raise ValueError(f"{len(lengths)} lengths for {len(waveform)} clips; expected one for each")
        if not all(1 <= length <= waveform.shape[-1] for length in lengths):
            raise ValueError(f"lengths {list(lengths)}; expected each from 1 to {waveform.shape[-1]} samples")


def _by_frames(lengths: Sequence[int]) -> list[list[int]]:
    """Indices of the clips that make images of one width."""
    groups: dict[int, list[int]] = defaultdict(list)
    for index, length in enumerate(lengths):
        groups[frame_count(length)].append(index)
    return list(groups.values())


@torch.no_grad()
def initialise(head: ESResNeXt, generator: torch.Generator | None = None) -> None:
    """Weights before any training: Kaiming-normal convolutions (fan out), PyTorch's own linear layer.

    Wavelets and batch normalisations are born as they should start; biases are PyTorch's own draw.
    """
    for module in head.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)
            if module.bias is not None:
                _uniform(module.bias, module.weight[0].numel(), generator)
    _uniform(head.fc.weight, head.fc.in_features, generator)
    _uniform(head.fc.bias, head.fc.in_features, generator)


def open_gates(head: ESResNeXt) -> None:
    """Sets the gates' batch normalisations to 1 and 1, as published for a start from ImageNet's weights."""
    for gate in (head.att1, head.att2, head.att3, head.att4, head.att5):
        nn.init.ones_(gate.bn.weight)
        nn.init.ones_(gate.bn.bias)


def _uniform(tensor: Tensor, fan_in: int, generator: torch.Generator | None) -> None:
    bound = fan_in**-0.5
    nn.init.uniform_(tensor, -bound, bound, generator=generator)
