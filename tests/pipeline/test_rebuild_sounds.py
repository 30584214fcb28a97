"""Sound files of every kind become 16-bit sound at one rate, and broken ones are found out."""

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile
from small_datasets import Sound, tone

from pipeline.ffmpeg import Program
from pipeline.resample import resample
from pipeline.sound_file import FULL_SCALE, cut_short, encode, read_sound_file, to_pcm
from shards.sound import SoundError, decode_pcm


def written(path: Path, sound: Sound, rate: int, subtype: str, kind: str = "WAV") -> Path:
    soundfile.write(path, sound, rate, subtype, format=kind)
    return path


@pytest.mark.parametrize("channels", [1, 2, 6])
def test_sixteen_bits_at_the_same_rate_come_out_as_they_went_in(tmp_path: Path, channels: int) -> None:
    noise = np.random.default_rng(0).integers(-32768, 32767, (5000, channels), np.int16, endpoint=True)
    soundfile.write(tmp_path / "a.wav", noise, 44_100, "PCM_16")
    pcm, clipped = to_pcm(read_sound_file(tmp_path / "a.wav").samples)
    assert clipped == 0
    kept, rate = decode_pcm(encode(pcm, 44_100, "flac"))
    assert rate == 44_100
    np.testing.assert_array_equal(kept, noise)


@pytest.mark.parametrize(
    ("subtype", "bits", "codec"),
    [
        *(("PCM_U8", 8, "pcm_u8"), ("PCM_16", 16, "pcm_s16"), ("PCM_24", 24, "pcm_s24")),
        *(("PCM_32", 32, "pcm_s32"), ("FLOAT", 32, "pcm_f32"), ("DOUBLE", 64, "pcm_f64")),
    ],
)
def test_every_depth_is_read_at_its_own_level(tmp_path: Path, subtype: str, bits: int, codec: str) -> None:
    sound = tone(440, channels=2)
    found = read_sound_file(written(tmp_path / "a.wav", sound, 32_000, subtype))
    assert (found.bits, found.codec, found.sample_rate, found.channels) == (bits, codec, 32_000, 2)
    np.testing.assert_allclose(found.samples, sound, atol=1.1 / 2 ** (bits - 1) + 1e-7)


def test_depths_above_sixteen_are_rounded_to_the_nearest_and_halves_to_even() -> None:
    steps = np.array([[0.25], [0.5], [0.75], [1.5], [-0.5], [-1.5]]) / FULL_SCALE
    assert to_pcm(steps)[0].ravel().tolist() == [0, 0, 1, 2, 0, -2]


def test_what_is_louder_than_full_scale_is_clipped_and_counted() -> None:
    pcm, clipped = to_pcm(np.array([[1.0], [-1.0], [1.5], [-3.0], [0.999]]))
    assert pcm.ravel().tolist() == [32767, -32768, 32767, -32768, 32735]
    assert clipped == 3


@pytest.mark.parametrize("rate", [8_000, 11_024, 11_025, 16_000, 22_050, 48_000, 96_000, 192_000])
def test_a_tone_keeps_its_pitch_level_and_phase_at_another_rate(
    tmp_path: Path, program: Program, rate: int
) -> None:
    found = resample(tone(440, 1.0, rate), rate, 44_100, program, tmp_path)
    assert found.shape == (44_100, 1)
    inside = slice(2000, -2000)  # the ends ring: the tone begins and ends at once
    np.testing.assert_allclose(found[inside], tone(440, 1.0)[inside], atol=1e-5)


def test_what_the_wanted_rate_cannot_hold_is_gone_and_not_folded_back(
    tmp_path: Path, program: Program
) -> None:
    found = resample(tone(30_000, 1.0, 96_000), 96_000, 44_100, program, tmp_path)
    assert np.abs(found[2000:-2000]).max() < 1e-6


@pytest.mark.parametrize("channels", [2, 6])
def test_no_channel_hears_another(tmp_path: Path, program: Program, channels: int) -> None:
    sound = np.zeros((24_000, channels))
    sound[:, -1:] = tone(440, 0.5, 48_000)
    found = resample(sound, 48_000, 44_100, program, tmp_path)
    assert np.abs(found[:, :-1]).max() == 0
    assert np.abs(found[:, -1]).max() > 0.49


@pytest.mark.parametrize(
    ("kind", "subtype"), [("WAV", "PCM_16"), ("OGG", "VORBIS"), ("FLAC", "PCM_16"), ("AIFF", "PCM_16")]
)
def test_a_file_that_was_cut_short_is_no_shorter_sound(tmp_path: Path, kind: str, subtype: str) -> None:
    noise = np.random.default_rng(0).normal(scale=0.1, size=(44_100, 1))
    whole = written(tmp_path / "whole", noise, 44_100, subtype, kind)
    assert cut_short(whole) is None
    assert len(read_sound_file(whole).samples) == 44_100
    for share in (0.3, 0.9):
        data = whole.read_bytes()
        (tmp_path / "cut").write_bytes(data[: round(share * len(data))])
        with pytest.raises(SoundError, match=r"cut short|breaks off"):
            read_sound_file(tmp_path / "cut")


def test_a_wav_file_written_to_a_pipe_is_whole_although_its_header_knows_no_length(tmp_path: Path) -> None:
    target = io.BytesIO()
    soundfile.write(target, tone(440), 44_100, "PCM_16", format="WAV")
    data = bytearray(target.getvalue())
    at = data.index(b"data") + 4
    data[at : at + 4] = b"\xff\xff\xff\xff"
    (tmp_path / "piped.wav").write_bytes(data)
    assert cut_short(tmp_path / "piped.wav") is None


@pytest.mark.parametrize(
    ("content", "said"), [(b"", "empty"), (b"no sound at all", "neither sound nor video"), (b"RIFF", "it")]
)
def test_what_is_no_sound_says_so(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(SoundError, match=said):
        read_sound_file(tmp_path / "a.wav")


def test_samples_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    sound = tone(440)
    sound[7] = np.nan
    with pytest.raises(SoundError, match="no numbers"):
        read_sound_file(written(tmp_path / "a.wav", sound, 44_100, "FLOAT"))
