from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoProcessor, Qwen3VLForConditionalGeneration

from buffers.records import Domain
from ranker.frames import sample_frames
from ranker.questions import Question, label_ids, model_inputs, question_tokens, shape_of
from tests.ranker.test_rubric import messages

JUDGE = Path(__file__).parents[2] / "examples" / "miniature" / "weights" / "judge"
PIXELS = 2**24


@pytest.fixture(scope="module")
def processor() -> Any:
    return AutoProcessor.from_pretrained(JUDGE)


def question(domain: Domain, frames: int, *, seed: int, fps: float = 8.0, size: int = 32) -> Question:
    rng = np.random.default_rng(seed)
    first, second = rng.integers(0, 256, (2, frames, size, size, 3), dtype=np.uint8)
    return Question(domain, *(sample_frames(video, fps=fps, count=9) for video in (first, second)))


def test_the_prompt_is_the_chat_templates_with_vision_ids(processor: Any) -> None:
    asked = question("human", 9, seed=0)
    inputs = model_inputs(processor, [asked], max_pixels_per_video=PIXELS)
    text = processor.apply_chat_template(messages("human"), add_vision_id=True, add_generation_prompt=True)
    footage = (asked.first, asked.second)
    expected = processor(
        text=[text],
        videos=[each.frames for each in footage],
        video_metadata=[each.metadata() for each in footage],
        do_sample_frames=False,
        return_tensors="pt",
    )
    assert inputs["input_ids"].tolist() == expected["input_ids"].tolist()
    assert torch.equal(inputs["pixel_values_videos"], expected["pixel_values_videos"])


def test_a_batch_of_unlike_videos_is_answered_as_each_alone(processor: Any) -> None:
    """Other lengths, frame rates and sizes are padded on the left, and the padding changes nothing."""
    model = Qwen3VLForConditionalGeneration.from_pretrained(JUDGE, dtype=torch.float32)
    asked = [
        question("general", 9, seed=0),
        question("human", 5, seed=1, fps=4.0),
        question("general", 30, seed=2, fps=16.0, size=64),
    ]
    with torch.no_grad():
        together = model(**model_inputs(processor, asked, max_pixels_per_video=PIXELS)).logits[:, -1]
        for row, one in enumerate(asked):
            alone = model(**model_inputs(processor, [one], max_pixels_per_video=PIXELS)).logits[0, -1]
            torch.testing.assert_close(together[row], alone, rtol=0, atol=1e-3)


def test_the_pixel_budget_is_of_the_whole_video(processor: Any) -> None:
    asked = question("general", 9, seed=0, size=64)
    patches = processor.video_processor.patch_size**2
    whole, less = (
        int(model_inputs(processor, [asked], max_pixels_per_video=pixels)["video_grid_thw"][0].prod()) * patches
        for pixels in (PIXELS, 10 * 32 * 32)
    )
    assert (whole, less) == (5 * 64 * 64, 5 * 32 * 32)  # five pairs of frames


def test_turning_a_question_shows_the_other_video_first() -> None:
    asked = question("human", 9, seed=0)
    turned = asked.turned()
    assert (turned.domain, turned.first, turned.second) == ("human", asked.second, asked.first)


def test_a_label_of_two_tokens_is_refused() -> None:
    class Splits:
        def encode(self, text: str, add_special_tokens: bool) -> list[int]:
            return [5, 6] if text == "3" else [int(text)]

    with pytest.raises(ValueError, match=r"2 tokens of the label '3', want one"):
        label_ids(Splits())


@pytest.mark.parametrize("domain", ["human", "general"])
@pytest.mark.parametrize("budget", [PIXELS, 2**17])
def test_tokens_are_counted_as_the_processor_makes_them(processor: Any, domain: Domain, budget: int) -> None:
    for one, other in (((9, 32, 32), (9, 32, 32)), ((40, 48, 160), (2, 200, 70)), ((7, 320, 416), (90, 33, 47))):
        frames = (np.zeros((*shape, 3), np.uint8) for shape in (one, other))
        asked = Question(domain, *(sample_frames(video, fps=7.0, count=40) for video in frames))
        made = model_inputs(processor, [asked], max_pixels_per_video=budget)["input_ids"].shape[1]
        shapes = shape_of(asked.first), shape_of(asked.second)
        assert question_tokens(processor, domain, shapes, max_pixels_per_video=budget) == made + 1


def test_a_shape_that_the_processor_does_not_take_is_named(processor: Any) -> None:
    thin = sample_frames(np.zeros((9, 8, 1800, 3), np.uint8), fps=8.0, count=9)
    with pytest.raises(ValueError, match="aspect ratio"):
        model_inputs(processor, [Question("human", thin, thin)], max_pixels_per_video=PIXELS)
    with pytest.raises(ValueError, match=r"frames of 1800 x 8 \(.*aspect ratio"):
        question_tokens(processor, "human", (shape_of(thin), shape_of(thin)), max_pixels_per_video=PIXELS)
