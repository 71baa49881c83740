"""Is this folder a Wan bundle that Apogee can align? Reads config files and the headers of weight files, no torch.

Answered before any GPU time is spent; every refusal names the file, the value found and what would be right. Of each
config file a class below says which values are understood. A scheduler is understood by the keys of its own class: a
config may hold keys that another class has left in it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError

from configs.keys import shown
from policy.weight_files import Held, read_headers, read_json

EXPERTS = ("transformer", "transformer_2")
SHIFT_KEYS = {"UniPCMultistepScheduler": "flow_shift", "FlowMatchEulerDiscreteScheduler": "shift"}
"""Scheduler class that is understood -> the key of its flow shift."""

CLASSES: dict[str, str] = dict.fromkeys(EXPERTS, "WanTransformer3DModel")
CLASSES |= {"text_encoder": "UMT5EncoderModel", "vae": "AutoencoderKLWan", "image_encoder": "CLIPVisionModel"}
"""Component that has weights -> the only class that is understood."""
OPTIONAL = ("transformer_2", "image_encoder", "image_processor")
PIPELINES = ("WanPipeline", "WanImageToVideoPipeline")

CLIP_TEXT_TOKENS = 512
"""diffusers' attention takes the last 512 tokens for the text and those before them for the picture's embeddings."""


def weights_of(component: str) -> str:
    """The name of its weight file if it is not in shards."""
    return "model.safetensors" if component.endswith("_encoder") else "diffusion_pytorch_model.safetensors"


Component = tuple[str | None, str | None] | None
Positive = Annotated[float, Field(gt=0)]


class _File(BaseModel):
    """Keys that Apogee does not depend on are the model class's business. A field's description is what is right."""

    model_config = ConfigDict(extra="ignore", strict=True, allow_inf_nan=False)
    class_name: str = Field("", alias="_class_name")
    quantization_config: None = Field(None, description="quantised weights are not read; use the original ones")


class _Index(_File):
    boundary_ratio: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None, description="want a number between 0 and 1 (0.875 in Wan2.2-T2V)"
    )
    expand_timesteps: bool = False
    scheduler: Component = None
    tokenizer: Component = None
    text_encoder: Component = None
    vae: Component = None
    transformer: Component = None
    transformer_2: Component = None
    image_encoder: Component = None
    image_processor: Component = None

    def component(self, name: str) -> str | None:
        """Its class; None if the index leaves it out (`null` or `[null, null]`)."""
        return (getattr(self, name) or (None, None))[1]


class _Transformer(_File):
    in_channels: PositiveInt = 16
    out_channels: PositiveInt | None = 16
    patch_size: tuple[PositiveInt, PositiveInt, PositiveInt] = (1, 2, 2)
    text_dim: PositiveInt = 4096
    num_layers: PositiveInt = 40
    image_dim: PositiveInt | None = None
    pos_embed_seq_len: None = Field(None, description="want null: videos between two pictures are not supported")


class _ImageEncoder(_File):
    model_type: Literal["clip_vision_model"]
    hidden_size: PositiveInt


class _TextEncoder(_File):
    model_type: Literal["umt5"]
    d_model: PositiveInt
    vocab_size: PositiveInt


class _Vae(_File):
    z_dim: PositiveInt = 16
    # Bundles saved before the VAE had these keys are all 4 x 8 x 8, which is also diffusers' default.
    scale_factor_temporal: PositiveInt = 4
    scale_factor_spatial: PositiveInt = 8


Off = Literal[False] | None


def _by_shift(off: bool | None) -> Any:
    return Field(off, description=f"want {json.dumps(off)}: Wan's sigmas follow from the flow shift alone")


class _Scheduler(_File):
    """What both classes have. Wan has one flow shift, and sigmas that only the shift bends."""

    num_train_timesteps: Literal[1000] = Field(1000, description="want 1000: Wan's timesteps go from 0 to 1000")
    use_dynamic_shifting: Literal[False] = Field(False, description="want false: Wan has one flow shift for all sizes")
    use_karras_sigmas: Off = _by_shift(False)
    use_exponential_sigmas: Off = _by_shift(False)
    use_beta_sigmas: Off = _by_shift(False)
    shift_terminal: None = _by_shift(None)


class _UniPC(_Scheduler):
    flow_shift: Positive = Field(1.0, description="want a positive number (Wan2.1 has 3 or 5)")
    use_flow_sigmas: Literal[True] = Field(..., description="want true: Wan is a flow model")
    prediction_type: Literal["flow_prediction"] = Field(..., description="want flow_prediction: Wan is a flow model")
    predict_x0: Literal[True] = Field(True, description="want true: the other branch is for models that predict noise")
    thresholding: Literal[False] = Field(False, description="want false: it clips latents")
    final_sigmas_type: Literal["zero"] = Field("zero", description="want zero: a video ends without noise")
    sigma_min: None = _by_shift(None)
    sigma_max: None = _by_shift(None)
    rescale_betas_zero_snr: Literal[False] = Field(False, description="want false: a flow model has no betas")


class _Euler(_Scheduler):
    shift: Positive = Field(1.0, description="want a positive number (Wan2.1 has 3 or 5)")
    stochastic_sampling: Off = Field(False, description="want false: the same seed must give the same video")
    invert_sigmas: Off = Field(False, description="want false: sampling goes from noise to video")


_SCHEDULERS = {"UniPCMultistepScheduler": _UniPC, "FlowMatchEulerDiscreteScheduler": _Euler}

Kind = TypeVar("Kind", bound=_File)


@dataclass(frozen=True)
class BundleFacts:
    """What the config files of a bundle say. The defaults are Wan2.2-T2V-A14B's.

    `patch`: of the transformer, (frames, height, width); `vae_temporal`, `vae_spatial`: pixels per latent;
    `flow_shift`: the scheduler's; `channels`: of a latent; `in_channels`: of what a transformer takes; `image_dim`: of
    a picture's CLIP embeddings, None if it takes none; `expand_timesteps`: whether each token has a timestep of its own
    (Wan2.2-TI2V-5B); `blocks`: how many a transformer has; `text_dim`: of a token's embedding; `boundary_ratio`: the
    share of the training timesteps below which `transformer_2` (low noise) takes over from `transformer`, None if there
    is one expert; `vocabulary`: how many tokens the text encoder knows;
    `weights`: component -> its tensors as the headers of its files describe them.
    """

    path: Path
    pipeline: str = "WanPipeline"
    experts: tuple[str, ...] = EXPERTS
    boundary_ratio: float | None = 0.875
    patch: tuple[int, int, int] = (1, 2, 2)
    vae_temporal: int = 4
    vae_spatial: int = 8
    scheduler: str = "UniPCMultistepScheduler"
    flow_shift: float = 3.0
    num_train_timesteps: int = 1000
    channels: int = 16
    in_channels: int = 16
    image_dim: int | None = None
    expand_timesteps: bool = False
    blocks: int = 40
    text_dim: int = 4096
    vocabulary: int = 256_384
    tokenizer: str = "T5TokenizerFast"
    weights: Mapping[str, Mapping[str, Held]] = field(default_factory=dict, repr=False, compare=False)

    def tokens(self, shape: Sequence[int]) -> int:
        """Of a video whose latents have this shape, `[channels, frames, height, width]`."""
        return prod(shape[1:]) // prod(self.patch)

    @property
    def first_frame(self) -> Literal["needed", "possible", "not taken"]:
        """Whether its videos begin with a picture."""
        if self.in_channels > self.channels:
            return "needed"
        return "possible" if self.expand_timesteps else "not taken"

    def check_first_frame(self, prompt: str, *, given: bool) -> None:
        """Raises ValueError if a prompt has a picture and the videos begin with none, or the reverse."""
        if self.first_frame == ("not taken" if given else "needed"):
            raise ValueError(
                f"prompt {shown(prompt)} has {'a' if given else 'no'} first frame; for videos of this bundle a first "
                f"frame is {self.first_frame}"
            )

    @property
    def grid(self) -> tuple[int, int]:
        """Height and width of a video are multiples of these, in pixels."""
        return self.vae_spatial * self.patch[1], self.vae_spatial * self.patch[2]

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
        for name, size, unit in zip(("height", "width"), (height, width), self.grid, strict=True):
            if size < unit or size % unit:
                below = max(unit, size // unit * unit)
                raise ValueError(
                    f"sampling.{name} = {size}: must be a multiple of {unit} pixels for this bundle; the nearest are "
                    f"{below} and {below + unit}"
                )
        frames = (num_frames - 1) // self.vae_temporal + 1
        return self.channels, frames, height // self.vae_spatial, width // self.vae_spatial

    def check_text_tokens(self, count: int) -> None:
        """Raises ValueError if a transformer that takes CLIP embeddings would mistake some of the text for them."""
        if self.image_dim is not None and count != CLIP_TEXT_TOKENS:
            raise ValueError(
                f"model.max_text_tokens = {count}: this bundle takes a picture's embeddings before the text, and tells "
                f"them apart by a text of {CLIP_TEXT_TOKENS} tokens: give {CLIP_TEXT_TOKENS}"
            )

    def check_skipped(self, blocks: Sequence[int]) -> None:
        """Raises ValueError if the transformers have no such block to skip."""
        if missing := sorted(block for block in blocks if block >= self.blocks):
            raise ValueError(
                f"sampling.stg_blocks: this bundle has no block {', '.join(map(str, missing))}; its blocks are 0 to "
                f"{self.blocks - 1}"
            )


WAN = BundleFacts(Path())
"""Wan2.2-T2V-A14B's. Latents and tokens of Wan2.1 are the same; assumed if a bundle is not there to be asked."""


