"""The running statistics of batch normalisation, when a batch is computed in parts and twice."""

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class RunningStatistics:
    """Lets any number of forward passes count as one update: the mean of what each alone would have made.

    Means are then those of the whole batch, as its parts are of one size; variances are the means of the
    parts' own. Only modules in training mode are touched: the others' statistics do not move.
    """

    def __init__(self, model: nn.Module) -> None:
        """Remembers the statistics that `model` has now."""
        self._buffers = [
            buffer
            for module in model.modules()
            if isinstance(module, _BatchNorm) and module.training
            for buffer in module.buffers(recurse=False)
        ]
        self._before = [buffer.clone() for buffer in self._buffers]
        self._sums = [self._zero(buffer) for buffer in self._buffers]
        self._collected = 0

    def restore(self) -> None:
        """As if no pass had been made."""
        for buffer, before in zip(self._buffers, self._before, strict=True):
            buffer.copy_(before)

    def collect(self) -> None:
        """Takes what one pass made, and restores."""
        for buffer, total in zip(self._buffers, self._sums, strict=True):
            total.add_(buffer) if buffer.is_floating_point() else total.copy_(buffer)
        self._collected += 1
        self.restore()

    def settle(self) -> None:
        """Leaves the mean of what was collected; counters (num_batches_tracked) as after one pass."""
        for buffer, total in zip(self._buffers, self._sums, strict=True):
            buffer.copy_(total / self._collected if buffer.is_floating_point() else total)

    @staticmethod
    def _zero(buffer: Tensor) -> Tensor:
        return buffer.new_zeros(buffer.shape)
