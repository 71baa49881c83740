"""The meter against videos whose truth is known because they were drawn: it stands for people, so it must be right."""

from dataclasses import replace

import numpy as np
import pytest

from examples.miniature.meter import FIGURES, figures, measure, obeyed
from examples.miniature.world import DISTORTIONS, FRAMES, SHAPES, SIZE, all_prompts, draw, draw_any, render


def test_no_false_alarm_on_clean_videos() -> None:
    rng = np.random.default_rng(2024)
    for scene in [draw_any(rng) for _ in range(120)]:
        found = measure(render(scene), scene.prompt)
        assert not found.distorted, (scene, found)


@pytest.mark.parametrize("kind", DISTORTIONS)
def test_every_kind_of_distortion_is_found(kind: str) -> None:
    rng = np.random.default_rng(7)
    scenes = [replace(draw_any(rng, distorted=True), distortion=kind) for _ in range(40)]
    missed = [scene for scene in scenes if not measure(render(scene), scene.prompt).distorted]
    assert len(missed) <= 2, missed  # a copy may hide behind its original


@pytest.mark.parametrize("subject", ["square", "person"])
def test_motion_is_the_speed_that_was_drawn(subject: str) -> None:
    scene = replace(draw("red", subject, "right"), x=8.0, y=16.0, speed=1.5)
    assert measure(render(scene), scene.prompt).motion == pytest.approx(1.5, abs=0.1)


def test_a_blank_video_has_no_subject() -> None:
    blank = np.full((FRAMES, SIZE, SIZE, 3), 45, np.uint8)
    found = measure(blank, "a red circle moving left")
    assert (found.distorted, found.reason) == (True, "no subject")


def test_a_person_without_a_head_is_distorted() -> None:
    scene = replace(draw("blue", "person", "right"), x=9.0, y=16.0, speed=1.0)
    frames = render(scene).copy()
    brightest = frames[4].min(-1) > 150  # nothing but the head is bright in every channel
    frames[4][brightest] = (70, 110, 235)
    assert measure(frames, scene.prompt).reason == "loses its head"


def drawn(prompt: str) -> np.ndarray:
    words = prompt.split()
    return render(draw(words[1], words[2], words[-1], np.random.default_rng(len(prompt))))


@pytest.mark.parametrize("prompt", [prompt for _, prompt in all_prompts()])
def test_what_is_drawn_is_what_its_prompt_asks_for(prompt: str) -> None:
    assert obeyed(drawn(prompt), prompt) == {"object": True, "colour": True, "direction": True}


@pytest.mark.parametrize("subject", [*SHAPES, "person"])
def test_another_object_is_seen_also_if_it_is_clean(subject: str) -> None:
    video = drawn(f"a red {subject} moving left")
    for asked in {*SHAPES, "person"} - {subject}:
        found = obeyed(video, f"a red {asked} moving left")
        assert found == {"object": False, "colour": True, "direction": True}, asked


def test_another_colour_in_one_frame_and_another_way_are_seen() -> None:
    video = drawn("a green circle moving down")
    assert not obeyed(video, "a blue circle moving down")["colour"]
    assert not obeyed(video, "a green circle moving up")["direction"]
    found = figures(video, "a green square moving up")
    assert not found["obeyed"] and found["not as asked"] == "object, direction"
    assert set(FIGURES) == {name for name, value in found.items() if not isinstance(value, str)}
    video[-1] = drawn("a blue circle moving down")[-1]
    assert not obeyed(video, "a green circle moving down")["colour"]
