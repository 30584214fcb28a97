"""Towers by modality, the temperatures between them, and one space that all of them embed into."""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, TypeVar

import torch
from PIL.Image import Image
from torch import Tensor, nn
from torch.nn import functional as F

from trainer.batch import MODALITIES, Embeddings
from trainer.devices import check_compiler, exact_arithmetic, lower_precision
from trainer.image import read_image
from trainer.waveform import SoundSource, Window, checked_waveform, resampled, runs, windows_of
from trainer.weights import state_hash

PAIRS = ("audio_image", "audio_text", "image_text")
SCALE_BOUNDS = (1.0, 100.0)  # AudioCLIP, model/audioclip.py; the upper one is CLIP's §2.5
INITIAL_SCALE = {"audio_image": 100.0, "audio_text": 100.0, "image_text": 1 / 0.07}  # AudioCLIP; CLIP §2.5
Tag = TypeVar("Tag")

WINDOW_S = 10.0  # AudioSet's clips, which the audio heads were trained on
BATCH = 8  # windows or pictures that run at once
TEXTS = 256  # unique texts that run at once


class NoTower(ValueError):
    """A modality that a model does not have."""


class Encoder(nn.Module):
    """One to three towers that embed into one space; each owns its preprocessing.

    What a tower offers beside its forward: an audio tower `sample_rate` in Hz, for waveforms (B, C, T) in
    [-1, 1]; an image tower `pixels(pictures)`; a text tower `tokens(texts, truncate=…)`.

    `forward` is what training calls: prepared tensors in, unit-length `Embeddings` out, with gradients. The
    `encode_…` methods take what a person has at hand and give embeddings as the towers make them, not
    normalised; they pass gradients in training mode only. The `embed_…` methods take files and give unit
    length.
    """

    def __init__(
        self,
        towers: Mapping[str, nn.Module],
        *,
        size: int,
        dead_temperatures: bool = False,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        """`size` is that of an embedding; `config`, which rebuilds these towers, goes into files."""
        super().__init__()
        self.size = size
        if not towers or not set(towers) <= set(MODALITIES):
            raise ValueError(f"towers for {sorted(towers)}; expected some of {', '.join(MODALITIES)}")
        self.modalities = tuple(modality for modality in MODALITIES if modality in towers)
        for modality in self.modalities:
            self.add_module(modality, towers[modality])
        self.dead_temperatures = dead_temperatures
        self.precision = "float32"  # or bf16: how towers multiply; not part of what is saved
        self.config = dict(config or {})
        self.log_scales = nn.ParameterDict(
            {
                pair: nn.Parameter(torch.tensor(math.log(INITIAL_SCALE[pair])))
                for pair in PAIRS
                if set(pair.split("_")) <= set(towers)
            }
        )

    # -- what training calls

    def forward(
        self, audio: Tensor | None = None, image: Tensor | None = None, text: Tensor | None = None
    ) -> Embeddings:
        """Unit-length embeddings of waveforms (B, C, T), pixels (B, 3, S, S), tokens (B, L), where given."""
        given = {"audio": audio, "image": image, "text": text}
        return Embeddings(
            **{
                modality: _unit(self._embedded(self._tower(modality), inputs))
                for modality, inputs in given.items()
                if inputs is not None
            }
        )

    def scales(self) -> dict[str, Tensor]:
        """The factor on each pair's cosines, held between 1 and 100."""
        return {pair: self._scale(log_scale) for pair, log_scale in self.log_scales.items()}

    def _scale(self, log_scale: Tensor) -> Tensor:
        scale = log_scale.float().exp()
        clamped = scale.clamp(*SCALE_BOUNDS)
        if self.dead_temperatures:
            return (
                clamped  # exp(log 100) is 100.0000076 in float32: beyond the bound, where the gradient is 0
            )
        return scale + (clamped - scale).detach()  # the value is clamped, the gradient is not

    @torch.no_grad()
    def clamp_scales(self) -> None:
        """Bring the temperatures back within their bounds; for after each optimiser step, as in CLIP."""
        for log_scale in self.log_scales.values():
            log_scale.clamp_(*map(math.log, SCALE_BOUNDS))

    def logits(self, embeddings: Embeddings) -> dict[str, Tensor]:
        """float32 (rows, columns) of each pair given: `audio_text` has a row per audio, a column per text."""
        scales = self.scales()
        with torch.autocast(self.device.type, enabled=False):
            return {
                pair: scales[pair] * rows.float() @ columns.float().T
                for pair, rows, columns in embeddings.pairs()
            }

    # -- what a person calls: inputs as they are, embeddings as the towers make them

    def encode_audio(self, waveform: Tensor, sample_rate: int = 44_100) -> Tensor:
        """(B, C, T) in [-1, 1] at `sample_rate` Hz → (B, D), not normalised; AudioCLIP sums the channels.

        Raises SoundError for another shape, for NaN, and for amplitudes far outside [-1, 1].
        """
        tower = self._tower("audio")
        waveform = checked_waveform(waveform)
        return self._run(tower, resampled(waveform.to(self.device), sample_rate, tower.sample_rate))

    def encode_image(self, pixels: Tensor | Sequence[Image]) -> Tensor:
        """(B, 3, S, S) normalised pixels, or pictures → (B, D), not normalised."""
        prepared = pixels if isinstance(pixels, Tensor) else self.pixels(pixels)
        return self._run(self._tower("image"), prepared.to(self.device))

    def encode_text(self, texts: Sequence[str] | str, *, truncate: bool = False) -> Tensor:
        """Strings → (B, D), not normalised; equal ones are encoded once. Raises TextError for a long one."""
        texts = [texts] if isinstance(texts, str) else list(texts)
        if not texts:
            raise ValueError("no texts; expected at least one string")
        tower = self._tower("text")
        unique = list(dict.fromkeys(texts))
        tokens = self.tokens(unique, truncate=truncate).to(self.device)
        rows = torch.cat([self._run(tower, some) for some in torch.split(tokens, TEXTS)])
        place = {text: index for index, text in enumerate(unique)}
        return rows[torch.tensor([place[text] for text in texts], device=rows.device)]

    def pixels(self, pictures: Sequence[Image]) -> Tensor:
        """(B, 3, S, S) normalised pixels of pictures of any size."""
        pixels: Tensor = self._tower("image").pixels(pictures)
        return pixels

    def tokens(self, texts: Sequence[str], *, truncate: bool = False) -> Tensor:
        """(B, L) token ids. Raises TextError for a text that is too long, unless it may be truncated."""
        tokens: Tensor = self._tower("text").tokens(texts, truncate=truncate)
        return tokens

    def _run(self, tower: nn.Module, inputs: Tensor) -> Tensor:
        """In evaluation mode exactly and without gradients, in training mode as training does."""
        learns = self.training and torch.is_grad_enabled()
        with nullcontext() if self.training else exact_arithmetic(), torch.set_grad_enabled(learns):
            return self._embedded(tower, inputs)

    def _embedded(self, tower: nn.Module, inputs: Tensor) -> Tensor:
        """(B, D) in the weights' own precision, even where the tower's layers multiply in bfloat16."""
        with lower_precision(inputs.device, self.precision):
            embeddings: Tensor = tower(inputs)
        return embeddings.float() if embeddings.dtype is torch.bfloat16 else embeddings

    # -- files in, unit length out

    @torch.no_grad()
    def embed_audio(
        self, sounds: Iterable[SoundSource], *, mono: bool = True, window_s: float | None = WINDOW_S
    ) -> Tensor:
        """(N, D) of unit length, one row per file or (waveform, sample rate).

        Any rate, length and channel count; channels are averaged unless `mono` is off (AudioCLIP then sums
        them). What is longer than `window_s` seconds is embedded window by window, and its row is the
        direction of the windows' mean; `embed_windows` gives them one by one. Raises SoundError.
        """
        parts: dict[int, list[Tensor]] = defaultdict(list)
        tagged = (
            (index, window)
            for index, sound in enumerate(sounds)
            for window in windows_of(sound, self.sample_rate, mono=mono, window_s=window_s)
        )
        for index, _, row in self.embed_each(tagged):
            parts[index].append(row)
        return self._rows([torch.stack(parts[index]).mean(dim=0) for index in sorted(parts)])

    @torch.no_grad()
    def embed_windows(
        self, sound: SoundSource, *, mono: bool = True, window_s: float | None = WINDOW_S
    ) -> Iterator[tuple[Window, Tensor]]:
        """(window with its `start` and `end` in seconds, (D,) of unit length) along one file."""
        windows = windows_of(sound, self.sample_rate, mono=mono, window_s=window_s)
        for _, window, row in self.embed_each((None, window) for window in windows):
            yield window, row

    @torch.no_grad()
    def embed_each(self, tagged: Iterable[tuple[Tag, Window]]) -> Iterator[tuple[Tag, Window, Tensor]]:
        """Each window with whatever came beside it and its (D,) of unit length, in the order given.

        Neighbours of one length run together and nothing is padded, so no window's row depends on another.
        """
        for run in runs(tagged, BATCH):
            waveforms = torch.stack([window.waveform for _, window in run])
            rows = _unit(self.encode_audio(waveforms, self.sample_rate))
            yield from ((tag, window, row) for (tag, window), row in zip(run, rows, strict=True))

    @torch.no_grad()
    def embed_image(self, pictures: Iterable[Image | Path | str | bytes]) -> Tensor:
        """(N, D) of unit length, one row per picture or file. Raises ImageError."""
        return self._rows([self.encode_image([_picture(picture)])[0] for picture in pictures])

    @torch.no_grad()
    def embed_pixels(self, pixels: Tensor) -> Tensor:
        """(N, D) of unit length of (N, 3, S, S) normalised pixels."""
        return _unit(self.encode_image(pixels))

    @torch.no_grad()
    def embed_text(self, texts: Sequence[str] | str, *, truncate: bool = False) -> Tensor:
        """(N, D) of unit length, one row per text. Raises TextError."""
        return self._rows(list(self.encode_text(texts, truncate=truncate)) if texts or texts == "" else [])

    def _rows(self, rows: Sequence[Tensor]) -> Tensor:
        return _unit(torch.stack(list(rows))) if rows else torch.zeros(0, self.size, device=self.device)

    # -- where and what it is

    def compile_towers(self) -> None:
        """Each tower becomes faster code of its own at its first call, which then takes a minute.

        Another shape of input is compiled anew, once; after that, any. Raises ValueError without a compiler.
        """
        check_compiler()
        for modality in self.modalities:
            self._tower(modality).compile()

    def fingerprint(self) -> str:
        """Sixteen hex digits that change with any weight and any setting; takes a second."""
        settings = (
            self.config if self.precision == "float32" else {**self.config, "precision": self.precision}
        )
        return state_hash(self.state_dict(), settings)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def sample_rate(self) -> int:
        """Hz, of the waveforms that the audio tower takes."""
        return int(self._tower("audio").sample_rate)

    def _tower(self, modality: str) -> Any:
        if modality not in self.modalities:
            raise NoTower(f"this model has no {modality} tower; it has {', '.join(self.modalities)}")
        return getattr(self, modality)


def _unit(rows: Tensor) -> Tensor:
    return F.normalize(rows.float(), dim=-1)


def _picture(picture: Image | Path | str | bytes) -> Image:
    return picture if isinstance(picture, Image) else read_image(picture)
