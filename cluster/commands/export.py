"""What `apogee export` writes: an adapter for diffusers or for ComfyUI, or its base with the adapter in its weights.

`templates/export.txt` says how it is used.
"""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import yaml

from cluster.checks.out_folder import check_new
from cluster.commands.check import TEMPLATES
from cluster.report.summary import read_config
from cluster.run_folder import RunFolder, Sampled
from media.whole import whole_folder
from policy.bundle import BundleFacts, check_bundle, weights_of
from policy.lora.files import LORA_FILE, Layer, adapter_files, check_layers, fuse, read_layers, save_comfyui

Format = Literal["diffusers", "comfyui", "merged"]
Experts = Mapping[str, Mapping[str, Layer]]
"""Expert -> linear layer -> what the adapter adds to it."""

NOISE = {"transformer": "_high_noise", "transformer_2": "_low_noise"}


def export(place: Path, kind: Format, out: Path, *, model: Path | None = None) -> str:
    """Write the adapter of a run, or the one at `place`, into the new folder `out`; answers how it is used, in words.

    `model`: the bundle that `merged` takes in place of the one in the run's config. Nothing is written unless all of it
    can be. Raises ValueError or an OSError that names the file if there is no adapter, no base that it fits, or if
    something is in `out`.
    """
    check_new(out)
    adapter = _adapter(place)
    folder, files = adapter if adapter.is_dir() else adapter.parent, adapter_files(adapter)
    experts = {expert: read_layers(file) for expert, file in files.items()}
    sampled, two = Sampled.read(folder), len(experts) > 1
    if kind == "diffusers" and {file.name for file in files.values()} != {LORA_FILE}:
        raise ValueError(
            f"{folder}: only an adapter in {LORA_FILE} is copied for diffusers; this one is another tool's"
        )
    facts = check_bundle(model or _model_of(adapter)) if kind == "merged" else None
    if facts is not None:
        _check_base(facts, files, experts)
    with whole_folder(out, replace=out.is_dir()) as unfinished:
        if facts is not None:
            _merge(facts, experts, unfinished)
        elif kind == "comfyui":
            for expert, layers in experts.items():
                save_comfyui(unfinished / f"{out.name}{NOISE[expert] if two else ''}.safetensors", layers)
        else:
            shutil.copytree(folder, unfinished, dirs_exist_ok=True)
        if sampled is not None:
            sampled.write(unfinished)
    return TEMPLATES.get_template("export.txt").render(kind=kind, out=out, two=two, sampled=sampled)


def _adapter(place: Path) -> Path:
    """The folder or file of the adapter: the last one of a run, or `place` itself."""
    run = RunFolder(place)
    if run.config_file.is_file():
        if not adapter_files(run.adapter):
            raise FileNotFoundError(
                f"{run.adapter} holds no adapter: the run has not ended; a stage or a checkpoint may have left one in "
                f"{run.adapters} or {run.checkpoints}"
            )
        return run.adapter
    if not adapter_files(place):
        raise FileNotFoundError(f"{place}: neither a run's folder (no config.yaml there) nor an adapter's")
    return place.absolute()


def _model_of(adapter: Path) -> Path:
    """The base in the config of the run that the adapter lies in."""
    run = RunFolder.around(adapter)
    if run is None:
        raise ValueError(f"{adapter} lies in no run's folder: name the base that it was made for with --model")
    try:
        return Path(read_config(run)["model"]["path"])
    except (yaml.YAMLError, TypeError, KeyError):
        raise ValueError(f"{run.config_file}: not a run's config (no model.path); name the base with --model") from None


def _check_base(facts: BundleFacts, files: Mapping[str, Path], experts: Experts) -> None:
    if {*experts} != {*facts.experts}:
        raise ValueError(f"{facts.path} has {' and '.join(facts.experts)}, the adapter is for {' and '.join(experts)}")
    for expert, layers in experts.items():
        shapes = {name.removesuffix(".weight"): held.shape for name, held in facts.weights[expert].items()}
        check_layers(files[expert], layers, shapes, of=f"{facts.path / expert}")


def _merge(facts: BundleFacts, experts: Experts, into: Path) -> None:
    """Hidden files are a download's or git's own. Of an expert only the files that its bundle is read from are taken.

    Another variant of its weights, beside them, would be the base without the adapter.
    """
    ignored = shutil.ignore_patterns(".*", *facts.experts)
    shutil.copytree(facts.path, into, dirs_exist_ok=True, ignore=ignored, copy_function=_copy)
    for expert, layers in experts.items():
        (into / expert).mkdir()
        for name in ("config.json", f"{weights_of(expert)}.index.json"):
            if (facts.path / expert / name).is_file():
                shutil.copyfile(facts.path / expert / name, into / expert / name)
        for file in sorted({held.file for held in facts.weights[expert].values()}):
            fuse(file, into / expert / file.name, layers)


def _copy(source: str, target: str) -> None:
    """Weights are linked if the file system can: a text encoder takes 11 GB. Texts are copied, for people edit them."""
    if source.endswith(".safetensors"):
        try:
            return os.link(os.path.realpath(source), target)
        except OSError:  # another file system, or one without links
            pass
    shutil.copyfile(source, target)
