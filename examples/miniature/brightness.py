"""The plainest judge: the brighter video is the better one. For trying `ranker.kind: function`, and for tests."""

import numpy as np


def brightness(frames: np.ndarray, prompt: str) -> float:
    """Mean of all channels in [0, 255]; frames: uint8 `[frames, height, width, 3]`."""
    return float(frames.mean())
