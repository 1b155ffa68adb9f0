"""Training configuration: one YAML file, validated; stages are data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from cmfr.config import PRESETS, QUALITIES, ModelConfig, Strict


class DataConfig(Strict):
    """Training clips.

    kind: ``clips`` = a folder of video files; ``septuplets`` = Vimeo-90k as distributed (its root,
    the folder that holds ``sequences/`` and the lists). preload keeps the whole set as uint8 in
    the memory of the training device and crops there: always for clips, on request for septuplets
    (all of Vimeo-90k are 150 GB), which `workers` processes read otherwise. gaps: temporal
    distances drawn from.
    """

    kind: Literal["clips", "septuplets"] = "clips"
    root: Path
    list_file: str = "sep_trainlist.txt"
    preload: bool | None = None
    workers: int = Field(2, ge=0)
    gaps: tuple[Annotated[int, Field(ge=1)], ...] = Field((1,), min_length=1)
    reversal: bool = True

    @model_validator(mode="after")
    def _clips_are_preloaded(self) -> DataConfig:
        if self.kind == "clips" and self.preload is False:
            raise ValueError("preload: false is for septuplets; clips are decoded at the start")
        return self

    @property
    def preloads(self) -> bool:
        return self.kind == "clips" or bool(self.preload)


class LossConfig(Strict):
    """Loss per frame: lambda(quality) * weight[position] * D + R.

    R is in bits per pixel. D is the mean squared error on samples in [0, 1], averaged over the
    planes with `plane_weights` (Y, Cb, Cr; or R, G, B). lambda runs geometrically from
    `lambda_min` at quality 0 to `lambda_max` at quality 63; the I-frames have their own range.
    A stage's `warp_weight` adds that multiple of lambda * weight * D of the motion-compensated
    predictions (before and after the refiner, averaged) to the loss of P-frames.
    balance: the loss of a sample is divided by (lambda / lambda_min) ** balance. Each sample's
    optimum stays; with 0 the high qualities, whose losses are large, dominate the gradient.
    """

    lambda_min: float = Field(4.0, gt=0)
    lambda_max: float = Field(2048.0, gt=0)
    intra_lambda_min: float = Field(48.0, gt=0)
    intra_lambda_max: float = Field(4096.0, gt=0)
    plane_weights: tuple[float, float, float] = (6 / 8, 1 / 8, 1 / 8)
    balance: float = Field(0.0, ge=0, le=1)

    def lambda_of(self, quality: Any, intra: bool = False) -> Any:
        """lambda of a quality index; floats and tensors alike."""
        low, high = (
            (self.intra_lambda_min, self.intra_lambda_max)
            if intra
            else (self.lambda_min, self.lambda_max)
        )
        return low * (high / low) ** (quality / (QUALITIES - 1))


class StageConfig(Strict):
    """One training stage.

    objective: ``intra`` = I-frames alone, ``motion`` = motion codec and refiner by the error of
    the prediction, ``inter`` = P-frames after an I-frame. trainable: name prefixes of the modules
    that learn (everything else is frozen). start: the reference of the first P-frame is the
    coded I-frame, or the source (before there is an intra codec). cascaded: one backward pass
    through the whole clip; otherwise a step per P-frame, the state detached. lr falls along a
    cosine to lr_end. warp_weight: see `LossConfig`. random_position: clips start anywhere in the
    hierarchical pattern, so that clips shorter than the pattern train all of it. rate_warmup: in
    so many first steps R counts less (rising linearly from 0), while latents find their use.
    quantization: what the decoder sees in training, straight-through rounding or additive noise.
    """

    name: str
    objective: Literal["intra", "motion", "inter"]
    trainable: tuple[str, ...]
    start: Literal["intra", "source"] = "intra"
    frames: int = Field(2, ge=1)
    crop: int = Field(128, ge=16, multiple_of=16)
    batch: int = Field(8, ge=1)
    steps: int = Field(ge=1)
    lr: float = Field(gt=0)
    lr_end: float = Field(0.0, ge=0)
    warmup: int = Field(100, ge=0)
    cascaded: bool = False
    warp_weight: float = Field(0.0, ge=0)
    random_position: bool = False
    rate_warmup: int = Field(0, ge=0)
    quantization: Literal["ste", "noise"] = "ste"

    @model_validator(mode="after")
    def _frames(self) -> StageConfig:
        if self.objective != "intra" and self.frames < 2:
            raise ValueError(f"stage {self.name}: objective {self.objective} needs frames >= 2")
        return self


class InitConfig(Strict):
    """A weights file, and the name prefixes of the modules taken from it (all by default)."""

    file: Path
    modules: tuple[str, ...] = ("",)


class TrainConfig(Strict):
    """A training run. `run_dir` is made; the same command resumes it.

    init: weights to start from, file by file; spynet: folder of SpyNet arrays (.npy) that
    initialize the three coarsest levels of the motion estimation.
    """

    model: ModelConfig
    data: DataConfig
    stages: tuple[StageConfig, ...] = Field(min_length=1)
    run_dir: Path
    loss: LossConfig = LossConfig()
    init: tuple[InitConfig, ...] = ()
    spynet: Path | None = None
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int | None = Field(None, ge=1)
    bf16: bool = True
    channels_last: bool = True
    ema_decay: float = Field(0.999, ge=0, lt=1)
    grad_clip: float = Field(1.0, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    log_every: int = Field(20, ge=1)
    image_every: int = Field(500, ge=1)
    save_every: int = Field(500, ge=1)
    time_limit_minutes: float | None = None  # save and stop after this much time

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, values: Any) -> Any:
        """`model: cmfr-s` names a preset; `model: {preset: cmfr-s, fusion: concat}` changes it."""
        if isinstance(values, dict) and "model" in values:
            values = {**values, "model": model_config(values["model"])}
        return values


def model_config(value: Any) -> Any:
    """A preset name, a mapping with ``preset`` and changes to it, or a complete mapping."""
    if isinstance(value, ModelConfig):
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
        raise ValueError(f"model: no preset is called {name!r}; there are {', '.join(PRESETS)}")
    changes = {k: v for k, v in value.items() if k != "preset"} if isinstance(value, dict) else {}
    return _merged(PRESETS[name].model_dump(), changes)


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`base` with `changes`, section by section: what is not mentioned stays."""
    result = dict(base)
    for key, value in changes.items():
        nested = isinstance(value, dict) and isinstance(base.get(key), dict)
        result[key] = _merged(base[key], value) if nested else value
    return result


