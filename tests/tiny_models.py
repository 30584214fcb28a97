"""An encoder of three real but tiny towers, for tests of what does not depend on their size."""

from typing import Any

import torch
from torch import Tensor, nn

from trainer.models.clip import build_clip
from trainer.models.encoder import Encoder

SIZE = 16
RATE = 8_000
CLIP_CONFIG: dict[str, Any] = {
    "embed_dim": SIZE,
    "quick_gelu": True,
    "vision_cfg": {
        "image_size": 64,
        "layers": [1, 1, 1, 1],
        "width": 8,
        "head_width": 32,
        "patch_size": None,
    },
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}


class TinyAudio(nn.Module):
    """A filter bank's mean powers, summed over channels, through a matrix."""

    sample_rate = RATE

    def __init__(self) -> None:
        super().__init__()
        self.filters = nn.Conv1d(1, 8, 31, padding=15)
        self.head = nn.Linear(8, SIZE)

    def forward(self, waveform: Tensor) -> Tensor:
        batch, channels, samples = waveform.shape
        power = self.filters(waveform.reshape(batch * channels, 1, samples)).square().mean(dim=-1)
        embeddings: Tensor = self.head(power.reshape(batch, channels, -1).sum(dim=1))
        return embeddings


def tiny_encoder(*, seed: int = 0, **options: Any) -> Encoder:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        image, text = build_clip(CLIP_CONFIG)
        return Encoder({"audio": TinyAudio(), "image": image, "text": text}, size=SIZE, **options).eval()
