"""What learns in a stage: its towers, which of them stand still, and how a batch goes through them."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainer.activations import recompute_stages
from trainer.batch import MODALITIES, Batch, Embeddings
from trainer.classifier import Classifier, ClassifierConfig
from trainer.freeze import freeze_others, learns, settle
from trainer.models.audioclip import EncoderConfig, build_encoder
from trainer.models.encoder import Encoder
from trainer.objectives import modalities_needed, parameters_of
from trainer.run_request import RunError
from trainer.stage import CLASSES_OF_DATA, Machine, Model, Stage

TEXTS_AT_ONCE = 256
OBJECTIVE = "objective."  # what the names of the objective's own parameters begin with
KEPT_SHARE = 0.5  # of activations, where a compiler chooses which to compute again


def build_model(model: Model, *, seed: int) -> Encoder | Classifier:
    """A stage's model with random weights that are a function of the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if model.classes == CLASSES_OF_DATA:
            raise RunError("model.classes is data; expected their number (trainer.data_classes)")
        if model.classes:
            return Classifier(ClassifierConfig(classes=model.classes, size=model.size, profile=model.profile))
        return build_encoder(
            EncoderConfig(towers=model.towers, clip=model.clip, profile=model.profile, size=model.size)
        )


class Learner(nn.Module):
    """A model in training. Parameters have the names that they have in the model: `audio.fc.weight`.

    Whatever `trainable` does not name gets no gradient and stays in evaluation mode, so that neither weights
    nor batch statistics move. A tower in which nothing learns runs without gradients, in bfloat16 when
    `precision` says so.
    """

    def __init__(
        self,
        model: Encoder | Classifier,
        *,
        trainable: Sequence[str] = ("*",),
        embeds: Sequence[str] = MODALITIES,
        precision: str = "float32",
        parameters: Mapping[str, float] | None = None,
    ) -> None:
        """`embeds` are the modalities that batches will hold: no other tower learns.

        `parameters` are the objective's own, with their initial values; they always learn. Raises RunError
        for a pattern that names no parameter.
        """
        super().__init__()
        for name, child in model.named_children():
            self.add_module(name, child)
        self._model = (model,)  # in a tuple, its parameters are not registered a second time
        self.modalities = model.modalities
        self.embeds = tuple(modality for modality in model.modalities if modality in embeds)
        self.classifies = isinstance(model, Classifier)
        self.precision = precision
        freeze_others(self, trainable)
        for modality in set(self.modalities) - set(embeds):
            self.get_submodule(modality).requires_grad_(False)
        self.objective = nn.ParameterDict(
            {name: nn.Parameter(torch.tensor(float(value))) for name, value in (parameters or {}).items()}
        )
        self._strings: tuple[str, ...] = ()
        self._texts: Tensor | None = None

    def name_classes(self, names: Sequence[str]) -> None:
        """What a classifier's classes are called goes into its files; nothing where nothing classifies."""
        if isinstance(self._model[0], Classifier):
            self._model[0].name_classes(names)

    # -- a step

    def forward(self, batch: Batch) -> Embeddings:
        """Embeddings, or class logits, of what the batch holds."""
        if self.classifies:
            assert batch.audio is not None, "a classifier needs sound"
            return Embeddings(class_logits=self._run("audio", batch.audio))
        rows: dict[str, Callable[[], Tensor] | None] = {
            "audio": None if batch.audio is None else lambda: self._embed("audio", batch.audio),
            "image": None if batch.image is None else lambda: self._embed("image", batch.image),
            "text": None if batch.text_rows is None else lambda: self._text_rows(batch),
        }
        return Embeddings(**{modality: embed() for modality, embed in rows.items() if embed is not None})

    def _embed(self, modality: str, inputs: Tensor | None) -> Tensor:
        assert inputs is not None
        return F.normalize(self._run(modality, inputs), dim=-1)

    def _text_rows(self, batch: Batch) -> Tensor:
        assert batch.text_rows is not None
        if batch.tokens is None:
            return self._remembered().index_select(0, batch.text_rows)
        rows, tokens = batch.text_rows, batch.tokens
        if len(tokens) > len(rows):  # a part of a batch: only its own texts
            used, rows = torch.unique(rows, return_inverse=True)
            tokens = tokens[used]
        # unlike indexing, its gradient is summed in a fixed order
        return self._embed("text", tokens).index_select(0, rows)

    def _run(self, modality: str, inputs: Tensor) -> Tensor:
        """A tower's own output, in float32."""
        tower = self.get_submodule(modality)
        if learns(tower):
            with self._autocast(inputs.device):
                outputs: Tensor = tower(inputs)
                return outputs.float()
        with torch.inference_mode(), self._autocast(inputs.device):
            standing: Tensor = tower(inputs).float()
        return standing.clone()  # a plain tensor: what a gradient passes may not keep an inference tensor

    def _autocast(self, device: torch.device) -> AbstractContextManager[Any]:
        return torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def train(self, mode: bool = True) -> Self:
        """Training mode for what learns; the rest stays in evaluation mode."""
        super().train(mode)
        self._model[0].training = mode
        if mode:
            settle(self)
        return self

    # -- what stands still

    @property
    def standing(self) -> tuple[str, ...]:
        """Modalities whose embeddings take no gradient."""
        return tuple(name for name in self.modalities if not learns(self.get_submodule(name)))

    @property
    def text_stands_still(self) -> bool:
        """Whether texts can be embedded once for the whole run."""
        return "text" in self.standing

    def remember_texts(self, texts: Sequence[str]) -> None:
        """`Batch.text_rows` of a batch without tokens point into these, embedded at their first use."""
        self._strings, self._texts = tuple(texts), None

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Other weights embed texts otherwise."""
        self._texts = None
        return super().load_state_dict(state_dict, strict=strict, assign=assign)

    def _remembered(self) -> Tensor:
        """(texts, D) in float32."""
        if not self._strings:
            raise ValueError("a batch without tokens; expected some, or texts remembered before")
        if self._texts is None:
            self._texts = self._table_of(self._strings)
        return self._texts

    @torch.no_grad()
    def _table_of(self, texts: Sequence[str]) -> Tensor:
        tower: Any = self.get_submodule("text")
        tokens = tower.tokens(list(texts))
        order = tokens.argmax(dim=-1).argsort(stable=True)  # by length: a batch is cut at its longest
        rows = torch.empty(len(texts), self.encoder.size, device=self.device)
        for some in order.split(TEXTS_AT_ONCE):
            rows[some.to(self.device)] = F.normalize(tower(tokens[some].to(self.device)).float(), dim=-1)
        return rows

    # -- scales

    def scales(self) -> dict[str, Tensor]:
        """The factor on each pair's cosines, and the objective's own parameters."""
        return {**self._model[0].scales(), **dict(self.objective.items())}

    def clamp_scales(self) -> None:
        """To be called after each optimiser step."""
        self._model[0].clamp_scales()

    # -- what it is

    @property
    def encoder(self) -> Encoder:
        """The model itself. Raises TypeError for a classifier."""
        if not isinstance(self._model[0], Encoder):
            raise TypeError("a classifier has no embeddings; expected an encoder")
        return self._model[0]

    @property
    def model(self) -> Encoder | Classifier:
        return self._model[0]

    @property
    def config(self) -> Mapping[str, Any]:
        """What rebuilds the model."""
        return self._model[0].config

    def weights(self) -> dict[str, Tensor]:
        """The model's own: the state without the objective's parameters, for `load_model`."""
        return {name: tensor for name, tensor in self.state_dict().items() if not name.startswith(OBJECTIVE)}

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def accelerate(self, machine: Machine) -> None:
        """Compiles towers, and trades time for memory, as asked; names and numbers stay as they are."""
        towers = [self.get_submodule(modality) for modality in self.modalities]
        if machine.checkpoint_activations and machine.compile:
            _keep_fewer_activations()
        elif machine.checkpoint_activations:
            for tower in towers:
                recompute_stages(tower)
        if machine.compile:
            for tower in towers:
                # texts are of another length in each batch, and a small part of the work
                if tower is not getattr(self, "text", None):
                    tower.compile(dynamic=False)


def _keep_fewer_activations() -> None:
    """A compiler knows best which to compute again."""
    from torch._functorch import config

    config.activation_memory_budget = KEPT_SHARE


def build_learner(stage: Stage, model: Encoder | Classifier) -> Learner:
    """`model` as `stage` trains it. Raises RunError."""
    try:
        embeds = modalities_needed(stage.objective, model.modalities)
    except ValueError as error:
        raise RunError(str(error)) from None
    return Learner(
        model,
        trainable=stage.trainable,
        embeds=embeds,
        precision=stage.machine.precision,
        parameters=parameters_of(stage.objective),
    )
