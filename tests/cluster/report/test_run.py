import base64
import json
import re
from html.parser import HTMLParser
from typing import Any, get_args

import pytest
import yaml

from buffers.labels import DROP_COUNTS, LABEL_COUNTS, MEANINGS
from cluster.monitor.wording import duration
from cluster.report import plots
from cluster.report import videos as report_videos
from cluster.report.page import TEMPLATES
from cluster.report.run import write_report, write_summary
from cluster.run_folder import RunFolder
from configs.sections import TimestepKind
from tests.cluster.fake_run import PROMPT, fake_run, verdicts

WORDS: Any = TEMPLATES.get_template("words.html").module
VOID = {"meta", "link", "br", "img", "input", "hr"}


class Page(HTMLParser):
    """Tags, addresses and texts of a page; `open` is what was never closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str | None] = []
        self.videos: list[dict[str, str | None]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        if tag == "video":
            self.videos.append(dict(attrs))
        self.addresses += [value for name, value in attrs if name in ("src", "href", "xlink:href", "srcset", "data")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href", "xlink:href")]

    def handle_data(self, data):
        self.texts.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.texts))


def test_every_kind_of_timesteps_and_every_count_has_a_name():
    assert set(WORDS.METHODS) == set(get_args(TimestepKind))
    assert {key: words for key, (words, _) in WORDS.LABELS.items()} == dict(zip(LABEL_COUNTS, MEANINGS, strict=True))
    assert set(WORDS.FATES) == {"kept", *DROP_COUNTS}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> RunFolder:
    """One report for the tests that only read it: thirteen pictures take seconds."""
    run = fake_run(tmp_path_factory.mktemp("report") / "run")
    write_summary(run.path, {})
    assert write_report(run.path) == run.report_file and not list(run.path.glob("*.tmp"))
    return run


@pytest.fixture(scope="module")
def page(run) -> Page:
    return Page(run.report_file.read_text())


def test_the_page_is_well_formed_and_refers_to_nothing_outside(page, run):
    assert page.open == []
    assert not {"script", "link", "iframe", "object", "embed", "img"} & set(page.tags)
    assert page.addresses and all((address or "").startswith(("data:", "#")) for address in page.addresses)
    source = run.report_file.read_text()
    assert "http" not in source and "@import" not in source
    # Addresses in style sheets: only clip paths of the same page.
    assert all(address.startswith("#") for address in re.findall(r"url\(([^)]*)\)", source))


def test_prompts_are_text_and_nothing_else(page):
    assert page.texts.count(PROMPT) == 3


def test_the_figures_are_those_worked_out_by_hand(page):
    # 47 of 256 videos became clean: p = 0.1836, whose deviation is sqrt(p (1 - p) / 255), and t of 255 is 1.9693.
    fell = (
        "Distorted fell from 21.5% to 3.1% of videos: -18.4 points (-23.1 to -13.6). That is better: of 256 videos, 47"
    )
    assert fell + " became better and 0 worse." in page.text
    assert "Motion fell from 1.20 to 1.14 pixels per frame: -0.06 (-0.06 to -0.06). That is worse" in page.text
    assert "reason videos before videos after splits 55 8" in page.text
    assert "before: 55 of 256 (16.9% to 26.9%)" in page.text
    assert "after: 8 of 256 (1.6% to 6.1%) paired: -18.4 points (-23.1 to -13.6)" in page.text
    assert "before: 1.19 to 1.21" in page.text and "after: 1.13 to 1.15" in page.text
    assert "intervals over 256 prompts" in page.text and "another seed of training" in page.text
    first = "Of the 10 pairs on which its two orders disagree, it chose the video shown first of 1 (10.0%"
    assert first in page.text and "it favours the video shown second." in page.text
    assert re.search(r"Pairs kept 28 of 40 judged; orders agreed on 75.0%", page.text)
    assert re.search(r"Balance \+30 ", page.text)
    assert re.search(r"Generators busy 80% .*Learner waiting 50%", page.text)
    assert re.search(r"evaluation after 12 min 34 s", page.text)
    assert re.search(r"all 15 min 54 s", page.text)  # 40 + 60 + 100 + 754
    # Wilson's of 15 of 64, with t of 63 (1.998) in place of 1.960.
    assert re.search(
        r"human distorted, share of videos 23.4% \(14.6% to 35.4%\) 3.1% \(0.8% to 10.9%\) -20.3 points", page.text
    )
    assert "2 of 2 steps of 16 pairs" in page.text and "seed 7" in page.text
    assert "not complete" not in page.text


def test_pictures_write_the_same_figures_and_take_the_pages_colours(page, run):
    source = run.report_file.read_text()
    pictures = {Page(svg).text.strip(): svg for svg in re.findall(r"<svg.*?</svg>", source, re.DOTALL)}
    assert all(plots.INK not in svg and "currentColor" in svg for svg in pictures.values())
    titles = " ".join(pictures)
    for title in (
        "Loss",
        "Implicit accuracy",
        "Implicit rewards",
        "Drift",
        "Gradient norm before",
        "Implicit accuracy by noise level",
        "Gradient norm by noise level",
        "Drift by noise level",
        "Verdict mix",
        "Both orders",
    ):
        assert title in titles
    for title in (
        "the first is chosen",
        "paired difference",
        "Staleness",
        "Busy and waiting",
        "Seconds of a learner step",
        "by domain",
    ):
        assert title in titles
    rates = next(text for text in pictures if "Distorted" in text and "before" in text)
    assert "21.5%" in rates and "3.1%" in rates and "share of videos, 95% interval" in rates
    assert "80% busy" in next(text for text in pictures if "Busy and waiting" in text)


def test_videos_play_side_by_side_with_before_on_the_left(page):
    files = [base64.b64decode((video["src"] or "").removeprefix("data:video/mp4;base64,")) for video in page.videos]
    # 000-a became better and 000-b worse: both are shown first, apart from the others.
    expected = [f"video {phase} {name}" for name in ("000-a", "000-b", "001-a") for phase in ("before", "after")]
    assert re.search(r"Became better.*Became worse.*The other 1 of the first 3 held-out videos", page.text)
    assert [file.decode() for file in files] == expected
    assert all({"autoplay", "loop", "muted", "playsinline"} <= video.keys() for video in page.videos)
    assert "1 became better (green edge), 1 became worse (pink edge), 1 stayed as they were" in page.text
    captions = re.findall("\N{BALLOT X} distorted|\N{CHECK MARK} not distorted", page.text)
    clean = "not distorted"
    assert [caption[2:] for caption in captions] == ["distorted", clean, clean, "distorted", clean, clean]
    assert page.text.count("reason: splits") == 2 and page.text.count("motion 1.25") == 6


def test_the_config_is_there_in_full(page, run):
    assert run.config_file.read_text() in page.texts


def test_a_partial_run_says_so_and_shows_what_there_is(tmp_path):
    run = fake_run(tmp_path / "run", partial=True)
    page = Page(write_report(run.path).read_text())
    assert "This run is not complete:" in page.text
    assert "1 of 2 learner steps were done; there is no evaluation after training" in page.text
    assert "No conclusion" in page.text
    assert "after: not measured" in page.text
    assert len(page.videos) == 3 and page.texts.count("not made") == 3


def test_a_run_that_did_nothing_has_a_report_too(tmp_path):
    run = fake_run(tmp_path / "run")
    run.metrics_file.unlink()
    page = Page(write_report(run.path).read_text())
    assert "0 of 2 learner steps were done" in page.text
    assert page.text.count("Nothing to show:") == 5 and "No videos were kept." in page.text


def test_verdicts_of_a_run_that_was_killed_and_goes_on_are_counted_once(tmp_path):
    run = fake_run(tmp_path / "run", partial=True)  # killed after 20 verdicts
    counts = {"label_1": 0, "agreed": 0}
    with run.metrics_file.open("a") as file:
        for time, judged in ((160, 12), (170, 30)):  # the kill took 8 verdicts that were not committed yet
            counts = dict.fromkeys(counts, judged)
            file.write(
                json.dumps(verdicts(time=time, judged=judged, added=judged - 4, dropped_lost=4, **counts)) + "\n"
            )
    summary = write_summary(run.path, {})["verdicts"]
    assert (summary["counts"]["judged"], summary["counts"]["added"], summary["counts"]["label_1"]) == (30, 26, 30)
    assert (summary["agreement"], summary["position_bias"]) == (1.0, {})
    assert "Pairs kept 26 of 30 judged" in Page(write_report(run.path).read_text()).text


def test_an_offline_run_names_no_ranker_and_claims_no_verdict(tmp_path):
    run = fake_run(tmp_path / "run", meter=False)
    run.config_file.write_text(run.config_file.read_text().replace("kind: online", "kind: offline"))
    text = run.metrics_file.read_text().replace('"judged": 20', '"judged": 0').replace('"judged": 40', '"judged": 0')
    run.metrics_file.write_text(text)
    page = Page(write_report(run.path).read_text())
    assert "with pairs that people labelled" in page.text and "ranker(s)" not in page.text
    assert "Pairs kept" not in page.text and "Nothing to show: no verdict was recorded" in page.text


def test_stages_are_marked_in_the_curves(tmp_path):
    run = fake_run(tmp_path / "run")
    config = yaml.safe_load(run.config_file.read_text())
    config["stages"] = [{**config["stages"][0], "steps": 1}, {**config["stages"][0], "kind": "offline", "steps": 1}]
    run.config_file.write_text(yaml.safe_dump(config))
    rows = run.metrics_file.read_text().splitlines(keepends=True)
    of_second = [row.replace('"stage": 0', '"stage": 1') if '"step": 2' in row else row for row in rows]
    run.metrics_file.write_text("".join(of_second))
    page = Page(write_report(run.path).read_text())
    assert "judged by where/ranker and with pairs that people labelled" in page.text
    over_steps = 7  # loss, accuracy, rewards, drift, norm, staleness, seconds
    in_balance, in_the_stages = 1, 2 * 2  # two figures, each in a plot and in a table
    assert page.texts.count("online") == over_steps + in_balance
    assert page.texts.count("offline") == over_steps + in_the_stages


def test_without_a_meter_nothing_is_claimed(tmp_path):
    run = fake_run(tmp_path / "run", meter=False)
    page = Page(write_report(run.path).read_text())
    assert "No conclusion" in page.text and "became better" not in page.text
    assert len(page.videos) == 6 and page.text.count("not measured") >= 6


def test_no_file_from_outside_the_run_is_pulled_in(tmp_path):
    run = fake_run(tmp_path / "run")
    (tmp_path / "secret.mp4").write_bytes(b"secret")
    text = run.metrics_file.read_text().replace("videos/before/000-a.mp4", "../secret.mp4")
    run.metrics_file.write_text(text)
    page = Page(write_report(run.path).read_text())
    assert len(page.videos) == 5
    assert base64.b64encode(b"secret").decode() not in str(page.videos)


def test_what_is_too_large_is_named_not_embedded(tmp_path, monkeypatch):
    run = fake_run(tmp_path / "run")
    one_pair = len("video before 000-a") + len("video after 000-a")
    monkeypatch.setattr(report_videos, "EMBEDDED_BYTES", one_pair)
    page = Page(write_report(run.path).read_text())
    assert len(page.videos) == 2 and "2 more pairs are in videos/ , too large" in page.text


@pytest.mark.parametrize(
    ("value", "interval", "expected"),
    [
        (0.1, [0.02, 0.18], "rose from 20.0% to 30.0% of videos: +10.0 points (+2.0 to +18.0). That is worse"),
        (-0.1, [-0.18, -0.02], "fell from 20.0% to 10.0% of videos: -10.0 points (-18.0 to -2.0). That is better"),
        (
            0.1,
            [-0.01, 0.21],
            "went from 20.0% to 30.0% of videos: +10.0 points (-1.0 to +21.0). No difference can be claimed",
        ),
    ],
)
def test_the_conclusion_claims_no_more_than_the_paired_interval(value: float, interval: list[float], expected: str):
    before = {"value": 0.2, "interval": [0.1, 0.25], "count": 20, "of": 100}
    after = before | {"value": 0.2 + value}
    change = {"value": value, "interval": interval, "points": True, "rose": 20, "fell": 10, "of": 100}
    about = {"better": "lower", "unit": "of videos", "against": None}
    distorted = {"before": before, "after": after, "change": change, **about}
    assert expected in Page(WORDS.of_run({"distorted": distorted})).text
    assert "no difference can be told" in Page(WORDS.of_run({"distorted": distorted | {"change": None}})).text


def test_durations_are_written_for_people():
    assert [duration(s) for s in (0.04, 59.4, 59.7, 754, 3600 + 125)] == [
        "0.0 s",
        "59.4 s",
        "1 min 00 s",
        "12 min 34 s",
        "1 h 02 min",
    ]


def test_trailing_mean_looks_back_alone():
    assert plots.trailing_mean([1.0, 3.0, 5.0, 7.0], window=2) == [1.0, 2.0, 4.0, 6.0]
