"""The role that makes videos: two of each condition, with the newest policy it was given."""

from collections.abc import Mapping

import torch
from torch import Tensor

from buffers.clock import RoleClock
from buffers.records import (
    Candidates,
    CandidateVideos,
    Condition,
    EncodedCondition,
    Receipt,
    Request,
    RoleTimes,
    Snapshot,
)
from buffers.tensors import checksum, decode, encode
from configs.schema import RunConfig
from policy.lora.adapters import adapter_state, load_adapter_state, load_lora
from policy.policy import VideoPolicy
from policy.sampler import draw_noise, sample_latents


class Generator:
    """Loads the bundle at `model.path`; runs on the GPU if `generator.gpus_per_actor` > 0.

    `version`: of the policy it holds, 0 = the bundle with untrained adapters.
    """

    def __init__(self, config: RunConfig) -> None:
        self.version = 0
        self._sampling = config.sampling
        self._policy = VideoPolicy.load(
            config.model.path,
            dtype=config.model.dtype,
            device="cuda" if config.generator.gpus_per_actor > 0 else "cpu",
            lora=config.learner.lora,
            seed=config.seed,
            max_text_tokens=config.model.max_text_tokens,
        )
        if config.start_from is not None:
            load_lora(config.start_from, self._policy.transformers)
        size = (config.sampling.num_frames, config.sampling.height, config.sampling.width)
        self._shape = self._policy.facts.latent_shape(*size)
        self._counts = {"requests": 0, "videos": 0, "weight_loads": 0}
        self._clock = RoleClock()

    def load_weights(self, snapshot: Snapshot) -> Receipt:
        """Swap the adapter for the snapshot's; the receipt says what this generator really holds now.

        Raises ValueError if the snapshot was damaged on the way, does not fit the model, or is not what the adapter
        holds after the swap.
        """
        with self._clock.answering():
            if checksum(snapshot.adapter) != snapshot.checksum:
                raise ValueError(f"policy version {snapshot.version} was damaged on the way: its checksum differs")
            transformers = self._policy.transformers
            state = {name: decode(tensor) for name, tensor in snapshot.adapter.items()}
            overwritten = load_adapter_state(transformers, state)
            # The checksum of what the adapter holds now, in the dtypes of the snapshot.
            now = checksum({name: encode(t.to(state[name].dtype)) for name, t in adapter_state(transformers).items()})
            if now != snapshot.checksum:
                wrong = f"the adapter's checksum is {now}, not {snapshot.checksum}"
                raise ValueError(f"after loading policy version {snapshot.version} {wrong}")
            self.version = snapshot.version
            self._counts["weight_loads"] += 1
            return Receipt(snapshot.version, overwritten, now)

    def generate(self, request: Request) -> tuple[list[Candidates], list[CandidateVideos]]:
        """Two videos of every condition, sampled and decoded as one batch; in the order of the request.

        If nobody looks at the videos, they are not decoded, and there are no clips. The latents are kept in the
        policy's dtype. Raises ValueError if seeds and conditions are not as many.
        """
        with self._clock.answering():
            conditions, sampling = request.conditions, self._sampling
            prepared = self._policy.prepare(conditions)
            negative = (
                self._policy.prepare(conditions, prompt=sampling.negative_prompt) if sampling.guided_steps else None
            )
            requested = list(zip(conditions, request.seeds, strict=True))
            noise = [draw_noise(seed, self._shape) for _, seeds in requested for seed in seeds]
            latents = sample_latents(
                self._policy,
                noise=torch.stack(noise),
                conditioning=prepared.repeated(2),
                negative=negative.repeated(2) if negative else None,
                sampling=sampling,
            )
            videos = self._policy.decode(latents) if request.is_seen else None
            self._counts["requests"] += 1
            self._counts["videos"] += len(latents)
            stored = [encode(video) for video in latents.to(self._policy.dtype)]
            candidates, clips = [], []
            for index, (condition, seeds) in enumerate(requested):
                a, b = 2 * index, 2 * index + 1
                conditioning = _stored(condition, prepared.row(index))
                candidates.append(Candidates(condition, conditioning, seeds, stored[a], stored[b], self.version))
                if videos is not None:
                    clips.append(CandidateVideos(condition, videos[a], videos[b], sampling.fps, self.version))
            return candidates, clips

    def negative(self) -> EncodedCondition:
        """The conditioning of the unconditional pass, as a condition of its own."""
        with self._clock.answering():
            condition = Condition("negative", self._sampling.negative_prompt)
            return _stored(condition, self._policy.prepare([condition]).row(0))

    def times(self) -> RoleTimes:
        """Busy inside a call, waiting between calls, since it was built."""
        return self._clock.times(self._counts)


def _stored(condition: Condition, row: Mapping[str, Tensor]) -> EncodedCondition:
    return EncodedCondition(condition, **{name: encode(tensor) for name, tensor in row.items()})
