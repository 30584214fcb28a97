"""What the loader gives, made ready for a model on its device: sound, pictures, texts and labels."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainer.augment import FULL_SCALE, augmented_sound
from trainer.batch import Batch
from trainer.host_batch import HostBatch
from trainer.image import ImageTransform
from trainer.label_table import LabelTable
from trainer.mixup import mixed, mixup_shares
from trainer.objectives import labels_needed, modalities_needed
from trainer.run_request import RunError
from trainer.stage import CLASSES_OF_DATA, Stage
from trainer.text import TextError
from trainer.waveform import resampled

TEXTS_KEPT = 1 << 16  # tokenised

Tokens = Callable[[Sequence[str]], Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """What a model's towers take; None for a tower that it lacks."""

    sample_rate: int | None = None  # Hz
    image: ImageTransform | None = None
    tokens: Tokens | None = None  # (B, context) of B strings; TextError for one that is too long
    context: int = 77  # tokens

    @classmethod
    def of(cls, model: Any) -> "Inputs":
        """Those of an encoder, of a classifier, or of what wraps one and has its towers."""
        audio, image, text = (getattr(model, name, None) for name in ("audio", "image", "text"))
        return cls(
            sample_rate=int(audio.sample_rate) if audio is not None else None,
            image=image.transform if image is not None else None,
            tokens=text.tokens if text is not None else None,
            context=text.context_length if text is not None else 77,
        )

    @property
    def modalities(self) -> tuple[str, ...]:
        there = {"audio": self.sample_rate, "image": self.image, "text": self.tokens}
        return tuple(name for name, value in there.items() if value is not None)


class Preparer:
    """Makes a selection's host batches into batches on a device, with only what the objective asks for."""

    def __init__(
        self,
        stage: Stage,
        labels: LabelTable,
        inputs: Inputs,
        *,
        device: torch.device,
        recorded_rate: int,
        text_table: bool = False,
    ) -> None:
        """`recorded_rate` is that of the samples, in Hz. With `text_table` a batch has no tokens, and its
        `text_rows` are places in `labels.texts`; else they point into the tokens of its own unique texts.

        Raises RunError for a text that the tower cannot read, and for classes that are not the model's.
        """
        self._stage, self._labels, self._inputs = stage, labels, inputs
        self._device, self._recorded_rate = device, recorded_rate
        self.modalities = modalities_needed(stage.objective, inputs.modalities)
        self._text_table = text_table
        self._targets = self._wants_targets()
        self._stream: Any = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]  # torch's own
        self._tokens_of = lru_cache(maxsize=TEXTS_KEPT)(self._tokenised)
        if "text" in self.modalities:
            check_texts(labels, inputs)

    def _wants_targets(self) -> bool:
        model, found = self._stage.model, len(self._labels.class_names)
        if model.classes and model.classes != found:
            raise RunError(
                f"model.classes is {model.classes}, and the dataset's table has {found} classes; "
                f"expected as many: --set model.classes={CLASSES_OF_DATA}"
            )
        if (fault := self._labels.without_index()) and model.classes:
            raise RunError(fault)
        return bool(found) and not fault and labels_needed(self._stage.objective)

    @torch.no_grad()
    def prepare(self, host: HostBatch, *, training: bool) -> Batch:
        """The batch on the device. `host` may be released when this returns."""
        with self._beside():
            batch = self._prepared(host, training=training)
        self._join(batch)
        return batch

    def _prepared(self, host: HostBatch, *, training: bool) -> Batch:
        augment = self._stage.augment
        shares = mixup_shares(host.seeds, augment.mixup) if training and augment.mixup > 0 else None
        audio = self._audio(host, training=training) if "audio" in self.modalities else None
        targets = self._labels.targets(host.rows) if self._targets else None
        if audio is not None and shares is not None:
            audio = mixed(audio, shares)
        tokens, text_rows, text_ids = (
            self._text(host, training=training) if "text" in self.modalities else (None, None, None)
        )
        return Batch(
            keys=host.keys,
            audio=audio,
            image=self._image(host) if "image" in self.modalities else None,
            tokens=self._there(tokens),
            text_rows=self._there(text_rows),
            text_ids=self._there(text_ids),
            targets=self._there(targets),
            shares=self._there(shares),
            label_sets=self._there(torch.from_numpy(self._labels.label_sets[host.rows])),
            valid=None if training else self._there(torch.from_numpy(host.valid)),
        )

    # -- one modality each

    def _audio(self, host: HostBatch, *, training: bool) -> Tensor:
        """(B, C, T) of the stage's seconds at the tower's rate."""
        assert host.audio is not None
        assert host.lengths is not None
        rate = self._inputs.sample_rate
        assert rate is not None
        audio, lengths = host.audio.to(self._device, non_blocking=True), host.lengths.numpy()
        if rate != self._recorded_rate:
            audio = resampled(audio.float() / FULL_SCALE, self._recorded_rate, rate)
            lengths = -(-lengths * rate // self._recorded_rate)
        return augmented_sound(
            audio,
            np.maximum(lengths, 1),
            host.seeds,
            self._stage.augment,
            size=round(self._stage.data.seconds * rate),
            training=training,
        )

    def _image(self, host: HostBatch) -> Tensor:
        assert host.frames is not None
        assert self._inputs.image is not None
        return self._inputs.image.of_squares(host.frames.to(self._device, non_blocking=True))

    def _text(self, host: HostBatch, *, training: bool) -> tuple[Tensor | None, Tensor, Tensor]:
        """(tokens of the batch's unique texts or None, each example's row of these or of the table, ids)."""
        texts = self._labels.text_rows(host.rows, host.seeds if training else None)
        ids = torch.from_numpy(texts)
        if self._text_table:
            return None, ids, ids
        unique, rows = np.unique(texts, return_inverse=True)
        return torch.cat([self._tokens_of(int(text)) for text in unique]), torch.from_numpy(rows), ids

    def _tokenised(self, text: int) -> Tensor:
        assert self._inputs.tokens is not None
        return self._inputs.tokens([self._labels.texts[text]])

    # -- the device

    def _there(self, tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor.to(self._device, non_blocking=True)

    def _beside(self) -> AbstractContextManager[Any]:
        """A stream of its own, so that waiting for a batch is not waiting for the step before it."""
        return nullcontext() if self._stream is None else torch.cuda.stream(self._stream)

    def _join(self, batch: Batch) -> None:
        if self._stream is None:
            return
        self._stream.synchronize()  # the slot that was copied from is about to be filled again
        for name in batch.__slots__:
            if isinstance(value := getattr(batch, name), Tensor):
                value.record_stream(torch.cuda.current_stream(self._device))


def check_texts(labels: LabelTable, inputs: Inputs) -> None:
    """Raises RunError, which names a sample, where a text has more tokens than the tower reads."""
    assert inputs.tokens is not None
    for place, text in enumerate(labels.texts):
        if len(text.encode()) <= inputs.context - 2:
            continue  # a token is a byte at least, and two mark the ends
        try:
            inputs.tokens([text])
        except TextError as error:
            raise RunError(f"sample {labels.key_of_text(place)}: {error}") from None
