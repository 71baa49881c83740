"""What enters the judge for one question: the same frames, prompt and preprocessing at training and when it is served.

vLLM is given the prompt, the frames and `pixel_settings` and runs the checkpoint's own processor on them; training
runs that processor here. A test holds the two equal, token by token.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from buffers.labels import LABELS
from buffers.records import Domain
from ranker.frames import SampledFrames
from ranker.rubric import VIDEO, prompt_text


@dataclass(frozen=True)
class Question:
    """One order of one pair: which video is the better, `first` shown first. `framed`: they begin with one picture."""

    domain: Domain
    first: SampledFrames
    second: SampledFrames
    framed: bool = field(default=False, kw_only=True)

    def turned(self) -> "Question":
        """The other order."""
        return replace(self, first=self.second, second=self.first)


class Shape(NamedTuple):
    """What a question's length follows from, of one video: when each frame is shown, and the size of the frames."""

    seconds: tuple[float, ...]
    height: int
    width: int


def shape_of(shown: SampledFrames) -> Shape:
    """Of frames that are read."""
    return Shape(tuple(index / shown.fps for index in shown.indices), *shown.frames.shape[1:3])


def question_tokens(
    processor: Any, domain: Domain, shapes: Sequence[Shape], *, max_pixels_per_video: int, framed: bool = False
) -> int:
    """Tokens of a question about two videos of these shapes, as `model_inputs` makes it, its one answer included.

    Raises ValueError if the processor takes no video of such a shape.
    """
    videos, pixels = processor.video_processor, pixel_settings(processor, max_pixels_per_video)
    together = videos.temporal_patch_size
    text, *parts = prompt_text(domain, framed=framed).split(processor.video_token)
    patches = 0
    for (shown, height, width), part in zip(shapes, parts, strict=True):
        seconds = shown + shown[-1:] * (-len(shown) % together)
        moments = [sum(pair) / 2 for pair in zip(seconds[::together], seconds[together - 1 :: together], strict=True)]
        text += "".join(f"<{moment:.1f} seconds>{VIDEO}" for moment in moments) + part
        try:
            found = videos.get_num_of_video_patches(len(shown), height, width, pixels)
        except ValueError as error:
            raise ValueError(f"the judge cannot read frames of {width} x {height} ({error})") from error
        patches += found // videos.merge_size**2 - len(moments)  # one is in the text
    return len(processor.tokenizer.encode(text, add_special_tokens=False)) + patches + 1


def pixel_settings(processor: Any, max_pixels_per_video: int) -> dict[str, Any]:
    """The processor's arguments that pin the pixel budget of a video.

    Only the upper end is ours; the class default would shrink 40 frames to thumbnails. `cap_pixels_per_frame` is said
    because its default changes in transformers 5.22.
    """
    least = processor.video_processor.size["shortest_edge"]
    return {
        "size": {"shortest_edge": least, "longest_edge": max_pixels_per_video},
        "cap_pixels_per_frame": False,
        "do_sample_frames": False,
    }


def model_inputs(processor: Any, questions: Sequence[Question], *, max_pixels_per_video: int) -> dict[str, Any]:
    """The model's keyword arguments for some questions, padded on the left: the answer comes after the last token.

    `input_ids`, `attention_mask`, `mm_token_type_ids` `[questions, tokens]`, and the patches of all videos in order.
    """
    videos = [shown for question in questions for shown in (question.first, question.second)]
    return dict(
        processor(
            text=[prompt_text(question.domain, framed=question.framed) for question in questions],
            videos=[shown.frames for shown in videos],
            video_metadata=[shown.metadata() for shown in videos],
            padding=True,
            padding_side="left",
            return_tensors="pt",
            **pixel_settings(processor, max_pixels_per_video),
        )
    )


def label_ids(tokenizer: Any) -> list[int]:
    """The four labels' token ids. Raises ValueError if a label is not a single token."""
    ids = []
    for label in map(str, LABELS):
        tokens = tokenizer.encode(label, add_special_tokens=False)
        if len(tokens) != 1:
            raise ValueError(f"the judge's tokenizer makes {len(tokens)} tokens of the label {label!r}, want one")
        ids += tokens
    return ids