def check_bundle(path: str | Path) -> BundleFacts:
    """The facts of the diffusers pipeline folder at `path`.

    Raises FileNotFoundError naming the first file that is missing, ValueError naming the file and key that is
    malformed, not Wan, or does not go with the other files.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"model.path: no folder {folder}; it must be a local diffusers Wan pipeline folder (with model_index.json)"
        )
    where = folder / "model_index.json"
    index = _read(where, _Index)
    _check_pipeline(where, index)
    experts = tuple(name for name in EXPERTS if index.component(name) is not None)
    for name in ("tokenizer", "scheduler", *CLASSES):
        found = index.component(name)
        if found is None and name not in OPTIONAL:
            raise ValueError(f"{where}: {name} is missing; a Wan bundle has it")
        if found not in (None, CLASSES.get(name, found)):
            raise ValueError(f"{where}: {name} is a {found}: not Wan, expected {CLASSES[name]}")
    transformers = {name: _read_model(folder, name, _Transformer) for name in experts}
    first, text = transformers["transformer"], _read(folder / "text_encoder" / "config.json", _TextEncoder)
    vae = _read_model(folder, "vae", _Vae)
    for name, config in transformers.items():
        _check_sizes(folder / name / "config.json", config, first, vae, text)
        _check_pictures(folder / name / "config.json", config, vae, index)
    scheduler = _check_scheduler(folder / "scheduler" / "scheduler_config.json", index)
    read_json(folder / "tokenizer" / "tokenizer_config.json")
    return BundleFacts(
        path=folder,
        pipeline=index.class_name,
        experts=experts,
        boundary_ratio=index.boundary_ratio,
        patch=first.patch_size,
        vae_temporal=vae.scale_factor_temporal,
        vae_spatial=vae.scale_factor_spatial,
        scheduler=scheduler.class_name,
        flow_shift=float(getattr(scheduler, SHIFT_KEYS[scheduler.class_name])),
        num_train_timesteps=scheduler.num_train_timesteps,
        channels=vae.z_dim,
        in_channels=first.in_channels,
        image_dim=first.image_dim,
        expand_timesteps=index.expand_timesteps,
        blocks=first.num_layers,
        text_dim=first.text_dim,
        vocabulary=text.vocab_size,
        tokenizer=str(index.component("tokenizer")),
        weights={name: read_headers(folder / name, weights_of(name)) for name in CLASSES if index.component(name)},
    )


def _read(path: Path, kind: type[Kind]) -> Kind:
    """The file as its class. Raises FileNotFoundError or ValueError that names file, key and value."""
    content = read_json(path)
    try:
        return kind.model_validate_json(json.dumps(content))  # as JSON: a list may be a tuple
    except ValidationError as error:
        first = error.errors()[0]
        key, *inside = map(str, first["loc"])
        name = next((name for name, field in kind.model_fields.items() if key in (name, field.alias)), key)
        value = f" = {shown(content[key])}" if key in content else " is missing"
        right = kind.model_fields[name].description or first["msg"].removeprefix("Input ")
        raise ValueError(f"{path}: {'.'.join((key, *inside))}{value}: {right}") from None


def _check_pipeline(where: Path, index: _Index) -> None:
    name, boundary = index.class_name, index.boundary_ratio
    if name not in PIPELINES:
        raise ValueError(f"{where}: _class_name = {name}: not a Wan bundle, expected {' or '.join(PIPELINES)}")
    if index.component("transformer") is None:
        raise ValueError(f"{where}: transformer = null: a bundle needs at least the expert `transformer`")
    if index.component("transformer_2") is None and boundary is not None:
        raise ValueError(f"{where}: boundary_ratio = {boundary} but there is no transformer_2 to take over below it")
    if index.component("transformer_2") is not None and boundary is None:
        raise ValueError(f"{where}: boundary_ratio = None: two experts need a boundary (0.875 in Wan2.2-T2V)")


def _read_model(folder: Path, name: str, kind: type[Kind]) -> Kind:
    """The config of an expert or of the VAE, which says its class."""
    config = _read(where := folder / name / "config.json", kind)
    if config.class_name != CLASSES[name]:
        raise ValueError(f"{where}: _class_name = {config.class_name}: not Wan, expected {CLASSES[name]}")
    return config


def _check_sizes(where: Path, config: _Transformer, first: _Transformer, vae: _Vae, text: _TextEncoder) -> None:
    """What the transformer takes is what VAE and text encoder give, and the experts agree."""
    if (config.out_channels or config.in_channels) != vae.z_dim:
        raise ValueError(
            f"{where}: out_channels = {config.out_channels} but the VAE has {vae.z_dim} channels (vae/config.json: "
            "z_dim): they are of different models"
        )
    if config.text_dim != text.d_model:
        raise ValueError(f"{where}: text_dim = {config.text_dim} but the text encoder has d_model = {text.d_model}")
    for key in ("patch_size", "in_channels", "image_dim"):
        if (here := getattr(config, key)) != (other := getattr(first, key)):
            raise ValueError(f"{where}: {key} = {here}, the other expert has {other}")


def _check_pictures(where: Path, config: _Transformer, vae: _Vae, index: _Index) -> None:
    """How a first frame is given: not at all, as more channels, also as CLIP embeddings, or in the latents' place."""
    bare, framed = vae.z_dim, 2 * vae.z_dim + vae.scale_factor_temporal  # latents, a mask, and the picture's latents
    given = f"{where}: in_channels = {config.in_channels}"
    if config.in_channels not in (bare, framed):
        raise ValueError(
            f"{given}: with a VAE of {bare} channels want {bare} (text to video) or {framed} (image to video)"
        )
    if index.expand_timesteps and (config.in_channels != bare or config.patch_size != (1, 2, 2)):
        raise ValueError(
            f"{given}, patch_size = {config.patch_size}: a bundle with expand_timesteps has {bare} and (1, 2, 2)"
        )
    if index.class_name == "WanImageToVideoPipeline" and config.in_channels != framed and not index.expand_timesteps:
        raise ValueError(f"{given}: model_index.json has WanImageToVideoPipeline, which gives {framed} channels")
    if config.image_dim is None:
        return
    if config.in_channels != framed or not (index.component("image_encoder") and index.component("image_processor")):
        raise ValueError(
            f"{where}: image_dim = {config.image_dim}: such a transformer has in_channels = {framed}, and its bundle "
            "an image_encoder and an image_processor"
        )
    file = where.parents[1] / "image_encoder" / "config.json"
    if (size := _read(file, _ImageEncoder).hidden_size) != config.image_dim:
        raise ValueError(f"{file}: hidden_size = {size}, the transformer has image_dim = {config.image_dim}")
    read_json(where.parents[1] / "image_processor" / "preprocessor_config.json")


def _check_scheduler(where: Path, index: _Index) -> _Scheduler:
    """Its config, which is that of a class that is understood."""
    name = str(index.component("scheduler"))
    if name not in _SCHEDULERS:
        raise ValueError(f"{where}: {name} is not supported, expected one of {', '.join(_SCHEDULERS)}")
    config = _read(where, _SCHEDULERS[name])
    if config.class_name != name:
        raise ValueError(
            f"{where}: _class_name = {config.class_name}, model_index.json has {name}: the config was written for "
            "another class; save the pipeline again with the scheduler that it is to have"
        )
    return config
