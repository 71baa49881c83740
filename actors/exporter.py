"""The role that turns what is stored back into files: a video to look at, and beside it the exact tensors."""

from pathlib import Path

from safetensors.torch import save_file

from actors.encoder import LATENTS, PROMPT_EMBEDS
from buffers.people.exported import CONDITIONS, EXACT, FIRST_FRAMES, VIDEOS, exported
from buffers.store.pair_store import PairStore
from buffers.tensors import decode
from configs.sections import ModelConfig
from media.pictures import write_png
from media.video_write import write_mp4
from media.whole import whole_file
from policy.policy import VideoPolicy


class Exporter:
    """Reads a store and writes below `out`. A file that is there is whole and is not written again."""

    def __init__(self, model: ModelConfig, store: str, out: Path, *, fps: float, device: str) -> None:
        self._store, self._out, self._fps = PairStore(store, write=False), out, fps
        self._policy = VideoPolicy.load(model.path, dtype=model.dtype, device=device, experts=False)

    def videos(self, ids: list[str]) -> int:
        """An mp4 and the exact latents of each; returns how many. Raises as `PairStore.latents` does."""
        for id_ in ids:
            video, exact = self._out / exported(VIDEOS, id_, ".mp4"), self._out / exported(EXACT, id_, ".safetensors")
            if video.exists() and exact.exists():
                continue
            latents = decode(self._store.latents([id_])[id_])
            with whole_file(exact) as path:
                save_file({LATENTS: latents}, path)
            with whole_file(video) as path:
                write_mp4(path, self._policy.decode(latents[None])[0], fps=self._fps)
        return len(ids)

    def conditions(self, ids: list[str]) -> int:
        """The embeddings of each, and its first frame if it has one; returns how many."""
        exact = {id_: self._out / exported(CONDITIONS, id_, ".safetensors") for id_ in ids}
        for id_, conditioning in self._store.conditionings(id_ for id_ in ids if not exact[id_].exists()).items():
            if conditioning.first_frame is not None:
                with whole_file(self._out / exported(FIRST_FRAMES, id_, ".png")) as path:
                    write_png(path, decode(conditioning.first_frame).numpy())
            with whole_file(exact[id_]) as path:
                save_file({PROMPT_EMBEDS: decode(conditioning.prompt_embeds)}, path)
        return len(ids)
