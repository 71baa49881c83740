"""What is taken for a first frame, as it is, and what is refused by name."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from media.pictures import fit_picture, read_picture, write_png

RED, SIZE = (200, 30, 30), {"height": 32, "width": 48}
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (32, 48, 3), dtype=np.uint8)


def test_a_picture_of_the_size_of_the_videos_is_taken_as_it_is(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png", PIXELS)
    assert np.array_equal(read_picture(tmp_path / "a.png", **SIZE), PIXELS)


def test_another_shape_is_scaled_until_it_covers_and_cut_in_the_middle(tmp_path: Path) -> None:
    wide = np.zeros((64, 192, 3), np.uint8)
    wide[:, 48:144] = 255  # scaled to the height, the left and right quarters fall away
    write_png(tmp_path / "wide.png", wide)
    seen = read_picture(tmp_path / "wide.png", **SIZE)
    assert seen.shape == (32, 48, 3) and seen[:, 3:-3].min() == 255


def grey(path: Path) -> None:
    Image.fromarray(PIXELS[..., 0]).save(path)


def with_alpha(path: Path) -> None:
    Image.fromarray(np.dstack([PIXELS, np.full((32, 48), 255, np.uint8)])).save(path)


def sixteen_bit(path: Path) -> None:
    Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 257).save(path)


def turned(path: Path) -> None:
    """On its side, and an EXIF orientation that turns it back."""
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise
    Image.fromarray(np.ascontiguousarray(np.rot90(PIXELS, 1))).save(path, exif=exif)


def palette(path: Path) -> None:
    Image.new("P", (48, 32), 1).save(path)


TAKEN: dict[str, tuple[Callable[[Path], None], np.ndarray]] = {
    "grey.png": (grey, np.repeat(PIXELS[..., :1], 3, axis=2)),
    "opaque.png": (with_alpha, PIXELS),
    "sixteen.png": (sixteen_bit, np.repeat(PIXELS[..., :1], 3, axis=2)),
    "turned.png": (turned, PIXELS),
}


@pytest.mark.parametrize("name", TAKEN)
def test_what_is_shown_as_a_viewer_shows_it(tmp_path: Path, name: str) -> None:
    write, wanted = TAKEN[name]
    write(tmp_path / name)
    assert np.array_equal(read_picture(tmp_path / name, **SIZE), wanted)


def transparent(path: Path) -> None:
    Image.fromarray(np.dstack([PIXELS, np.tile(np.array([255] * 47 + [9], np.uint8), (32, 1))])).save(path)


def see_through_colour(path: Path) -> None:
    picture = Image.new("P", (48, 32), 1)
    picture.putpalette([0, 0, 0, 9, 9, 9])
    picture.save(path, transparency=1)


def cmyk(path: Path) -> None:
    Image.new("CMYK", (48, 32), (0, 200, 10, 0)).save(path)


def animated(path: Path) -> None:
    some = [Image.fromarray(np.roll(PIXELS, n)) for n in range(3)]
    some[0].save(path, save_all=True, append_images=some[1:])


def real_numbers(path: Path) -> None:
    Image.fromarray(PIXELS[..., 0].astype(np.float32)).save(path)


def tiny(path: Path) -> None:
    Image.fromarray(PIXELS[:7, :20]).save(path)


def no_picture(path: Path) -> None:
    path.write_bytes(b"no picture")


def cut_short(path: Path) -> None:
    Image.fromarray(RNG.integers(0, 256, (320, 480, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:60_000])


REFUSED: dict[str, tuple[Callable[[Path], None], str]] = {
    "transparent.png": (transparent, "is transparent in places"),
    "palette.png": (see_through_colour, "is transparent in places"),
    "cmyk.jpg": (cmyk, "its colours are CMYK; save it as RGB"),
    "animated.gif": (animated, "holds 3 pictures; want one that stands still"),
    "real.tif": (real_numbers, "its colours are F; save it as RGB"),
    "tiny.png": (tiny, r"is 20 x 7 pixels, and a video of 48 x 32 begins with it; want at least 12 x 8"),
    "text.png": (no_picture, "not a picture that can be decoded"),
    "torn.png": (cut_short, "not a picture that can be decoded"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_video_can_begin_with_is_refused_by_name(tmp_path: Path, name: str) -> None:
    write, why = REFUSED[name]
    write(tmp_path / name)
    with pytest.raises(ValueError, match=f"{name}: {why}"):
        read_picture(tmp_path / name, **SIZE)


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.png"):
        read_picture(tmp_path / "none.png", **SIZE)


def test_pixels_of_a_store_are_fitted_likewise() -> None:
    assert np.array_equal(fit_picture(PIXELS, **SIZE, name="a store"), PIXELS)
    with pytest.raises(ValueError, match="a store: is 20 x 7 pixels"):
        fit_picture(PIXELS[:7, :20], **SIZE, name="a store")
