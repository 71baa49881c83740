import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from buffers.records import TensorData
from buffers.store.pair_store import PairStore
from cluster import cli
from cluster.run_folder import Sampled
from configs.load import load_config
from policy.bundle import BundleFacts, check_bundle
from policy.lora.adapters import add_adapters, save_lora
from policy.skeleton import skeleton
from tests.buffers.samples import anchor, conditioning, pair, tensor

JUDGE = Path("examples/miniature/weights/judge").resolve()
CONFIG = """\
name: small
out: {folder}/run
model: {{path: {folder}/bundle, dtype: float32}}
prompts: {{train: {folder}/train.txt, max_characters: 30}}
sampling: {{steps: 10, guidance_scale: 2.0, num_frames: 9, height: 32, width: 32}}
ranker: {{path: {folder}/judge, frames: 8}}
evaluation: {{prompts: {folder}/held_out.txt}}
cluster: {{num_cpus: 3}}
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A config all of whose files are there; what the bundle is, is told, not read."""
    (tmp_path / "small.yaml").write_text(CONFIG.format(folder=tmp_path))
    (tmp_path / "train.txt").write_text("a red circle\nhuman\ta blue person\n")
    (tmp_path / "held_out.txt").write_text("a green square\n")
    (tmp_path / "judge").mkdir()
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        shutil.copy(JUDGE / name, tmp_path / "judge" / name)
    facts = BundleFacts(
        path=tmp_path / "bundle",
        pipeline="WanPipeline",
        experts=("transformer", "transformer_2"),
        boundary_ratio=0.875,
        patch=(1, 2, 2),
        vae_temporal=4,
        vae_spatial=8,
        scheduler="UniPCMultistepScheduler",
        flow_shift=3.0,
        num_train_timesteps=1000,
        channels=8,
        in_channels=8,
    )
    monkeypatch.setattr("cluster.checks.run.check_bundle", lambda path: facts)
    monkeypatch.setattr("cluster.checks.run.encoded_by", lambda facts, max_text_tokens: {"VAE": "mine"})
    monkeypatch.setattr("cluster.checks.model.check_model", lambda *given, **named: None)
    return tmp_path / "small.yaml"


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """`cluster.launch` as a list of the configs it was given; a test may put an error in its place."""
    given: list[Any] = []

    def run(checked: Any) -> Path:
        given.append(checked.config)
        return Path(checked.config.out)

    monkeypatch.setitem(sys.modules, "cluster.launch", SimpleNamespace(run=run))
    return given


