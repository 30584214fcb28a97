"""The audio head written down plainly from its description, on a real one's weights: nothing kept or skipped.

Filters are built anew for each call, frames are copied and padded to 2048 samples, all 1025 filters are
multiplied, images are channels first, and PyTorch's modules run one after the other.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from trainer.models.attention_gate import AttentionGate
from trainer.models.bottleneck import Bottleneck
from trainer.models.esresnext import ESResNeXt
from trainer.models.fbsp import FbspSpectrogram


def plain_filters(m: Tensor, fb: Tensor, fc: Tensor) -> tuple[Tensor, Tensor]:
    """Real and imaginary parts (1025, 2048)."""
    m, fb, fc = m[:, None], fb[:, None], fc[:, None]
    t = math.pi * torch.linspace(-1, 1, 2048) + 1e-8
    a = fb * t / (m + 1e-8)
    sinc = torch.where(a == 0, torch.ones_like(a), torch.sin(a) / a)
    power = torch.polar(sinc.square().pow(m / 2), m * math.pi * (sinc < 0))
    wavelets = fb.sqrt() / math.sqrt(2048) * power * torch.polar(torch.ones_like(fc * t), -fc * t)
    return wavelets.real, wavelets.imag


def plain_frames(waveform: Tensor) -> Tensor:
    """(R, T) in [-1, 1] -> (R, n, 1654), on the published scale."""
    signals = (waveform * 32_768 + 32_768) * 2 / 65_535 - 1
    samples = signals.shape[-1]
    frames = 1 if samples <= 1654 else 1 + math.ceil((samples - 1654) / 561)
    padding = (frames - 1) * 561 + 1654 - samples
    return F.pad(signals, (padding // 2, padding - padding // 2)).unfold(-1, 1654, 561)


def plain_decibels(ear: FbspSpectrogram, waveform: Tensor) -> Tensor:
    """(B, C, T) -> (B, C, 3, 341, n)."""
    real, imaginary = plain_filters(ear.m, ear.fb, ear.fc)
    frames = F.pad(plain_frames(waveform.flatten(0, 1)) * ear.window, (197, 197))
    projected = torch.stack([F.linear(frames, real), F.linear(frames, imaginary)], dim=-1)[..., :1023, :]
    power = projected.square().sum(dim=-1)
    decibels = 10 * torch.log10(torch.where(power == 0, 1e-18, power))
    return decibels.transpose(1, 2).reshape(*waveform.shape[:2], 3, 341, -1)


def plain_forward(head: ESResNeXt, waveform: Tensor) -> Tensor:
    """(B, C, T) -> (B, outputs)."""
    channels = plain_decibels(head.fbsp, waveform).unbind(1)
    return head.fc(torch.stack([plain_features(head, image) for image in channels]).sum(dim=0))


def plain_features(head: ESResNeXt, image: Tensor) -> Tensor:
    """(B, 3, 341, n) -> (B, 2048)."""
    x = F.max_pool2d(F.relu(head.bn1(head.conv1(image))), 3, stride=2, padding=1)
    for layer, gate in zip(
        (head.layer1, head.layer2, head.layer3, head.layer4),
        (head.att1, head.att2, head.att3, head.att4),
        strict=True,
    ):
        y = x
        for block in layer:
            y = _block(block, y)
        x = y * _gate(gate, x.clone(), y.shape[2:])
    return (F.adaptive_avg_pool2d(x, 1) * _gate(head.att5, x.clone(), (1, 1))).flatten(1)


def _block(block: Bottleneck, x: Tensor) -> Tensor:
    y = F.relu(block.bn1(block.conv1(x)))
    y = F.relu(block.bn2(block.conv2(y)))
    y = block.bn3(block.conv3(y))
    return F.relu(y + (x if block.downsample is None else block.downsample(x)))


def _gate(gate: AttentionGate, x: Tensor, size: tuple[int, int]) -> Tensor:
    pooled = F.adaptive_max_pool2d(x, size)
    return torch.sigmoid(gate.bn(gate.conv_point(gate.conv_depth(pooled))))
