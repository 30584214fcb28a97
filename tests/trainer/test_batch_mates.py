"""The real audio tower: no clip's embedding depends on the company it is embedded in."""

import numpy as np
import torch
from golden.named_weights import waveform

from trainer.models import Encoder


def test_a_clip_alone_and_among_eight_of_other_lengths_is_embedded_alike(audioclip: Encoder) -> None:
    seconds = (0.3, 0.31, 0.45, 0.3, 0.02, 0.7, 0.31, 0.5)
    clips = [(waveform(length, 1, f"mates:{index}"), 44_100) for index, length in enumerate(seconds)]
    clips[5] = (np.zeros((1, 30_000), np.float32), 44_100)
    together = audioclip.embed_audio(clips)
    alone = torch.cat([audioclip.embed_audio([clip]) for clip in clips])
    assert (together - alone).abs().max() < 1e-5
    assert (audioclip.embed_audio(clips[::-1]).flip(0) - alone).abs().max() < 1e-5


def test_equal_calls_give_equal_bits(audioclip: Encoder) -> None:
    clip = torch.from_numpy(waveform(0.4, 2, "twice"))[None]
    assert torch.equal(audioclip.encode_audio(clip), audioclip.encode_audio(clip))
