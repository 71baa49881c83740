"""Every condition has a height and a width of its own: drawn, or those of its picture; a request has one."""

from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from actors.prompts import read_prompts, sized
from actors.streams import PromptStream
from buffers.records import Condition, Slot
from configs.sections import SamplingConfig

GRID = (16, 16)
THREE = SamplingConfig(pixels=480 * 832, aspects=[[16, 9], [3, 4], [1, 1]])
OWN = SamplingConfig(pixels=480 * 832)


def conditions(count: int) -> list[Condition]:
    return [Condition(f"c{number}", f"prompt {number}") for number in range(count)]


def picture(folder: Path, width: int, height: int, *, turned: bool = False) -> Condition:
    image, exif = Image.new("RGB", (width, height)), Image.Exif()
    if turned:
        exif[0x0112] = 6  # a quarter turn
    file = folder / f"{width}x{height}{turned}.png"
    image.save(file, exif=exif)
    return Condition(file.name, "a picture that moves", picture=str(file))


@pytest.mark.parametrize(
    ("aspect", "size"),
    # By hand, sqrt(area * aspect) and sqrt(area / aspect), rounded down to 16 as diffusers' Wan examples do it.
    [(9 / 16, (464, 832)), (1.0, (624, 624)), (4 / 3, (720, 544)), (480 / 832, (480, 832))],
)
def test_sides_have_the_area_and_the_aspect_and_lie_on_the_grid(aspect: float, size: tuple[int, int]):
    assert OWN.size_of(aspect, GRID) == size


def test_a_picture_keeps_its_own_aspect_or_gets_the_nearest_of_those_that_are_given(tmp_path: Path):
    wide, high = picture(tmp_path, 1600, 900), picture(tmp_path, 1600, 900, turned=True)
    assert [each.size for each in sized([wide, high], OWN, grid=GRID, seed=0)] == [(464, 832), (832, 464)]
    nearly = picture(tmp_path, 1000, 900)
    assert [each.size for each in sized([nearly], THREE, grid=GRID, seed=0)] == [(624, 624)]


def test_aspects_are_drawn_by_seed_and_condition_evenly():
    many = conditions(3000)
    drawn = [each.size for each in sized(many, THREE, grid=GRID, seed=1)]
    counts = Counter(drawn)
    assert set(counts) == {(464, 832), (720, 544), (624, 624)}
    assert all(abs(count - 1000) < 4 * (3000 * 2 / 9) ** 0.5 for count in counts.values())
    assert [each.size for each in sized(many[::-1], THREE, grid=GRID, seed=1)] == drawn[::-1]
    assert [each.size for each in sized(many, THREE, grid=GRID, seed=2)] != drawn
    assert sized(many, SamplingConfig(), grid=GRID, seed=1) == many


def test_what_has_no_aspect_or_too_extreme_a_one_is_named(tmp_path: Path):
    with pytest.raises(ValueError, match=r"'prompt 0': it has no first frame: give sampling\.aspects"):
        sized(conditions(1), OWN, grid=GRID, seed=0)
    with pytest.raises(ValueError, match=r"an aspect of 2e\+03 .*too extreme.*the 16 pixels"):
        sized([picture(tmp_path, 4000, 2)], OWN, grid=GRID, seed=0)
    (tmp_path / "no.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"no\.png: not a picture"):
        sized([Condition("c", "a cat", picture=str(tmp_path / "no.png"))], OWN, grid=GRID, seed=0)


def test_a_request_has_one_size_and_every_condition_comes_once_in_an_epoch():
    some = sized(conditions(40), THREE, grid=GRID, seed=3)
    stream = PromptStream(some, per_request=4, seed=5)
    requests = [stream.at(Slot("online", number)) for number in range(60)]
    assert all(len({each.size for each in request.conditions}) == 1 for request in requests)
    assert max(len(request.conditions) for request in requests) == 4
    assert sum(len(request.conditions) for request in requests) > 0.8 * 4 * len(requests)
    seen = Counter(each.id for request in requests for each in request.conditions)
    # Sizes wait for each other within 16 requests' worth: nothing is more than two epochs behind.
    assert max(seen.values()) - min(seen.values()) <= 2
    seeds = [seed for request in requests for pair in request.seeds for seed in pair]
    assert len(set(seeds)) == len(seeds)
    again = PromptStream(some, per_request=4, seed=5)
    assert [again.at(Slot("online", number)) for number in (59, 3)] == [requests[59], requests[3]]


def test_prompt_files_know_no_size(tmp_path: Path):
    (tmp_path / "p.txt").write_text("a cat\n")
    assert read_prompts(tmp_path / "p.txt", max_characters=100)[0].size is None
