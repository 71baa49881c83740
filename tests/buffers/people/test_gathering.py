import json

import pytest

from buffers.people.gathering import Gathered, Item, Skipped
from buffers.people.manifests import Row
from buffers.people.rows import read_row


@pytest.fixture
def gathered(tmp_path):
    """`gathered(rows)`: what becomes of them, and the `Gathered` itself."""
    for number in range(1, 5):
        (tmp_path / f"{number}.mp4").write_bytes(b"video" * number)
    (tmp_path / "copy.mp4").write_bytes(b"video")
    made = []

    def gather(rows, name="gathered"):
        found = Gathered(tmp_path / f"{name}.sqlite", rule="5 frames")
        made.append(found)
        folder = tmp_path.resolve()
        found.add({n: read_row(Row(n, row), folder=folder) for n, row in enumerate(rows, start=1)})
        return list(found.items()), found

    yield gather
    for some in made:
        some.close()


def vote(label=None, *, a="1.mp4", b="2.mp4", choice=None, annotator=None, **more):
    row = {"prompt": "a dancer", "domain": "human", "a": a, "b": b, "label": label, "choice": choice}
    return {name: value for name, value in {**row, "annotator": annotator, **more}.items() if value is not None}


def names(item: Item) -> list[str]:
    return [video.file.name for video in item.videos]


def test_a_majority_decides_the_video_first_and_then_the_label(gathered):
    """Two of three for A (labels 1 and 3 twice over), whichever order the annotators saw the videos in."""
    rows = [vote(1), vote(3), vote(4, a="2.mp4", b="1.mp4"), vote(2), vote(2)]
    (item,), _ = gathered(rows)
    assert names(item) == ["1.mp4", "2.mp4"] and item.rows == (1, 2, 3, 4, 5)
    assert item.verdict.label == 3 and not item.verdict.agreed
    assert item.verdict.probabilities == (0.2, 0.4, 0.4, 0.0) and item.verdict.domain == "human"


def test_the_chosen_video_comes_first_and_the_first_rows_order_is_the_verdicts(gathered):
    (item,), _ = gathered([vote(2)])
    assert names(item) == ["2.mp4", "1.mp4"] and item.verdict.label == 2
    assert item.verdict.probabilities == (0.0, 1.0, 0.0, 0.0)


def test_choices_alone_leave_the_label_open(gathered):
    (item,), _ = gathered([vote(choice="b"), vote(choice="b"), vote(choice="a")])
    assert item.verdict is None and names(item) == ["2.mp4", "1.mp4"]
    (item,), _ = gathered([vote(1), vote(3)], name="level")
    assert item.verdict is None and item.source == "offline"


def test_an_even_split_is_skipped_with_its_rows(gathered):
    found, _ = gathered([vote(1), vote(4), {"prompt": "x", "video": "3.mp4", "polarity": "positive"}])
    assert found[0] == Skipped((1, 2), "its annotators are split evenly over which video is better")
    assert found[1].kind == "anchor" and found[1].positive
    found, _ = gathered([vote(1, b="copy.mp4")], name="copies")
    assert found == [Skipped((1,), "a and b are the same video")]


def test_an_annotators_last_answer_counts(gathered):
    (item,), found = gathered([vote(1, annotator="ann"), vote(2, annotator="bob"), vote(2, annotator="ann")])
    assert item.verdict.label == 2 and item.verdict.agreed and found.repeated == 1


def test_given_probabilities_are_averaged_in_the_order_of_the_first_answer(gathered):
    first = vote(1, probabilities=[0.7, 0.1, 0.1, 0.1])
    second = vote(2, a="2.mp4", b="1.mp4", probabilities=[0.2, 0.6, 0.0, 0.2])
    (item,), _ = gathered([first, second])
    assert item.verdict.probabilities == pytest.approx((0.65, 0.15, 0.15, 0.05))


