"""What goes through the door: sizes, other CLIPs, precision, compiled towers."""

import json
from pathlib import Path

import open_clip
import pytest
import torch
from open_clip.model import CLIP

from trainer.models import Encoder, EncoderConfig, build_encoder, load_model, save_encoder
from trainer.models.audioclip import build_audio_head
from trainer.models.esresnext import TOY, ESResNeXt

VIT = EncoderConfig(towers=("image", "text"), clip="ViT-B-32-quickgelu")


@pytest.fixture(scope="module")
def toy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    save_encoder(build_encoder(EncoderConfig(size="toy")), folder)
    return folder


@pytest.fixture(scope="module")
def toy(toy_folder: Path) -> Encoder:
    """Read, never changed."""
    return load_model(toy_folder, device="cpu")


# -- sizes


def test_a_toy_has_the_parts_of_the_published_model_and_less_of_them(toy: Encoder) -> None:
    # every parameter's name is one of the published model's
    with torch.device("meta"):
        full = dict(build_audio_head(527).named_parameters())
    small = dict(toy.audio.named_parameters())
    assert set(small) < set(full)
    assert sum(map(torch.numel, small.values())) < sum(map(torch.numel, full.values())) / 100
    assert full["fc.weight"].shape == (527, 2048)


def test_a_toy_comes_back_from_its_folder_as_it_was(toy: Encoder, toy_folder: Path) -> None:
    again = load_model(toy_folder, device="cpu")
    assert again.fingerprint() == toy.fingerprint()
    assert toy.embed_text(["a dog"]).shape == (1, toy.size)
    assert toy.embed_audio([(torch.zeros(1, 4_000), 44_100)]).shape == (1, toy.size)


def test_a_folder_from_before_there_were_sizes_is_full(tmp_path: Path) -> None:
    config = EncoderConfig(towers=("text",)).to_json()
    del config["size"]
    assert EncoderConfig.from_json(json.loads(json.dumps(config))) == EncoderConfig(towers=("text",))


def test_a_toy_classifier_has_as_many_logits_as_asked() -> None:
    head = build_audio_head(50, "toy").eval()
    assert head(torch.zeros(2, 1, 4_000)).shape == (2, 50)


@pytest.mark.parametrize("build", [lambda: build_audio_head(2, "tiny"), lambda: EncoderConfig(size="tiny")])
def test_another_size_gets_a_clear_error(build: object) -> None:
    with pytest.raises(ValueError, match="no size 'tiny'; expected one of full, toy"):
        build()  # type: ignore[operator]


def test_a_toy_learns_what_it_is_shown() -> None:
    torch.manual_seed(0)
    head = ESResNeXt(2, trunk=TOY, generator=torch.Generator().manual_seed(0)).train()
    time = torch.arange(8_000) / 44_100
    tones = torch.stack([torch.sin(2 * torch.pi * f * time) / 2 for f in (300, 320, 4000, 4100)])[:, None]
    names = torch.tensor([0, 0, 1, 1])
    optimiser = torch.optim.Adam(head.parameters(), lr=1e-3)
    for _ in range(8):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(head(tones), names).backward()
        optimiser.step()
    assert head(tones).argmax(dim=1).tolist() == names.tolist()


# -- precision


class LastDecibels:
    """What an audio tower's front-end gave last."""

    def __init__(self, encoder: Encoder) -> None:
        self.kept = torch.empty(0)
        encoder.audio.fbsp.register_forward_hook(self.keep)

    def keep(self, _module: object, _inputs: object, decibels: torch.Tensor) -> None:
        self.kept = decibels


@torch.no_grad()
def test_bfloat16_reaches_the_towers_and_never_the_front_end(toy_folder: Path) -> None:
    sound = torch.rand(2, 1, 9_000, generator=torch.Generator().manual_seed(0)) - 0.5
    exact, lower = (load_model(toy_folder, device="cpu", precision=name) for name in ("float32", "bf16"))
    heard, heard_lower = LastDecibels(exact), LastDecibels(lower)
    expected, made = exact.encode_audio(sound), lower.encode_audio(sound)
    assert torch.equal(heard.kept, heard_lower.kept)
    assert made.dtype is torch.float32
    assert 0 < relative(made, expected) < 0.05


