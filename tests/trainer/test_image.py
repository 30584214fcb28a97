from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from trainer.image import MEAN, STD, ImageError, ImageTransform, read_image


def gradient(width: int, height: int) -> PIL.Image.Image:
    across = np.linspace(0, 255, width)[None, :, None] * np.ones((height, 1, 3))
    return PIL.Image.fromarray(across.astype(np.uint8))


def denormalised(pixels: torch.Tensor) -> torch.Tensor:
    return pixels * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("size", [(640, 360), (300, 500), (224, 224), (10, 7), (1, 1)])
def test_any_picture_becomes_a_square(size: tuple[int, int], antialias: bool) -> None:
    pixels = ImageTransform(antialias=antialias)(gradient(*size))
    assert pixels.shape == (3, 224, 224)
    assert bool(pixels.isfinite().all())


def test_the_middle_is_kept() -> None:
    pixels = denormalised(ImageTransform()(gradient(448, 224)))
    assert float(pixels.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(pixels[:, :, 0].mean()) == pytest.approx(0.25, abs=0.01)


def test_stripes_finer_than_the_pixels_vanish_with_antialiasing_and_alias_without() -> None:
    stripes = np.tile(np.array([0, 255], np.uint8)[None, :, None], (1120, 560, 3))
    picture = PIL.Image.fromarray(stripes)
    smooth, aliased = (denormalised(ImageTransform(antialias=how)(picture)) for how in (True, False))
    assert float(smooth.std()) < 0.01
    assert float(aliased.std()) > 0.2


def test_the_antialiased_transform_is_open_clips_own() -> None:
    from open_clip import image_transform

    picture = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8))
    theirs = image_transform(224, is_train=False, mean=MEAN, std=STD)(picture)
    torch.testing.assert_close(ImageTransform()(picture), theirs, atol=1e-6, rtol=0)


def test_a_photograph_taken_sideways_stands_upright(tmp_path: Path) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # orientation: turn by 90°
    gradient(40, 20).save(tmp_path / "sideways.jpg", exif=exif)
    assert read_image(tmp_path / "sideways.jpg").size == (20, 40)


def test_grey_palette_and_transparent_pictures_become_colours(tmp_path: Path) -> None:
    for mode in ("L", "P", "RGBA", "1"):
        gradient(8, 8).convert(mode).save(tmp_path / "picture.png")
        assert read_image(tmp_path / "picture.png").mode == "RGB"


@pytest.mark.parametrize("kept", [0, 10, 400])
def test_a_picture_that_was_cut_off_is_refused(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "cut.jpg"
    gradient(200, 200).save(path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ImageError, match="picture does not decode"):
        read_image(path)
