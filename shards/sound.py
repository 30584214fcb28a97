"""Sound on disk as PCM: what the pipeline measures and the trainer hears."""

from io import BytesIO
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

Pcm = NDArray[np.int16]


class SoundError(ValueError):
    """Sound that does not decode."""


class NoSound(SoundError):
    """A file that holds none, such as a silent film."""


def decode_pcm(source: bytes | Path) -> tuple[Pcm, int]:
    """(int16 samples (T, C), sample rate in Hz) of a FLAC or WAV file or its bytes; SoundError otherwise."""
    try:
        with soundfile.SoundFile(BytesIO(source) if isinstance(source, bytes) else source) as file:
            pcm: Pcm = file.read(dtype="int16", always_2d=True)
            return pcm, int(file.samplerate)
    except soundfile.LibsndfileError as error:
        raise SoundError(f"sound does not decode: {error}") from None
