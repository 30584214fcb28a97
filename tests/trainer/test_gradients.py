"""Normalising the wavelets' gradients: the published result for one batch, and the same for its parts."""

import copy

import pytest
import torch
from golden.named_weights import waveform
from torch import Tensor, nn

from trainer.gradients import normalise_gradients, wavelet_parameters
from trainer.models.esresnext import ESResNeXt
from trainer.models.fbsp import FbspSpectrogram


def ear() -> FbspSpectrogram:
    made = FbspSpectrogram()
    with torch.no_grad():
        made.m += 0.3  # at exactly 0 the order's gradient is that of rounding
    return made


def loss(ear: FbspSpectrogram, sound: Tensor) -> Tensor:
    return ear(sound).mean(dim=(1, 2, 3, 4)).sum()


@pytest.fixture
def sound() -> Tensor:
    return torch.stack([torch.from_numpy(waveform(0.1, 1, salt)) for salt in "abcd"])


def test_each_tensor_is_divided_by_its_own_largest_entry(sound: Tensor) -> None:
    model = ear()
    loss(model, sound).backward()
    before = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    normalise_gradients(wavelet_parameters(model))
    for parameter, raw in zip(model.parameters(), before, strict=True):
        assert parameter.grad is not None
        assert torch.equal(parameter.grad, raw / (raw.abs().max() + 1e-8))
        assert parameter.grad.abs().max() == pytest.approx(1, abs=1e-6)


def test_one_batch_gives_what_the_published_hooks_give(sound: Tensor) -> None:
    ours, hooked = ear(), ear()
    for parameter in hooked.parameters():
        parameter.register_hook(lambda grad: grad / (grad.abs().max() + 1e-8))
    loss(ours, sound).backward()
    loss(hooked, sound).backward()
    normalise_gradients(wavelet_parameters(ours))
    for mine, theirs in zip(ours.parameters(), hooked.parameters(), strict=True):
        assert mine.grad is not None
        assert theirs.grad is not None
        assert torch.equal(mine.grad, theirs.grad)


def test_parts_of_a_batch_give_the_whole_where_hooks_would_exceed_one(sound: Tensor) -> None:
    whole, parts, hooked = ear(), ear(), ear()
    for parameter in hooked.parameters():
        parameter.register_hook(lambda grad: grad / (grad.abs().max() + 1e-8))
    alike = sound[:1] * torch.linspace(0.7, 1, 4)[:, None, None]
    loss(whole, alike).backward()
    for part in alike.split(1):
        loss(parts, part).backward()
        loss(hooked, part).backward()
    normalise_gradients(wavelet_parameters(whole))
    normalise_gradients(wavelet_parameters(parts))
    for expected, made, wrong in zip(
        whole.parameters(), parts.parameters(), hooked.parameters(), strict=True
    ):
        assert expected.grad is not None
        assert made.grad is not None
        assert wrong.grad is not None
        torch.testing.assert_close(made.grad, expected.grad, rtol=0, atol=1e-3)
        assert wrong.grad.abs().max() > 3  # of the four parts' one each


def test_only_m_fb_and_fc_of_an_audio_head_are_meant() -> None:
    head = ESResNeXt(2)
    meant = wavelet_parameters(nn.ModuleDict({"audio": head, "text": nn.Linear(2, 2)}))
    assert [id(parameter) for parameter in meant] == [
        id(parameter) for parameter in (head.fbsp.m, head.fbsp.fb, head.fbsp.fc)
    ]


def test_missing_zero_and_empty_gradients_stay_as_they_are() -> None:
    missing, zero, empty = (nn.Parameter(torch.ones(size)) for size in (2, 2, 0))
    zero.grad, empty.grad = torch.zeros(2), torch.zeros(0)
    normalise_gradients([missing, zero, empty], epsilon=0.0)
    assert missing.grad is None
    assert zero.grad.eq(0).all()


def test_without_epsilon_the_largest_entry_is_exactly_one() -> None:
    parameter = nn.Parameter(torch.ones(3))
    parameter.grad = torch.tensor([1e-9, -4e-9, 2e-9])
    twin = copy.deepcopy(parameter)
    twin.grad = parameter.grad.clone()
    normalise_gradients([parameter], epsilon=0.0)
    normalise_gradients([twin])
    assert torch.equal(parameter.grad, torch.tensor([0.25, -1.0, 0.5]))
    assert twin.grad.abs().max() < 0.5  # the published epsilon holds vanishing gradients back
