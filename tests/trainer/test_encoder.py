import math
import os
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import soundfile
import torch
from tiny_models import CLIP_CONFIG, RATE, SIZE, TinyAudio, tiny_encoder
from torch.nn import functional as F

from shards.sound import SoundError
from trainer.batch import Embeddings
from trainer.models.clip import build_clip
from trainer.models.encoder import Encoder
from trainer.text import TextError


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return tiny_encoder()


def tones(folder: Path, name: str, seconds: float, *, rate: int = RATE, channels: int = 1) -> Path:
    time = np.arange(round(seconds * rate)) / rate
    sound = [0.3 * np.sin(2 * np.pi * (200 + 90 * channel) * time) for channel in range(channels)]
    soundfile.write(folder / name, np.stack(sound, axis=1), rate, subtype="FLOAT")
    return folder / name


def test_forward_gives_unit_rows_for_what_was_given(encoder: Encoder) -> None:
    embeddings = encoder(audio=torch.rand(2, 1, 500), text=encoder.text.tokens(["cat", "dog"]))
    assert embeddings.image is None
    for _, rows in embeddings.present():
        assert rows.shape == (2, SIZE)
        torch.testing.assert_close(rows.norm(dim=-1), torch.ones(2))


def test_logits_have_a_row_of_the_first_and_a_column_of_the_second(encoder: Encoder) -> None:
    audio, text = F.normalize(torch.randn(2, SIZE), dim=-1), F.normalize(torch.randn(3, SIZE), dim=-1)
    logits = encoder.logits(Embeddings(audio=audio, text=text))
    assert list(logits) == ["audio_text"]
    torch.testing.assert_close(logits["audio_text"], 100 * audio @ text.T, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize(("dead", "gradient"), [(True, 0.0), (False, 100.0)])
def test_a_temperature_at_its_bound_learns_unless_it_is_dead(dead: bool, gradient: float) -> None:
    encoder = tiny_encoder(dead_temperatures=dead)
    scale = encoder.scales()["audio_text"]
    scale.backward()
    assert scale.item() == 100.0
    log_scale = encoder.log_scales["audio_text"]
    assert log_scale.grad is not None
    assert log_scale.grad.item() == pytest.approx(gradient, rel=1e-5)


@pytest.mark.parametrize(("log_scale", "scale"), [(-1.0, 1.0), (math.log(20), 20.0), (9.0, 100.0)])
def test_scales_stay_between_1_and_100_and_can_be_brought_back(log_scale: float, scale: float) -> None:
    encoder = tiny_encoder()
    with torch.no_grad():
        encoder.log_scales["image_text"].fill_(log_scale)
    assert encoder.scales()["image_text"].item() == pytest.approx(scale, rel=1e-5)
    encoder.clamp_scales()
    assert encoder.log_scales["image_text"].exp().item() == pytest.approx(scale, rel=1e-5)


def test_an_encoder_without_a_tower_has_no_scale_for_it_and_says_what_it_has() -> None:
    image, text = build_clip(CLIP_CONFIG)
    encoder = Encoder({"text": text, "image": image}, size=SIZE)
    assert list(encoder.log_scales) == ["image_text"]
    with pytest.raises(ValueError, match="no audio tower; it has image, text"):
        encoder.encode_audio(torch.zeros(1, 1, 5))


def test_towers_of_no_modality_are_refused() -> None:
    with pytest.raises(ValueError, match="expected some of audio, image, text"):
        Encoder({"smell": TinyAudio()}, size=SIZE)


# -- text


def test_cutting_at_the_longest_end_of_text_changes_nothing(encoder: Encoder) -> None:
    tokens = encoder.text.tokens(["cat", "a dog that barks at a cat"])
    whole = torch.cat([tokens, encoder.text.tokens(["word " * 75])])  # one row that fills all 77 positions
    torch.testing.assert_close(encoder.text(tokens), encoder.text(whole)[:2], atol=1e-6, rtol=1e-5)


def test_the_text_tower_is_open_clips_own_function() -> None:
    from open_clip.model import CLIP

    torch.manual_seed(0)
    theirs = CLIP(**CLIP_CONFIG).eval()
    image, text = build_clip(CLIP_CONFIG)
    text.load_state_dict({name: theirs.state_dict()[name] for name in text.state_dict()})
    image.trunk.load_state_dict(theirs.visual.state_dict())
    image.eval()
    tokens = text.tokens(["cat", "a dog that barks"])
    torch.testing.assert_close(text(tokens), theirs.encode_text(tokens), atol=1e-6, rtol=1e-5)
    pixels = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(image(pixels), theirs.encode_image(pixels), atol=1e-6, rtol=1e-5)


def test_equal_texts_are_encoded_once_and_stand_where_they_were(encoder: Encoder) -> None:
    seen: list[int] = []
    handle = encoder.text.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    rows = encoder.encode_text(["cat", "dog", "cat", "cat"])
    handle.remove()
    assert seen == [2]
    assert torch.equal(rows[0], rows[2])
    assert torch.equal(rows[0], rows[3])
    torch.testing.assert_close(rows[1:2], encoder.encode_text("dog"), atol=1e-6, rtol=1e-5)


def test_a_text_that_is_too_long_is_an_error_unless_it_may_be_truncated(encoder: Encoder) -> None:
    with pytest.raises(TextError, match="expected at most 77"):
        encoder.embed_text("dog " * 100)
    assert encoder.embed_text("dog " * 100, truncate=True).shape == (1, SIZE)


# -- audio


def test_files_of_any_rate_length_and_channels_become_unit_rows(encoder: Encoder, tmp_path: Path) -> None:
    files = [
        tones(tmp_path, "a.wav", 0.5),
        tones(tmp_path, "b.wav", 1.5, rate=44_100, channels=2),
        tones(tmp_path, "c.wav", 1 / RATE),
        tones(tmp_path, "d.wav", 25.0, rate=11_025),
        tones(tmp_path, "e.wav", 0.2, channels=8),
    ]
    rows = encoder.embed_audio(files)
    assert rows.shape == (5, SIZE)
    torch.testing.assert_close(rows.norm(dim=-1), torch.ones(5))


def test_no_row_depends_on_the_others_or_their_order(encoder: Encoder, tmp_path: Path) -> None:
    files = [tones(tmp_path, f"{n}.wav", 0.3 + 0.1 * (n % 4), channels=1 + n % 2) for n in range(8)]
    together = encoder.embed_audio(files)
    for file, row in zip(files, together, strict=True):
        assert (encoder.embed_audio([file])[0] - row).abs().max() < 1e-5
    torch.testing.assert_close(encoder.embed_audio(files[::-1]).flip(0), together, atol=1e-5, rtol=0)


def test_a_stereo_file_is_averaged_unless_its_channels_are_wanted(encoder: Encoder, tmp_path: Path) -> None:
    file = tones(tmp_path, "stereo.wav", 0.5, channels=2)
    samples = torch.from_numpy(soundfile.read(file, dtype="float32")[0].T)
    unit = {mono: encoder.embed_audio([file], mono=mono)[0] for mono in (True, False)}
    mixed, summed = (
        encoder.encode_audio(samples.mean(0)[None, None], RATE),
        encoder.encode_audio(samples[None], RATE),
    )
    torch.testing.assert_close(unit[True], F.normalize(mixed[0], dim=0), atol=1e-6, rtol=0)
    torch.testing.assert_close(unit[False], F.normalize(summed[0], dim=0), atol=1e-6, rtol=0)


def test_a_long_file_is_answered_window_by_window_and_as_a_whole(encoder: Encoder, tmp_path: Path) -> None:
    file = tones(tmp_path, "long.wav", 2.5)
    windows = list(encoder.embed_windows(file, window_s=1.0))
    assert [(window.start, window.end) for window, _ in windows] == [(0, 1), (1, 2), (1.5, 2.5)]
    mean = F.normalize(torch.stack([row for _, row in windows]).mean(0), dim=0)
    torch.testing.assert_close(encoder.embed_audio([file], window_s=1.0)[0], mean, atol=1e-6, rtol=0)


def test_encode_audio_resamples_to_the_towers_rate(encoder: Encoder) -> None:
    seen: list[tuple[int, ...]] = []
    handle = encoder.audio.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape)))
    encoder.encode_audio(torch.zeros(2, 3, 44_100), sample_rate=44_100)
    handle.remove()
    assert seen == [(2, 3, RATE)]


