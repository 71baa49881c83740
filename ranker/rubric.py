"""What the judge is asked: one rubric per domain, four possible answers, one prompt (paper, appendix C).

The words are in `texts/`. The rubric is the system message, so that everything before the videos is the same for each
pair of a domain and is computed once (prefix caching); the videos follow with their vision ids, the question comes
last. The text is ChatML as every Qwen3-VL checkpoint's template renders it with `add_vision_id`; a test holds the two
equal.
"""

import functools
from pathlib import Path

from buffers.records import Domain

RUBRIC_VERSION = "2"
"""Changes whenever a word that the judge reads changes: verdicts of different rubrics must not be mixed unknowingly."""

VIDEO = "<|vision_start|><|video_pad|><|vision_end|>"
"""One video's place in the prompt; the processor puts its timestamps and patches there."""

DOMAIN_LABELS: tuple[Domain, Domain] = ("human", "general")
"""What the labels 1 and 2 mean if `WHICH_DOMAIN` is asked."""


def _text(name: str) -> str:
    return Path(__file__).with_name("texts").joinpath(f"{name}.txt").read_text(encoding="utf-8")


GIVEN_FRAME = _text("given_frame")
"""Said of videos that were made from a picture."""
WHICH_DOMAIN = _text("which_domain").removesuffix("\n")


@functools.cache
def passages(domain: Domain) -> tuple[str, ...]:
    """The fixed text of a domain in the order it is read: the rubric's parts, then the question with its answers.

    In the domain's file an empty line stands between two.
    """
    *first, last, question = _text(domain).removesuffix("\n").split("\n\n")
    return (*(f"{passage}\n" for passage in first), last, question)


def prompt_text(domain: Domain, *, framed: bool = False) -> str:
    """The whole prompt of one pair, up to where the judge's one-token answer begins.

    framed: whether the videos begin with a picture that was given.
    """
    *rubric, question = passages(domain)
    return _chat("".join(rubric), f"Video 1: {VIDEO}Video 2: {VIDEO}{GIVEN_FRAME * framed}{question}")


def domain_prompt(description: str) -> str:
    """The prompt that asks for a description's domain. What the description says is never read as a special token."""
    return _chat(WHICH_DOMAIN, description.replace("<|", "< |"))


def _chat(system: str, user: str) -> str:
    return f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n"
