import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from buffers.records import Clips, Condition, Domain
from configs.schema import RankerConfig
from examples.miniature.world import FPS, Scene, render
from ranker.vllm_judge import VllmJudge, check_checkpoint, checkpoint_version

JUDGE = Path(__file__).parents[2] / "examples" / "miniature" / "weights" / "judge"


def open_judge(folder: Path) -> VllmJudge:
    return VllmJudge(str(folder), dtype="float32", max_model_len=1024, max_pixels_per_video=2**24)


def checkpoint(folder: Path, **config) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen3_vl", **config}))
    save_file({"x": np.zeros(3, np.float32)}, folder / "model.safetensors")
    return folder


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere is no folder; want a local Qwen3-VL"):
        open_judge(tmp_path / "nowhere")


def test_another_model_is_refused_before_vllm_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)  # importing it now would raise ImportError
    with pytest.raises(ValueError, match=r"type 'llama', want Qwen3-VL"):
        open_judge(checkpoint(tmp_path / "other", model_type="llama"))


@pytest.mark.parametrize("text", ["not json", "[]", '{"model_type": null}'])
def test_a_broken_config_is_refused(tmp_path: Path, text: str) -> None:
    folder = checkpoint(tmp_path / "broken")
    (folder / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"ranker\.path"):
        check_checkpoint(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    folder = checkpoint(tmp_path / "partial")
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=name.removeprefix("model")):
        check_checkpoint(folder)


def test_the_version_follows_the_weights(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "judge")
    before = checkpoint_version(folder)
    assert before == checkpoint_version(folder)
    name, _, digest = before.partition("@")
    assert name == "judge" and len(digest) == 8 and int(digest, 16) >= 0
    save_file({"x": np.array([0, 0, 1], np.float32)}, folder / "model.safetensors")
    assert checkpoint_version(folder) != before


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


@pytest.mark.vllm
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_real_judge_served_by_vllm(tmp_path: Path) -> None:
    """One engine for all of it (its start is what costs): against Hugging Face's own processor and forward pass."""
    import torch
    from transformers import AutoProcessor, Qwen3VLForConditionalGeneration

    from examples.miniature.judge_forward import Judge, processed
    from ranker.frames import sample_frames
    from ranker.inputs import Question
    from ranker.ranker import Ranker

    judge = open_judge(JUDGE)
    model = Qwen3VLForConditionalGeneration.from_pretrained(JUDGE, dtype=torch.float32)
    parts = AutoProcessor.from_pretrained(JUDGE)
    trained = Judge(model).tokens
    for row, domain in enumerate(("general", "human")):
        clean, broken = (render(scene) for scene in scenes(domain))
        for first, second in ((clean, broken), (broken, clean)):
            footage = [sample_frames(video, fps=FPS, count=9) for video in (first, second)]
            (reading,) = judge.ask([Question(domain, *footage)])
            inputs = processed(parts, domain, np.stack([first, second]))
            with torch.no_grad():
                expected = model(**inputs).logits[0, -1].log_softmax(-1)
            assert judge.prompt_token_ids == inputs["input_ids"][0].tolist()
            np.testing.assert_allclose(reading.logprobs, expected[judge.label_ids], atol=2e-3)
            assert 0.5 < reading.mass < 1.0  # of the full vocabulary: a masked one would give exactly 1
            assert judge.prompt_token_ids == trained[row].tolist()

    # Noise is no video it knows; the four labels' mass must still be read, not renormalised to 1.
    noise = np.random.default_rng(0).integers(0, 256, (9, 32, 32, 3), dtype=np.uint8)
    footage = sample_frames(noise, fps=FPS, count=9)
    assert judge.ask([Question("general", footage, footage)])[0].mass < 1.0

    ranker = Ranker(RankerConfig(path=str(JUDGE), frames=9), judge=judge)
    pairs = []
    for domain in ("general", "human"):
        clean, broken = (render(scene) for scene in scenes(domain))
        condition = Condition(domain, "", domain)
        pairs += [Clips(condition, clean, broken, FPS, 0), Clips(condition, broken, clean, FPS, 0)]
    verdicts = ranker.rank(pairs)
    assert [verdict.label for verdict in verdicts] == [1, 2, 1, 2]
    assert [(verdict.agreed, verdict.first_shown, verdict.dropped) for verdict in verdicts] == [(True, 1, None)] * 4
    assert {verdict.ranker_version for verdict in verdicts} == {checkpoint_version(JUDGE)}
    shutil.copytree(JUDGE, tmp_path / "copy" / "judge")
    assert checkpoint_version(tmp_path / "copy" / "judge") == judge.version