def test_check_prints_plan_and_files(config: Path, launched: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", str(config), "stages.0.steps=7"]) == 0
    out, err = capsys.readouterr()
    assert "online: 7 steps" in out
    assert "8x3x4x4 in float32" in out  # the bundle's own channels, not the assumed 16
    assert "WanPipeline, transformer and transformer_2, flow shift 3" in out
    assert "prompts.train: 2 prompts" in out and "evaluation.prompts: 1 prompts" in out
    assert err == "" and launched == []


def test_check_prints_the_plan_and_then_every_problem(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("cluster.checks.run.check_bundle", check_bundle)  # the real one: there is no such folder
    (config.parent / "train.txt").write_text("fine\n\n")
    overrides = ["evaluation.prompts=absent.txt", "evaluation.meter=nowhere.to:be", "generator.num_actors=9"]
    assert cli.main(["check", str(config), *overrides]) == 2
    out, err = capsys.readouterr()
    assert "online: 300 steps" in out
    problems = err.splitlines()
    assert len(problems) == 5 and all(line.startswith("apogee: ") for line in problems)
    for text in (
        f"model.path: no folder {config.parent}/bundle",
        f"prompts.train = {config.parent}/train.txt: {config.parent}/train.txt, line 2: prompt = ''; want the text",
        "evaluation.prompts = absent.txt: no prompt file absent.txt",
        "evaluation.meter = nowhere.to:be: there is no module nowhere.to",
        "cluster.num_cpus = 3: the run does not fit",
    ):
        assert text in err


@pytest.mark.parametrize(
    ("file", "text", "right"),
    [
        ("config.json", '{"model_type": "llava"}', "model_type 'llava'"),
        ("config.json", "{", "config.json: not valid JSON"),
        ("config.json", None, "config.json is missing"),
        ("model.safetensors", None, "model.safetensors is missing: the folder is incomplete"),
        ("tokenizer.json", None, "has no tokenizer.json"),
        ("tokenizer.json", "{", "is no Qwen3-VL checkpoint folder (Exception("),
    ],
)
def test_a_ranker_that_cannot_be_served(
    config: Path, file: str, text: str | None, right: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = config.parent / "judge" / file
    path.unlink() if text is None else path.write_text(text)
    assert cli.main(["check", str(config)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("apogee: ranker.path: ") and right in line


def test_videos_that_do_not_fit_the_judges_context(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", str(config), "ranker.max_model_len=1024"]) == 0
    assert (
        cli.main(["check", str(config), "ranker.max_model_len=1024", "sampling.height=512", "sampling.width=512"]) == 2
    )
    (line,) = capsys.readouterr().err.splitlines()
    assert "ranker.max_model_len = 1024: a question about two videos of this size takes up to 20" in line


def test_a_store_of_people_that_cannot_serve_the_run(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Missing, of another bundle, or empty before the run is over."""
    people = config.parent / "people"
    overrides = ["stages.0.steps=10", "learner.pairs_per_step=4", "buffer.mix.online=0.75", "buffer.mix.offline=0.25"]
    overrides.append(f"buffer.offline={people}")
    assert cli.main(["check", str(config), *overrides]) == 2
    assert f"buffer.offline = {people}: no store" in capsys.readouterr().err
    store = PairStore(people, encoded_by={"VAE": "other"})
    store.append([pair(number) for number in range(4)], [conditioning(0)])
    store.close()
    assert cli.main(["check", str(config), *overrides]) == 2
    assert "was made with another VAE (other; the bundle's is mine)" in capsys.readouterr().err
    (people / "made_for.json").write_text('{"VAE": "mine"}')
    assert cli.main(["check", str(config), *overrides]) == 2
    assert "holds 4 pairs, which a stage may use 1 times" in capsys.readouterr().err
    assert cli.main(["check", str(config), *overrides, "buffer.max_uses=3"]) == 0
    alone = ["stages=[{kind: offline, steps: 2, learner: {pairs_per_step: 4}}]", f"buffer.offline={people}"]
    assert cli.main(["check", str(config), *alone]) == 2
    assert "2 steps of 4 pairs with buffer.mix.offline = 1 take 8" in capsys.readouterr().err
    larger = ["stages=[{kind: offline, steps: 2, learner: {pairs_per_step: 8}, buffer: {max_uses: 9}}]", alone[1]]
    assert cli.main(["check", str(config), *larger]) == 2
    assert "a step of 8 pairs with buffer.mix.offline = 1 takes 8 different ones" in capsys.readouterr().err
    assert cli.main(["check", str(config), *alone, "buffer.max_uses=2"]) == 0


def test_prompts_may_be_those_of_a_store(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = PairStore(config.parent / "people")
    store.append(conditionings=[conditioning(0), conditioning(1)])
    assert cli.main(["check", str(config), f"prompts.train={config.parent / 'people'}"]) == 0
    assert "prompts.train: 2 prompts" in capsys.readouterr().out
    framed = replace(conditioning(2), first_frame=TensorData("uint8", (2, 2, 3), np.zeros(12, np.uint8)))
    store.append(conditionings=[framed])
    store.close()
    assert cli.main(["check", str(config), f"prompts.train={config.parent / 'people'}"]) == 2
    assert "has a first frame; for videos of this bundle a first frame is not taken" in capsys.readouterr().err


def test_a_video_size_the_bundle_cannot_make(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["check", str(config), "sampling.height=48"]) == 0
    from cluster.checks import run as preflight

    facts = replace(preflight.check_bundle("bundle"), vae_spatial=16)
    monkeypatch.setattr("cluster.checks.run.check_bundle", lambda path: facts)
    assert cli.main(["check", str(config), "sampling.height=48"]) == 2
    assert "sampling.height = 48: must be a multiple of 32" in capsys.readouterr().err


def test_run_gives_the_config_to_launch(config: Path, launched: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", str(config), "seed=3"]) == 0
    (given,) = launched
    assert given.seed == 3
    assert f"{config.parent}/run/report.html" in capsys.readouterr().out


def test_run_starts_nothing_where_check_would_complain(
    config: Path, launched: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    (config.parent / "train.txt").unlink()
    assert cli.main(["run", str(config)]) == 2
    assert launched == []
    assert "prompts.train" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["check", "run"])
def test_a_bad_config_is_one_line_and_no_traceback(
    config: Path, command: str, launched: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([command, str(config), "learner.bta=3"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and launched == []
    assert err.splitlines() == [
        "apogee: override learner.bta: learner.bta = 3: unknown key; did you mean learner.beta?"
    ]


def failing(error: BaseException) -> SimpleNamespace:
    def run(checked: Any) -> Path:
        raise error

    return SimpleNamespace(run=run)


@pytest.mark.parametrize("error", [ValueError("sampling.steps = 5: too few"), FileExistsError("runs/x holds a run")])
def test_what_launch_refuses_is_told_without_a_traceback(
    config: Path, error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "cluster.launch", failing(error))
    assert cli.main(["run", str(config)]) == 2
    assert capsys.readouterr().err == f"apogee: {error}\n"


def test_a_failure_of_a_started_run_keeps_its_traceback(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    error = ValueError("checksum differs")
    error.add_note("the run was stopped; kept in ...")
    monkeypatch.setitem(sys.modules, "cluster.launch", failing(error))
    with pytest.raises(ValueError, match="checksum differs"):
        cli.main(["run", str(config)])


def test_ctrl_c_says_how_to_go_on(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "cluster.launch", failing(KeyboardInterrupt("kept in runs/x")))
    assert cli.main(["run", str(config)]) == 130
    assert capsys.readouterr().err == "apogee: kept in runs/x\n"


def test_ctrl_c_before_the_start_says_so(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "cluster.launch", failing(KeyboardInterrupt()))
    assert cli.main(["run", str(config)]) == 130
    assert capsys.readouterr().err == "apogee: stopped before anything was started\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["rank", "a.mp4", "b.mp4"],
        ["data", "ingest", "rows.jsonl", "--into", "store"],
        ["data", "inspect", "store"],
        ["data", "export", "store", "--out", "out"],
    ],
)
def test_nobodys_videos_meet_the_miniature_unasked(arguments: list[str], capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    assert stopped.value.code == 2 and "--config" in capsys.readouterr().err


def test_an_adapter_to_start_from_must_be_there(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    command = ["check", "configs/miniature.yaml", f"out={tmp_path / 'run'}", f"start_from={tmp_path}"]
    assert cli.main(command) == 2
    assert f"start_from = {tmp_path}: no adapter file" in capsys.readouterr().err
    file = tmp_path / "pytorch_lora_weights.safetensors"
    file.touch()
    assert cli.main(command) == 2
    assert f"start_from = {tmp_path}: " in capsys.readouterr().err
    transformers = {"transformer": skeleton(check_bundle("examples/miniature/weights/bundle"), "transformer")}
    lora = load_config("configs/miniature.yaml").learner.lora
    for transformer in transformers.values():
        transformer.to_empty(device="cpu")
    add_adapters(transformers, lora, seed=0)
    save_lora(tmp_path, transformers, lora)
    assert cli.main(command) == 0
    assert cli.main(["export", str(tmp_path), "--format", "comfyui", "--out", str(tmp_path / "theirs")]) == 0
    command[-1] = f"start_from={tmp_path / 'theirs' / 'theirs.safetensors'}"
    assert cli.main([*command, f"learner.lora.rank={lora.rank + 1}"]) == 0
    capsys.readouterr()
    assert cli.main([*command, f"learner.lora.rank={lora.rank - 1}"]) == 2
    assert f"theirs.safetensors: its rank is {lora.rank}, the model's is" in capsys.readouterr().err


def test_a_distilled_student_is_sampled_as_one_and_only_it_goes_where_one_is_expected(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    config = load_config("configs/miniature.yaml")
    transformers = {"transformer": skeleton(check_bundle(config.model.path), "transformer")}
    transformers["transformer"].to_empty(device="cpu")
    add_adapters(transformers, config.learner.lora, seed=0)
    adapters = {distilled: tmp_path / f"adapter{distilled}" for distilled in (True, False)}
    for distilled, adapter in adapters.items():
        save_lora(adapter, transformers, config.learner.lora)
        Sampled(distilled, config.sampling).write(adapter)
    command = ["check", "configs/miniature.yaml", f"out={tmp_path / 'run'}"]
    assert cli.main([*command, f"start_from={adapters[False]}"]) == 0
    assert cli.main([*command, f"start_from={adapters[True]}"]) == 2
    told = capsys.readouterr().err
    assert f"start_from = {adapters[True]}: is a distilled student" in told and "sampling.guidance_scale=1" in told
    assert cli.main([*command, f"start_from={adapters[True]}", "sampling.guidance_scale=1"]) == 0
    second = ["stages=[{kind: distill, steps: 4}, {kind: online, steps: 4}]", "first_stage=1"]
    assert cli.main([*command, f"start_from={adapters[True]}", *second]) == 0
    assert cli.main([*command, f"start_from={adapters[False]}", *second]) == 2
    assert "no distillation made this adapter, and stage 1 comes after one" in capsys.readouterr().err


def test_the_best_adapter_is_chosen_by_a_figure_that_there_is(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    command = ["check", "configs/miniature.yaml", f"out={tmp_path / 'run'}", "evaluation.every=20"]
    assert cli.main([*command, "evaluation.best=distorted"]) == 0
    capsys.readouterr()
    assert cli.main([*command, "evaluation.best=beauty"]) == 2
    assert "evaluation.best = beauty: the figures are distorted, motion, obeyed" in capsys.readouterr().err


def test_two_gpus_for_one_process_are_refused(capsys: pytest.CaptureFixture[str]):
    more = ["generator.gpus_per_actor=2", "learner.gpus_per_worker=1.5", "cluster.num_cpus=null"]
    assert cli.main(["check", "configs/miniature.yaml", *more]) == 2
    told = capsys.readouterr().err
    assert (
        "generator.gpus_per_actor = 2: one process uses" in told
        and "learner.gpus_per_worker = 1.5: one process" in told
    )


def test_a_store_of_anchors_that_cannot_serve_the_run(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Missing, without a polarity, of another size, or without an anchor for a prompt; all before anything starts."""
    place = config.parent / "anchors"
    overrides = ["stages=[{kind: half_online, steps: 2}]", f"buffer.anchors={place}"]

    def refused(*more: str) -> str:
        assert cli.main(["check", str(config), *overrides, *more]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    assert f"buffer.anchors = {place}: no store" in refused()
    store = PairStore(place)
    store.append(anchors=[anchor(0)], conditionings=[conditioning(0)])
    assert "holds no negative anchor; 0.4 of all are to be such" in refused()
    assert "holds anchors with latents [4, 3, 2, 2]" in refused("buffer.positive_share=1")
    store.close()
    shutil.rmtree(place)
    store = PairStore(place)
    fitting = replace(anchor(0), latents=tensor(0, shape=(8, 3, 4, 4)))
    store.append(anchors=[fitting], conditionings=[conditioning(0)])
    store.close()
    line = refused("buffer.positive_share=1")
    assert "holds no anchor for" in line and "the first is" in line and "buffer.without_anchor: skip" in line
    skipping = [*overrides, "buffer.positive_share=1", "buffer.without_anchor=skip"]
    assert cli.main(["check", str(config), *skipping]) == 0
