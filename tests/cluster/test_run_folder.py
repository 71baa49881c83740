import errno
import fcntl
import os
import shutil
from pathlib import Path

import pytest
import yaml

from cluster.checks.out_folder import check_disk, check_writable, goes_on, needed_bytes
from cluster.checks.plan import plan
from cluster.run_folder import RunFolder
from configs.schema import RunConfig


def small_config(out: Path, **sections) -> RunConfig:
    return RunConfig.model_validate(
        {
            "name": "small",
            "out": str(out),
            "model": {"path": "model", "dtype": "float32"},
            "prompts": {"train": "train.txt"},
            "ranker": {"path": "ranker", "frames": 9},
            "evaluation": {"prompts": "held_out.txt", "videos": 8, "shown_videos": 2},
            "sampling": {"num_frames": 9, "height": 32, "width": 32},
            **sections,
        }
    )


def created(path: Path, config: RunConfig) -> RunFolder:
    """What a run does first, into `path`."""
    config = config.model_copy(update={"out": str(path)})
    assert not goes_on(config)
    check_writable(config.out)
    check_disk(plan(config), conditions=10)
    folder = RunFolder(path)
    folder.begin(config)
    return folder


def estimated(config: RunConfig, *, conditions: int = 0) -> int:
    return needed_bytes(plan(config), conditions=conditions)


def usage(free: int):
    return shutil._ntuple_diskusage(2**50, 2**50 - free, free)  # type: ignore[attr-defined]


def test_create_writes_the_resolved_config_and_the_folders(tmp_path):
    config = small_config(tmp_path / "runs" / "run")
    folder = created(tmp_path / "runs" / "run", config)

    assert RunConfig.model_validate(yaml.safe_load(folder.config_file.read_text())) == config
    assert yaml.safe_load(folder.config_file.read_text())["buffer"]["max_staleness"] == 1  # a default, written out
    for subfolder in (folder.logs, folder.videos, folder.buffer, folder.checkpoints, folder.tracker):
        assert subfolder.is_dir() and subfolder.parent == folder.path
    assert folder.path == tmp_path / "runs" / "run"
    assert [folder.metrics_file.name, folder.summary_file.name, folder.report_file.name, folder.adapter.name] == [
        "metrics.jsonl",
        "summary.json",
        "report.html",
        "adapter",
    ]


def test_a_folder_that_holds_a_run_is_refused_and_kept(tmp_path):
    first = created(tmp_path / "run", small_config(tmp_path / "run"))
    first.metrics_file.write_text("a row\n")
    before = first.config_file.read_bytes()

    with pytest.raises(FileExistsError, match=r"already holds a run .*config\.yaml.*out=.*run-2"):
        created(tmp_path / "run", small_config(tmp_path / "other", name="another"))

    assert first.config_file.read_bytes() == before
    assert first.metrics_file.read_text() == "a row\n"


def test_one_leftover_of_a_run_is_enough_to_refuse(tmp_path):
    (tmp_path / "buffer").mkdir()
    with pytest.raises(FileExistsError, match="buffer"):
        created(tmp_path, small_config(tmp_path))


def test_a_folder_with_other_things_is_fine(tmp_path):
    (tmp_path / "lost+found").mkdir()
    assert created(tmp_path, small_config(tmp_path)).config_file.is_file()


def test_no_write_permission_names_the_path(tmp_path):
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    tmp_path.chmod(0o755)
    root = os.geteuid() == 0
    if root:  # root may write anywhere: be nobody for a moment
        os.seteuid(65534)
    try:
        with pytest.raises(PermissionError, match=r"out=.*locked.run: cannot write in /.*choose a folder"):
            created(locked / "run", small_config(locked))
    finally:
        if root:
            os.seteuid(0)
    assert list(locked.iterdir()) == []


def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "taken").write_text("not a folder")
    with pytest.raises(NotADirectoryError, match=r"taken is a file"):
        created(tmp_path / "taken" / "run", small_config(tmp_path))


def test_too_little_disk_names_the_path_what_is_free_and_what_is_needed(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(free=3 * 2**30 // 2))
    big = small_config(tmp_path, sampling={}, model={"path": "model"})
    with pytest.raises(OSError, match=r"out=.*has 1\.5 GiB free and this run needs about 1\d\d\.\d GiB"):
        created(tmp_path / "run", big)
    assert not (tmp_path / "run").exists()
    assert created(tmp_path / "run", small_config(tmp_path)).path.is_dir()  # the small one fits


def test_estimate_is_that_of_the_design_page(tmp_path):
    # DESIGN section 8: one video of 121 frames of 720x960 is 10.7 MB of bf16 latents.
    stage = {"kind": "online", "steps": 1}
    paper = dict(sampling={}, model={"path": "m"}, stages=[stage], evaluation={"prompts": "p", "shown_videos": 1})
    one = estimated(small_config(tmp_path, **paper, learner={"pairs_per_step": 1}))
    two = estimated(small_config(tmp_path, **paper, learner={"pairs_per_step": 2}))
    assert (two - one) / 1.25 / 2 == pytest.approx(10.7e6, rel=0.01)


def test_estimate_reuses_pairs_and_counts_all_stages(tmp_path):
    unseen = {"prompts": "held_out.txt", "videos": 8, "shown_videos": 0, "meter": "some.meter:figures"}

    def pairs_bytes(max_uses: int = 1, evaluation: dict = unseen, **sections) -> int:
        buffer = {"capacity": 16, "max_uses": max_uses}
        return estimated(small_config(tmp_path, buffer=buffer, evaluation=evaluation, **sections))

    def stage(steps: int) -> dict:
        return {"kind": "online", "steps": steps}

    one, both = pairs_bytes(stages=[stage(30)]), pairs_bytes(stages=[stage(10), stage(20)])
    assert one == both
    reused = pairs_bytes(max_uses=2, stages=[stage(30)])
    # 240 pairs fewer: 240 * 2 videos * (16 channels * 3 frames * 4 * 4 * 4 bytes)
    assert one - reused == pytest.approx(1.25 * 240 * 2 * 16 * 3 * 4 * 4 * 4)
    # Eight videos are kept of the evaluation before, and of that after each of the two stages.
    kept = pairs_bytes(evaluation=unseen | {"shown_videos": 8}, stages=[stage(10), stage(20)])
    assert kept - both == pytest.approx(1.25 * 3 * 8 * 9 * 32 * 32 * 0.1, abs=2)


def test_prompt_embeddings_count_once_for_each_condition(tmp_path):
    """512 tokens of 4,096 numbers: 4.2 MB in bfloat16, 64,000 conditions of the paper 268 GB."""
    paper = small_config(tmp_path, sampling={}, model={"path": "m"}, stages=[{"kind": "online", "steps": 1000}])
    none, some, all_of_them = (estimated(paper, conditions=count) for count in (0, 100, 10**6))
    assert (some - none) / 1.25 / 100 == pytest.approx(512 * 4096 * 2)
    pairs = plan(paper).training_videos / 2 + paper.buffer.capacity
    assert (all_of_them - none) / 1.25 == pytest.approx(pairs * 512 * 4096 * 2)  # no more conditions than pairs


def test_a_file_system_without_locks_is_refused_by_the_checks_and_by_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def without_locks(file: object, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "lockf", without_locks)
    out = tmp_path / "run"
    with pytest.raises(OSError, match=f"out={out}: the file system has no locks .*, which SQLite needs"):
        check_writable(str(out))
    assert not list(tmp_path.iterdir())
    with pytest.raises(OSError, match=f"out={out}: the file system has no locks"), RunFolder(out).driven():
        pytest.fail("two drivers could drive this run")
