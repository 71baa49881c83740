"""The role that turns people's videos, pictures and prompts into what the model takes. It needs no transformer."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from buffers.people.manifests import made_or_why
from buffers.people.rows import ConditionFiles, VideoFiles
from buffers.records import EncodedCondition, TensorData
from buffers.tensors import encode, encoded_condition
from configs.sections import ModelConfig, SamplingConfig
from media.pictures import picture_size, read_picture
from media.video_read import read_clip, shown_size
from policy.conditioning import Conditioning, Described
from policy.policy import VideoPolicy

READERS = 2
"""Files that are decoded ahead of the VAE."""

LATENTS, PROMPT_EMBEDS = "latents", "prompt_embeds"
"""Names of tensors in exact files."""


class Encoder:
    """Loads VAE and text encoder of the bundle at `model.path`, at their first use.

    `exact`: which tensors of exact files are this bundle's own and are taken as they are: LATENTS, PROMPT_EMBEDS.
    What cannot be used is answered as a text that says why, one for each that was asked for.
    """

    def __init__(self, model: ModelConfig, sampling: SamplingConfig, *, device: str, exact: Iterable[str] = ()) -> None:
        self._sampling, self._exact = sampling, frozenset(exact)
        self._policy = VideoPolicy.load(**dict(model), device=device, experts=False)

    def videos(self, videos: list[VideoFiles]) -> list[TensorData | str]:
        """Normalised latents in the policy's dtype, `[channels, latent_frames, latent_height, latent_width]` each."""
        with ThreadPoolExecutor(READERS) as readers:
            return [self._encoded(read) for read in readers.map(partial(made_or_why, self._read), videos)]

    def conditions(self, conditions: list[ConditionFiles]) -> list[EncodedCondition | str]:
        """Each as the model takes it, and its first frame, if there is one, at the size of the videos."""
        return [made_or_why(self._conditioning, files) for files in conditions]

    def _read(self, video: VideoFiles) -> torch.Tensor | np.ndarray:
        """Exact latents, or pixels."""
        if video.exact is not None and LATENTS in self._exact:
            latents = _tensor(video.exact, LATENTS)
            if latents.ndim != 4 or latents.shape[0] != self._policy.facts.channels:
                want = f"[{self._policy.facts.channels}, frames, height, width]"
                raise ValueError(f"{video.exact}: latents of shape {list(latents.shape)}; want {want}")
            return latents
        height, width = self._size(video.shaped_as or video.file)
        wanted = {"num_frames": self._sampling.num_frames, "fps": self._sampling.fps}
        return read_clip(video.file, height=height, width=width, **wanted)

    def _size(self, like: Path) -> tuple[int, int]:
        """Height and width that a picture or a video, or what belongs to it, is cut to."""
        if self._sampling.pixels is None:
            return self._sampling.height, self._sampling.width
        high, wide = picture_size(like) or shown_size(like)
        try:
            return self._sampling.size_of(high / wide, self._policy.facts.grid)
        except ValueError as error:
            raise ValueError(f"{like}: {error}") from None

    def _encoded(self, read: torch.Tensor | np.ndarray | str) -> TensorData | str:
        if isinstance(read, str):
            return read
        if isinstance(read, torch.Tensor):
            return encode(read)
        return encode(self._policy.encode(read[None])[0].to(self._policy.dtype))

    def _conditioning(self, files: ConditionFiles) -> EncodedCondition:
        frame = None
        if files.first_frame is not None:
            height, width = self._size(files.first_frame)
            frame = read_picture(files.first_frame, height=height, width=width)
        texts = None
        if files.exact is not None and PROMPT_EMBEDS in self._exact:
            texts = Conditioning.of_row({PROMPT_EMBEDS: _tensor(files.exact, PROMPT_EMBEDS)})
        described = [Described(files.prompt, frame)]
        made = self._policy.prepare(described, num_frames=self._sampling.num_frames, texts=texts)
        return encoded_condition(files.condition, made.row(0), frame)


def _tensor(path: Path, name: str) -> torch.Tensor:
    """Raises ValueError that names a file which is damaged or lacks it."""
    try:
        return load_file(path)[name]
    except (SafetensorError, KeyError) as error:
        raise ValueError(f"{path}: holds no {name} ({error})") from error