def test_gradients_pass_in_training_and_always_through_forward() -> None:
    encoder, waveform = tiny_encoder(), torch.rand(1, 1, 50)
    assert not encoder.encode_audio(waveform, RATE).requires_grad
    assert encoder(audio=waveform).audio.requires_grad
    encoder.train()
    assert encoder.encode_audio(waveform, RATE).requires_grad
    assert encoder.encode_text("cat").requires_grad
    assert not encoder.embed_audio([(waveform[0], RATE)]).requires_grad
    with torch.no_grad():
        assert not encoder.encode_text("cat").requires_grad


def test_an_unreadable_file_is_named(encoder: Encoder, tmp_path: Path) -> None:
    with pytest.raises(SoundError, match=r"missing\.wav is no file"):
        encoder.embed_audio([tmp_path / "missing.wav"])


def test_nothing_to_embed_is_no_rows(encoder: Encoder) -> None:
    assert encoder.embed_audio([]).shape == (0, SIZE)
    assert encoder.embed_image([]).shape == (0, SIZE)
    assert encoder.embed_text([]).shape == (0, SIZE)


# -- images


def test_pictures_and_their_files_give_equal_rows(encoder: Encoder, tmp_path: Path) -> None:
    picture = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 80, 3), np.uint8))
    picture.save(tmp_path / "picture.png")
    rows = encoder.embed_image([picture, tmp_path / "picture.png", os.fspath(tmp_path / "picture.png")])
    assert torch.equal(rows[0], rows[1])
    assert torch.equal(rows[0], rows[2])
    pixels = encoder.image.pixels([picture])
    torch.testing.assert_close(rows[:1], F.normalize(encoder.encode_image(pixels), dim=-1))


# -- what it is


def test_the_fingerprint_changes_with_a_weight_and_with_a_setting() -> None:
    encoder = tiny_encoder(config={"profile": "paper"})
    before = encoder.fingerprint()
    assert tiny_encoder(config={"profile": "paper"}).fingerprint() == before
    assert tiny_encoder(config={"profile": "released"}).fingerprint() != before
    with torch.no_grad():
        encoder.log_scales["image_text"] += 0.001
    assert encoder.fingerprint() != before
