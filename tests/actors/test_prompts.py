from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from actors.prompts import first_frame, read_prompts
from actors.streams import PromptStream
from buffers.records import Condition, EncodedCondition, Slot
from buffers.store.pair_store import PairStore
from buffers.tensors import encode
from media.pictures import write_png
from tests.buffers.samples import conditioning, tensor


def online(number: int) -> Slot:
    return Slot("online", number)


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text(text, encoding="utf-8")
    return path


def conditions(count: int) -> list[Condition]:
    return [Condition(f"c{index}", f"prompt {index}") for index in range(count)]


def test_lines_with_and_without_a_domain(tmp_path: Path):
    text = "# shapes\na red circle\nhuman\ta blue person walking\n#x\ngeneral\ta \u2028 cat\n"
    read = read_prompts(write(tmp_path, text), max_characters=100)
    assert [(condition.prompt, condition.domain) for condition in read] == [
        ("a red circle", None),
        ("a blue person walking", "human"),
        ("a \u2028 cat", "general"),
    ]


def test_spaces_before_a_domain_mean_nothing(tmp_path: Path):
    (read,) = read_prompts(write(tmp_path, "  human\ta man\n"), max_characters=100)
    assert (read.domain, read.prompt) == ("human", "a man")


def test_a_third_column_is_the_picture_that_videos_begin_with(tmp_path: Path):
    (tmp_path / "pictures").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 48, 3), dtype=np.uint8)
    for name, picture in zip(("one", "two"), pixels, strict=True):
        write_png(tmp_path / "pictures" / f"{name}.png", picture)
    text = "human\ta man\tpictures/one.png\n\ta man\tpictures/one.png\n\ta man\tpictures/two.png\n\ta man\n"
    read = read_prompts(write(tmp_path, text), max_characters=100)
    assert [each.domain for each in read] == ["human", None, None, None]
    assert len({each.id for each in read}) == 4, "another picture, another condition"
    shown = [first_frame(each, height=32, width=48) for each in read]
    assert (
        shown[3] is None
        and [(each == pixels[n]).all() for n, each in zip((0, 0, 1), shown, strict=False)] == [True] * 3
    )
    with pytest.raises(ValueError, match=r"line 1: first_frame = 'none.png': no such file"):
        read_prompts(write(tmp_path, "\ta man\tnone.png\n"), max_characters=100)


def test_pictures_of_a_store_are_read_from_it(tmp_path: Path):
    pixels = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    held = EncodedCondition(Condition("c", "a man"), tensor(1), encode(torch.from_numpy(pixels)))
    store = PairStore(tmp_path / "store")
    store.append(conditionings=[held, conditioning(0)])
    store.close()
    framed = {each.id: each for each in read_prompts(tmp_path / "store", max_characters=100)}["c"]
    seen = first_frame(framed, height=16, width=24)
    assert seen is not None and seen.shape == (16, 24, 3)
    same = first_frame(framed, height=32, width=48)
    assert same is not None and np.array_equal(same, pixels)


def test_windows_files_read_alike(tmp_path: Path):
    plain = read_prompts(write(tmp_path, "a cat\nhuman\ta man\n"), max_characters=100)
    (tmp_path / "windows.txt").write_bytes(b"\xef\xbb\xbfa cat\r\nhuman\ta man")
    assert read_prompts(tmp_path / "windows.txt", max_characters=100) == plain