@torch.no_grad()
@pytest.mark.parametrize("clip", ["toy", "ViT"])
def test_bfloat16_gives_float32_embeddings_near_the_exact_ones(clip: str) -> None:
    torch.manual_seed(0)
    encoder = build_encoder(EncoderConfig(size="toy") if clip == "toy" else VIT).eval()
    pixels = torch.randn(2, 3, *[encoder.image.transform.size] * 2)
    expected = encoder.encode_image(pixels), encoder.encode_text(["a dog", "rain on a roof"])
    encoder.precision = "bf16"
    made = encoder.encode_image(pixels), encoder.encode_text(["a dog", "rain on a roof"])
    for rows, exact in zip(made, expected, strict=True):
        assert rows.dtype is torch.float32
        assert 0 < relative(rows, exact) < 0.05


def test_vectors_of_another_precision_have_another_name(toy: Encoder, toy_folder: Path) -> None:
    assert load_model(toy_folder, device="cpu", precision="bf16").fingerprint() != toy.fingerprint()


def test_an_unknown_precision_gets_a_clear_error(toy_folder: Path) -> None:
    with pytest.raises(ValueError, match="no precision 'fp8'; expected one of float32, bf16"):
        load_model(toy_folder, precision="fp8")


@torch.no_grad()
def test_a_model_answers_whichever_switches_of_precision_the_process_has_set(toy: Encoder) -> None:
    # PyTorch's older and newer switches raise where both were used
    expected = toy.encode_text(["a dog"])
    conv, before = torch.backends.cudnn.conv, torch.backends.cudnn.conv.fp32_precision
    torch.set_float32_matmul_precision("high")
    conv.fp32_precision = "ieee"
    try:
        assert torch.equal(toy.encode_text(["a dog"]), expected)
        assert conv.fp32_precision == "ieee"
    finally:
        torch.set_float32_matmul_precision("highest")
        conv.fp32_precision = before


# -- compiled towers


@pytest.mark.slow
def test_compiled_towers_give_the_same_embeddings_for_every_shape(toy: Encoder, toy_folder: Path) -> None:
    compiled = load_model(toy_folder, device="cpu", compile=True)
    assert list(compiled.state_dict()) == list(toy.state_dict())
    generator = torch.Generator().manual_seed(0)
    for clips, samples in ((2, 9_000), (1, 20_000)):
        sound = torch.rand(clips, 1, samples, generator=generator) - 0.5
        assert relative(compiled.encode_audio(sound), toy.encode_audio(sound)) < 1e-5
    pixels = torch.randn(2, 3, 64, 64, generator=generator)
    assert relative(compiled.encode_image(pixels), toy.encode_image(pixels)) < 1e-5
    for texts in (["a dog", "cat"], ["a dog barks"], ["rain on the roof"] * 2):
        assert relative(compiled.encode_text(texts), toy.encode_text(texts)) < 1e-5


def test_compiling_without_a_compiler_gets_a_clear_error(
    toy_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(ValueError, match=r"no C\+\+ compiler is here.*; install g\+\+"):
        load_model(toy_folder, device="cpu", compile=True)


# -- other CLIPs


@pytest.fixture(scope="module")
def vit() -> tuple[CLIP, Encoder]:
    """open_clip's own ViT-B/32, and the encoder of its weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        clip = CLIP(**open_clip.get_model_config(VIT.clip)).eval()
    return clip, load_model(clip.state_dict(), device="cpu")


@torch.no_grad()
def test_a_vision_transformer_comes_through_the_same_door(vit: tuple[CLIP, Encoder], tmp_path: Path) -> None:
    clip, encoder = vit
    save_encoder(encoder, tmp_path)
    loaded = load_model(tmp_path, device="cpu")
    assert loaded.fingerprint() == encoder.fingerprint()
    assert loaded.config["clip"] == VIT.clip  # known by the names of its tensors
    assert (loaded.modalities, loaded.size) == (("image", "text"), 512)
    pixels = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    texts = ["a dog", "rain on a roof"]
    assert relative(loaded.encode_image(pixels), clip.encode_image(pixels)) < 1e-5
    assert relative(loaded.encode_text(texts), clip.encode_text(loaded.text.tokens(texts))) < 1e-5


def relative(made: torch.Tensor, expected: torch.Tensor) -> float:
    return float((made - expected).detach().norm() / expected.detach().norm())
