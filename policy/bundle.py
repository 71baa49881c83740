"""Is this folder a Wan bundle that Apogee can align? Reads `model_index.json` and config files only, no torch.

Answered before any GPU time is spent; every refusal names the file, the value found and what would be right.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

EXPERTS = ("transformer", "transformer_2")
SCHEDULERS = ("UniPCMultistepScheduler", "FlowMatchEulerDiscreteScheduler")
WEIGHTS = {"text_encoder": "model.safetensors"}
"""Weight file of each component; those of diffusers are all called alike."""
DIFFUSERS_WEIGHTS = "diffusion_pytorch_model.safetensors"


@dataclass(frozen=True)
class BundleFacts:
    """What the config files of a bundle say.

    `patch`: of the transformer, (frames, height, width); `vae_temporal`, `vae_spatial`: pixels per latent;
    `flow_shift`: the scheduler's; `in_channels`: latent channels; `text_dim`: of a token's embedding; `boundary_ratio`:
    the share of the training timesteps below which `transformer_2` (low noise) takes over from `transformer`, None if
    there is one expert.
    """

    path: Path
    pipeline: str
    experts: tuple[str, ...]
    boundary_ratio: float | None
    patch: tuple[int, int, int]
    vae_temporal: int
    vae_spatial: int
    scheduler: str
    flow_shift: float
    num_train_timesteps: int
    in_channels: int
    text_dim: int = 4096

    def latent_shape(self, num_frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """`(channels, latent_frames, latent_height, latent_width)` of a video of that size in frames and pixels.

        Raises ValueError if the VAE and the patches do not divide the size evenly.
        """
        if num_frames < 1 or (num_frames - 1) % self.vae_temporal:
            below = max(0, (num_frames - 1) // self.vae_temporal) * self.vae_temporal + 1
            raise ValueError(
                f"sampling.num_frames = {num_frames}: this bundle makes 1 + a multiple of {self.vae_temporal} frames; "
                f"the nearest are {below} and {below + self.vae_temporal}"
            )
        for name, size, patch in (("height", height, self.patch[1]), ("width", width, self.patch[2])):
            unit = self.vae_spatial * patch
            if size < unit or size % unit:
                raise ValueError(f"sampling.{name} = {size}: must be a multiple of {unit} pixels for this bundle")
        frames = (num_frames - 1) // self.vae_temporal + 1
        return self.in_channels, frames, height // self.vae_spatial, width // self.vae_spatial


WAN = BundleFacts(
    path=Path(),
    pipeline="WanPipeline",
    experts=EXPERTS,
    boundary_ratio=0.875,
    patch=(1, 2, 2),
    vae_temporal=4,
    vae_spatial=8,
    scheduler="UniPCMultistepScheduler",
    flow_shift=3.0,
    num_train_timesteps=1000,
    in_channels=16,
)
"""Wan2.2-T2V-A14B's. Latents and tokens of Wan2.1 are the same; assumed if a bundle is not there to be asked."""


def check_bundle(path: str | Path) -> BundleFacts:
    """The facts of the diffusers pipeline folder at `path`.

    Raises FileNotFoundError naming the first file that is missing, ValueError naming the file and key that is
    malformed, not Wan, or a kind of Wan that is not supported yet (image-to-video, TI2V-5B).
    """
    folder = Path(path)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"model.path: no folder {folder}; it must be a local diffusers Wan pipeline folder (with model_index.json)"
        )
    index = _read_json(folder / "model_index.json")
    _check_pipeline(folder, index)
    experts = tuple(name for name in EXPERTS if _component(index, name) is not None)
    boundary = _check_experts(folder, index, experts)
    for name in ("tokenizer", "text_encoder", "vae", "scheduler", *experts):
        _check_component(folder, index, name)
    transformer = _check_transformers(folder, experts)
    vae = _read_json(folder / "vae" / "config.json")
    channels, depth = transformer.get("in_channels", 16), vae.get("z_dim", 16)
    if channels != depth:
        raise ValueError(
            f"{folder / 'transformer' / 'config.json'}: in_channels = {channels} but the VAE has {depth} channels "
            "(vae/config.json: z_dim); a transformer that takes more is an image-to-video one, not supported yet"
        )
    name, shift, train_timesteps = _check_scheduler(folder, index)
    return BundleFacts(
        path=folder,
        pipeline=index["_class_name"],
        experts=experts,
        boundary_ratio=boundary,
        patch=tuple(transformer.get("patch_size", (1, 2, 2))),
        # Bundles saved before the VAE had these keys are all 4 x 8 x 8, which is also diffusers' default.
        vae_temporal=vae.get("scale_factor_temporal", 4),
        vae_spatial=vae.get("scale_factor_spatial", 8),
        scheduler=name,
        flow_shift=shift,
        num_train_timesteps=train_timesteps,
        in_channels=channels,
        text_dim=transformer.get("text_dim", 4096),
    )


