"""CLIP's two towers, image and text, as open_clip builds them, with their preprocessing."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from PIL.Image import Image
from torch import Tensor, nn
from torch.nn import functional as F

from trainer.image import ImageTransform
from trainer.models.eager import eager
from trainer.text import tokenize

if TYPE_CHECKING:  # open_clip takes seconds to import: only what builds a CLIP does
    from open_clip.model import CLIP
    from open_clip.modified_resnet import AttentionPool2d

RN50 = "RN50-quickgelu"  # OpenAI's weights were trained with QuickGELU; plain "RN50" means another activation
_RN50_SIZE = 1024  # known here, so that an audio head beside no CLIP need not ask open_clip

TOY: Mapping[str, Any] = {  # the parts of RN50, to try training out on a laptop
    "embed_dim": 64,
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


class ImageTower(nn.Module):
    """Pixels (B, 3, S, S), normalised as `transform` does → embeddings (B, D), not normalised."""

    modality = "image"

    def __init__(self, trunk: nn.Module, *, transform: ImageTransform) -> None:
        from open_clip.modified_resnet import ModifiedResNet

        super().__init__()
        self.trunk = trunk
        self.transform = transform
        if isinstance(trunk, ModifiedResNet):
            trunk.attnpool = AttentionPool(trunk.attnpool)

    def forward(self, pixels: Tensor) -> Tensor:
        embeddings: Tensor = self.trunk(pixels.contiguous(memory_format=torch.channels_last))
        return embeddings

    def pixels(self, pictures: Sequence[Image]) -> Tensor:
        """(B, 3, S, S) of pictures of any size."""
        return torch.stack([self.transform(picture) for picture in pictures])


class AttentionPool(nn.Module):
    """CLIP's attention pool, asked only for the position that is kept: a fiftieth of the queries.

    Has the parameters, and their names, of open_clip's `AttentionPool2d`.
    """

    def __init__(self, pool: "AttentionPool2d") -> None:
        super().__init__()
        self.positional_embedding: nn.Parameter = pool.positional_embedding
        self.k_proj, self.q_proj = pool.k_proj, pool.q_proj
        self.v_proj, self.c_proj = pool.v_proj, pool.c_proj
        self.num_heads: int = pool.num_heads

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(2).transpose(1, 2)  # NCHW -> N(HW)C
        x = torch.cat([x.mean(dim=1, keepdim=True), x], dim=1)  # N(HW+1)C: the mean asks
        x = x + self.positional_embedding.to(x.dtype)
        query, key, value = self.q_proj(x[:, :1]), self.k_proj(x), self.v_proj(x)
        heads = F.scaled_dot_product_attention(self._heads(query), self._heads(key), self._heads(value))
        with torch.autocast(x.device.type, enabled=False):
            rows = heads.transpose(1, 2).flatten(1).to(self.c_proj.weight.dtype)  # NH1c -> N(Hc)
            pooled: Tensor = self.c_proj(rows)
        return pooled

    def _heads(self, x: Tensor) -> Tensor:
        return x.reshape(*x.shape[:2], self.num_heads, -1).transpose(1, 2)  # NLC -> NHLc


class TextTower(nn.Module):
    """Tokens (B, L), zero after the end-of-text → embeddings (B, D), not normalised.

    Attention is causal and the embedding is read at the end-of-text, so what follows it cannot matter: the
    batch is cut at its longest end-of-text. That is exact, and for class names ten times cheaper than all 77.
    """

    modality = "text"

    def __init__(self, clip: "CLIP") -> None:
        super().__init__()
        self.token_embedding: nn.Embedding = clip.token_embedding
        self.positional_embedding: nn.Parameter = clip.positional_embedding
        self.transformer: nn.Module = clip.transformer
        self.ln_final: nn.Module = clip.ln_final
        self.text_projection: nn.Parameter = clip.text_projection
        self.context_length: int = clip.context_length

    def forward(self, tokens: Tensor) -> Tensor:
        tokens, ends = _cut(tokens)
        x = self.token_embedding(tokens) + self.positional_embedding[: tokens.shape[1]]  # NLD
        x = self.transformer(x, attn_mask=_causal(tokens.shape[1], like=x))
        x = x[
            torch.arange(len(x), device=x.device), ends
        ]  # ND: the norm is per position, so it can come later
        with torch.autocast(x.device.type, enabled=False):
            embeddings: Tensor = self.ln_final(x.to(self.text_projection.dtype)) @ self.text_projection
        return embeddings

    def tokens(self, texts: Sequence[str], *, truncate: bool = False) -> Tensor:
        """(B, context) token ids; TextError for a text that is too long, unless it may be truncated."""
        return tokenize(texts, self.context_length, truncate=truncate)


@eager  # a graph cannot ask for a length
def _cut(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """The columns up to the longest end-of-text, and where each row's is."""
    ends = tokens.argmax(dim=-1)  # the end-of-text has the largest id
    return tokens[:, : int(ends.max()) + 1], ends


def _causal(length: int, *, like: Tensor) -> Tensor:
    return torch.full((length, length), float("-inf"), device=like.device, dtype=like.dtype).triu_(1)


def build_clip(
    config: str | Mapping[str, Any] = RN50, *, antialias: bool = True
) -> tuple[ImageTower, TextTower]:
    """Both towers with random weights, from an open_clip configuration or its name.

    `antialias` says how pictures are resized (see `ImageTransform`). Raises ValueError for an unknown name.
    """
    from open_clip.model import CLIP

    facts = _facts(config)
    clip = CLIP(**facts)
    transform = ImageTransform(size=int(facts["vision_cfg"]["image_size"]), antialias=antialias)
    return ImageTower(clip.visual, transform=transform), TextTower(clip)


def embedding_size(config: str | Mapping[str, Any] = RN50) -> int:
    """Numbers in an embedding of such a CLIP: 1024 for RN50."""
    return _RN50_SIZE if config == RN50 else int(_facts(config)["embed_dim"])


def _facts(config: str | Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(config, str):
        return dict(config)
    from open_clip import get_model_config

    facts: dict[str, Any] | None = get_model_config(config)
    if facts is None:
        raise ValueError(f"no CLIP named {config!r}; expected one that open_clip knows, such as {RN50!r}")
    return facts
