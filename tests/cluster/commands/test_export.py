# pyright: reportPrivateImportUsage=false
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from cluster import cli
from cluster.run_folder import Sampled
from configs.sections import LoraConfig, SamplingConfig
from policy.bundle import check_bundle
from policy.conditioning import Conditioning
from policy.lora.adapters import load_lora, policy_parameters, save_lora
from policy.lora.files import LORA_FILE
from policy.policy import VideoPolicy
from policy.sampler import draw_noise, sample_latents

PROMPT, NEGATIVE, TOKENS, STEPS = "a red circle", "bad blurry video", 16, 4
LORA = LoraConfig(rank=4, alpha=6)
STUDENT = Sampled(distilled=True, sampling=SamplingConfig(steps=STEPS, guidance_scale=1.0))
STAGES = ["1-online", "2-half_online", "3-distill"]

PLAIN_DIFFUSERS = """
import json, sys, torch
from diffusers import WanPipeline
from safetensors.torch import load_file, save_file
for job in json.loads(sys.argv[1]):
    pipe = WanPipeline.from_pretrained(job["bundle"], dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    for second, file in enumerate(job["files"]):
        pipe.load_lora_weights(file, **({"load_into_transformer_2": True} if second else {}))
    video = pipe(job["prompt"], job["negative"], height=32, width=32, num_frames=9, num_inference_steps=job["steps"],
        guidance_scale=job["guidance_scale"], latents=load_file(job["noise"])["noise"], output_type="pt",
        max_sequence_length=job["tokens"]).frames
    save_file({"video": video.contiguous()}, job["video"])
ours = {"actors", "buffers", "cluster", "configs", "learner", "policy", "ranker"} & set(sys.modules)
assert not ours, ours
"""


def load(bundle: Path, lora: LoraConfig | None = LORA) -> VideoPolicy:
    return VideoPolicy.load(bundle, dtype="float32", lora=lora, max_text_tokens=TOKENS)


def noise(policy: VideoPolicy) -> torch.Tensor:
    return draw_noise(3, policy.facts.latent_shape(9, 32, 32))[None]


@torch.no_grad()
def video(policy: VideoPolicy, *, guidance_scale: float) -> torch.Tensor:
    """float32 `[1, frames, 3, height, width]` between 0 and 1, before it is rounded to bytes."""
    latents = sample_latents(
        policy,
        noise=noise(policy),
        conditioning=Conditioning(policy.encode_prompts([PROMPT])),
        negative=Conditioning(policy.encode_prompts([NEGATIVE])),
        sampling=SamplingConfig(steps=STEPS, guidance_scale=guidance_scale),
    )
    mean, std = policy._latent_statistics
    return (policy.vae.decode(latents * std + mean, return_dict=False)[0] / 2 + 0.5).clamp(0, 1).permute(0, 2, 1, 3, 4)


def save_run(run: Path, bundle: Path) -> Path:
    """A run's folder after three stages, each with an adapter of its own; the last one's is that of a student."""
    policy = load(bundle)
    for number, stage in enumerate(STAGES):
        generator = torch.Generator().manual_seed(number)
        for _, parameter in policy_parameters(policy.transformers):
            parameter.data.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
        save_lora(run / "adapters" / stage, policy.transformers, LORA)
    STUDENT.write(run / "adapters" / STAGES[-1])
    shutil.copytree(run / "adapters" / STAGES[-1], run / "adapter")
    (run / "config.yaml").write_text(yaml.safe_dump({"name": "x", "model": {"path": str(bundle)}}))
    return run


