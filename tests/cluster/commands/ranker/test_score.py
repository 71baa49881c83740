"""The real judge scored on video files, from the command line to the report."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import yaml

from cluster import cli
from examples.miniature.world import FPS, draw_any, render
from media.video_write import write_mp4
from ranker.questions import Question
from ranker.ranker import Ranker
from ranker.verdict import Reading
from tests.cluster.commands.ranker.videos import damaged, manifest, video
from tests.ranker.test_ranker import BrightnessJudge


def held_out(folder: Path, pairs: int) -> Path:
    """Drawn pairs, one of each distorted; the clean one first in half of them."""
    rng = np.random.default_rng(5)
    rows = []
    while len(rows) < pairs:
        clean, bad = draw_any(rng), draw_any(rng, True)
        if clean.domain != bad.domain:
            continue
        names = [f"{len(rows)}{side}.mp4" for side in "ab"]
        order = (clean, bad) if len(rows) % 2 else (bad, clean)
        for name, scene in zip(names, order, strict=True):
            write_mp4(folder / name, render(scene), fps=FPS)
        label = 1 if order[0] is clean else 2
        rows.append({"a": names[0], "b": names[1], "domain": clean.domain, "label": label, "criterion": bad.distortion})
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder / "pairs.jsonl"


def config_file(folder: Path, pairs: Path) -> Path:
    given = yaml.safe_load(Path("configs/ranker/miniature-score.yaml").read_text())
    given |= {"out": str(folder / "out"), "pairs": str(pairs)}
    (folder / "scores.yaml").write_text(yaml.safe_dump(given))
    return folder / "scores.yaml"


@pytest.mark.vllm
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_judge_is_scored_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = config_file(tmp_path, held_out(tmp_path, 40))
    assert cli.main(["ranker", "score", str(config)]) == 0
    assert f"done: {tmp_path}/out/report.html" in capsys.readouterr().out
    figures = json.loads((tmp_path / "out" / "figures.json").read_text())
    rows = [json.loads(line) for line in (tmp_path / "out" / "scores.jsonl").read_text().splitlines()]
    assert len(rows) == figures["pairs"] == 40
    right = sum((row["verdict"]["label"] in (1, 3)) == (row["right"][0] in (1, 3)) for row in rows)
    assert figures["overall"]["by_video"]["count"] == right
    assert right >= 32  # by luck alone fewer than one time in ten thousand
    assert set(figures["by_criterion"]) <= {"vanish", "teleport", "melt", "split"}
    assert "Where it is wrong" in (tmp_path / "out" / "report.html").read_text()

    assert cli.main(["ranker", "score", str(config)]) == 2  # what is there is not written over
    assert "holds a report already" in capsys.readouterr().err


def test_what_is_wrong_is_said_before_the_engine_is_started(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.commands.ranker.score.Ranker", lambda *a: pytest.fail("the engine was started"))
    pairs = held_out(tmp_path, 3)
    config = config_file(tmp_path, pairs)

    def refused(*overrides: str) -> str:
        assert cli.main(["ranker", "score", str(config), *overrides]) == 2
        assert not (tmp_path / "out").exists()
        return capsys.readouterr().err

    assert "no folder nowhere" in refused("ranker.path=nowhere")
    assert "ranker.adapters.human" in refused(f"ranker.adapters.human={tmp_path}")
    assert "unknown key; did you mean ranker.frames?" in refused("ranker.frame=9")
    (tmp_path / "1a.mp4").write_bytes(b"")
    assert "1a.mp4: is empty" in refused()


class Stopping(BrightnessJudge):
    """Somebody presses Ctrl-C at its second call."""

    def ask(self, questions: Sequence[Question]) -> list[Reading]:
        if self.calls:
            raise KeyboardInterrupt
        return super().ask(questions)


@pytest.fixture
def judged_by(monkeypatch: pytest.MonkeyPatch) -> Callable[[BrightnessJudge], BrightnessJudge]:
    """Makes a judge the one that is started."""

    def start(judge: BrightnessJudge) -> BrightnessJudge:
        made = lambda config: Ranker(config, open_judge=lambda config: judge)  # noqa: E731
        monkeypatch.setattr("cluster.commands.ranker.score.Ranker", made)
        return judge

    return start


def scored_pairs(folder: Path) -> list[tuple[str, str]]:
    rows = [json.loads(line) for line in (folder / "out" / "scores.jsonl").read_text().splitlines()]
    return [(Path(row["a"]).name, Path(row["b"]).name) for row in rows]


def drawn(folder: Path, count: int) -> list[tuple[Path, Path]]:
    """Pairs of small videos; the first is the brighter one."""
    levels = [(video(folder / f"{i}a.mp4", level=200 - i), video(folder / f"{i}b.mp4", level=20 + i)) for i in range(3)]
    return [levels[number % 3] for number in range(count)]


@pytest.mark.parametrize(
    ("shape", "says"), [((480, 832), r"takes \d,\d+ tokens"), ((8, 1800), "cannot read frames of 1800 x 8")]
)
def test_a_pair_that_the_judge_does_not_take_is_known_before_the_engine_is_started(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], judged_by: Callable, shape: tuple[int, int], says: str
) -> None:
    judge, pairs = judged_by(BrightnessJudge()), drawn(tmp_path, 20)
    pairs.insert(17, (video(tmp_path / "odd.mp4", height=shape[0], width=shape[1]), pairs[0][1]))
    config = config_file(tmp_path, manifest(tmp_path, *pairs))
    assert cli.main(["ranker", "score", str(config)]) == 2
    refused = capsys.readouterr().err
    assert re.search(rf"odd\.mp4 \({shape[1]} x {shape[0]}\) and .*0b\.mp4 \(32 x 32\): .*{says}", refused), refused
    assert judge.calls == [] and not (tmp_path / "out").exists()

    assert cli.main(["ranker", "score", str(config), "skip_bad_rows=true"]) == 0
    assert re.search(rf"left out: .*odd\.mp4.*{says}", capsys.readouterr().out)
    figures = json.loads((tmp_path / "out" / "figures.json").read_text())
    (why,) = figures["left_out"]
    assert figures["pairs"] == 20 == len(scored_pairs(tmp_path)) and re.search(says, why)
    assert "1 bad rows, files or pairs were left out" in (tmp_path / "out" / "report.html").read_text()


def test_a_file_that_is_damaged_inside_costs_its_pair_and_nothing_is_asked_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], judged_by: Callable
) -> None:
    first, pairs = judged_by(BrightnessJudge()), drawn(tmp_path, 20)
    pairs.insert(17, (damaged(tmp_path / "bad.mp4"), pairs[0][1]))
    config = config_file(tmp_path, manifest(tmp_path, *pairs))
    assert cli.main(["ranker", "score", str(config)]) == 2
    printed = capsys.readouterr()
    assert "left out: " in printed.out and "1 of 21 pairs cannot be judged" in printed.err
    assert "bad.mp4: " in printed.err and "skip_bad_rows=true" in printed.err
    assert scored_pairs(tmp_path) == [(a.name, b.name) for a, b in pairs if a.name != "bad.mp4"]
    assert sum(map(len, first.calls)) == 40 and not (tmp_path / "out" / "report.html").exists()

    second = judged_by(BrightnessJudge())
    assert cli.main(["ranker", "score", str(config), "skip_bad_rows=true"]) == 0
    assert sum(map(len, second.calls)) == 0
    figures = json.loads((tmp_path / "out" / "figures.json").read_text())
    assert figures["pairs"] == 20 and len(figures["left_out"]) == 1
    assert figures["overall"]["by_video"]["count"] == 20  # the brighter one is the better one


def test_a_stopped_scoring_goes_on_and_ends_as_if_never_stopped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], judged_by: Callable
) -> None:
    pairs = drawn(tmp_path, 40)
    config = config_file(tmp_path, manifest(tmp_path, *pairs))
    judged_by(BrightnessJudge())
    assert cli.main(["ranker", "score", str(config), f"out={tmp_path / 'undisturbed'}"]) == 0
    judged_by(Stopping())
    assert cli.main(["ranker", "score", str(config)]) == 130
    assert "keeps what was judged, and the same command goes on" in capsys.readouterr().err
    rows = tmp_path / "out" / "scores.jsonl"
    whole = rows.read_text()
    assert whole.count("\n") == 16
    rows.write_text(whole + whole.splitlines()[0][:70])  # as a kill in the middle of a row leaves it

    another = ["ranker", "score", str(config), "ranker.frames=5"]
    assert cli.main(another) == 2
    refused = capsys.readouterr().err
    assert "verdicts of another judge or config: ranker.frames = 9 there, 5 now." in refused
    last = judged_by(BrightnessJudge())
    assert cli.main(["ranker", "score", str(config)]) == 0
    assert sum(map(len, last.calls)) == 2 * (40 - 16)
    for name in ("scores.jsonl", "figures.json"):
        assert (tmp_path / "out" / name).read_text() == (tmp_path / "undisturbed" / name).read_text()


def test_verdicts_of_an_unknown_judge_are_not_gone_on_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], judged_by: Callable
) -> None:
    judge = judged_by(BrightnessJudge())
    config = config_file(tmp_path, manifest(tmp_path, *drawn(tmp_path, 2)))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "scores.jsonl").write_text('{"a": "1.mp4"}\n')
    assert cli.main(["ranker", "score", str(config)]) == 2
    assert "rubric = None there, '2' now" in capsys.readouterr().err
    assert judge.calls == [] and (tmp_path / "out" / "scores.jsonl").read_text() == '{"a": "1.mp4"}\n'