def _check_pipeline(folder: Path, index: dict[str, Any]) -> None:
    where, name = folder / "model_index.json", index.get("_class_name")
    if name == "WanImageToVideoPipeline":
        raise ValueError(f"{where}: _class_name = {name}: image-to-video is not supported yet, only WanPipeline")
    if name != "WanPipeline":
        raise ValueError(f"{where}: _class_name = {name}: not a Wan text-to-video bundle, expected WanPipeline")
    if index.get("expand_timesteps"):
        raise ValueError(
            f"{where}: expand_timesteps = {index['expand_timesteps']}: Wan2.2-TI2V-5B (a timestep per token) is not "
            "supported yet, only bundles with expand_timesteps = false"
        )


def _check_experts(folder: Path, index: dict[str, Any], experts: tuple[str, ...]) -> float | None:
    """The boundary ratio, once it and the experts agree."""
    where, boundary = folder / "model_index.json", index.get("boundary_ratio")
    if "transformer" not in experts:
        raise ValueError(f"{where}: transformer = null: a bundle needs at least the expert `transformer`")
    if "transformer_2" not in experts and boundary is not None:
        raise ValueError(f"{where}: boundary_ratio = {boundary} but there is no transformer_2 to take over below it")
    if "transformer_2" in experts and not (isinstance(boundary, float) and 0.0 < boundary < 1.0):
        raise ValueError(
            f"{where}: boundary_ratio = {boundary}: two experts need a boundary between 0 and 1 (0.875 in Wan2.2-T2V)"
        )
    return boundary


def _check_component(folder: Path, index: dict[str, Any], name: str) -> None:
    """Its entry, its config file and every weight file are there; weights are safetensors."""
    if _component(index, name) is None:
        raise ValueError(f"{folder / 'model_index.json'}: {name} is missing; a Wan bundle has it")
    part = folder / name
    config = {"tokenizer": "tokenizer_config.json", "scheduler": "scheduler_config.json"}.get(name, "config.json")
    if not (part / config).is_file():
        raise FileNotFoundError(f"{part / config} is missing: the bundle at {folder} is incomplete")
    if name in ("tokenizer", "scheduler"):
        return
    weights = WEIGHTS.get(name, DIFFUSERS_WEIGHTS)
    shards = part / f"{weights}.index.json"
    files = set(_read_json(shards).get("weight_map", {}).values()) if shards.is_file() else {weights}
    for file in sorted(files):
        if not (part / file).is_file():
            raise FileNotFoundError(
                f"{part / file} is missing: the bundle at {folder} is incomplete (only safetensors weights are read)"
            )


def _check_transformers(folder: Path, experts: tuple[str, ...]) -> dict[str, Any]:
    """The first expert's config, once every expert is a text-to-video `WanTransformer3DModel`."""
    configs = [_read_json(folder / name / "config.json") for name in experts]
    for name, config in zip(experts, configs, strict=True):
        where = folder / name / "config.json"
        if config.get("_class_name") != "WanTransformer3DModel":
            raise ValueError(
                f"{where}: _class_name = {config.get('_class_name')}: not Wan, expected WanTransformer3DModel"
            )
        if config.get("image_dim") is not None:
            raise ValueError(f"{where}: image_dim = {config['image_dim']}: image-to-video is not supported yet")
    return configs[0]


def _check_scheduler(folder: Path, index: dict[str, Any]) -> tuple[str, float, int]:
    """Class name, flow shift and number of training timesteps."""
    where = folder / "scheduler" / "scheduler_config.json"
    config, name = _read_json(where), (_component(index, "scheduler") or "")
    if name not in SCHEDULERS:
        raise ValueError(f"{where}: {name} is not supported, expected one of {', '.join(SCHEDULERS)}")
    if config.get("use_dynamic_shifting"):
        raise ValueError(f"{where}: use_dynamic_shifting = true: Wan has one flow shift, set it to false")
    if name == "UniPCMultistepScheduler":
        if not config.get("use_flow_sigmas") or config.get("prediction_type") != "flow_prediction":
            raise ValueError(
                f"{where}: use_flow_sigmas = {config.get('use_flow_sigmas')}, prediction_type = "
                f"{config.get('prediction_type')}: a flow model needs true and flow_prediction"
            )
        shift = config.get("flow_shift", 1.0)
    else:
        shift = config.get("shift", 1.0)
    if not isinstance(shift, int | float) or not shift > 0:
        raise ValueError(f"{where}: flow shift = {shift}: must be a positive number (Wan2.1 has 3 or 5)")
    return name, float(shift), int(config.get("num_train_timesteps", 1000))


def _component(index: dict[str, Any], name: str) -> str | None:
    """The class name of a component, None if the index leaves it out (`null` or `[null, null]`)."""
    entry = index.get(name)
    return entry[1] if isinstance(entry, list) and len(entry) == 2 else None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is missing: not a complete diffusers pipeline folder") from None
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content
