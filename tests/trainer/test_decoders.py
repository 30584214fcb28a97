"""Sounds and pictures are decoded into memory that is there, to the last bit, or are said to be bad."""

import io
import struct
from collections.abc import Callable

import numpy as np
import PIL.Image
import pytest
import simplejpeg
import soundfile
from shard_folders import picture_of, sound_of

from shards.sound import SoundError
from trainer.decoders import (
    PictureDecoder,
    SoundDecoder,
    decode_by_soundfile,
    decode_flac_fast,
    decode_wav,
    fast_flac,
    sound_decoder,
)
from trainer.image import ImageError

RATE = 44_100
needs_fast = pytest.mark.skipif(fast_flac() is None, reason="no miniaudio; pip install 'trichord[fast]'")
FLAC = [decode_by_soundfile, pytest.param(decode_flac_fast, marks=needs_fast)]


def pcm_of(channels: int = 1, seconds: float = 0.5) -> np.ndarray:
    return sound_of(3, ["/m/a"], RATE, seconds, channels)


def encoded(pcm: np.ndarray, kind: str, subtype: str = "PCM_16", rate: int = RATE) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, pcm, rate, format=kind, subtype=subtype)
    return file.getvalue()


def full(channels: int, samples: int) -> np.ndarray:
    return np.full((channels, samples), 77, np.int16)


@pytest.mark.parametrize("decode", [*FLAC, decode_wav])
@pytest.mark.parametrize("channels", [1, 2])
def test_every_sample_arrives_and_silence_follows(decode: SoundDecoder, channels: int) -> None:
    pcm, out = pcm_of(channels), full(channels, 30_000)
    data = encoded(pcm, "WAV" if decode is decode_wav else "FLAC")
    assert decode(memoryview(data), RATE, out) == len(pcm)
    assert (out[:, : len(pcm)] == pcm.T).all()
    assert (out[:, len(pcm) :] == 0).all()


@pytest.mark.parametrize("decode", [*FLAC, decode_wav])
def test_what_is_longer_is_cut_at_its_end(decode: SoundDecoder) -> None:
    pcm, out = pcm_of(), full(1, 10_000)
    assert decode(encoded(pcm, "WAV" if decode is decode_wav else "FLAC"), RATE, out) == 10_000
    assert (out[0] == pcm[:10_000, 0]).all()


@pytest.mark.parametrize("decode", [*FLAC, decode_wav])
def test_mono_becomes_two_equal_channels_and_stereo_its_mean(decode: SoundDecoder) -> None:
    kind = "WAV" if decode is decode_wav else "FLAC"
    mono, stereo = pcm_of(1), pcm_of(2)
    two, one = full(2, len(mono)), full(1, len(mono))
    decode(encoded(mono, kind), RATE, two)
    assert (two == mono.T).all()
    decode(encoded(stereo, kind), RATE, one)
    assert (one[0] == np.round(stereo.mean(axis=1))).all()


@pytest.mark.parametrize("decode", [*FLAC, decode_wav])
def test_another_rate_is_refused(decode: SoundDecoder) -> None:
    data = encoded(pcm_of(), "WAV" if decode is decode_wav else "FLAC", rate=48_000)
    with pytest.raises(SoundError, match="sound at 48000 Hz in a dataset of 44100 Hz"):
        decode(data, RATE, full(1, 30_000))


@pytest.mark.parametrize("decode", FLAC)
@pytest.mark.parametrize("damage", ["cut", "flipped", "zeroed", "empty", "other"])
def test_a_damaged_flac_is_refused(decode: SoundDecoder, damage: str) -> None:
    data = bytearray(encoded(pcm_of(), "FLAC"))
    middle = len(data) // 2
    flipped = data.copy()
    flipped[middle] ^= 0x10
    damaged = {
        "cut": data[:middle],
        "flipped": flipped,
        "zeroed": data[:middle] + bytes(200) + data[middle + 200 :],
        "empty": b"",
        "other": b"RIFF" + data[4:],
    }[damage]
    with pytest.raises(SoundError):
        decode(bytes(damaged), RATE, full(1, 30_000))


@needs_fast
def test_both_flac_decoders_give_the_same_samples() -> None:
    for channels in (1, 2):
        for subtype in ("PCM_16", "PCM_24"):
            data = encoded(pcm_of(channels), "FLAC", subtype)
            out = full(channels, 30_000), full(channels, 30_000)
            counts = decode_by_soundfile(data, RATE, out[0]), decode_flac_fast(data, RATE, out[1])
            assert counts[0] == counts[1]
            assert (out[0] == out[1]).all()


@needs_fast
def test_the_fast_decoder_is_taken_where_it_is() -> None:
    assert sound_decoder("flac") is decode_flac_fast
    assert sound_decoder("wav") is decode_wav
    assert sound_decoder("ogg") is decode_by_soundfile


def chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)


def wav(*chunks: bytes) -> bytes:
    body = b"WAVE" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


