"""The wavelet front-end: published bits, float64's decibels on real sound, and no one else's influence."""

import copy
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from golden.named_weights import VECTORS, fill, waveform
from golden.plain_audio_head import plain_decibels, plain_filters, plain_frames
from torch import Tensor

from trainer.models.fbsp import FbspSpectrogram, blackman_harris
from trainer.models.framing import frame_count, framed

AUDIBLE = -110  # dB; below, float32 itself is noise
CASES = {
    "mono_5s": (5.0, 1, 2),
    "stereo_4s": (4.0, 2, 2),
    "mono_10s": (10.0, 1, 1),
    "short_20ms": (0.02, 1, 2),
}


def drawn(salt: str) -> FbspSpectrogram:
    """Trained-looking wavelets."""
    names = {f"audio.fbsp.{name}": (1025,) for name in ("m", "fb", "fc")}
    values = {name.removeprefix("audio.fbsp."): torch.from_numpy(v) for name, v in fill(names, salt).items()}
    ear = FbspSpectrogram()
    ear.load_state_dict({"window": ear.window, **values})
    return ear


def sounds(seconds: float, channels: int, *salts: str) -> Tensor:
    return torch.from_numpy(np.stack([waveform(seconds, channels, salt) for salt in salts]))


@pytest.fixture(scope="module")
def ear() -> FbspSpectrogram:
    return drawn("dev").eval()


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    return dict(np.load(VECTORS))


def test_filters_are_the_published_ones(ear: FbspSpectrogram, golden: dict[str, np.ndarray]) -> None:
    rows = ear.filters()[[0, 7, 512, 1024]].detach().numpy()
    assert np.abs(rows - golden["fbsp_filters_rows_0_7_512_1024"]).max() < 1e-6


@torch.no_grad()
@pytest.mark.parametrize("case", CASES)
def test_decibels_are_the_published_ones(
    ear: FbspSpectrogram, golden: dict[str, np.ndarray], case: str
) -> None:
    seconds, channels, clips = CASES[case]
    decibels = ear(sounds(seconds, channels, *(f"dev:{case}:{index}" for index in range(clips))))
    assert decibels.shape == tuple(golden[f"{case}/decibels_shape"])
    published = golden[f"{case}/decibels_sample"]
    differences = np.abs(decibels[..., ::31, ::37].numpy() - published)[published > AUDIBLE]
    assert differences.max() < 0.002  # a tenth of what another order of sums is allowed
    assert ear.norm_loss().item() == pytest.approx(golden[f"{case}/fbsp_norm_loss"], rel=1e-6)


@pytest.mark.parametrize("salt", ["another", "a third"])
def test_filters_and_decibels_agree_with_a_plain_formulation(salt: str) -> None:
    ear, sound = drawn(salt), sounds(0.4, 2, "x", "y")
    plain = torch.stack(plain_filters(ear.m, ear.fb, ear.fc), dim=-1)
    assert (ear.filters() - plain).abs().max() < 1e-6
    expected = plain_decibels(ear, sound)
    audible = expected > -80
    assert (ear(sound) - expected)[audible].abs().max() < 0.02
    norms = plain.square().sum(dim=(1, 2)).sqrt()
    torch.testing.assert_close(ear.norm_loss(), (norms - 1).square().mean())


def test_untrained_wavelets_are_a_fourier_transform_of_unit_filters() -> None:
    ear = FbspSpectrogram()
    assert ear.norm_loss() == 0
    torch.testing.assert_close(ear.filters().square().sum(dim=(1, 2)), torch.ones(1025))
    tone = torch.sin(2 * torch.pi * 100 * 21.5437 * torch.arange(8_000) / 44_100)
    band, bin_ = divmod(int(ear(tone.view(1, 1, -1))[0, 0, :, :, 6].flatten().argmax()), 341)
    assert (band, bin_) == (0, 100)


@pytest.mark.parametrize(
    ("samples", "frames", "left"),
    [
        (176_400, 313, 143),  # 4 s
        (220_500, 392, 252),  # 5 s
        (441_000, 785, 239),  # 10 s
        (1655, 2, 280),
        (1654, 1, 0),
        (1653, 1, 0),
        (1, 1, 826),
    ],
)
def test_framing_pads_both_ends_as_published(samples: int, frames: int, left: int) -> None:
    cut = framed(torch.ones(1, samples))
    assert frame_count(samples) == frames
    assert cut.shape == (1, frames, 1654)
    assert cut[0, 0].argmax() == left
    assert cut[0, :, :561].sum() + cut[0, -1, 561:].sum() == samples


def test_the_window_is_blackman_and_harris_periodic() -> None:
    window = blackman_harris(1654).double()
    assert window.sum() == pytest.approx(593.3725)
    assert window.square().sum() == pytest.approx(426.6714)
    assert window[0] == pytest.approx(6.0e-5)
    assert window[827] == 1


