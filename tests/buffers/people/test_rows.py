import pytest

from buffers.people.manifests import Row
from buffers.people.rows import ConditionFiles, VideoFiles, read_row


@pytest.fixture
def folder(tmp_path):
    for name in ("1.mp4", "2.mp4", "3.png"):
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path.parent / f"{tmp_path.name}-outside.mp4").write_bytes(b"outside")
    (tmp_path / "link.mp4").symlink_to(tmp_path.parent / f"{tmp_path.name}-outside.mp4")
    return tmp_path.resolve()


PAIR = {"prompt": " a dancer ", "domain": "human", "a": "1.mp4", "b": "2.mp4", "label": 3}
ANCHOR = {"prompt": "a dancer", "video": "1.mp4", "polarity": "negative"}


def read(values, folder):
    present = {name: value for name, value in values.items() if value is not None}
    return read_row(Row(7, present), folder=folder, max_characters=20)


def test_the_columns_say_what_a_row_is(folder):
    pair = read({**PAIR, "probabilities": [0.2, 0.1, 0.6, 0.1], "annotator": 4}, folder)
    assert (pair.kind, pair.answer, pair.annotator) == ("pair", 3, "4")
    assert pair.probabilities == [0.2, 0.1, 0.6, 0.1]
    assert pair.condition == ConditionFiles("a dancer", "human")
    assert pair.videos == (VideoFiles(folder / "1.mp4"), VideoFiles(folder / "2.mp4"))
    anchor = read(ANCHOR, folder)
    assert (anchor.kind, anchor.polarity, anchor.videos) == ("anchor", "negative", (VideoFiles(folder / "1.mp4"),))
    prompt = read({"prompt": "a dancer", "first_frame": "3.png"}, folder)
    assert (prompt.kind, prompt.condition.first_frame) == ("prompt", folder / "3.png")


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({**PAIR, "lable": 1}, "unknown key 'lable'"),
        ({**PAIR, "a": "4.mp4"}, "a = '4.mp4': no such file"),
        ({**PAIR, "b": "1.mp4"}, "a and b are the same file"),
        ({**PAIR, "b": None}, "b = None; want the path"),
        ({**PAIR, "a": "../1.mp4"}, "a = '../1.mp4' leads out of the manifest's folder"),
        ({**PAIR, "a": "/etc/passwd"}, "a = '/etc/passwd' leads out of the manifest's folder"),
        ({**PAIR, "a": "link.mp4"}, "a = 'link.mp4' leads out of the manifest's folder"),
        ({**PAIR, "label": 5}, "label = 5; want 1, 2, 3 or 4"),
        ({**PAIR, "label": True}, "label = True; want 1, 2, 3 or 4"),
        ({**PAIR, "label": None}, "want either a label"),
        ({**PAIR, "choice": "a"}, "want either a label"),
        ({**PAIR, "label": None, "choice": "c"}, "choice = 'c'; want 'a' or 'b'"),
        ({**PAIR, "domain": "animal"}, "domain = 'animal'; want 'human' or 'general'"),
        ({**PAIR, "prompt": "  "}, "prompt = '  '; want the text"),
        ({**PAIR, "prompt": None}, "prompt = None; want the text"),
        ({**PAIR, "prompt": "x" * 21}, "prompt has 21 characters, prompts.max_characters = 20"),
        ({**PAIR, "annotator": [1]}, r"annotator = \[1\]; want a text"),
        ({**PAIR, "probabilities": [0.5, 0.5]}, r"probabilities = \[0.5, 0.5\]; want a list of four"),
        ({**PAIR, "probabilities": [0.5, 0.5, 0.5, 0.5]}, "that sum to 1"),
        ({**PAIR, "probabilities": [1.5, -0.5, 0.0, 0.0]}, "want a list of four"),
        ({**PAIR, "probabilities": "high"}, "probabilities = 'high'; want a list of four"),
        ({**PAIR, "probabilities": [0.7, 0.1, 0.1, 0.1]}, "label = 3 contradicts .* which make 1 the likeliest"),
        ({**PAIR, "probabilities": [0.1, 0.5, 0.3, 0.1]}, "label = 3 contradicts .* which make 2 the likeliest"),
        ({**PAIR, "label": None, "choice": "a", "probabilities": [0.7, 0.1, 0.1, 0.1]}, "want a label"),
        ({**PAIR, "source": "web"}, "source = 'web'; want online, half-online or offline"),
        ({**PAIR, "policy_version": -1}, "policy_version = -1; want a number from 0 on"),
        ({**PAIR, "label_mass": 2}, r"label_mass = 2; want a number in \[0, 1\]"),
        ({**ANCHOR, "polarity": "good"}, "polarity = 'good'; want 'positive' or 'negative'"),
        ({**ANCHOR, "polarity": None}, "polarity = None; want"),
        ({**ANCHOR, "label": 1}, "unknown key 'label'"),
        ({"prompt": "a dancer", "first_frame": "5.png"}, "first_frame = '5.png': no such file"),
        ({"video": "1.mp4", "polarity": "positive"}, "prompt = None"),
    ],
)
def test_a_bad_row_says_which_column_holds_what_and_what_is_right(folder, values, why):
    with pytest.raises(ValueError, match=why):
        read(values, folder)


@pytest.mark.parametrize("probabilities", [[0.1, 0.4, 0.35, 0.15], [0.25, 0.45, 0.3, 0.0]])
def test_a_label_may_be_the_likeliest_or_the_likeliest_of_the_likelier_video(folder, probabilities):
    """Label 2 is the likeliest of both; in the second, video A is the likelier one, and 3 its likeliest label."""
    assert read({**PAIR, "label": 2, "probabilities": probabilities}, folder).answer == 2
    if probabilities[0] + probabilities[2] > 0.5:
        assert read({**PAIR, "label": 3, "probabilities": probabilities}, folder).answer == 3
