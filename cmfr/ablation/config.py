"""Ablations as configured: which variants there are, how they train, what they are measured on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, model_validator

from cmfr.config import QUALITIES, Strict
from cmfr.evaluation.conditions import CodingConditions, Color
from cmfr.evaluation.found_sets import FoundSet, find_set, set_of_files
from cmfr.evaluation.sequences import TestSequence
from cmfr.models.registry import FAMILIES, ModelConfig, parse_model
from cmfr.training.config import InitConfig, StageConfig, TrainConfig, load_train_config
from cmfr.utils.config_files import find_config
from cmfr.utils.errors import UserError
from cmfr.utils.yaml_config import differences, faults, merged, plain, read_tree

# Model keys that the intra codec is built from or codes with.
INTRA_KEYS = {
    "intra",
    "color",
    "block",
    "bottleneck",
    "skip_scale",
    "generation",
    "unet",
    "quality_gains",
    "intra_channels",
    "intra_hyper",
    "intra_refine",
}


class GeneratedConfig(Strict):
    """Rendered scenes number `first`, `first` + 1, ... (training takes those from 0 on)."""

    clips: int = Field(2, ge=1)
    size: tuple[int, int] = (192, 128)  # width, height
    frames: int = Field(8, ge=1)
    first: int = Field(1000, ge=0)

    def found(self, folder: Path) -> FoundSet:
        """The scenes as a test set; their files are to be in `folder`, and may not be there yet."""
        width, height = self.size
        names = tuple(f"scene{self.first + i:04d}" for i in range(self.clips))
        shape = {"width": width, "height": height, "frame_rate": 25, "frames": self.frames}
        sequences = (TestSequence.model_validate({"name": name, **shape}) for name in names)
        kind = f"{width}x{height}_{self.frames}.y4m"
        found = tuple((s, folder / f"{s.name}_{kind}") for s in sequences)
        return FoundSet("generated", found, names)


class EvaluationConfig(Strict):
    """What every variant codes, and what is measured.

    One of sets, videos and generated is given.

    sets: test sets (names or YAML files) with the folders of their sequences.
    videos: files, folders of videos, folders of PNGs.
    generated: rendered scenes.
    part_frames: of each sequence, for the table of what the parts do.
    frames: the first so many; default: all.
    intra_period, color, matrix, range, round_8bit: see `CodingConditions`.
    """

    sets: dict[str, Path] = {}
    videos: tuple[Path, ...] = ()
    generated: GeneratedConfig | None = None
    qualities: tuple[Annotated[int, Field(ge=0, lt=QUALITIES)], ...] = (0, 21, 42, 63)
    part_frames: int = Field(16, ge=8)
    frames: int | None = None
    intra_period: int = -1
    color: Color = "yuv420"
    matrix: str | None = None
    range: str | None = None
    round_8bit: bool = False

    @model_validator(mode="after")
    def _makes_sense(self) -> EvaluationConfig:
        if bool(self.videos) + bool(self.sets) + (self.generated is not None) != 1:
            raise UserError("give either videos or generated or sets")
        if list(self.qualities) != sorted(set(self.qualities)) or not self.qualities:
            raise UserError(f"qualities {list(self.qualities)} do not rise")
        self.conditions()
        return self

    def conditions(self) -> CodingConditions:
        keys = ("color", "matrix", "range", "round_8bit", "frames", "intra_period")
        return CodingConditions.asked(**{key: getattr(self, key) for key in keys})

    def found(
        self, folder: Path, tell: Callable[[str], None] = lambda line: None
    ) -> list[FoundSet]:
        """The sequences with their files; generated ones are to be in `folder`. `tell` gets a line
        for each of a test set. Raises FileNotFoundError, ValueError."""
        if self.generated is not None:
            return [self.generated.found(folder)]
        if self.videos:
            return [set_of_files(self.videos, self.frames)]
        return [find_set(name, root, None, self.frames, tell) for name, root in self.sets.items()]


class VariantConfig(Strict):
    """One model.

    changes: model keys, of the anchor against the base configuration's model, of every other
    variant against the anchor.
    seed: of its training, where it is not the base configuration's; variants that differ by it
    alone show what chance does.
    weights: a file to take instead of training.
    """

    title: str = Field(min_length=1)
    changes: dict[str, Any] = {}
    seed: int | None = Field(None, ge=0)
    weights: Path | None = None


class AblationConfig(Strict):
    """An ablation.

    base: a training configuration, relative to the ablation's own file.
    anchor: the variant that BD-rates refer to.
    overrides: `key=value` changes to the base configuration, for all variants.
    parallel: variants that train, or are measured, at the same time.
    threads: CPU threads of each of them.
    """

    base: Path
    run_dir: Path
    variants: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")], VariantConfig]
    anchor: str
    evaluation: EvaluationConfig
    overrides: tuple[str, ...] = ()
    parallel: int = Field(1, ge=1)
    threads: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _titles_differ(self) -> AblationConfig:
        titles = [variant.title for variant in self.variants.values()]
        if twice := sorted({title for title in titles if titles.count(title) > 1}):
            raise UserError(f"variants: two have the title {twice[0]!r}")
        return self

    @model_validator(mode="after")
    def _has_anchor(self) -> AblationConfig:
        if self.anchor not in self.variants:
            raise UserError(
                f"anchor: no variant is called {self.anchor!r}; there are "
                f"{', '.join(self.variants)}"
            )
        return self


def load_ablation(path: str | Path, overrides: list[str] | None = None) -> AblationConfig:
    """Read a YAML file; ``key=value`` changes it, ``base.key=value`` the training configuration.

    Raises FileNotFoundError, or ValueError that names every offending key.
    """
    own = [text for text in overrides or [] if not text.startswith("base.")]
    training = [text.removeprefix("base.") for text in overrides or [] if text not in own]
    file = find_config("ablation", path)
    tree = read_tree(file, own)
    try:
        cfg = AblationConfig.model_validate(tree)
    except ValidationError as error:
        raise UserError(f"{path}: {faults(error, AblationConfig)}") from error
    return cfg.model_copy(
        update={"base": file.parent / cfg.base, "overrides": (*cfg.overrides, *training)}
    )


# --- which runs there are


def resolve(cfg: AblationConfig) -> dict[str, TrainConfig]:
    """The training run of every variant: alike but for the model and the run_dir.

    Writes nothing. Raises ValueError with one sentence for a variant that does not differ from the
    anchor by all that it says, or not from another one, or that could not share the intra codec.
    """
    base = load_train_config(cfg.base, list(cfg.overrides))
    common = common_run(cfg)
    stages = [stage for stage in base.stages if stage.objective != "intra"]
    if not stages:
        raise UserError(f"{cfg.base} has no stage that trains P-frames")
    for stage in stages:
        _check_keeps_intra(stage)
    shared = base.init
    if common:
        shared += (InitConfig(file=common.run_dir / "weights.safetensors", modules=("intra",)),)
    models = _models(cfg, base.model)
    return {
        name: _run(
            cfg, _seeded(base, cfg.variants[name]), model, f"variants/{name}", stages, shared
        )
        for name, model in models.items()
    }


def _seeded(base: TrainConfig, variant: VariantConfig) -> TrainConfig:
    return base if variant.seed is None else base.model_copy(update={"seed": variant.seed})


def common_run(cfg: AblationConfig) -> TrainConfig | None:
    """The run of the `intra` stages, which makes the intra codec of all variants; None where the
    base configuration has no such stage, or all variants come with their weights."""
    base = load_train_config(cfg.base, list(cfg.overrides))
    stages = [stage for stage in base.stages if stage.objective == "intra"]
    if not stages or all(variant.weights for variant in cfg.variants.values()):
        return None
    return _run(cfg, base, _models(cfg, base.model)[cfg.anchor], "common", stages, base.init)


def _run(
    cfg: AblationConfig,
    base: TrainConfig,
    model: ModelConfig,
    folder: str,
    stages: list[StageConfig],
    init: tuple[InitConfig, ...],
) -> TrainConfig:
    update: dict[str, Any] = {"model": model, "stages": tuple(stages), "init": init}
    update |= {"run_dir": cfg.run_dir / folder, "threads": cfg.threads or base.threads}
    return base.model_copy(update=update)


def _models(cfg: AblationConfig, base: ModelConfig) -> dict[str, ModelConfig]:
    anchor = _changed(base, cfg.variants[cfg.anchor], cfg.anchor)
    models: dict[str, ModelConfig] = {}
    for name, variant in cfg.variants.items():
        if name == cfg.anchor:
            models[name] = anchor
            continue
        model = _changed(anchor, variant, name)
        changed = {key.split(".")[0] for key, _, _ in differences(plain(anchor), plain(model))}
        names = FAMILIES[anchor.family].renamed_keys
        if idle := sorted(key for key in variant.changes if names.get(key, key) not in changed):
            raise UserError(f"variant {name}: {idle[0]} is the same in the anchor {cfg.anchor}")
        same = [
            other
            for other, theirs in models.items()
            if theirs == model and cfg.variants[other].seed == variant.seed
        ]
        if not changed and cfg.anchor in same:
            raise UserError(f"variant {name} changes nothing, so it is the anchor {cfg.anchor}")
        if same:
            raise UserError(f"variants {same[0]} and {name} are the same model")
        if (touched := sorted(changed & INTRA_KEYS)) and variant.weights is None:
            raise UserError(
                f"variant {name} changes {touched[0]}, and with it the intra codec that all share"
            )
        models[name] = model
    return models


def _changed(model: ModelConfig, variant: VariantConfig, name: str) -> ModelConfig:
    if "name" in variant.changes:
        raise UserError(f"variant {name}: a model's name is no difference; leave it out")
    try:
        return parse_model(merged(plain(model), variant.changes))
    except ValidationError as error:
        raise UserError(f"variant {name}: {faults(error, ModelConfig)}") from error


def _check_keeps_intra(stage: StageConfig) -> None:
    def within(prefixes: tuple[str, ...]) -> bool:
        return any(p.startswith("intra") or "intra.".startswith(p) for p in prefixes)

    frozen = any("intra.".startswith(prefix) for prefix in stage.frozen)
    if within(stage.trainable) and not frozen:
        raise UserError(f"stage {stage.name} trains the intra codec, which all variants share")
    if any(within(init.modules) for init in stage.init):
        raise UserError(f"stage {stage.name} loads an intra codec, but all variants share one")