# -- against float64


def in_float64(ear: FbspSpectrogram, sound: Tensor, *, bits: str = "float32") -> Tensor:
    """Decibels (n, 1023) of the same float32 filters and signal; `bits` rounds the factors of products."""
    frames = plain_frames(sound)[0].double() * ear.window.double()
    taps = ear.filters().detach()[:1023, 197 : 197 + 1654].double()
    real, imaginary = (rounded(frames, bits) @ rounded(taps[..., part], bits).T for part in (0, 1))
    return 10 * torch.log10(real.square() + imaginary.square())


def rounded(values: Tensor, bits: str) -> Tensor:
    if bits == "bfloat16":
        return values.bfloat16().double()
    if bits == "tf32":  # ten bits of mantissa: the factor that a tensor core multiplies
        whole = values.float().view(torch.int32)
        return ((whole + 0x1000) & ~0x1FFF).view(torch.float32).double()
    return values


def error(decibels: Tensor, exact: Tensor) -> float:
    """Root mean square of the difference where there is something to hear."""
    rows = decibels[0, 0].permute(2, 0, 1).flatten(1) if decibels.ndim == 5 else decibels
    return float((rows - exact)[exact > AUDIBLE].square().mean().sqrt())


def bell() -> Tensor:
    """(1, T): loud partials over faint noise; rounding spreads the first over the second."""
    t = torch.arange(44_100) / 44_100
    partials = [torch.sin(2 * torch.pi * f * t) * torch.exp(-f / 200 * t) for f in (440, 1130, 2710)]
    noise = torch.randn(1, len(t), generator=torch.Generator().manual_seed(0))
    return 0.2 * torch.stack(partials).sum(dim=0) + 1e-4 * noise


def real_clips() -> list[Path]:
    folder = Path(os.environ.get("TRICHORD_TEST_DATA", "")) / "esc10" / "audio"
    return sorted(folder.glob("*.ogg"))[::80]


@torch.no_grad()
@pytest.mark.skipif(not os.environ.get("TRICHORD_TEST_DATA"), reason="TRICHORD_TEST_DATA names no real clips")
def test_real_clips_are_within_a_hundredth_of_a_decibel_of_float64(ear: FbspSpectrogram) -> None:
    clips = real_clips()
    assert len(clips) >= 5
    for ears, clip in ((ears, clip) for ears in (ear, FbspSpectrogram()) for clip in clips):
        sound = torch.from_numpy(soundfile.read(clip, dtype="float32")[0])[None]
        assert error(ears(sound[None]), in_float64(ears, sound)) < 0.01, clip.name


@torch.no_grad()
def test_fewer_bits_would_corrupt_what_float32_keeps(ear: FbspSpectrogram) -> None:
    sound = bell()
    exact = in_float64(ear, sound)
    assert error(ear(sound[None]), exact) < 0.01
    assert error(in_float64(ear, sound, bits="tf32"), exact) > 1
    assert error(in_float64(ear, sound, bits="bfloat16"), exact) > 5


@torch.no_grad()
def test_autocast_and_lower_precision_of_the_process_change_nothing(ear: FbspSpectrogram) -> None:
    sound = sounds(0.5, 1, "x")
    expected = ear(sound)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(ear(sound), expected)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@torch.no_grad()
def test_on_a_gpu_float32_stays_float32_where_tf32_is_allowed() -> None:
    ear, sound = drawn("dev").cuda(), bell()
    torch.set_float32_matmul_precision("high")
    try:
        assert error(ear(sound[None].cuda()).cpu(), in_float64(drawn("dev"), sound)) < 0.01
    finally:
        torch.set_float32_matmul_precision("highest")


# -- gradients


def test_gradients_are_those_of_the_plain_formulation() -> None:
    ear, sound = drawn("dev"), sounds(0.3, 2, "x", "y")
    weights = torch.randn(
        2, 2, 3, 341, frame_count(sound.shape[-1]), generator=torch.Generator().manual_seed(0)
    )
    plain = copy.deepcopy(ear)
    (ear(sound) * weights).sum().backward()
    (plain_decibels(plain, sound) * weights).sum().backward()
    for name, parameter in ear.named_parameters():
        expected = plain.get_parameter(name).grad
        assert expected is not None
        assert parameter.grad is not None
        difference = (parameter.grad - expected).norm() / expected.norm()
        assert difference < 2e-3, f"{name}: {difference:.1e}"


def test_gradients_under_autocast_are_those_without() -> None:
    gradients = []
    for enabled in (False, True):
        ear = drawn("dev")
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            ear(sounds(0.2, 1, "x")).mean().backward()
        gradients.append(torch.stack([p.grad for p in ear.parameters() if p.grad is not None]))
    assert torch.equal(*gradients)


