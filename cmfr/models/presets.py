"""The models by name: one table of numbers.

CMFR's four sizes are ours; the widths of DCVC-DC and DCVC-FM are those that were published.
"""

from __future__ import annotations

from typing import Any

from cmfr.config import HierarchyConfig
from cmfr.models.cmfr.config import (
    CMFRConfig,
    IntraConfig,
    MatchingLevel,
    MotionConfig,
    RefinerConfig,
    ResidualConfig,
)
from cmfr.models.dcvc.config import DCVCConfig, EstimationLevel


def _levels(*strides: int) -> tuple[EstimationLevel, ...]:
    return tuple(EstimationLevel(stride=s) for s in strides)


def _matching(*levels: tuple[int, int]) -> tuple[MatchingLevel, ...]:
    return tuple(MatchingLevel(stride=stride, radius=radius) for stride, radius in levels)


# DCVC-DC codes P-frames at the I-frame's quality index: the pattern only chooses the adaptor.
_DC_HIERARCHY = HierarchyConfig(quality_offsets=(0, 0, 0, 0))
_FM_HIERARCHY = HierarchyConfig(
    weights=(0.5, 1.2, 0.5, 0.9, 0.5, 0.9, 0.5, 0.9),
    quality_offsets=(0,) * 8,
    adaptors=(0, 1, 0, 2, 0, 2, 0, 2),
)
# Every eighth frame is much better than the others (measured: checkpoints/TRAINING_LOG.md).
_EIGHT = HierarchyConfig(
    weights=(0.5, 1.8, 0.5, 0.75, 0.5, 1.0, 0.5, 0.75),
    quality_offsets=(-7, 6, -7, -3, -7, 0, -7, -3),
    adaptors=(0, 1, 0, 2, 0, 1, 0, 2),
)
# For tests and smoke runs.
_DCVC_NANO: dict[str, Any] = dict(
    context_channels=(8, 8, 16),
    motion_channels=8,
    latent=16,
    hyper=8,
    decoder_channels=8,
    unet=(8, 8, 16),
    intra_channels=(8, 8, 16),
    intra_hyper=8,
    intra_refine=8,
    estimation=(
        EstimationLevel(stride=8, kernel=3, widths=(8,)),
        EstimationLevel(stride=1, kernel=3, widths=(8,)),
    ),
)


def _dcvc_dc(name: str, **changes: Any) -> DCVCConfig:
    widths = {"estimation": _levels(8, 4, 2, 1), "hyper": 128, "intra_hyper": 256, **changes}
    return DCVCConfig(
        name=name,
        family="dcvc",
        generation="dc",
        color="rgb",
        hierarchy=_DC_HIERARCHY,
        refresh_period=0,
        **widths,
    )


def _dcvc_fm(name: str, **changes: Any) -> DCVCConfig:
    fine = tuple(EstimationLevel(stride=s, kernel=5) for s in (2, 1))
    widths = {"estimation": (*_levels(8, 4), *fine), "hyper": 64, "intra_hyper": 128, **changes}
    return DCVCConfig(
        name=name,
        family="dcvc",
        generation="fm",
        hierarchy=_FM_HIERARCHY,
        refresh_period=32,
        **widths,
    )


# What cmfr-s and cmfr-xs share, weights too.
_SMALL_INTRA = IntraConfig(
    channels=(32, 64, 128),
    blocks=(1, 2, 3),
    latent=96,
    latent_stride=8,
    hyper=48,
    prior=128,
)
_SMALL_ESTIMATION = (
    *_matching((16, 4), (8, 3), (4, 2), (2, 2)),
    MatchingLevel(stride=1, radius=0, widths=(32, 32)),
)
# One line of numbers a model; the same classes build all of a family.
PRESETS: dict[str, CMFRConfig | DCVCConfig] = {
    "cmfr": CMFRConfig(
        name="cmfr",
        hierarchy=_EIGHT,
        feature_stride=1,
        context_channels=(48, 64, 96),
        intra=IntraConfig(
            channels=(128, 192, 256),
            blocks=(1, 2, 2),
            latent=128,
            latent_stride=8,
            hyper=64,
            prior=160,
        ),
        motion=MotionConfig(
            estimation=_matching((16, 4), (8, 3), (4, 2), (2, 2), (1, 1)),
            channels=64,
            latent=64,
            hyper=64,
            prior=88,
            rdoq=9,
            refiner=RefinerConfig(width=48, older=4),
            accumulated=True,
        ),
        residual_codec=ResidualConfig(
            latent=128, latent_stride=8, hyper=64, prior=160, rdoq=8, generator_blocks=3
        ),
    ),
    "cmfr-s": CMFRConfig(
        name="cmfr-s",
        hierarchy=_EIGHT,
        feature_stride=2,
        context_channels=(24, 48, 96),
        bottleneck=0.5,
        intra=_SMALL_INTRA,
        motion=MotionConfig(
            estimation=_SMALL_ESTIMATION,
            channels=48,
            latent=48,
            hyper=32,
            prior=64,
            spatial_steps=2,
            rdoq=9,
            refiner=RefinerConfig(width=32, blocks=2, older=3),
            accumulated=True,
        ),
        residual_codec=ResidualConfig(latent=96, latent_stride=8, hyper=32, prior=96, rdoq=8),
    ),
    # Half of cmfr-s, with the same I-frame codec and motion estimation: for ablations that train
    # many variants from cmfr-s's weights of the two.
    "cmfr-xs": CMFRConfig(
        name="cmfr-xs",
        feature_stride=2,
        context_channels=(12, 24, 96),
        bottleneck=0.5,
        intra=_SMALL_INTRA,
        motion=MotionConfig(
            estimation=_SMALL_ESTIMATION,
            channels=32,
            latent=32,
            hyper=16,
            prior=48,
            spatial_steps=2,
            rdoq=12,
            refiner=RefinerConfig(width=16, blocks=2),
        ),
        residual_codec=ResidualConfig(latent=96, latent_stride=8, hyper=24, prior=64, rdoq=12),
    ),
    "cmfr-nano": CMFRConfig(
        name="cmfr-nano",
        feature_stride=4,
        context_channels=(8, 8, 16),
        intra=IntraConfig(channels=(8, 8, 16), blocks=(1, 1, 1), latent=16, hyper=8, prior=24),
        motion=MotionConfig(
            estimation=(MatchingLevel(stride=8, widths=(8,)),),
            channels=8,
            latent=8,
            hyper=4,
            prior=16,
            spatial_steps=2,
            refiner=RefinerConfig(width=8, blocks=1, hypotheses=2, older=1),
            accumulated=True,
        ),
        residual_codec=ResidualConfig(latent=16, hyper=8, prior=24, rdoq=12, generator_blocks=1),
    ),
    "dcvc-dc": _dcvc_dc("dcvc-dc"),
    "dcvc-fm": _dcvc_fm("dcvc-fm"),
    "dcvc-dc-nano": _dcvc_dc("dcvc-dc-nano", **_DCVC_NANO),
    "dcvc-fm-nano": _dcvc_fm("dcvc-fm-nano", **_DCVC_NANO),
}
