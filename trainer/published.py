"""Weights that others have published: where they lie, under what licence, what is known of their bytes."""

import difflib
from dataclasses import dataclass

_AUDIOCLIP = "https://github.com/AndreyGuzhov/AudioCLIP/releases/download/v0.1"
_ESRESNEXT = "https://github.com/AndreyGuzhov/ESResNeXt-fbsp/releases/download/v0.1"
_OPENAI = "https://openaipublic.azureedge.net/clip/models"
_PYTORCH = "https://download.pytorch.org/models"


class UnknownName(KeyError):
    """No published file has this name."""

    def __str__(self) -> str:
        return str(self.args[0])


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedFile:
    """One file on a release site."""

    name: str
    url: str
    content: str
    licence: str
    size: int | None  # bytes; None: not known
    sha256: str | None  # None: not known, and recorded when the file is first fetched
    sha256_begins: str = ""  # what the file's own name tells of its hash
    encoder: bool = False  # a whole model that `load_model` gives, not only a start for one

    @property
    def filename(self) -> str:
        return self.url.rsplit("/", 1)[-1]


# Sizes and hashes of the first five: the git-lfs pointers of the AudioCLIP and ESResNeXt-fbsp repositories.
# Of AudioCLIP's release page only Full and Partial are confirmed; CLIP.pt and ESRNXFBSP.pt are known from the
# pointers: if the page lacks them, a clone with git-lfs has them, for fetch --from.
FILES = (
    PublishedFile(
        name="audioclip-full",
        url=f"{_AUDIOCLIP}/AudioCLIP-Full-Training.pt",
        content="AudioCLIP, all three heads trained together on AudioSet",
        licence="MIT",
        size=537_302_068,
        sha256="2441d35b353352c8b1bbfb8f7c687f46314c3d2909e940eaf763b8c17f632c44",
        encoder=True,
    ),
    PublishedFile(
        name="audioclip-partial",
        url=f"{_AUDIOCLIP}/AudioCLIP-Partial-Training.pt",
        content="AudioCLIP, the audio head trained against frozen CLIP",
        licence="MIT",
        size=537_302_068,
        sha256="1921885b6c3b5de0619f2ef4a9700ecbade758a398b34eb064230c30baef0c75",
        encoder=True,
    ),
    PublishedFile(
        name="clip-rn50-float32",
        url=f"{_AUDIOCLIP}/CLIP.pt",
        content="CLIP RN50 in float32, image and text heads, as AudioCLIP starts from it",
        licence="MIT",
        size=408_415_159,
        sha256="124e6d59d54c0837c456c953b3147adf438a21570d5c5b01ad83f6ad3e78d15e",
        encoder=True,
    ),
    PublishedFile(
        name="esrnxfbsp",
        url=f"{_AUDIOCLIP}/ESRNXFBSP.pt",
        content="audio head with 527 AudioSet logits, 30 epochs, as AudioCLIP starts from it",
        licence="MIT",
        size=124_795_647,
        sha256="acfcc6b0a0f07025cc660ed6dcf9b5a05fbd7c8ebf65edaa0a81d88a92ff6834",
    ),
    PublishedFile(
        name="esresnextfbsp-audioset",
        url=f"{_ESRESNEXT}/ESResNeXtFBSP_AudioSet.pt",
        content="audio head with 527 AudioSet logits, 5 epochs",
        licence="none stated",
        size=124_801_585,
        sha256="502a5dcde1771cf6f3c636780a428575322f842ceb2efac5ed72b0f68b858afe",
    ),
    PublishedFile(
        name="clip-rn50",
        url=f"{_OPENAI}/afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762/RN50.pt",
        content="CLIP RN50 as OpenAI published it: a TorchScript archive in float16",
        licence="MIT",
        size=None,
        sha256="afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762",  # part of its URL
        encoder=True,
    ),
    PublishedFile(
        name="resnext50-imagenet",
        url=f"{_PYTORCH}/resnext50_32x4d-7cdf4587.pth",
        content="ResNeXt-50 32x4d trained on ImageNet (torchvision's first version)",
        licence="BSD-3-Clause (torchvision)",
        size=None,
        sha256=None,
        sha256_begins="7cdf4587",  # part of its name
    ),
)


def published_file(name: str) -> PublishedFile:
    """The file of this name. Raises UnknownName with the nearest ones."""
    names = {file.name: file for file in FILES}
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(names)}"
        raise UnknownName(f"no published weights are named {name!r}; {hint}")
    return names[name]
