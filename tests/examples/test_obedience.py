import numpy as np
import pytest

from examples.miniature.obedience import obeys
from examples.miniature.world import all_prompts, draw, render


def drawn(prompt: str) -> np.ndarray:
    words = prompt.split()
    return render(draw(words[1], words[2], words[-1], np.random.default_rng(len(prompt))))


@pytest.mark.parametrize("prompt", [prompt for _, prompt in all_prompts()])
def test_what_is_drawn_obeys_its_prompt(prompt):
    assert obeys(drawn(prompt), prompt) == (True, True)


def test_another_colour_in_one_frame_and_another_way_are_seen():
    video = drawn("a green circle moving down")
    assert obeys(video, "a blue circle moving down") == (False, True)
    assert obeys(video, "a green circle moving up") == (True, False)
    video[-1] = drawn("a blue circle moving down")[-1]
    assert obeys(video, "a green circle moving down") == (False, True)
