"""Published DCVC-DC and DCVC-FM checkpoints -> weights of this project.

A checkpoint is a PyTorch file of tensors by name, one for the I-frame and one for the P-frame
network; the names below are theirs. `NAMES` is the whole translation: rules are tried in order,
all of them on every name, and every name must become one of ours, with its shape.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cmfr.config import DCVCConfig
from cmfr.utils.errors import UserError

# (pattern, replacement): first the modules of the I-frame network, then of the P-frame network,
# then what they are made of.
_INTRA_NAMES = [
    (r"^q_(?:scale_(enc|dec))$", r"\1_gain.table"),
    (r"^q_basic_(enc|dec)$", r"\1_gain.factor"),
    (r"^(enc|dec)_gain", lambda m: {"enc": "encoder", "dec": "decoder"}[m[1]] + "_gain"),
    (r"^enc\.enc_1", "encoder_head"),
    (r"^enc\.enc_2", "encoder_tail"),
    (r"^dec\.dec_1", "decoder_head"),
    (r"^dec\.dec_2", "decoder_tail"),
    (r"^(encoder_(?:head|tail)\.\d)\.conv\.0\.", r"\1.conv1."),
    (r"^(encoder_(?:head|tail)\.\d)\.conv\.2\.", r"\1.conv2."),
    (r"^bit_estimator_z\.", "latent.bottleneck."),
    (r"^hyper_enc\.", "latent.hyper_encoder."),
    (r"^hyper_dec\.", "latent.hyper_decoder."),
    (r"^y_prior_fusion\.", "latent.fusion."),
    (r"^y_spatial_prior_reduction\.", "latent.reduction."),
    (r"^y_spatial_prior_adaptor_", "latent.adaptors."),
    (r"^y_spatial_prior\.", "latent.spatial."),
]
_INTER_NAMES = [
    (r"^mv_y_q_(?:scale_)?enc$", "motion_codec.encoder.gain.table"),
    (r"^mv_y_q_(?:scale_)?dec$", "motion_codec.decoder.gain.table"),
    (r"^mv_y_q_basic_enc$", "motion_codec.encoder.gain.factor"),
    (r"^mv_y_q_basic_dec$", "motion_codec.decoder.gain.factor"),
    (r"^y_q_(?:scale_)?enc$", "residual_codec.encoder.gain.table"),
    (r"^y_q_(?:scale_)?dec$", "residual_codec.decoder.gain.table"),
    (r"^y_q_basic_enc$", "residual_codec.encoder.gain.factor"),
    (r"^y_q_basic_dec$", "residual_codec.decoder.gain.factor"),
    (r"^optic_flow\.moduleBasic\.", "motion_estimation.levels."),
    (r"^optic_flow\.me_(\d)x\.", lambda m: f"motion_estimation.levels.{'8421'.index(m[1])}."),
    (r"^(motion_estimation\.levels\.\d)\.conv(\d)", lambda m: f"{m[1]}.{2 * int(m[2]) - 2}"),
    (r"^mv_encoder\.enc_1\.", "motion_codec.encoder.head."),
    (r"^mv_encoder\.enc_2\.", "motion_codec.encoder.down."),
    (r"^mv_encoder\.enc_3\.", "motion_codec.encoder.tail."),
    (r"^mv_encoder\.adaptor_0\.", "motion_codec.encoder.without_previous."),
    (r"^mv_encoder\.adaptor_1\.", "motion_codec.encoder.with_previous."),
    (r"^mv_decoder\.dec_1\.", "motion_codec.decoder.head."),
    (r"^mv_decoder\.dec_2\.", "motion_codec.decoder.up."),
    (r"^mv_decoder\.dec_3\.", "motion_codec.decoder.tail."),
    (r"^bit_estimator_z_mv\.", "motion_codec.latent.bottleneck."),
    (r"^bit_estimator_z\.", "residual_codec.latent.bottleneck."),
    (r"^mv_hyper_prior_(en|de)coder\.", r"motion_codec.latent.hyper_\1coder."),
    (r"^contextual_hyper_prior_(en|de)coder\.", r"residual_codec.latent.hyper_\1coder."),
    (r"^mv_y_(prior_fusion|spatial_prior)", r"motion_codec.latent.\1"),
    (r"^y_(prior_fusion|spatial_prior)", r"residual_codec.latent.\1"),
    (r"\.latent\.prior_fusion_adaptor_0\.", ".latent.without_previous."),
    (r"\.latent\.prior_fusion_adaptor_1\.", ".latent.with_previous."),
    (r"\.latent\.prior_fusion\.", ".latent.fusion."),
    (r"\.latent\.spatial_prior_adaptor_", ".latent.adaptors."),
    (r"\.latent\.spatial_prior\.", ".latent.spatial."),
    (r"^temporal_prior_encoder\.", "residual_codec.temporal_prior."),
    (r"^feature_adaptor_I\.", "adaptor.of_frame.conv."),
    (r"^feature_adaptor\.", "adaptor.of_feature."),
    (r"^feature_extractor\.conv(\d)\.", lambda m: f"temporal_context.extract{int(m[1]) - 1}.0."),
    (
        r"^feature_extractor\.res_block(\d)\.",
        lambda m: f"temporal_context.extract{int(m[1]) - 1}.1.",
    ),
    (r"^align\.conv_offset\.", "temporal_context.align.offsets."),
    (r"^align\.", "temporal_context.align."),
    (
        r"^context_fusion_net\.conv(\d)_(up|out)\.",
        lambda m: f"temporal_context.{m[2]}{int(m[1]) - 1}.0.",
    ),
    (
        r"^context_fusion_net\.res_block(\d)_(up|out)\.",
        lambda m: f"temporal_context.{m[2]}{int(m[1]) - 1}.1.",
    ),
    (r"^contextual_encoder\.conv(\d)\.", lambda m: f"residual_codec.encoder.down{int(m[1]) - 1}."),
    (r"^contextual_encoder\.res(\d)\.", r"residual_codec.encoder.mix\1."),
    (r"^contextual_decoder\.up(\d)\.", lambda m: f"residual_codec.decoder.up{4 - int(m[1])}."),
    (r"^contextual_decoder\.res(\d)\.", lambda m: f"residual_codec.decoder.mix{3 - int(m[1])}."),
    (r"^recon_generation_net\.first_conv\.", "frame_generator.head."),
    (r"^recon_generation_net\.unet_(\d)\.", lambda m: f"frame_generator.body.{int(m[1]) - 1}."),
    (r"^recon_generation_net\.recon_conv\.", "frame_generator.tail."),
]
_BLOCK_NAMES = [
    (r"\.adaptors\.([123])\.", lambda m: f".adaptors.{int(m[1]) - 1}."),
    (r"\.bottleneck\.f(\d)\.", lambda m: f".bottleneck.stages.{int(m[1]) - 1}."),
    # U-Nets
    (r"(refine\.0|body\.\d)\.down([12])\.", r"\1.pool\2."),
    (r"(refine\.0|body\.\d)\.conv([123])\.", r"\1.down\2."),
    (r"(refine\.0|body\.\d)\.context_refine\.", r"\1.middle."),
    (r"(refine\.0|body\.\d)\.up_conv([23])\.", r"\1.join\2."),
    # depthwise blocks
    (r"\.block\.0\.conv1\.0\.", ".point1."),
    (r"\.block\.0\.(?:conv1\.2|depth_conv)\.", ".depth."),
    (r"\.block\.0\.conv2\.", ".point2."),
    (r"\.block\.0\.out_conv\.", ".merge."),
    (r"\.block\.0\.adaptor\.", ".skip."),
    (r"\.block\.1\.(?:conv\.2|conv_out)\.", ".reduce."),
    (r"\.block\.1\.conv(?:\.0)?\.", ".expand."),
    # blocks that change the resolution
    (r"\.subpel_conv\.", ".up."),
    (r"\.(?:up|down)sample\.", ".skip."),
]
NAMES: dict[str, list[tuple[str, Any]]] = {
    "intra": _INTRA_NAMES + _BLOCK_NAMES,
    "inter": _INTER_NAMES + _BLOCK_NAMES,
}


def translated(part: str, name: str) -> str:
    """The name that a weight of the `part` ("intra" or "inter") network has here."""
    for pattern, replacement in NAMES[part]:
        name = re.sub(pattern, replacement, name)
    return f"{part}.{name}"


def convert_state_dicts(
    intra: dict[str, Tensor],
    inter: dict[str, Tensor],
    cfg: DCVCConfig,
    expected: dict[str, Tensor],
) -> dict[str, Tensor]:
    """Both published state dicts -> weights of a model of this configuration, float32.

    expected: the model's weights; their shapes count. Raises UserError that names what does not
    fit.
    """
    weights: dict[str, Tensor] = {}
    for part, state in (("intra", intra), ("inter", inter)):
        for name, value in state.items():
            ours, value = translated(part, name), value.float()
            if ours.endswith("gain.table"):
                scope = ours.removesuffix("table")
                ours = scope + ("log_gain" if scope + "log_gain" in expected else "gain")
                if ours.endswith("log_gain"):
                    if not (value > 0).all():
                        raise UserError(f"{name} holds a gain that is not positive")
                    value = value.log()
            if ours not in expected:
                raise UserError(f"{name} is no weight of {cfg.name}'s {part} network")
            wanted = expected[ours].shape
            if value.numel() == wanted.numel() and "gain." in ours:
                value = value.reshape(wanted)
            if value.shape != wanted:
                raise UserError(
                    f"{name} has shape {tuple(value.shape)}, {cfg.name} needs {tuple(wanted)}"
                )
            weights[ours] = value
    if missing := sorted(expected.keys() - weights.keys()):
        raise UserError(f"{len(missing)} weights of {cfg.name} are missing, e.g. {missing[0]}")
    return weights


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Tensors by name from a PyTorch file, whatever it wraps them in; nothing is unpickled.

    Raises FileNotFoundError or ValueError with one sentence.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint {path}")
    try:
        tree = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds here
        raise UserError(f"{path} is no PyTorch file of nothing but tensors") from error
    while isinstance(tree, dict):
        inner = [tree[key] for key in ("state_dict", "net", "model") if key in tree]
        if not inner or not isinstance(inner[0], dict):
            break
        tree = inner[0]
    if not isinstance(tree, dict) or not tree:
        raise UserError(f"{path} holds no tensors by name")
    if stray := [name for name, value in tree.items() if not isinstance(value, Tensor)]:
        raise UserError(f"{path}: {stray[0]!r} is no tensor")
    state = dict(tree)
    while all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): value for name, value in state.items()}
    return state


_PARTS = {"intra": "I-frame (image)", "inter": "P-frame (video)"}


def _kind(path: Path, state: dict[str, Tensor]) -> tuple[str, str]:
    """("dc" or "fm", "intra" or "inter") of a published state dict. Raises ValueError."""
    marks = {
        "q_basic_enc": ("dc", "intra"),
        "y_q_basic_enc": ("dc", "inter"),
        "y_spatial_prior_reduction.weight": ("fm", "intra"),
        "mv_y_q_enc": ("fm", "inter"),
    }
    for name, kind in marks.items():
        if name in state:
            return kind
    raise UserError(f"{path} is no checkpoint of DCVC-DC or DCVC-FM")


def read_official(
    paths: list[Path],
    preset: DCVCConfig,
    expected: Callable[[DCVCConfig], dict[str, Tensor]],
    **changes: Any,
) -> tuple[DCVCConfig, dict[str, Tensor]]:
    """Published checkpoints (I-frame and P-frame, in any order) -> configuration and weights.

    preset: of ``dcvc-dc`` or ``dcvc-fm``.
    expected: the weights, or their shapes, that a model of a configuration has.
    changes: to the configuration, e.g. color="ycbcr". DCVC-DC has checkpoints for RGB and for
    YCbCr: where no color is given, the files' names tell (the published ones for YCbCr have "yuv"
    in them).

    Raises FileNotFoundError or UserError.
    """
    model = preset.name
    states: dict[str, dict[str, Tensor]] = {}
    for path in paths:
        state = read_checkpoint(path)
        generation, part = _kind(path, state)
        if generation != preset.generation:
            raise UserError(f"{path} is a checkpoint of DCVC-{generation.upper()}, not of {model}")
        if part in states:
            raise UserError(f"{path}: a second {_PARTS[part]} checkpoint")
        states[part] = state
    for part, words in _PARTS.items():
        if part not in states:
            raise UserError(f"{model} needs its {words} checkpoint too")
    if preset.generation == "dc" and "color" not in changes:
        yuv = ["yuv" in path.name.lower() for path in paths]
        if any(yuv) != all(yuv):
            raise UserError("one checkpoint is for YCbCr and one for RGB, by their names")
        changes = {**changes, "color": "ycbcr" if all(yuv) else "rgb"}
    cfg = DCVCConfig.model_validate({**preset.model_dump(), **changes})
    return cfg, convert_state_dicts(states["intra"], states["inter"], cfg, expected(cfg))
