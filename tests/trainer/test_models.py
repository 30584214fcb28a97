"""What goes through the door: sizes, other CLIPs, precision, compiled towers."""

import json
from pathlib import Path

import pytest
import torch

from trainer.models import Encoder, EncoderConfig, build_encoder, load_model, save_encoder
from trainer.models.audioclip import build_audio_head
from trainer.models.esresnext import TOY, ESResNeXt

torch.set_num_threads(2)


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
