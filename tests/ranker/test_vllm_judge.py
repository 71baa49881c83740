import itertools
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from buffers.records import Clips, Condition, Domain
from configs.schema import RankerConfig
from examples.miniature.world import FPS, Scene, render
from ranker.adapter_files import adapter_version
from ranker.checkpoint import checkpoint_version
from ranker.frames import sample_frames
from ranker.inputs import Question, model_inputs
from ranker.vllm_judge import EngineDied, VllmJudge

DOMAINS: tuple[Domain, ...] = ("general", "human")
JUDGE = Path(__file__).parents[2] / "examples" / "miniature" / "weights" / "judge"


def open_judge(folder: Path) -> VllmJudge:
    return VllmJudge(str(folder), dtype="float32", max_model_len=1024, max_pixels_per_video=2**24)


def test_another_model_is_refused_before_vllm_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)  # importing it now would raise ImportError
    shutil.copytree(JUDGE, tmp_path / "other")
    (tmp_path / "other" / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ValueError, match=r"model_type 'llama'; a Qwen3-VL checkpoint has 'qwen3_vl'"):
        open_judge(tmp_path / "other")


def test_the_miniature_config_shows_as_many_frames_as_its_judge_learned_from() -> None:
    from configs.load import load_config
    from examples.miniature.world import FRAMES

    config = load_config(Path("configs/miniature.yaml"))
    assert config.ranker.frames == FRAMES


def scenes(domain: Domain) -> tuple[Scene, Scene]:
    """A clean video and the same one in which the subject is gone for two frames."""
    subject = "person" if domain == "human" else "circle"
    clean = Scene("red", subject, "right", 9.0, 16.0, 1.2, 0.5)
    return clean, Scene("red", subject, "right", 9.0, 16.0, 1.2, 0.5, distortion="vanish", at=4)


def adapted(folder: Path) -> Any:
    """The judge with a LoRA adapter of a few steps on the human scenes, saved in `folder`."""
    from configs.schema import RankerTrainingConfig
    from ranker.examples import Example
    from ranker.finetune import Finetune

    given = {"name": "x", "out": "x", "path": str(JUDGE), "dtype": "float32", "pairs": "x", "frames": 9}
    given |= {"pairs_per_step": 1, "warmup_steps": 0, "learning_rate": 3e-3, "lora": {"rank": 4, "alpha": 8}}
    finetune = Finetune(RankerTrainingConfig.model_validate(given))
    clean, broken = (sample_frames(render(scene), fps=FPS, count=9) for scene in scenes("human"))
    example = Example(Question("human", clean, broken), (1,))
    for _ in range(5):
        finetune.step([example, example.turned()])
    finetune.save(folder)
    return finetune.model.eval()