def test_kappa_is_fleiss_own_whatever_order_the_videos_were_shown_in(gathered):
    """Two annotators, four pairs; they agree on three. Expected from the definition: (P - Pe) / (1 - Pe)."""
    pairs = [("1.mp4", "2.mp4"), ("3.mp4", "4.mp4"), ("1.mp4", "3.mp4"), ("2.mp4", "4.mp4")]
    rows = [vote(1, a=a, b=b, annotator="ann") for a, b in pairs]
    rows += [vote(2, a=b, b=a, annotator="bob") for a, b in pairs[:3]] + [
        vote(2, a="2.mp4", b="4.mp4", annotator="bob")
    ]
    items, found = gathered(rows)
    # In an order of their own, each pair's winner is first or second; the shares follow from the ids of the videos.
    ids = {video.file.name: video.id for item in items if isinstance(item, Item) for video in item.videos}
    firsts = sum(2 * (ids[a] < ids[b]) for a, b in pairs[:3]) + 1
    by_chance = (firsts / 8) ** 2 + (1 - firsts / 8) ** 2
    assert found.kappa["video"].items == 4
    assert found.kappa["video"].kappa == pytest.approx((3 / 4 - by_chance) / (1 - by_chance))


def test_ids_follow_content_condition_and_rule(gathered, tmp_path):
    (first,), _ = gathered([vote(1)])
    (tmp_path / "1.mp4").rename(tmp_path / "moved.mp4")
    (moved,), _ = gathered([vote(1, a="moved.mp4")], name="moved")
    assert (moved.id, moved.video_ids) == (first.id, first.video_ids)
    (other,), _ = gathered([vote(1, a="moved.mp4", domain="general")], name="other")
    assert other.id != first.id and other.video_ids == first.video_ids
    cut = Gathered(tmp_path / "cut.sqlite", rule="9 frames")
    cut.add({1: read_row(Row(1, vote(1, a="moved.mp4")), folder=tmp_path.resolve())})
    (item,) = cut.items()
    assert isinstance(item, Item) and set(item.video_ids).isdisjoint(first.video_ids)
    cut.close()


def test_exported_facts_come_back(gathered):
    facts = {"id": "c-1-2", "a_id": "c-1", "b_id": "c-2", "condition_id": "c", "source": "online", "policy_version": 4}
    row = vote(4, probabilities=[0.1, 0.2, 0.2, 0.5], label_mass=0.98, first_shown=2, agreed=False, **facts)
    (item,), _ = gathered([{**row, "judged_as": "general", "rubric_version": "2", "ranker_version": "8b@1"}])
    assert (item.id, item.video_ids, item.condition.id) == ("c-1-2", ("c-2", "c-1"), "c")
    assert (item.source, item.policy_version) == ("online", 4)
    assert json.dumps([item.verdict.label_mass, item.verdict.first_shown, item.verdict.agreed]) == "[0.98, 2, false]"
    assert (item.verdict.domain, item.verdict.rubric_version, item.verdict.ranker_version) == ("general", "2", "8b@1")


@pytest.mark.parametrize(
    ("changed", "right"),
    [
        ({"b": "3.mp4"}, "b_id = 'right' is that of another file, too"),
        ({"prompt": "a boat"}, "condition_id = 'c' is that of another prompt, domain or first frame, too"),
        ({"domain": "general"}, "condition_id = 'c' is that of another prompt"),
        ({"a_id": "right", "b_id": "left"}, "a_id = 'right' is that of another file, too"),
    ],
)
def test_an_id_of_two_things_is_refused_not_merged(tmp_path, changed, right):
    for number in range(1, 4):
        (tmp_path / f"{number}.mp4").write_bytes(b"video" * number)
    given = vote(1, a_id="left", b_id="right", condition_id="c")
    rows = [given, given | {"annotator": "second"}, given | changed]
    gathered = Gathered(tmp_path / "gathered.sqlite", rule="5 frames")
    (skipped,) = gathered.add({n: read_row(Row(n, row), folder=tmp_path) for n, row in enumerate(rows, start=1)})
    assert skipped.rows == (3,) and skipped.why.startswith(right)
    assert [item.rows for item in gathered.items()] == [(1, 2)]
    gathered.close()


def test_a_file_that_cannot_be_read_is_left_out_with_its_row(tmp_path):
    """As if the disk failed between the check of the row and the look at the file."""
    for number in (1, 2, 3):
        (tmp_path / f"{number}.mp4").write_bytes(b"video" * number)
    given = [vote(1), vote(1, b="3.mp4"), vote(2)]
    rows = {number: read_row(Row(number, row), folder=tmp_path) for number, row in enumerate(given, start=4)}
    (tmp_path / "3.mp4").unlink()
    gathered = Gathered(tmp_path / "gathered.sqlite", rule="5 frames")
    (skipped,) = gathered.add(rows)
    assert skipped.rows == (5,) and "3.mp4" in skipped.why
    assert [item.rows for item in gathered.items()] == [(4, 6)] and gathered.repeated == 0
    gathered.close()
