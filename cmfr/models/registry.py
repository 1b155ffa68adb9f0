"""The codec families: what a `family` in a model's configuration stands for.

A new family is a folder beside `cmfr/` and `dcvc/` and an entry of `FAMILIES`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, Discriminator, Tag, TypeAdapter
from torch import Tensor

from cmfr.config import CMFRConfig, CodecConfig, DCVCConfig
from cmfr.models.base import FrameCodec, FrameSize, InterCodec
from cmfr.models.cmfr.inter import CMFR, RENAMED, checked_switches
from cmfr.models.cmfr.intra import IntraCodec
from cmfr.models.dcvc.inter import DCVC
from cmfr.models.dcvc.intra import DCVCIntra
from cmfr.models.dcvc.published import read_official

# What `Family.published` is given: files; the preset's configuration; the weights (or their shapes)
# that a model of a configuration has; changes to the configuration.
PublishedReader = Callable[..., tuple[Any, dict[str, Tensor]]]


@dataclass(frozen=True)
class Family:
    """A codec family.

    config: its configuration, a `CodecConfig` whose `family` is the entry's name.
    intra, inter: its I-frame and P-frame codec, made of a configuration.
    checked: the configuration, or UserError; for what the configuration cannot know of itself.
    published: reads checkpoints that others published (`dcvc.published.read_official`).
    """

    config: type[CodecConfig]
    intra: Callable[[Any], FrameCodec[FrameSize]]
    inter: Callable[[Any], InterCodec]
    checked: Callable[[Any], Any] = lambda cfg: cfg
    published: PublishedReader | None = None
    # What weights are called in files from before, and here: the beginnings of their names.
    renamed: tuple[tuple[str, str], ...] = ()


FAMILIES: dict[str, Family] = {
    "cmfr": Family(CMFRConfig, IntraCodec, CMFR, checked=checked_switches, renamed=RENAMED),
    "dcvc": Family(DCVCConfig, DCVCIntra, DCVC, published=read_official),
}


def _family(value: Any) -> str:
    # Weights files from before there was more than one family do not name it.
    if isinstance(value, dict):
        return str(value.get("family", "cmfr"))
    return str(getattr(value, "family", "cmfr"))


def _union(families: dict[str, Family]) -> Any:
    members = [
        Annotated[family.config, AfterValidator(family.checked), Tag(name)]
        for name, family in families.items()
    ]
    return Annotated[reduce(or_, members), Discriminator(_family)]


if TYPE_CHECKING:
    ModelConfig = CMFRConfig | DCVCConfig
else:
    ModelConfig = _union(FAMILIES)


def parse_model(value: Any) -> ModelConfig:
    """The configuration of any family from plain values. Raises ValidationError."""
    return TypeAdapter(_union(FAMILIES)).validate_python(value)


def with_present_names(weights: dict[str, Tensor], family: str) -> dict[str, Tensor]:
    """Weights of this or an earlier version, under their present names."""
    return {_present_name(name, family): value for name, value in weights.items()}


def _present_name(name: str, family: str) -> str:
    for before, now in FAMILIES[family].renamed:
        if name.startswith(before):
            return now + name.removeprefix(before)
    return name