@pytest.mark.vllm
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_real_judge_served_by_vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One engine for all of it (its start is what costs), with an adapter for one of the two domains: against Hugging
    Face's own processor and forward pass."""
    import torch
    from transformers import AutoProcessor, Qwen3VLForConditionalGeneration

    from examples.miniature.judge_forward import Judge
    from ranker.ranker import Ranker

    with_adapter = adapted(tmp_path / "human")
    judge = VllmJudge(
        str(JUDGE),
        adapters={"human": tmp_path / "human"},
        dtype="float32",
        max_model_len=1024,
        max_pixels_per_video=2**24,
    )
    model = Qwen3VLForConditionalGeneration.from_pretrained(JUDGE, dtype=torch.float32)
    processor = AutoProcessor.from_pretrained(JUDGE)

    def expected(question: Question, by: Any) -> np.ndarray:
        """The labels' log-probabilities; that the engine saw the same tokens is asserted on the way."""
        inputs = model_inputs(processor, [question], max_pixels_per_video=2**24)
        assert judge.prompt_token_ids == inputs["input_ids"][0].tolist()
        with torch.no_grad():
            return by(**inputs).logits[0, -1].log_softmax(-1)[judge.label_ids].numpy()

    trained = Judge(model).tokens
    for row, domain in enumerate(DOMAINS):
        clean, broken = (sample_frames(render(scene), fps=FPS, count=9) for scene in scenes(domain))
        for question in (Question(domain, clean, broken), Question(domain, broken, clean)):
            (reading,) = judge.ask([question])
            base = expected(question, model)
            served = base if domain == "general" else expected(question, with_adapter)
            np.testing.assert_allclose(reading.logprobs, served, atol=2e-3)
            assert domain == "general" or np.abs(served - base).max() > 0.1
            assert 0.5 < reading.mass < 1.0  # of the full vocabulary: a masked one would give exactly 1
            assert judge.prompt_token_ids == trained[row].tolist()

    # Other lengths, frame rates and sizes than it was trained on, and fewer frames than are asked for.
    noise = np.random.default_rng(0).integers(0, 256, (50, 72, 40, 3), dtype=np.uint8)
    for frames, fps, side, count in ((50, 25.0, 40, 40), (7, 4.0, 33, 40), (33, 16.0, 72, 9)):
        one, two = noise[:frames, :side], noise[:frames][::-1, ::-1]
        question = Question("general", *(sample_frames(video, fps=fps, count=count) for video in (one, two)))
        (reading,) = judge.ask([question])
        np.testing.assert_allclose(reading.logprobs, expected(question, model), atol=2e-3)
        assert reading.mass < 1.0  # noise is no video it knows: the mass must be read, not renormalised

    ranker = Ranker(RankerConfig(path=str(JUDGE), frames=9), open_judge=lambda config: judge)
    pairs = []
    for domain in DOMAINS:
        clean, broken = (render(scene) for scene in scenes(domain))
        condition = Condition(domain, "", domain)
        pairs += [Clips(condition, clean, broken, FPS, 0), Clips(condition, broken, clean, FPS, 0)]
    verdicts = ranker.rank(pairs)
    assert [verdict.label for verdict in verdicts] == [1, 2, 1, 2]
    assert [(verdict.agreed, verdict.first_shown, verdict.dropped) for verdict in verdicts] == [(True, 1, None)] * 4
    version = checkpoint_version(JUDGE)
    human = f"{version}+{adapter_version(tmp_path / 'human')}"
    assert [verdict.ranker_version for verdict in verdicts] == [version, version, human, human]
    shutil.copytree(JUDGE, tmp_path / "copy" / "judge")
    assert checkpoint_version(tmp_path / "copy" / "judge") == version

    # Callers of many threads are answered together, each with its own answers.
    engine = judge._engine.llm_engine
    step, steps = engine.step, []
    monkeypatch.setattr(engine, "step", lambda: steps.append(1) or step())
    shades = [sample_frames(noise[:9, :32, :32] // part, fps=FPS, count=9) for part in range(1, 6)]
    asked = [[Question(domain, *pair) for domain in DOMAINS] for pair in itertools.permutations(shades, 2)]
    alone = [judge.ask(questions) for questions in asked[:2]]
    steps.clear()
    with ThreadPoolExecutor(len(asked)) as callers:
        together = list(callers.map(judge.ask, asked))
    assert len(steps) < len(asked)
    for one, other in zip(alone, together, strict=False):
        np.testing.assert_allclose([r.logprobs for r in one], [r.logprobs for r in other], atol=2e-3)

    # What the engine refuses is its asker's failure alone.
    long = Question("general", *(sample_frames(np.tile(noise, (1, 1, 10, 1)), fps=1.0, count=50) for _ in range(2)))
    with pytest.raises(Exception, match="longer than the maximum model length of 1024"):
        judge.ask([long] * 2)
    assert len(judge.ask(asked[0])) == 2

    # An engine that dies fails those that wait for it and everybody who asks later.
    monkeypatch.setattr(engine, "step", lambda: 1 / 0)
    for _ in range(2):
        with pytest.raises(EngineDied):
            judge.ask(asked[0])