FORM = chunk(b"fmt ", struct.pack("<HHIIHH", 1, 1, RATE, 2 * RATE, 2, 16))


def test_chunks_before_and_after_a_wavs_samples_are_skipped() -> None:
    """ffmpeg writes a LIST chunk first; odd chunks are padded to even length."""
    pcm, out = pcm_of(), full(1, 22_050)
    data = wav(FORM, chunk(b"LIST", b"odd"), chunk(b"data", pcm.tobytes()), chunk(b"id3 ", b"tail"))
    assert decode_wav(data, RATE, out) == len(pcm)
    assert (out[0] == pcm[:, 0]).all()


@pytest.mark.parametrize("subtype", ["PCM_24", "FLOAT", "PCM_U8"])
def test_other_wavs_are_read_as_soundfile_reads_them(subtype: str) -> None:
    data, out = encoded(pcm_of(), "WAV", subtype), full(1, 22_050)
    decode_wav(data, RATE, out)
    assert (out[0] == soundfile.read(io.BytesIO(data), dtype="int16")[0]).all()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "no WAV"),
        (b"fLaC" + bytes(60), "no WAV"),
        (wav(FORM), "without samples"),
        (wav(chunk(b"data", bytes(8)), FORM), "before their format"),
        (wav(FORM, chunk(b"data", bytes(8)))[:-4], "it is cut short"),
        (wav(FORM, chunk(b"data", bytes(7)))[:-1], "in frames of 2"),
    ],
)
def test_what_is_no_whole_wav_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(SoundError, match=reason):
        decode_wav(data, RATE, full(1, 100))


def decoded(data: bytes, side: int) -> np.ndarray:
    out = np.full((side, side, 3), 7, np.uint8)
    PictureDecoder()(memoryview(data), out)
    return out


def pillow(data: bytes) -> PIL.Image.Image:
    return PIL.Image.open(io.BytesIO(data)).convert("RGB")


@pytest.mark.parametrize("subsampling", ["444", "420"])
@pytest.mark.parametrize("upright", [False, True])
def test_a_frame_of_the_right_side_gives_its_central_square(subsampling: str, upright: bool) -> None:
    picture = picture_of(1, ["/m/a"], 64)
    picture = np.ascontiguousarray(picture.swapaxes(0, 1)) if upright else picture
    data = simplejpeg.encode_jpeg(picture, 90, colorsubsampling=subsampling)
    square = (0, 16, 64, 80) if upright else (16, 0, 80, 64)
    assert (decoded(data, 64) == np.asarray(pillow(data).crop(square))).all()


@pytest.mark.parametrize("side", [48, 100])
def test_another_size_is_resized_by_its_short_side(side: int) -> None:
    data = simplejpeg.encode_jpeg(picture_of(1, ["/m/a"], 64), 90)
    wide = side * 3 // 2
    resized = pillow(data).resize((wide, side), PIL.Image.Resampling.BICUBIC)
    left = round((wide - side) / 2)
    assert (decoded(data, side) == np.asarray(resized.crop((left, 0, left + side, side)))).all()


def saved(kind: str, mode: str = "RGB", **options: object) -> bytes:
    file = io.BytesIO()
    picture = PIL.Image.fromarray(picture_of(1, ["/m/a"], 64)).convert(mode)
    picture.save(file, kind, **options)
    return file.getvalue()


def turned() -> bytes:
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    return saved("JPEG", exif=exif)


@pytest.mark.parametrize(
    "make", [lambda: saved("PNG"), lambda: saved("JPEG", "CMYK"), lambda: saved("JPEG", "L"), turned]
)
def test_pictures_of_other_kinds_are_read_too(make: Callable[[], bytes]) -> None:
    data = make()
    picture = PIL.ImageOps.exif_transpose(PIL.Image.open(io.BytesIO(data))).convert("RGB")
    left, top = ((length - 64) // 2 for length in picture.size)
    assert (decoded(data, 64) == np.asarray(picture.crop((left, top, left + 64, top + 64)))).all()


def test_a_decoder_forgets_the_larger_picture_it_saw_before() -> None:
    large = simplejpeg.encode_jpeg(picture_of(1, ["/m/a"], 96), 90)
    small = simplejpeg.encode_jpeg(picture_of(2, ["/m/b"], 64), 90)
    decode, out = PictureDecoder(), np.empty((64, 64, 3), np.uint8)
    decode(large, np.empty((96, 96, 3), np.uint8))
    decode(small, out)
    assert (out == decoded(small, 64)).all()


@pytest.mark.parametrize("length", [0, 2, 300, 2000])
def test_a_picture_that_is_cut_short_is_refused(length: int) -> None:
    data = simplejpeg.encode_jpeg(picture_of(1, ["/m/a"], 64), 90)
    assert len(data) > 2000
    with pytest.raises(ImageError, match="picture does not decode"):
        decoded(data[:length], 64)