def test_the_norm_loss_has_a_gradient_even_at_its_start() -> None:
    ear = FbspSpectrogram()
    ear.norm_loss().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in (ear.fb, ear.m))


def test_a_bandwidth_of_zero_is_silent_not_poisonous() -> None:
    ear = drawn("dev")
    with torch.no_grad():
        ear.fb[5] = 0
    assert ear.filters()[5].abs().max() == 0
    assert ear(sounds(0.1, 1, "x"))[0, 0, 0, 5].eq(-180).all()


# -- kept filters


@torch.no_grad()
@pytest.mark.parametrize(
    "write", [lambda p: p.add_(0.1), lambda p: p.data.add_(0.1)], ids=["in place", "data"]
)
def test_kept_filters_follow_every_write(write: object) -> None:
    ear, sound = drawn("dev").eval(), sounds(0.1, 1, "x")
    before = ear(sound)
    assert torch.equal(ear(sound), before)
    write(ear.m)  # type: ignore[operator]
    fresh = FbspSpectrogram()
    fresh.load_state_dict(ear.state_dict())
    assert not torch.equal(ear(sound), before)
    assert torch.equal(ear(sound), fresh(sound))


def test_kept_filters_serve_training_after_inference_mode() -> None:
    ear, sound = drawn("dev").requires_grad_(False), sounds(0.1, 1, "x")
    with torch.inference_mode():
        ear(sound)
    weight = torch.ones(1, requires_grad=True)
    (ear(sound) * weight).sum().backward()
    assert weight.grad is not None


@torch.no_grad()
@pytest.mark.parametrize("version", ["without", "with another"])
def test_a_pytorch_without_its_private_packing_gives_the_same_bits(
    ear: FbspSpectrogram, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    sound = sounds(0.2, 1, "x")
    expected = ear(sound)
    if version == "without":
        monkeypatch.delattr(torch._C._nn, "mkldnn_reorder_conv2d_weight")
    else:
        monkeypatch.setattr(torch._C._nn, "mkldnn_reorder_conv2d_weight", lambda kernel: kernel)
    assert torch.equal(drawn("dev").eval()(sound), expected)


def test_a_copy_has_its_own_filters() -> None:
    ear, sound = drawn("dev").requires_grad_(False), sounds(0.1, 1, "x")
    before = ear(sound)
    other = copy.deepcopy(ear)
    other.fc.data += 1
    assert not torch.equal(other(sound), before)
    assert torch.equal(ear(sound), before)


# -- difficult inputs


@torch.no_grad()
@pytest.mark.parametrize("samples", [1, 2000, 44_100])
def test_a_clip_has_the_same_bits_alone_and_among_others(ear: FbspSpectrogram, samples: int) -> None:
    clips = torch.rand(5, 2, samples, generator=torch.Generator().manual_seed(0)) - 0.5
    together = ear(clips)
    for clip, decibels in zip(clips, together, strict=True):
        assert torch.equal(ear(clip[None])[0], decibels)


@torch.no_grad()
def test_silence_is_the_published_offset_and_nothing_else() -> None:
    decibels = FbspSpectrogram()(torch.zeros(1, 1, 44_100))
    assert decibels.isfinite().all()
    # zero becomes half a step of int16, times the window's sum over the square root of the filter's length
    offset = 1.52588e-5 * 593.3725 / 2048**0.5
    assert decibels[0, 0, 0, 0, 40].item() == pytest.approx(20 * np.log10(offset), abs=0.1)
    assert decibels[0, 0, 1:].max() < -150


@torch.no_grad()
def test_a_nan_spoils_its_own_clip_only(ear: FbspSpectrogram) -> None:
    clips = torch.rand(2, 1, 3000) - 0.5
    expected = ear(clips)[1]
    clips[0, 0, 1500] = torch.nan
    spoilt, sound = ear(clips)
    assert spoilt.isnan().any()
    assert torch.equal(sound, expected)


@pytest.mark.parametrize(
    ("sound", "message"),
    [
        (torch.zeros(2, 100), r"\(2, 100\); expected \(batch, channels, samples\)"),
        (torch.zeros(1, 1, 0), "none of them 0"),
        (torch.zeros(1, 1, 100, dtype=torch.int16), "int16; expected floats in"),
    ],
)
def test_other_shapes_and_types_get_a_clear_error(ear: FbspSpectrogram, sound: Tensor, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        ear(sound)


def test_halved_weights_get_a_clear_error() -> None:
    with pytest.raises(TypeError, match=r"float16; expected float32: keep the weights, and use autocast"):
        FbspSpectrogram().half()(torch.zeros(1, 1, 100))
