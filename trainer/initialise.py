"""Where training starts: a model's towers from weights that others have published."""

from collections.abc import Iterable

from torch import nn

from trainer.models.encoder import Encoder
from trainer.models.esresnext import ESResNeXt, open_gates
from trainer.weights import EMPTY, Account, State, check_names, from_published, our_name

_AUDIO = "audio."


def initialise_audio(tower: ESResNeXt, state: State, *, source: str) -> Account:
    """An audio head from a published ESResNeXt-fbsp classifier: all but a last layer with other outputs.

    Files: ESRNXFBSP.pt (30 epochs) and ESResNeXtFBSP_AudioSet.pt (5 epochs), 527 outputs each; their names
    are AudioCLIP's without `audio.`. Raises WeightsError.
    """
    full = {_AUDIO + name.removeprefix(_AUDIO): tensor for name, tensor in state.items()}
    given = {our_name(name).removeprefix(_AUDIO): full[name] for name in full if name not in EMPTY}
    own = tower.state_dict()
    last = [
        name for name in ("fc.weight", "fc.bias") if name in given and given[name].shape != own[name].shape
    ]
    return _initialise(tower, given, source=source, left_out=last, kept=last)


def initialise_from_imagenet(tower: ESResNeXt, state: State, *, source: str) -> Account:
    """The residual trunk from torchvision's ResNeXt-50 32x4d; the gates' BatchNorm becomes 1 and 1.

    The front-end, the gates' convolutions and the last layer keep their initial values. Raises WeightsError.
    """
    kept = [name for name in tower.state_dict() if name.startswith(("fbsp.", "att", "fc."))]
    left_out = [name for name in state if name.startswith("fc.")]
    account = _initialise(tower, state, source=source, left_out=left_out, kept=kept)
    open_gates(tower)
    return account


def initialise_clip(encoder: Encoder, state: State, *, source: str) -> Account:
    """The image and text towers, and the scale between them, from a published CLIP. Raises WeightsError."""
    kept = [name for name in encoder.state_dict() if name.startswith(("audio.", "log_scales.audio_"))]
    return _initialise(encoder, from_published(state), source=source, left_out=(), kept=kept)


def _initialise(
    model: nn.Module, given: State, *, source: str, left_out: Iterable[str], kept: Iterable[str]
) -> Account:
    """`left_out` of the file and `kept` of the model; all other names must be in both."""
    own = model.state_dict()
    left_out, kept = tuple(left_out), tuple(kept)
    expected = {name: tensor for name, tensor in own.items() if name not in kept}
    offered = {name: tensor for name, tensor in given.items() if name not in left_out}
    check_names(expected, offered, source=source)
    model.load_state_dict({**own, **offered}, strict=True)
    return Account(loaded=tuple(sorted(expected)), left_out=left_out, kept=kept)
