"""Pictures that videos begin with."""

from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

MOST_ENLARGED = 4.0
"""A picture that would be enlarged by more is too small to begin a video with."""

_BRIGHTNESS = ("I;16", "I;16L", "I;16B", "I;16N")
_READ = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", *_BRIGHTNESS)


def read_picture(path: str | Path, *, height: int, width: int) -> np.ndarray:
    """uint8 `[height, width, 3]`: upright, scaled until it covers that size, its middle cut out, as `read_clip` does.

    Raises FileNotFoundError, and ValueError that names a file which is no picture, or one that no video can begin with.
    """
    return fit_picture(_opened(path), height=height, width=width, name=str(path))


def fit_picture(picture: Image.Image | np.ndarray, *, height: int, width: int, name: str) -> np.ndarray:
    """As `read_picture`, of pixels that are read. Raises ValueError that begins with `name` if it is too small."""
    picture = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
    if max(height / picture.height, width / picture.width) > MOST_ENLARGED:
        raise ValueError(
            f"{name}: is {picture.width} x {picture.height} pixels, and a video of {width} x {height} begins with it; "
            f"want at least {width / MOST_ENLARGED:.0f} x {height / MOST_ENLARGED:.0f}"
        )
    return np.asarray(ImageOps.fit(picture, (width, height), Image.Resampling.LANCZOS))


def picture_size(path: str | Path) -> tuple[int, int] | None:
    """Height and width of a picture as it is shown, from its header; None if the file is none that PIL knows."""
    try:
        with Image.open(path) as picture:
            turned = picture.getexif().get(ExifTags.Base.Orientation, 1) >= 5
            width, height = picture.size
            return (width, height) if turned else (height, width)
    except UnidentifiedImageError:
        return None


def _opened(path: str | Path) -> Image.Image:
    """Upright and RGB."""
    try:
        with Image.open(path) as picture:
            if getattr(picture, "n_frames", 1) > 1:
                raise ValueError(f"{path}: holds {picture.n_frames} pictures; want one that stands still")  # pyright: ignore[reportAttributeAccessIssue]
            if picture.mode not in _READ:
                raise ValueError(f"{path}: its colours are {picture.mode}; save it as RGB with 8 bits")
            upright = ImageOps.exif_transpose(picture)
    except UnidentifiedImageError as error:
        raise ValueError(f"{path}: not a picture that can be decoded") from error
    except (Image.DecompressionBombError, OSError, SyntaxError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise ValueError(f"{path}: not a picture that can be decoded ({error})") from error
    if upright.mode in _BRIGHTNESS:  # PIL would cut off what is above 255
        upright = Image.fromarray((np.asarray(upright).astype(np.uint32) // 257).astype(np.uint8))
    if upright.has_transparency_data and np.asarray(upright.convert("RGBA"))[..., 3].min() < 255:
        raise ValueError(
            f"{path}: is transparent in places, where a video has to show something; save it without alpha"
        )
    return upright.convert("RGB")


def write_png(path: str | Path, pixels: np.ndarray) -> None:
    """Write uint8 `[height, width, 3]`, lossless, whatever the suffix of `path`."""
    Image.fromarray(pixels).save(path, format="png")