@pytest.fixture(scope="module", params=[1, 2], ids=["one expert", "two experts"])
def run(
    request: pytest.FixtureRequest,
    tiny_bundle: Path,
    tiny_bundle_two_experts: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A run of each kind of bundle; `run.parent / "bundle"` is its base. Do not write to it."""
    folder = tmp_path_factory.mktemp("export")
    (folder / "bundle").symlink_to(tiny_bundle if request.param == 1 else tiny_bundle_two_experts)
    return save_run(folder / "first", folder / "bundle")


def base_of(run: Path) -> Path:
    return (run.parent / "bundle").resolve()


def exported(place: Path, kind: str, out: Path, *more: str) -> Path:
    assert cli.main(["export", str(place), "--format", kind, "--out", str(out), *more]) == 0
    return out


@pytest.mark.slow
def test_every_stages_adapter_gives_its_video_in_a_clean_process(run: Path, tmp_path: Path):
    """Diffusers' copy, ComfyUI's keys and the merged pipeline, of three stages: the same video within 1e-4."""
    policy, base = load(base_of(run)), load(base_of(run), lora=None)
    save_file({"noise": noise(policy)}, tmp_path / "noise.safetensors")
    jobs: list[dict[str, Any]] = []
    wanted: list[torch.Tensor] = []
    for stage in STAGES:
        guidance_scale = STUDENT.sampling.guidance_scale if "distill" in stage else 3.0
        load_lora(run / "adapters" / stage, policy.transformers)
        ours = video(policy, guidance_scale=guidance_scale)
        assert (ours - video(base, guidance_scale=guidance_scale)).abs().max() > 0.05
        out = {kind: tmp_path / kind / stage for kind in ("diffusers", "comfyui", "merged")}
        for kind, folder in out.items():
            exported(run / "adapters" / stage, kind, folder)
        adapter = [str(out["diffusers"]), str(out["diffusers"] / "transformer_2")][: len(policy.transformers)]
        comfyui = sorted(map(str, out["comfyui"].glob("*.safetensors")))
        assert len(comfyui) == len(adapter)
        for kind, files in (("diffusers", adapter), ("comfyui", comfyui), ("merged", [])):
            wanted.append(ours)
            jobs.append(
                {
                    "bundle": str(out["merged"] if kind == "merged" else base_of(run)),
                    "files": files,
                    "prompt": PROMPT,
                    "negative": NEGATIVE,
                    "tokens": TOKENS,
                    "steps": STEPS,
                    "guidance_scale": guidance_scale,
                    "noise": str(tmp_path / "noise.safetensors"),
                    "video": str(tmp_path / f"{stage}-{kind}.safetensors"),
                }
            )
    started = [sys.executable, "-c", PLAIN_DIFFUSERS, json.dumps(jobs)]
    answer = subprocess.run(started, cwd=tmp_path, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr[-3000:]
    for job, ours in zip(jobs, wanted, strict=True):
        torch.testing.assert_close(load_file(job["video"])["video"], ours, atol=1e-4, rtol=0)


def test_the_merged_folder_is_the_bundle_but_for_its_transformers(run: Path, tmp_path: Path):
    base, (kept, *_) = base_of(run), (facts := check_bundle(base_of(run))).experts
    (tmp_path / "base").mkdir()
    shutil.copytree(base, tmp_path / "base", dirs_exist_ok=True)
    for name in (".cache/lock", "transformer/diffusion_pytorch_model.fp16.safetensors"):
        (tmp_path / "base" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "base" / name).touch()
    before = {file: file.read_bytes() for file in (tmp_path / "base").rglob("*") if file.is_file()}
    out = exported(run, "merged", tmp_path / "out", "--model", str(tmp_path / "base"))
    assert replace(check_bundle(out), path=base) == facts
    names = {str(file.relative_to(out)) for file in out.rglob("*") if file.is_file()}
    assert names == {str(file.relative_to(base)) for file in base.rglob("*") if file.is_file()} | {"sampling.json"}
    weights = {f"{expert}/diffusion_pytorch_model.safetensors" for expert in facts.experts}
    for name in names - weights - {"sampling.json"}:
        assert (out / name).read_bytes() == (base / name).read_bytes()
    for name in weights:
        fused, was = load_file(out / name), load_file(base / name)
        assert {key: tensor.dtype for key, tensor in fused.items()} == {key: t.dtype for key, t in was.items()}
        changed = {key.removesuffix(".weight") for key, tensor in fused.items() if not torch.equal(tensor, was[key])}
        adapted = load_file(run / "adapter" / name.replace("transformer/", "").replace(*RENAMED))
        assert changed == {key.split(".lora_")[0].removeprefix("transformer.") for key in adapted}
    (out / "scheduler" / "scheduler_config.json").write_text("edited")
    (out / kept / "config.json").write_text("edited")
    assert before == {file: file.read_bytes() for file in (tmp_path / "base").rglob("*") if file.is_file()}


RENAMED = ("diffusion_pytorch_model.safetensors", LORA_FILE)


def test_a_bundle_in_shards_is_merged_shard_by_shard(tiny_bundle: Path, tmp_path: Path):
    base = tmp_path / "base"
    shutil.copytree(tiny_bundle, base)
    whole = load(tiny_bundle, lora=None).transformers["transformer"]
    shutil.rmtree(base / "transformer")
    whole.save_pretrained(base / "transformer", max_shard_size="30KB")
    shards = sorted(file.name for file in (base / "transformer").glob("*.safetensors"))
    assert len(shards) > 2
    run = save_run(tmp_path / "run", base)
    out = exported(run, "merged", tmp_path / "out")
    assert sorted(file.name for file in (out / "transformer").glob("*.safetensors")) == shards
    merged = load(out, lora=None).transformers["transformer"].state_dict()
    save_run(tmp_path / "other", tiny_bundle)
    one_file = load(exported(tmp_path / "other", "merged", tmp_path / "one"), lora=None)
    assert all(
        torch.equal(merged[key], tensor) for key, tensor in one_file.transformers["transformer"].state_dict().items()
    )


def test_a_run_starts_from_what_was_written_for_comfyui(run: Path, tmp_path: Path):
    """The folder with a file an expert gives back the run's adapter, bit for bit."""
    out = exported(run, "comfyui", tmp_path / "mine")
    files = sorted(file.name for file in out.glob("*.safetensors"))
    two = ["mine_high_noise.safetensors", "mine_low_noise.safetensors"]
    assert files == (["mine.safetensors"] if len(check_bundle(base_of(run)).experts) == 1 else two)
    first, second = load(base_of(run)), load(base_of(run))
    load_lora(run / "adapter", first.transformers)
    load_lora(out, second.transformers)
    for (name, one), (_, other) in zip(
        policy_parameters(first.transformers), policy_parameters(second.transformers), strict=True
    ):
        assert torch.equal(one, other), name


@pytest.mark.parametrize("kind", ["diffusers", "comfyui", "merged"])
def test_how_it_is_loaded_and_sampled_is_said_and_goes_along(
    run: Path, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = exported(run, kind, tmp_path / "out")
    told = capsys.readouterr().out
    assert told.endswith(
        "; sample it with guidance_scale 1 in 4 steps, for guidance is in it already (sampling.json has the rest)\n"
    )
    two = len(check_bundle(base_of(run)).experts) == 2
    assert told.startswith({"comfyui": "done: put it into ComfyUI's models/loras"}.get(kind, "done: load it with "))
    assert ("transformer_2" in told) == (two and kind == "diffusers") and (f'("{out}")' in told) == (kind != "comfyui")
    assert Sampled.read(out) == STUDENT
    out = exported(run / "adapters" / STAGES[0], kind, tmp_path / "online")
    assert "sample" not in capsys.readouterr().out and not (out / "sampling.json").exists()


def test_what_cannot_be_exported_is_refused_before_anything_is_written(
    run: Path, tiny_bundle: Path, tiny_bundle_two_experts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    def refused(place: Path, kind: str = "merged", *more: str, out: Path = tmp_path / "out") -> str:
        before = sorted(tmp_path.rglob("*"))
        assert cli.main(["export", str(place), "--format", kind, "--out", str(out), *more]) == 2
        assert sorted(tmp_path.rglob("*")) == before
        return capsys.readouterr().err

    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    assert f"--out {tmp_path / 'full'}: there is something" in refused(run, out=tmp_path / "full")
    assert f"--out {tmp_path / 'full/mine.txt'}: there" in refused(run, out=tmp_path / "full" / "mine.txt")
    assert f"{tmp_path / 'full'}: neither a run's folder" in refused(tmp_path / "full")
    assert "neither a run's folder" in refused(tmp_path / "nowhere")
    shutil.copytree(run, tmp_path / "early")
    shutil.rmtree(tmp_path / "early" / "adapter")
    assert f"{tmp_path / 'early' / 'adapter'} holds no adapter: the run has not ended" in refused(tmp_path / "early")
    shutil.copytree(run / "adapter", tmp_path / "alone")
    assert "lies in no run's folder: name the base that it was made for with --model" in refused(tmp_path / "alone")
    (tmp_path / "config.yaml").write_text("model: here")
    assert f"{tmp_path / 'config.yaml'}: not a run's config" in refused(tmp_path / "alone")
    one = len(check_bundle(base_of(run)).experts) == 1
    other = tiny_bundle_two_experts if one else tiny_bundle
    assert "the adapter is for transformer" in refused(run, "merged", "--model", str(other))
    assert "no folder" in refused(run, "merged", "--model", str(tmp_path / "nowhere"))
    if one:
        wide = load_file(run / "adapter" / LORA_FILE)
        save_file(wide | {key: tensor.repeat(1, 2) for key, tensor in wide.items() if "lora_A" in key}, tmp_path / "w")
        assert "the adapter does not fit: it changes " in refused(tmp_path / "w", "merged", "--model", str(tiny_bundle))
        assert "this one is another tool's" in refused(tmp_path / "w", "diffusers")
    (tmp_path / "early" / "adapter").mkdir()
    (tmp_path / "early" / "adapter" / LORA_FILE).write_bytes(b"half of a file")
    assert "is not a whole safetensors file" in refused(tmp_path / "early", "diffusers")


def test_nothing_is_left_of_an_export_that_fails(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*given: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cluster.commands.export.fuse", full)
    assert cli.main(["export", str(run), "--format", "merged", "--out", str(tmp_path / "a" / "out")]) == 2
    assert not any((tmp_path / "a").iterdir())


def test_an_empty_folder_may_be_the_one_to_write(run: Path, tmp_path: Path):
    (tmp_path / "out").mkdir()
    assert (exported(run, "diffusers", tmp_path / "out") / LORA_FILE).is_file()
