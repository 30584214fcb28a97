"""An average of a model's weights over its last steps."""

from collections.abc import Mapping

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class AveragedWeights:
    """A copy of a model that follows it: average = decay * average + (1 - decay) * weights, buffers too."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        averaged = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]  # PyTorch's
        self._average = AveragedModel(model, multi_avg_fn=averaged, use_buffers=True)
        self._average.module.requires_grad_(False).eval()
        self._average.n_averaged.fill_(1)  # the first update averages with where training starts from

    @property
    def model(self) -> nn.Module:
        module: nn.Module = self._average.module
        return module

    def update(self, model: nn.Module) -> None:
        self._average.update_parameters(model)

    def state_dict(self) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self.model.state_dict()
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.model.load_state_dict(dict(state), strict=True)
