"""Training configuration: one YAML file, validated; data sets and stages are data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from cmfr.config import QUALITIES, CodecConfig, Strict, by_quality
from cmfr.models.presets import PRESETS
from cmfr.models.registry import ModelConfig
from cmfr.training.data.config import DataConfig, with_likenesses
from cmfr.utils.config_files import find_config
from cmfr.utils.errors import UserError, unknown
from cmfr.utils.yaml_config import faults, merged, read_tree

NotNegative = Annotated[float, Field(ge=0)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Quality = Annotated[int, Field(ge=0, lt=QUALITIES)]


class DistortionConfig(Strict):
    """D of the loss: a weighted sum of the measures that are not zero.

    mse_yuv: mean squared error of Y, Cb, Cr on [0, 1], weighted with `LossConfig.yuv_weights`.
    mse_rgb: mean squared error of R, G, B (BT.709, full range) on [0, 1].
    ms_ssim_y, ms_ssim_rgb: 1 - MS-SSIM (linear, not dB) of luma or of RGB, which needs crops over
    160.
    """

    mse_yuv: float = Field(0.0, ge=0)
    mse_rgb: float = Field(0.0, ge=0)
    ms_ssim_y: float = Field(0.0, ge=0)
    ms_ssim_rgb: float = Field(0.0, ge=0)

    @property
    def needs_ms_ssim(self) -> bool:
        return bool(self.ms_ssim_y or self.ms_ssim_rgb)

    @property
    def least_side(self) -> int:
        """Pixels that a picture needs at least to be measured."""
        return 161 if self.needs_ms_ssim else 1

    @model_validator(mode="after")
    def _something(self) -> DistortionConfig:
        if not any(self.model_dump().values()):
            raise UserError("distortion: every weight is zero")
        return self


class LossConfig(Strict):
    """Loss per frame: lambda(quality) * weight[position] * D + R.

    R is in bits per pixel; D is a sum of measures on samples in [0, 1] (`DistortionConfig`).

    lambda_min, lambda_max: lambda at quality 0 and at quality 63; it runs geometrically between.
    intra_lambda_min, intra_lambda_max: the I-frames' own range.
    yuv_weights: of Y, Cb, Cr, relative to their sum.
    balance: the loss of a sample is divided by (lambda / lambda_min) ** balance. Each sample's
    optimum stays; with 0 the high qualities, whose losses are large, dominate the gradient.
    """

    lambda_min: float = Field(4.0, gt=0)
    lambda_max: float = Field(2048.0, gt=0)
    intra_lambda_min: float = Field(48.0, gt=0)
    intra_lambda_max: float = Field(4096.0, gt=0)
    distortion: DistortionConfig = DistortionConfig(mse_yuv=1.0)
    yuv_weights: tuple[NotNegative, NotNegative, NotNegative] = (6 / 8, 1 / 8, 1 / 8)
    balance: float = Field(0.0, ge=0, le=1)

    @model_validator(mode="after")
    def _something(self) -> LossConfig:
        if not any(self.yuv_weights):
            raise UserError("yuv_weights: every weight is zero")
        return self

    def lambda_of(self, quality: Any, intra: bool = False) -> Any:
        """lambda of a quality index; floats and tensors alike."""
        low, high = (
            (self.intra_lambda_min, self.intra_lambda_max)
            if intra
            else (self.lambda_min, self.lambda_max)
        )
        return by_quality(low, high, quality)


class InitConfig(Strict):
    """Weights to start from.

    file: a weights file, or the name of a model whose weights are shipped (``cmfr-s``).
    modules: name prefixes of the modules taken from it (all by default).
    """

    file: Path
    modules: tuple[str, ...] = ("",)


class StageConfig(Strict):
    """One training stage.

    objective: ``intra`` = I-frames alone, ``flow`` = motion estimation between source frames,
    ``motion`` = motion codec and refiner by the error of the prediction, ``inter`` = P-frames after
    an I-frame.
    trainable: name prefixes of the modules that learn, less those in frozen; everything else is
    frozen too, and modules that the model's switches leave out do not matter.
    init: weights to start from (default: what the stage before left).
    data: name of its data set (default: the first).
    start: the reference of the first P-frame is the coded I-frame, or the source (before there is
    an intra codec).
    frames: of a clip.
    lead: so many more frames of the clip are coded before, without learning from them, so that
    P-frames are trained as they are long after the I-frame; drawn from these for each step.
    crop: side of its square, in pixels.
    batch: the global batch, whatever the number of processes.
    accumulate: splits each process's share into so many parts, one after the other.
    steps: batches.
    lr, lr_end: the learning rate goes from one to the other along the schedule, after `warmup`
    steps.
    schedule: ``cosine``, ``linear``, ``constant``, or ``wsd`` (constant, then linear over the last
    `decay` of the stage).
    decay: part of the stage, 0..1.
    warmup: first steps in which the learning rate rises linearly from 0.
    cascaded: one backward pass through the whole clip; otherwise a step per P-frame, the state
    detached.
    checkpoint_activations: forget a frame's activations and compute them again in the backward
    pass.
    warp_weight, prediction_weight: add that multiple of the cost of the motion-compensated frame
    before, and after, the Motion Refiner (of the same picture where there is none).
    prediction_loss: what that cost is, ``distortion`` = lambda * weight * D, ``bits`` = what
    coding its residual would take (`losses.residual_bits`), which in stages of objective
    ``motion`` is then all of the loss beside R.
    smoothness: of flows, in stages of objective ``flow``.
    calibrate: name prefixes of modules whose latents' spreads are measured before the first step
    (`models.cmfr.latent.calibrate`).
    frame_weights: the weights on D by position in the hierarchical pattern, the I-frame at 0
    (default: the model's).
    qualities: the range drawn from.
    random_position: clips start anywhere in the pattern and between refreshes, so that clips
    shorter than these train all of them.
    rate_warmup: in so many first steps R counts less (rising linearly from 0), while latents find
    their use.
    quantization: what the decoder sees in training, straight-through rounding or additive noise.
    """

    name: str
    objective: Literal["intra", "flow", "motion", "inter"]
    trainable: tuple[str, ...] = Field(min_length=1)
    frozen: tuple[str, ...] = ()
    init: tuple[InitConfig, ...] = ()
    data: str | None = None
    start: Literal["intra", "source"] = "intra"
    frames: int = Field(2, ge=1)
    lead: tuple[Annotated[int, Field(ge=0)], ...] = Field((0,), min_length=1)
    crop: int = Field(128, ge=16, multiple_of=16)
    batch: int = Field(8, ge=1)
    accumulate: int = Field(1, ge=1)
    steps: int = Field(ge=1)
    lr: float = Field(gt=0)
    lr_end: float = Field(0.0, ge=0)
    schedule: Literal["cosine", "linear", "constant", "wsd"] = "cosine"
    decay: float = Field(0.2, gt=0, le=1)
    warmup: int = Field(100, ge=0)
    cascaded: bool = False
    checkpoint_activations: bool = False
    warp_weight: float = Field(0.0, ge=0)
    prediction_weight: float = Field(0.0, ge=0)
    prediction_loss: Literal["distortion", "bits"] = "distortion"
    smoothness: float = Field(0.5, ge=0)
    calibrate: tuple[str, ...] = ()
    frame_weights: tuple[float, ...] | None = None
    qualities: tuple[int, int] = (0, QUALITIES - 1)
    random_position: bool = False
    rate_warmup: int = Field(0, ge=0)
    quantization: Literal["ste", "noise"] = "ste"

    @model_validator(mode="after")
    def _consistent(self) -> StageConfig:
        if self.objective == "intra" and self.frames != 1:
            raise UserError(f"stage {self.name}: objective intra codes 1 frame, not {self.frames}")
        if self.objective != "intra" and self.frames < 2:
            raise UserError(f"stage {self.name}: objective {self.objective} needs frames >= 2")
        if any(self.lead) and (self.objective != "inter" or self.start != "intra"):
            raise UserError(f"stage {self.name}: lead needs objective inter, and start intra")
        if self.batch % self.accumulate:
            raise UserError(
                f"stage {self.name}: batch {self.batch} is no multiple of "
                f"accumulate {self.accumulate}"
            )
        low, high = self.qualities
        if not 0 <= low <= high < QUALITIES:
            raise UserError(
                f"stage {self.name}: qualities {low}..{high} are not within 0..{QUALITIES - 1}"
            )
        return self


class OptimizerConfig(Strict):
    """The optimizer of every stage.

    kind: ``adamw``, or ``muon`` = Muon for the weights of convolutions and AdamW for the rest.
    betas, weight_decay: of AdamW.
    momentum: of Muon.
    factors: multiples of the learning rate for parameters whose name holds the key; they multiply
    where several do.
    """

    kind: Literal["adamw", "muon"] = "adamw"
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    weight_decay: float = Field(0.0, ge=0)
    momentum: float = Field(0.95, ge=0, lt=1)
    factors: dict[str, Annotated[float, Field(gt=0)]] = {}


class ValidationConfig(Strict):
    """Periodic validation with real rounding: an RD curve on clips that are not trained on.

    data: name of a data set; of it the first `clips` clips (evenly spread) and their first
    `frames` frames are coded as one group of pictures at every quality, with the averaged weights.
    """

    data: str
    every: int = Field(2000, ge=1)
    clips: int = Field(8, ge=1)
    frames: int = Field(8, ge=1)
    qualities: tuple[Quality, ...] = Field((0, 21, 42, 63), min_length=1)


class TrainConfig(Strict):
    """A training run. `run_dir` is made; the same command resumes it.

    init: weights to start from, file by file.
    spynet: folder of SpyNet arrays (.npy) that initialize the three coarsest levels of DCVC's
    motion estimation.
    threads: CPU threads per process.
    bf16: compute in bfloat16 (autocast), or where that is faster than float32 (auto); weights stay
    float32.
    compile: torch.compile of both codecs.
    cuda_graphs: launch forward and backward of a step as one, on a GPU and where a step is one
    update (graphs.py); not measured yet.
    ema_decay: of the averaged weights, per optimizer step; less in the first steps.
    grad_clip: greatest norm of the gradient.
    log_every, image_every, save_every: so many steps of a stage.
    time_limit_minutes: save and stop after this much time.
    schedule_clock: the limit is of the whole run, however often it is resumed, and learning rates
    follow the clock where it is ahead of the steps: a run that the limit ends has gone through its
    schedule.
    """

    model: ModelConfig
    data: dict[str, DataConfig] = Field(min_length=1)
    stages: tuple[StageConfig, ...] = Field(min_length=1)
    run_dir: Path
    loss: LossConfig = LossConfig()
    validation: ValidationConfig | None = None
    init: tuple[InitConfig, ...] = ()
    spynet: Path | None = None
    seed: int = Field(0, ge=0)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int | None = Field(None, ge=1)
    bf16: Literal["auto"] | bool = "auto"
    channels_last: bool = True
    compile: bool = False
    cuda_graphs: bool = False
    ema_decay: float = Field(0.999, ge=0, lt=1)
    grad_clip: float = Field(1.0, gt=0)
    optimizer: OptimizerConfig = OptimizerConfig()
    log_every: int = Field(20, ge=1)
    image_every: int = Field(500, ge=1)
    save_every: int = Field(500, ge=1)
    time_limit_minutes: float | None = Field(None, gt=0)
    schedule_clock: bool = False

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, values: Any) -> Any:
        """`model: cmfr-s` names a preset; `model: {preset: cmfr-s, fusion: concat}` changes it.
        `data: {held_out: {like: clips, ...}}`: `with_likenesses`."""
        if isinstance(values, dict) and "model" in values:
            values = {**values, "model": model_config(values["model"])}
        if isinstance(values, dict) and isinstance(values.get("data"), dict):
            values = {**values, "data": with_likenesses(values["data"])}
        return values

    @model_validator(mode="after")
    def _names(self) -> TrainConfig:
        named = [(f"stage {stage.name}", stage.data) for stage in self.stages]
        named.append(("validation", self.validation.data if self.validation else None))
        for where, name in named:
            if name is not None and name not in self.data:
                raise UserError(unknown(f"{where}: no data set is called", name, self.data))
        if self.schedule_clock and self.time_limit_minutes is None:
            raise UserError("schedule_clock: true needs time_limit_minutes")
        if small := [s for s in self.stages if s.crop < self.loss.distortion.least_side]:
            raise UserError(
                f"stage {small[0].name}: MS-SSIM needs a crop of 176 at least, not {small[0].crop}"
            )
        return self

    @model_validator(mode="after")
    def _all_read(self) -> TrainConfig:
        """A misspelt name would make a new data set, and leave the one that is meant as it was.
        One of the same folder as another is there to be like it."""
        read = {stage.data or next(iter(self.data)) for stage in self.stages}
        if self.validation:
            read.add(self.validation.data)
        roots = {getattr(self.data[name], "root", None) for name in read}
        for name in sorted(self.data.keys() - read):
            if getattr(self.data[name], "root", None) not in roots:
                raise UserError(
                    unknown("data: no stage and no validation reads", name, sorted(read))
                )
        return self


def model_config(value: Any) -> Any:
    """A preset name, a mapping with ``preset`` and changes to it, or a complete mapping."""
    if isinstance(value, CodecConfig):
        return value
    name = (
        value
        if isinstance(value, str)
        else value.get("preset")
        if isinstance(value, dict)
        else None
    )
    if name is None:
        return value
    if name not in PRESETS:
        raise UserError(unknown("model: no preset is called", name, PRESETS))
    changes = {k: v for k, v in value.items() if k != "preset"} if isinstance(value, dict) else {}
    return merged(PRESETS[name].model_dump(), changes)


def load_train_config(path: str | Path, overrides: list[str] | None = None) -> TrainConfig:
    """Read a YAML file and apply ``key.sub=value`` overrides (values are YAML).

    path: or the name of a shipped configuration. Raises FileNotFoundError, or UserError that names
    the file and every offending key.
    """
    path = find_config("train", path)
    tree = read_tree(path, overrides or [])
    try:
        return TrainConfig.model_validate(tree)
    except ValidationError as error:
        raise UserError(f"{path}: {faults(error, TrainConfig)}") from error
