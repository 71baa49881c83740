"""The real judge scored on video files, from the command line to the report."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from cluster import cli
from examples.miniature.world import FPS, draw_any, render
from media.video_write import write_mp4


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
    assert "1a.mp4: not a video" in refused()
