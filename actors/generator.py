"""The role that makes videos: two of each condition, with the newest policy it was given."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from actors.prompts import first_frame
from buffers.clock import RoleClock
from buffers.records import (
    Candidates,
    CandidateVideos,
    Condition,
    EncodedCondition,
    Receipt,
    Request,
    RoleTimes,
    ShownVideos,
    Snapshot,
)
from buffers.tensors import checksum, decode, encode, encoded_condition
from configs.schema import RunConfig
from configs.sections import SamplingConfig
from policy.conditioning import Conditioning, Described
from policy.lora.adapters import adapter_state, load_adapter_state, load_lora
from policy.policy import VideoPolicy, check_device
from policy.sampler import draw_noise, sample_latents


class Generator:
    """Loads the bundle at `model.path`; runs on the GPU if `generator.gpus_per_actor` > 0.

    `version`: of the policy it holds, 0 = the bundle with untrained adapters.
    """

    def __init__(self, config: RunConfig) -> None:
        self.version = 0
        device = "cuda" if config.generator.gpus_per_actor > 0 else "cpu"
        check_device(device)
        lora, seed = config.learner.lora, config.seed
        self._policy = VideoPolicy.load(**dict(config.model), device=device, lora=lora, seed=seed)
        if config.start_from is not None:
            load_lora(config.start_from, self._policy.transformers)
        self.sample_as(config.sampling)
        self._counts = {"requests": 0, "videos": 0, "weight_loads": 0}
        self._clock = RoleClock()

    def sample_as(self, sampling: SamplingConfig) -> None:
        """How videos are made from now on. Raises ValueError if the bundle cannot make videos of that size."""
        if sampling.pixels is None:
            self._policy.facts.latent_shape(sampling.num_frames, sampling.height, sampling.width)
        self._sampling = sampling

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

    def generate(self, request: Request) -> tuple[list[Candidates], list[CandidateVideos], int]:
        """Two videos of every condition, sampled and decoded as one batch; in the order of the request; and how many
        conditions that were, which who asks may read without fetching the videos.

        If nobody looks at the videos, they are not decoded, and there are no clips. The latents are kept in the
        policy's dtype. Raises ValueError if seeds and conditions are not as many.
        """
        with self._clock.answering():
            conditions, fps = request.conditions, self._sampling.fps
            described, prepared = self._prepared(request, self._sampling)
            latents = self._sampled(request, self._sampling, prepared)
            videos = self._policy.decode(latents) if request.is_seen else None
            stored = [encode(video) for video in latents.to(self._policy.dtype)]
            candidates, clips = [], []
            for index, (condition, (seed_a, seed_b)) in enumerate(zip(conditions, request.seeds, strict=True)):
                a, b = 2 * index, 2 * index + 1
                picture, seeds = described[index].first_frame, (seed_a, seed_b)
                conditioning = encoded_condition(condition, prepared.row(index), picture)
                candidates.append(Candidates(condition, conditioning, seeds, stored[a], stored[b], self.version))
                if videos is not None:
                    clips.append(CandidateVideos(condition, videos[a], videos[b], fps, self.version))
            return candidates, clips, len(candidates)

    def show(self, request: Request, sampling: SamplingConfig, snapshot: Snapshot | None = None) -> list[ShownVideos]:
        """Videos to look at, as many of each condition as it has seeds, made by the policy of `snapshot`.

        The weights and the sampling that this generator has for the loop stay its own. Without a snapshot they are made
        with these weights. Raises as `load_weights`, and ValueError if seeds and conditions are not as many.
        """
        with self._clock.answering(), self._holding(snapshot) as version:
            _, prepared = self._prepared(request, sampling)
            assert self._policy.vae is not None  # what the first request has to load is not what a video takes
            started = time.perf_counter()
            videos = iter(self._policy.decode(self._sampled(request, sampling, prepared)))
            seconds = (time.perf_counter() - started) / sum(map(len, request.seeds))
            return [
                ShownVideos(condition, tuple(next(videos) for _ in seeds), sampling.fps, version, seconds)
                for condition, seeds in zip(request.conditions, request.seeds, strict=True)
            ]

    @contextmanager
    def _holding(self, snapshot: Snapshot | None) -> Iterator[int]:
        """The weights of a snapshot inside the block, and its version; afterwards those of before."""
        if snapshot is None:
            yield self.version
            return
        version, own = self.version, adapter_state(self._policy.transformers)
        try:
            yield self.load_weights(snapshot).version
        finally:
            load_adapter_state(self._policy.transformers, own)
            self.version = version

    def _prepared(self, request: Request, sampling: SamplingConfig) -> tuple[list[Described], Conditioning]:
        """The conditions with their pictures, and a row for each."""
        height, width = _size(request, sampling)
        described = [Described(one.prompt, first_frame(one, height=height, width=width)) for one in request.conditions]
        return described, self._policy.prepare(described, num_frames=sampling.num_frames)

    def _sampled(self, request: Request, sampling: SamplingConfig, prepared: Conditioning) -> Tensor:
        """Latents of every seed of every condition, sampled as one batch, in the order of the request."""
        if len(request.seeds) != len(request.conditions):
            raise ValueError(f"{len(request.conditions)} conditions, but seeds for {len(request.seeds)}")
        times = torch.tensor([len(seeds) for seeds in request.seeds], device=self._policy.device)
        shape = self._policy.facts.latent_shape(sampling.num_frames, *_size(request, sampling))
        noise = torch.stack([draw_noise(seed, shape) for seeds in request.seeds for seed in seeds])
        self._counts["requests"] += 1
        self._counts["videos"] += len(noise)
        rows = prepared.repeated(times)
        negative = self._policy.prompt_embeds([sampling.negative_prompt]) if sampling.guided_steps else None
        return sample_latents(self._policy, noise=noise, conditioning=rows, negative=negative, sampling=sampling)

    def negative(self) -> EncodedCondition:
        """The conditioning of the unconditional pass, as a condition of its own."""
        with self._clock.answering():
            prompt = self._sampling.negative_prompt
            return encoded_condition(Condition("negative", prompt), self._policy.prompt_embeds([prompt]).row(0))

    def times(self) -> RoleTimes:
        """Busy inside a call, waiting between calls, since it was built."""
        return self._clock.times(self._counts)


def _size(request: Request, sampling: SamplingConfig) -> tuple[int, int]:
    """Height and width of all videos of a request. Raises ValueError if its conditions have several."""
    sizes = {condition.size or (sampling.height, sampling.width) for condition in request.conditions}
    if len(sizes) > 1:
        raise ValueError(f"a request is for videos of one size, this one for {sorted(sizes)}")
    return sizes.pop()
