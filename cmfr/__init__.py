"""Conditional masked feature residual coding: train, evaluate and use a neural video codec."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Codec", "CMFRConfig", "PRESETS", "load_codec", "__version__"]

if TYPE_CHECKING:
    from cmfr.codec.codec import Codec, load_codec
    from cmfr.config import CMFRConfig
    from cmfr.models.presets import PRESETS


def __getattr__(name: str) -> Any:
    # Loaded on first use: importing torch takes seconds, and `cmfr --help` needs none of it.
    if name in ("Codec", "load_codec"):
        from cmfr.codec import codec

        return getattr(codec, name)
    if name == "CMFRConfig":
        from cmfr.config import CMFRConfig

        return CMFRConfig
    if name == "PRESETS":
        from cmfr.models.presets import PRESETS

        return PRESETS
    raise AttributeError(f"module 'cmfr' has no attribute {name!r}")
