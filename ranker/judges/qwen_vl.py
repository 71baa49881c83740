"""The judge itself: a Qwen3-VL checkpoint served by vLLM in this process. The only file that imports vllm.

One token is decoded and the log-probabilities of the four labels are read over the full vocabulary (no structured
output: its mask would hide the mass outside the labels). Import of vllm waits until the checkpoint has been checked.
"""

import contextlib
import os
import queue
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np

from buffers.records import Domain
from configs.sections import RankerConfig
from ranker.frames import sample_frames
from ranker.judges.adapter_files import check_adapters, judge_versions, named_adapters
from ranker.judges.checkpoint import check_checkpoint
from ranker.questions import Question, label_ids, pixel_settings
from ranker.rubric import domain_prompt, prompt_text
from ranker.verdict import NOTHING, Reading

LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM can set aside for an adapter."""

Prompt = tuple[dict[str, Any], Any]
"""What vLLM takes, and the adapter that answers it."""

Waiting = tuple[Future, list[Reading | None], int]
"""What the caller waits for, the readings of all its questions, and the place of this one among them."""


class EngineDied(RuntimeError):
    """The engine has ended; whoever asks goes on with another one."""


class VllmJudge:
    """An engine that answers questions, of all callers together; a domain's adapter answers its questions.

    Raises (before vllm is imported) FileNotFoundError or ValueError if `config.path` is not a Qwen3-VL checkpoint, an
    adapter is another one's, or the tokenizer splits a label.
    """

    def __init__(self, config: RankerConfig) -> None:
        folder, adapters = Path(config.path), named_adapters(config.adapters)
        checkpoint = check_checkpoint(folder)
        ranks = check_adapters(adapters, folder, key="ranker.adapters")
        self.versions = judge_versions(folder, adapters)
        """Which weights judge a domain, such as `judge@c8a12476+human@01ab23cd`."""
        on_cpu = _prepare_environment()
        if config.gpus_per_actor > 0 and on_cpu:
            raise ValueError(
                "ranker.gpus_per_actor is above 0, and CUDA cannot be used in the ranker's process: the judge would "
                "run on the CPU, far slower. Check the driver and the CUDA build of torch, or set it to 0"
            )
        from transformers import AutoProcessor

        from ranker.judges.skeleton import check_judge_weights

        check_judge_weights(folder)
        processor = AutoProcessor.from_pretrained(folder)
        self.label_ids = label_ids(processor.tokenizer)
        pixels = pixel_settings(processor, config.max_pixels_per_video)
        pixels.pop("do_sample_frames")  # vLLM takes it per video
        from vllm import LLM, SamplingParams
        from vllm.exceptions import VLLMClientError
        from vllm.lora.request import LoRARequest

        cache = _kv_bytes(checkpoint, config.max_model_len)
        extra: dict[str, Any] = {"enforce_eager": True, "kv_cache_memory_bytes": cache}
        self.engine = LLM(
            model=str(folder),
            dtype=config.dtype,
            max_model_len=config.max_model_len,
            limit_mm_per_prompt={"video": 2, "image": 0},
            mm_processor_kwargs=pixels,
            enable_prefix_caching=True,
            generation_config="vllm",
            seed=0,
            **(extra if on_cpu else {}),
            **_lora_settings(list(ranks.values())),
        )
        # vLLM knows an adapter by its name: one that says its version is never served from another one's cache.
        self._adapters = {
            domain: LoRARequest(f"{domain}-{self.versions[domain]}", number, str(adapter))
            for number, (domain, adapter) in enumerate(adapters.items(), start=1)
        }
        self.sampling = SamplingParams(temperature=0.0, max_tokens=1, logprob_token_ids=self.label_ids)
        self.prompt_token_ids: list[int] = []
        """Of the last question answered, as the engine saw it: what a test compares with training."""
        self._inbox: queue.SimpleQueue[tuple[list[Prompt], Future]] = queue.SimpleQueue()
        self._died = False
        self._refusals = (ValueError, VLLMClientError)
        """What the engine raises about one question."""
        threading.Thread(target=self._serve, name="judge", daemon=True).start()
        still = sample_frames(np.zeros((2, 32, 32, 3), np.uint8), fps=8.0, count=2)
        # The first request compiles and loads the adapters; it should not be a run's first pair.
        for reading in self.ask([Question(domain, still, still) for domain in get_args(Domain)]):
            if reading.problem:
                raise ValueError(f"ranker.path = {folder}: the first question was refused: {reading.problem}")

    def ask(self, questions: Sequence[Question]) -> list[Reading]:
        """One reading per question, in order. May be called from many threads: the engine batches what they ask.

        A question that the engine does not take (longer than `max_model_len`, say) has a reading with a `problem`; the
        others are answered. Raises EngineDied if the engine has ended.
        """
        return self._ask(self.prompts(questions))

    def prompts(self, questions: Sequence[Question]) -> list[Prompt]:
        """The questions as the engine is given them."""
        return [(_shown(question), self._adapters.get(question.domain)) for question in questions]

    def ask_domain(self, descriptions: Sequence[str]) -> list[Reading]:
        """One reading per description, whose labels are `DOMAIN_LABELS`; the checkpoint itself answers. Raises as `ask`
        does."""
        return self._ask([({"prompt": domain_prompt(description)}, None) for description in descriptions])

    def _ask(self, prompts: list[Prompt]) -> list[Reading]:
        asked: Future = Future()
        self._inbox.put((prompts, asked))
        if self._died:  # nobody may be there to answer any more
            self._fail_waiting()
        return asked.result()

    def _serve(self) -> None:
        """The engine's only user: adds whatever has been asked meanwhile, between two steps."""
        waiting: dict[str, Waiting] = {}
        engine = self.engine.llm_engine
        try:
            while True:
                self._admit(waiting, block=not engine.has_unfinished_requests())
                outputs: list[Any] = engine.step() if engine.has_unfinished_requests() else []
                for output in outputs:
                    if output.finished:
                        asked, readings, place = waiting.pop(output.request_id)
                        readings[place] = self._reading(output.outputs[0])
                        self.prompt_token_ids = list(output.prompt_token_ids or [])
                        if None not in readings and not asked.done():
                            asked.set_result(readings)
        except Exception as error:
            self._died = True
            for asked, _, _ in waiting.values():
                if not asked.done():
                    asked.set_exception(EngineDied(f"the judge's engine died: {error}"))
            self._fail_waiting()

    def _admit(self, waiting: dict[str, Waiting], *, block: bool) -> None:
        """Hand to the engine all that lies in the inbox; wait for something if there is nothing else to do."""
        while True:
            try:
                prompts, asked = self._inbox.get(block=block)
            except queue.Empty:
                return
            block = False
            readings: list[Reading | None] = [None] * len(prompts)
            try:
                for place, prompt in enumerate(prompts):
                    try:
                        waiting[self._enqueue(*prompt)] = (asked, readings, place)
                    except self._refusals as error:
                        readings[place] = replace(NOTHING, problem=_in_a_sentence(error))
            except Exception as error:  # one caller's failure is not the others'
                asked.set_exception(error)
                continue
            if None not in readings:
                asked.set_result(readings)

    def _fail_waiting(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                _, asked = self._inbox.get_nowait()
                asked.set_exception(EngineDied("the judge's engine has died"))

    def _enqueue(self, prompt: dict[str, Any], adapter: Any) -> str:
        """The question's number. Raises ValueError if the engine does not take it."""
        (number,) = self.engine.enqueue(
            [prompt],  # pyright: ignore[reportArgumentType]
            self.sampling,
            lora_request=[adapter] if self._adapters else None,
            use_tqdm=False,
        )
        return number.partition("-")[0]  # outputs come without the random end of the number

    def _reading(self, completion: Any) -> Reading:
        one, two, three, four = (float(completion.logprobs[0][number].logprob) for number in self.label_ids)
        return Reading((one, two, three, four), completion.token_ids[0] in self.label_ids)


def _in_a_sentence(error: BaseException) -> str:
    """The innermost cause: vLLM's own text around it prints whole videos."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"the judge's engine does not take the question ({' '.join(str(error).split()):.300})"


def _shown(question: Question) -> dict[str, Any]:
    """A question as vLLM takes it."""
    videos = [
        (shown.frames, {**shown.metadata(), "do_sample_frames": False}) for shown in (question.first, question.second)
    ]
    return {"prompt": prompt_text(question.domain, framed=question.framed), "multi_modal_data": {"video": videos}}


def _prepare_environment() -> bool:
    """Settings that vLLM reads at import; what the user has set stays. True if there is no GPU."""
    import torch

    on_cpu = not torch.cuda.is_available()
    wanted = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    if on_cpu:
        # One process: a second one costs a minute on a small machine and fights for its cores.
        wanted |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    for name, value in wanted.items():
        os.environ.setdefault(name, value)
    return on_cpu


def _lora_settings(ranks: Sequence[int]) -> dict[str, Any]:
    """One engine for all adapters; it has fixed sizes for them, of which the next larger one is taken."""
    if not ranks:
        return {}
    largest = next((size for size in LORA_RANKS if size >= max(ranks)), max(ranks))
    return {"enable_lora": True, "max_loras": len(ranks), "max_lora_rank": largest}


def _kv_bytes(config: dict, max_model_len: int) -> int:
    """Cache for eight of the longest prompts in float32, at least 64 MiB; vLLM's own CPU default takes gigabytes."""
    text = config.get("text_config", {})
    heads = text.get("num_key_value_heads") or text.get("num_attention_heads", 32)
    per_token = 2 * 4 * text.get("num_hidden_layers", 32) * heads * text.get("head_dim", 128)
    return max(64 * 2**20, 8 * max_model_len * per_token)
