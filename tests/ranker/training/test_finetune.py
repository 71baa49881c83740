"""LoRA fine-tuning of the real tiny judge, on videos in memory."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from buffers.records import Domain
from configs.ranker import RankerTrainingConfig
from ranker.frames import sample_frames
from ranker.judges.adapter_files import ADAPTER_WEIGHTS
from ranker.questions import Question, label_ids, model_inputs
from ranker.training.examples import Example
from ranker.training.finetune import FIGURES, Finetune, schedule

JUDGE = Path(__file__).parents[3] / "examples" / "miniature" / "weights" / "judge"


def config(**changed: Any) -> RankerTrainingConfig:
    given: dict[str, Any] = {
        "name": "test",
        "out": "unused",
        "path": str(JUDGE),
        "dtype": "float32",
        "pairs": "unused",
        "frames": 9,
        "lora": {"rank": 4, "alpha": 4},
        "steps": 20,
        "warmup_steps": 0,
        "pairs_per_step": 2,
        "questions_per_microbatch": 4,
        "gradient_checkpointing": False,
        "learning_rate": 1e-3,
    }
    return RankerTrainingConfig.model_validate(given | changed)


def examples(count: int, *, seed: int = 0, right: tuple[int, ...] = (1,), domain: Domain = "general") -> list[Example]:
    """Pairs of noise, each in both orders."""
    rng = np.random.default_rng(seed)
    given = []
    for _ in range(count):
        footage = (
            sample_frames(video, fps=8.0, count=9) for video in rng.integers(0, 256, (2, 9, 32, 32, 3), dtype=np.uint8)
        )
        given.append(Example(Question(domain, *footage), right))
    return [shown for example in given for shown in (example, example.turned())]


def adapter(finetune: Finetune) -> dict[str, Tensor]:
    return {
        name: parameter.detach().clone()
        for name, parameter in finetune.model.named_parameters()
        if parameter.requires_grad
    }


def assert_equal(one: dict[str, Tensor], two: dict[str, Tensor], *, atol: float = 0.0) -> None:
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, two[name], rtol=0, atol=atol, msg=name)


def test_the_loss_is_that_of_the_right_label_over_the_full_vocabulary() -> None:
    finetune = Finetune(config())
    given = examples(1) + examples(1, seed=1, right=(2, 4))
    inputs = model_inputs(finetune._processor, [example.question for example in given], max_pixels_per_video=2**24)
    with torch.no_grad():
        probabilities = finetune.model(**inputs).logits[:, -1].double().softmax(-1)
    one, two, three, four = probabilities[:, label_ids(finetune._processor.tokenizer)].unbind(-1)
    # The labels turn with the order: 1 becomes 2, and "B is better" becomes "A is better".
    right = torch.stack([one[0], two[1], two[2] + four[2], one[3] + three[3]])
    figures = finetune.step(given)
    assert figures["loss"] == pytest.approx(float(-right.log().mean()), rel=1e-5)
    assert figures["label_mass"] == pytest.approx(float((one + two + three + four).mean()), rel=1e-5)
    assert set(FIGURES) <= figures.keys()


def test_only_the_language_model_is_adapted_and_the_checkpoint_stays_as_it_is() -> None:
    finetune = Finetune(config())
    before = {name: tensor.clone() for name, tensor in finetune.model.state_dict().items() if "lora_" not in name}
    assert all(".language_model." in name and ".lora_" in name for name in adapter(finetune))
    for step in range(2):
        finetune.step(examples(2, seed=step))
    after = finetune.model.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_it_learns_what_it_is_taught() -> None:
    finetune = Finetune(config(learning_rate=5e-3, steps=60))
    given = examples(2, right=(3,))
    first, *_, last = [finetune.step(given) for _ in range(60)]
    assert last["loss"] < 0.2 < first["loss"]
    assert (last["accuracy"], last["better_named"]) == (1.0, 1.0)


def test_microbatches_checkpointing_and_ranks_do_not_change_a_step() -> None:
    whole = Finetune(config())
    figures = whole.step(examples(2))
    small = Finetune(config(questions_per_microbatch=1, gradient_checkpointing=True))
    assert small.step(examples(2)) == pytest.approx(figures, rel=1e-4)
    assert_equal(adapter(whole), adapter(small), atol=1e-5)

    # Two ranks, one after the other: what the first would send is kept and given to the second.
    sent: list[Tensor] = []
    first = Finetune(config(), reduce=lambda flat: sent.append(flat.clone()))
    first.step(examples(2)[:2])

    def add_the_firsts(flat: Tensor) -> None:
        flat += sent[0]

    second = Finetune(config(), reduce=add_the_firsts)
    assert second.step(examples(2)[2:]) == pytest.approx(figures, rel=1e-4)
    assert_equal(adapter(whole), adapter(second), atol=1e-5)


def test_a_restored_run_goes_on_bit_for_bit_and_saves_what_peft_loads(tmp_path: Path) -> None:
    straight = Finetune(config())
    for step in range(3):
        straight.step(examples(2, seed=step))
    straight.save(tmp_path / "three")
    restored = Finetune(config())
    restored.restore(tmp_path / "three")
    assert restored.steps == 3
    assert restored.step(examples(2, seed=3)) == straight.step(examples(2, seed=3))
    assert_equal(adapter(straight), adapter(restored))

    from peft import PeftModel
    from transformers import Qwen3VLForConditionalGeneration

    straight.save(tmp_path / "four")
    base = Qwen3VLForConditionalGeneration.from_pretrained(JUDGE, dtype=torch.float32)
    loaded = PeftModel.from_pretrained(base, str(tmp_path / "four"))
    told = json.loads((tmp_path / "four" / "adapter_config.json").read_text())
    assert told["base_model_name_or_path"] == "judge"  # no path of the machine that it was made on
    inputs = model_inputs(straight._processor, [examples(1)[0].question], max_pixels_per_video=2**24)
    straight.model.eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded(**inputs).logits, straight.model(**inputs).logits, rtol=0, atol=1e-5)


def test_an_adapter_is_taught_further_with_a_new_schedule(tmp_path: Path) -> None:
    first = Finetune(config())
    first.step(examples(2))
    first.save(tmp_path / "one")
    further = Finetune(config(seed=1))
    further.load_adapter(tmp_path / "one")
    assert_equal(adapter(first), adapter(further))
    assert further.step(examples(2, seed=1))["step"] == 1
    with pytest.raises(ValueError, match=r"adapter_model\.safetensors is of another checkpoint or other lora\.targets"):
        Finetune(config(lora={"rank": 4, "targets": ["q_proj"]})).load_adapter(tmp_path / "one")


def test_another_runs_state_is_refused(tmp_path: Path) -> None:
    Finetune(config()).save(tmp_path / "zero")
    with pytest.raises(ValueError, match="was made with seed 0, this run has seed 1"):
        Finetune(config(seed=1)).restore(tmp_path / "zero")
    with pytest.raises(ValueError, match=r"other lora\.targets"):
        Finetune(config(lora={"rank": 4, "alpha": 4, "targets": ["q_proj"]})).restore(tmp_path / "zero")
    assert load_file(tmp_path / "zero" / ADAPTER_WEIGHTS)


def test_a_target_that_is_not_there_is_named() -> None:
    with pytest.raises(ValueError, match=r"the language model has no 'to_q'; it has .*q_proj"):
        Finetune(config(lora={"rank": 4, "alpha": 4, "targets": ["to_q"]}))


def test_a_loss_that_is_not_finite_changes_nothing() -> None:
    finetune = Finetune(config())
    finetune.step(examples(2))
    before = adapter(finetune)

    def poison(flat: Tensor) -> None:
        flat[0] = torch.nan

    finetune._reduce = poison
    with pytest.raises(FloatingPointError, match=r"step 1: loss .* gradient norm nan"):
        finetune.step(examples(2))
    assert_equal(adapter(finetune), before)
    assert finetune.steps == 1


def test_the_learning_rate_rises_and_falls() -> None:
    shares = [schedule(step, warmup=4, steps=20) for step in range(20)]
    assert shares[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert shares[4:] == sorted(shares[4:], reverse=True) and 0 < shares[-1] < 0.02