def load_train_config(path: str | Path, overrides: list[str] | None = None) -> TrainConfig:
    """Read a YAML file and apply ``key.sub=value`` overrides (values are YAML).

    Raises ValueError that names the file and every offending key.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no configuration file {path}")
    try:
        tree = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(tree, dict):
        raise ValueError(f"{path} holds no mapping of keys to values")
    for override in overrides or []:
        key, equals, text = override.partition("=")
        if not equals:
            raise ValueError(f"override {override!r} is not of the form key=value")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            raise ValueError(f"override {override!r}: the value is not valid YAML") from None
        _set(tree, key, value)
    try:
        return TrainConfig.model_validate(tree)
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(str(part) for part in fault['loc']) or 'configuration'}: {fault['msg']}"
            for fault in error.errors()
        )
        raise ValueError(f"{path}: {faults}") from error


def _set(tree: dict[str, Any], key: str, value: Any) -> None:
    """tree["a"]["b"] = value for key "a.b"; a number indexes a list ("stages.0.steps")."""
    *parents, last = key.split(".")
    node: Any = tree
    try:
        for part in parents:
            if isinstance(node, list):
                node = node[int(part)]
            else:
                if isinstance(node.get(part), str):  # `model: cmfr-s` with model.fusion=concat
                    node[part] = {"preset": node[part]}
                node = node.setdefault(part, {})
        node[int(last) if isinstance(node, list) else last] = value
    except (ValueError, IndexError, AttributeError, TypeError):
        raise ValueError(f"override {key}={value}: the configuration has no such place") from None
