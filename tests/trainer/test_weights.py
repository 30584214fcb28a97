import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from published_weights import layout, published_state
from tiny_models import tiny_encoder
from torch import Tensor, nn

from trainer.initialise import initialise_audio, initialise_clip, initialise_from_imagenet
from trainer.models import Encoder, EncoderConfig, build_encoder, load_model, save_encoder
from trainer.models.esresnext import ESResNeXt
from trainer.weights import (
    WeightsError,
    our_name,
    published_name,
    read_state,
    save_published,
    state_hash,
)

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def untrained() -> Encoder:
    return build_encoder(EncoderConfig())


# -- the published layout


def test_every_published_tensor_has_one_name_here_and_back(untrained: Encoder) -> None:
    names = [name for name in layout() if name != "audio.fbsp.bias"]
    assert [published_name(our_name(name)) for name in names] == names
    assert {our_name(name) for name in names} == set(untrained.state_dict())


def test_a_published_file_comes_back_out_as_it_went_in(audioclip: Encoder, tmp_path: Path) -> None:
    save_published(audioclip, tmp_path / "again.pt")
    again = torch.load(tmp_path / "again.pt", weights_only=True)
    assert set(again) == set(published_state())
    for name, tensor in published_state().items():
        assert torch.equal(again[name], tensor), name


def test_a_state_dict_loads_like_its_file(audioclip: Encoder) -> None:
    model = load_model(published_state(), device="cpu")
    assert model.fingerprint() == audioclip.fingerprint()
    assert not model.training


def without(*names: str) -> Callable[[State], State]:
    return lambda state: {name: tensor for name, tensor in state.items() if name not in names}


WRONG: dict[str, tuple[Callable[[State], State], str]] = {
    "one is missing": (without("audio.fbsp.m"), r"1 of 861 tensors are missing \(audio\.fbsp\.m\)"),
    "the text tower is missing": (
        lambda state: {n: t for n, t in state.items() if n.startswith(("audio.", "visual.", "logit"))},
        r"tensors are missing \(positional_embedding, text_projection, token_embedding\.weight, …\)",
    ),
    "one is too many": (
        lambda state: {**state, "odd": torch.ones(1)},
        r"1 of 862 tensors are unknown \(odd\)",
    ),
    "one has another shape": (
        lambda state: {**state, "audio.fc.weight": torch.zeros(527, 2048)},
        r"audio\.fc\.weight has \(527, 2048\) instead of \(1024, 2048\)",
    ),
}


@pytest.mark.parametrize("fault", WRONG)
def test_a_partial_or_wrong_state_is_refused_by_the_names_at_fault(fault: str) -> None:
    change, message = WRONG[fault]
    with pytest.raises(WeightsError, match=message):
        load_model(change(published_state()), device="cpu")


def test_a_state_of_nobodys_names_is_refused() -> None:
    with pytest.raises(WeightsError, match=r"names encoder\.weight are of no known layout"):
        load_model({"encoder.weight": torch.ones(1)})


@pytest.mark.parametrize(
    ("strip", "message"), [("audio.", "a start for training"), ("visual.", "no known layout")]
)
def test_a_classifier_is_no_encoder(strip: str, message: str) -> None:
    part = {n.removeprefix(strip): t for n, t in published_state().items() if n.startswith(strip)}
    part = {name: tensor for name, tensor in part.items() if not name.startswith("layer")}
    with pytest.raises(WeightsError, match=message):
        load_model(part)


# -- files


def test_our_folder_gives_the_same_model_and_remembers_its_profile(
    audioclip: Encoder, tmp_path: Path
) -> None:
    released = load_model(published_state(), device="cpu", profile="released")
    assert not released.image.transform.antialias
    assert released.dead_temperatures
    save_encoder(released, tmp_path / "run")
    again = load_model(tmp_path / "run", device="cpu")
    assert again.fingerprint() == released.fingerprint() != audioclip.fingerprint()
    assert again.dead_temperatures
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["config.json", "model.safetensors"]
    assert load_model(tmp_path / "run" / "model.safetensors", device="cpu").dead_temperatures


def test_a_folder_without_a_config_or_of_a_later_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"holds no config\.json"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"format": 2}))
    with pytest.raises(WeightsError, match="format 1"):
        load_model(tmp_path)


def test_wrapped_and_parallel_checkpoints_are_unwrapped(tmp_path: Path) -> None:
    torch.save({"state_dict": {"module.a": torch.ones(2), "module.b": torch.zeros(1)}}, tmp_path / "a.pt")
    assert {name: tensor.tolist() for name, tensor in read_state(tmp_path / "a.pt").items()} == {
        "a": [1.0, 1.0],
        "b": [0.0],
    }


