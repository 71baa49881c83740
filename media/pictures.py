"""Pictures that videos begin with."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError


def read_picture(path: str | Path, *, height: int, width: int) -> np.ndarray:
    """uint8 `[height, width, 3]`: scaled until it covers that size, its middle cut out, as `read_clip` does.

    Raises FileNotFoundError, and ValueError that names a file which is no picture.
    """
    try:
        with Image.open(path) as picture:
            upright = ImageOps.exif_transpose(picture).convert("RGB")
            return np.asarray(ImageOps.fit(upright, (width, height), Image.Resampling.LANCZOS))
    except UnidentifiedImageError as error:
        raise ValueError(f"{path}: not a picture that can be decoded") from error
    except (Image.DecompressionBombError, OSError, SyntaxError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise ValueError(f"{path}: not a picture that can be decoded ({error})") from error


def write_png(path: str | Path, pixels: np.ndarray) -> None:
    """Write uint8 `[height, width, 3]`, lossless, whatever the suffix of `path`."""
    Image.fromarray(pixels).save(path, format="png")
