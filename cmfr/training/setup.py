"""What a run needs before its first step: the model, its data, and a check of every stage."""

from __future__ import annotations

import operator
from pathlib import Path

import torch
from torch import Tensor

from cmfr.codec.checkpoint import check_fit, load_weights, read_weights, weights_hash
from cmfr.codec.model_files import find_weights
from cmfr.models.cmfr.latent import CMFRLatentCoder
from cmfr.models.video_model import VideoModel
from cmfr.nn.densities import weights_of
from cmfr.training.config import InitConfig, StageConfig, TrainConfig
from cmfr.training.data.datasets import ClipSet, Preloaded, open_data
from cmfr.training.data.sampler import Sampler
from cmfr.training.spynet import load_spynet
from cmfr.training.stage import StageModel, learns
from cmfr.utils.errors import UserError


def build_model(cfg: TrainConfig, device: torch.device) -> VideoModel:
    """The model with its initial weights. Raises ValueError or OSError that names a bad file."""
    torch.manual_seed(cfg.seed)
    model = VideoModel(cfg.model)
    if cfg.spynet:
        load_spynet(model, cfg.spynet)
    init_from(model, cfg.init)
    layout = torch.channels_last if cfg.channels_last else torch.contiguous_format
    model.to(device, memory_format=layout)  # type: ignore[call-overload]
    if cfg.compile:
        model.intra.compile()
        model.inter.compile()
    return model


def bfloat16_wanted(
    cfg: TrainConfig, device: torch.device, cpuinfo: Path = Path("/proc/cpuinfo")
) -> tuple[bool, str]:
    """Whether to compute in bfloat16 on this device, and a phrase that says so and why."""
    faster, emulated, what = _bfloat16(device, cpuinfo)
    chosen = faster if cfg.bf16 == "auto" else cfg.bf16
    if chosen and emulated:
        what += ", so this may be many times slower than float32"
    asked = str(cfg.bf16).lower()
    return chosen, f"{'bfloat16' if chosen else 'float32'} (bf16: {asked}; {what})"


def _bfloat16(device: torch.device, cpuinfo: Path) -> tuple[bool, bool, str]:
    """Whether bfloat16 is faster than float32 on the device, whether PyTorch emulates it there (on
    a CPU many times slower), and a phrase that says which instructions it has."""
    if device.type == "cuda":
        has = torch.cuda.is_bf16_supported(including_emulation=False)
        return has, not has, f"this GPU has {'' if has else 'no '}bfloat16"
    flags = set(cpuinfo.read_text().split()) if cpuinfo.is_file() else set()
    if "amx_bf16" in flags:
        return True, False, "this CPU has amx_bf16"
    if "avx512_bf16" in flags:  # products at the rate of float32, and casts on top of them
        return False, False, "this CPU has avx512_bf16, but no amx_bf16"
    return False, True, "this CPU has neither amx_bf16 nor avx512_bf16"


def init_from(model: VideoModel, inits: tuple[InitConfig, ...]) -> None:
    """Take modules from weights files."""
    for init in inits:
        load_weights(model, weights_of(model) | _chosen(init), str(init.file))


def init_hashes(cfg: TrainConfig) -> dict[str, str]:
    """What a run takes from weights files, as hashes by file: two runs begin alike if these are
    the same. Raises as `init_from` does."""
    inits = (*cfg.init, *(init for stage in cfg.stages for init in stage.init))
    return {
        f"{init.file.stem}: {', '.join(init.modules)}": weights_hash(_chosen(init)).hex()
        for init in inits
    }


def _chosen(init: InitConfig) -> dict[str, Tensor]:
    _, weights, _ = read_weights(find_weights(init.file))
    chosen = {k: v for k, v in weights.items() if k.startswith(init.modules)}
    if not all(any(k.startswith(m) for k in chosen) for m in init.modules):
        raise UserError(f"init: {init.file} has no modules called {init.modules}")
    return chosen


def check_stages(cfg: TrainConfig, model: VideoModel, processes: int) -> None:
    """Raises ValueError or OSError for what a stage could not train with: a mistake in the last
    stage must not wait for it."""
    weights = weights_of(model)
    coders = [name for name, m in model.named_modules() if isinstance(m, CMFRLatentCoder)]
    names = [name for name, _ in model.named_parameters()]
    for stage in cfg.stages:
        for prefix in stage.trainable + stage.frozen:
            present = any(name.startswith(prefix) for name in names)
            if not present and not _left_out(model, prefix):
                raise UserError(f"stage {stage.name}: no module is called {prefix}")
        if not any(learns(stage, name) for name in names):
            raise UserError(f"stage {stage.name}: nothing is left to train")
        if stage.batch % (processes * stage.accumulate):
            raise UserError(
                f"stage {stage.name}: batch {stage.batch} cannot be split over "
                f"{processes} processes x {stage.accumulate} accumulation steps"
            )
        for prefix in stage.calibrate:
            measured = any(name.startswith(prefix) for name in coders)
            if not measured and not _left_out(model, prefix):
                raise UserError(f"stage {stage.name}: calibrate: no latents belong to {prefix}")
        for init in stage.init:
            check_fit(weights, weights | _chosen(init), str(init.file))
        StageModel(model, cfg.loss, stage, bf16=False)  # has checks of its own


def _left_out(model: torch.nn.Module, name: str) -> bool:
    """Whether the model's switches leave a module of this name out."""
    try:
        return operator.attrgetter(name)(model) is None
    except AttributeError:
        return False


def open_data_sets(cfg: TrainConfig, device: torch.device) -> dict[str, ClipSet]:
    """The data sets that are used, by name; those of stages preloaded where they ask for it.

    Raises FileNotFoundError or UserError, for a stage that learns from what is held out too.
    """
    trained = {data_name(cfg, stage) for stage in cfg.stages}
    validated = {cfg.validation.data} if cfg.validation else set()
    data = {name: open_data(cfg.data[name]) for name in sorted(trained | validated)}
    for name in trained:
        for held_out in validated:
            _check_held_out(cfg, data, name, held_out)
    for name in trained:
        if cfg.data[name].preload:
            data[name] = Preloaded(data[name], device)
    return data


def _check_held_out(cfg: TrainConfig, data: dict[str, ClipSet], name: str, held_out: str) -> None:
    """Raises UserError where a set that is trained on has clips of the one that is held out."""
    one, other = cfg.data[name], cfg.data[held_out]
    if not getattr(other, "held_out", False) or name == held_out:
        return
    if (one.kind, getattr(one, "root", None)) != (other.kind, getattr(other, "root", None)):
        return
    if both := set(data[name].names) & set(data[held_out].names):
        raise UserError(
            f"data.{name} has {len(both)} clips that data.{held_out} holds out for validation: "
            f"give data.{name} the same hold_out"
        )


def data_name(cfg: TrainConfig, stage: StageConfig) -> str:
    """Which data set a stage reads."""
    return stage.data or next(iter(cfg.data))


def stage_samplers(cfg: TrainConfig, data: dict[str, ClipSet]) -> list[Sampler]:
    """The cuts of every stage."""
    names = {data_name(cfg, stage) for stage in cfg.stages}  # what only validates has no cuts
    shapes = {name: [data[name].shape(i) for i in range(len(data[name]))] for name in names}
    return [
        Sampler(shapes[name], cfg.data[name], stage, (cfg.seed, index))
        for index, stage in enumerate(cfg.stages)
        for name in [data_name(cfg, stage)]
    ]