def test_half_precision_becomes_single_and_counters_stay_whole(tmp_path: Path) -> None:
    safetensors.torch.save_file({"a": torch.ones(2).half(), "n": torch.tensor(3)}, tmp_path / "a.safetensors")
    state = read_state(tmp_path / "a.safetensors")
    assert (state["a"].dtype, state["n"].dtype) == (torch.float32, torch.int64)


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_openais_kind_of_archive_is_read_though_it_is_torchscript(tmp_path: Path) -> None:
    torch.jit.script(nn.Linear(2, 3).half()).save(tmp_path / "archive.pt")
    state = read_state(tmp_path / "archive.pt")
    assert {name: (tuple(t.shape), t.dtype) for name, t in state.items()} == {
        "weight": ((3, 2), torch.float32),
        "bias": ((3,), torch.float32),
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:24", "git-lfs pointer"),
        (b"<!DOCTYPE html><html>Not found</html>", "a web page"),
        (b"", "no readable weights file"),
        (b"\x80\x02csubprocess\ncall\n(S'true'\ntR.", "no readable weights file"),
    ],
)
def test_what_is_no_weights_file_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(WeightsError, match=message):
        read_state(tmp_path / "a.pt")


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    for name, save in (("a.pt", torch.save), ("a.safetensors", safetensors.torch.save_file)):
        save({"a": torch.ones(1000)}, tmp_path / name)
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:2000])
        with pytest.raises(WeightsError, match=re.escape(name)):
            read_state(tmp_path / name)


def test_a_name_that_is_nothing_is_answered_with_those_that_are() -> None:
    with pytest.raises(WeightsError, match=r"no model 'audioclip-fulll'; expected .*audioclip-full"):
        load_model("audioclip-fulll")
    with pytest.raises(WeightsError, match="a start for training"):
        load_model("esrnxfbsp")


def test_the_hash_of_a_state_is_that_of_its_names_shapes_and_values() -> None:
    state = {"a": torch.ones(2, 3), "b": torch.tensor(1)}
    assert state_hash(state, {}) == state_hash(dict(reversed(state.items())), {})
    assert state_hash(state, {}) != state_hash({**state, "a": torch.ones(3, 2)}, {})


# -- initialisers


def drawn_classifier(outputs: int) -> State:
    """The audio part of the drawn checkpoint as ESRNXFBSP.pt has it: no prefix, class logits."""
    state = {n.removeprefix("audio."): t for n, t in published_state().items() if n.startswith("audio.")}
    return {**state, "fc.weight": torch.full((outputs, 2048), 0.5), "fc.bias": torch.zeros(outputs)}


def test_a_published_classifier_starts_an_audio_head_except_for_its_last_layer() -> None:
    tower = ESResNeXt(outputs=1024)
    before = tower.fc.weight.clone()
    account = initialise_audio(tower, drawn_classifier(527), source="ESRNXFBSP.pt")
    assert account.left_out == account.kept == ("fc.weight", "fc.bias")
    assert set(account.loaded) | set(account.kept) == set(tower.state_dict())
    assert torch.equal(tower.fc.weight, before)
    assert torch.equal(tower.fbsp.m.detach(), published_state()["audio.fbsp.m"])
    assert torch.equal(tower.att5.bn.running_var, published_state()["audio.att5.bn.running_var"])


def test_a_classifier_of_as_many_outputs_comes_whole() -> None:
    tower = ESResNeXt(outputs=527)
    account = initialise_audio(tower, drawn_classifier(527), source="ESRNXFBSP.pt")
    assert account.kept == ()
    assert tower.fc.weight[0, 0].item() == 0.5


def test_imagenet_starts_the_trunk_and_opens_the_gates() -> None:
    from torchvision.models import resnext50_32x4d

    tower, imagenet = ESResNeXt(outputs=50), resnext50_32x4d(weights=None).state_dict()
    account = initialise_from_imagenet(tower, imagenet, source="resnext50")
    assert account.left_out == ("fc.weight", "fc.bias")
    assert set(account.loaded) == {name for name in imagenet if not name.startswith("fc.")}
    assert torch.equal(tower.layer3[4].conv2.weight.detach(), imagenet["layer3.4.conv2.weight"])
    for gate in (tower.att1, tower.att5):
        assert gate.bn.weight.unique().tolist() == gate.bn.bias.unique().tolist() == [1.0]


def test_clip_starts_the_image_and_text_towers_and_their_scale(untrained: Encoder) -> None:
    clip = {n: t for n, t in published_state().items() if not n.startswith(("audio.", "logit_scale_"))}
    account = initialise_clip(untrained, {**clip, "input_resolution": torch.tensor(224)}, source="CLIP.pt")
    assert all(name.startswith(("audio.", "log_scales.audio_")) for name in account.kept)
    assert len(account.loaded) == len(clip)
    assert torch.equal(untrained.text.text_projection.detach(), clip["text_projection"])


def test_clip_alone_is_an_encoder_of_images_and_texts(audioclip: Encoder) -> None:
    clip = {n: t for n, t in published_state().items() if not n.startswith(("audio.", "logit_scale_"))}
    model = load_model({**clip, "vocab_size": torch.tensor(49408)}, device="cpu")
    assert model.modalities == ("image", "text")
    torch.testing.assert_close(model.embed_text("cat"), audioclip.embed_text("cat"))


def test_an_initialiser_of_the_wrong_kind_is_refused() -> None:
    with pytest.raises(WeightsError, match=r"ImageNet\.pth does not fit: .* are missing \(fbsp\.m"):
        initialise_audio(ESResNeXt(outputs=10), {"conv1.weight": torch.ones(1)}, source="ImageNet.pth")


def test_saving_replaces_whole_files_only(tmp_path: Path) -> None:
    save_encoder(tiny_encoder(config={"a": 1}), tmp_path)
    save_encoder(tiny_encoder(seed=1, config={"a": 1}), tmp_path)
    assert not list(tmp_path.glob("*.partial"))
    state = safetensors.torch.load_file(tmp_path / "model.safetensors")
    assert torch.equal(state["audio.head.bias"], tiny_encoder(seed=1).audio.head.bias)