def test_ids_are_stable_and_tell_domains_apart(tmp_path: Path):
    first, second, third = read_prompts(write(tmp_path, "a cat\ngeneral\ta cat\na cat\n"), max_characters=100)
    # The first digits of: printf "\ta cat" | sha256sum
    assert first.id == "2a6ef80db1499093"
    assert first.id == third.id != second.id


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no prompt"),
        ("# only a comment\n", "holds no prompt"),
        ("a cat\n\na dog\n", "line 2: prompt = ''; want the text"),
        ("# c\na cat\n   \n", "line 3: prompt = '   '; want the text"),
        ("human\t \n", "line 1: prompt = ' '; want the text"),
        ("a cat\nabcdefghijk\n", r"line 2: prompt has 11 characters, prompts.max_characters = 10"),
        ("a cat\na \0cat\n", r"line 2: prompt = 'a \\x00cat': character 3, '\\x00', is no text"),
        ("animal\ta cat\n", r"line 1: domain = 'animal'; want 'human' or 'general'"),
    ],
)
def test_bad_files_are_refused_with_the_line(tmp_path: Path, text: str, message: str):
    with pytest.raises(ValueError, match=rf"prompts.txt.*{message}"):
        read_prompts(write(tmp_path, text), max_characters=10)


def test_missing_and_binary_files_are_named(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"no prompt file .*none.txt"):
        read_prompts(tmp_path / "none.txt", max_characters=10)
    (tmp_path / "binary.txt").write_bytes(b"ab\xff\xfe")
    with pytest.raises(ValueError, match=r"binary.txt: not UTF-8 text \(byte 2\)"):
        read_prompts(tmp_path / "binary.txt", max_characters=10)
    (tmp_path / "latin.txt").write_bytes("a tea\na caf\u00e9\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"latin.txt: not UTF-8 text \(byte 11\), in line 2"):
        read_prompts(tmp_path / "latin.txt", max_characters=10)
    for order in ("utf-16-le", "utf-16-be"):
        (tmp_path / "wide.txt").write_bytes("\ufeffa cat".encode(order))
        with pytest.raises(ValueError, match=r"wide.txt is UTF-16 text; save it as UTF-8"):
            read_prompts(tmp_path / "wide.txt", max_characters=10)


def test_every_epoch_shows_each_condition_once_in_its_own_order():
    stream = PromptStream(conditions(10), per_request=4, seed=3)
    drawn = [c.id for n in range(5) for c in stream.at(online(n)).conditions]  # two epochs; a request spans both
    assert Counter(drawn[:10]) == Counter(drawn[10:]) == Counter(c.id for c in conditions(10))
    assert drawn[:10] != drawn[10:]
    assert drawn[:10] != [c.id for c in conditions(10)]


def test_noise_seeds_are_unique_and_left_to_training():
    stream = PromptStream(conditions(7), per_request=5, seed=0)
    requests = [stream.at(online(n)) for n in range(400)]
    seeds = [seed for request in requests for pair in request.seeds for seed in pair]
    assert len(set(seeds)) == len(seeds) == 400 * 5 * 2
    # Seeds below 2^31 are for people to choose; torch's CPU generator keeps 32 bits.
    assert min(seeds) >= 2**31 and max(seeds) < 2**32


def test_the_seed_decides_everything():
    def requests(seed: int) -> list[object]:
        stream = PromptStream(conditions(6), per_request=2, seed=seed)
        return [stream.at(online(n)) for n in range(6)]

    assert requests(1) == requests(1)
    assert requests(1) != requests(2)


def test_a_request_does_not_depend_on_what_was_asked_before():
    stream, again = (PromptStream(conditions(5), per_request=2, seed=4) for _ in range(2))
    in_order = [stream.at(online(n)) for n in range(9)]
    assert [again.at(online(n)) for n in (8, 0, 3, 3)] == [in_order[n] for n in (8, 0, 3, 3)]
    assert [request.slot for request in in_order] == [online(n) for n in range(9)]


def test_no_conditions_is_an_error():
    with pytest.raises(ValueError, match="at least one condition"):
        PromptStream([], per_request=1, seed=0)


def test_a_later_stage_goes_on_in_the_same_order_with_numbers_from_zero():
    conditions = [Condition(f"c{index}", f"prompt {index}") for index in range(5)]
    whole = PromptStream(conditions, per_request=2, seed=3)
    third = whole.at(online(2))
    later = PromptStream(conditions, per_request=2, seed=3, first=4).at(online(0))
    assert (later.conditions, later.seeds) == (third.conditions, third.seeds)
