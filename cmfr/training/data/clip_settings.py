"""How training clips are cut; plain data, no torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from cmfr.utils.errors import UserError

SMALLEST = 16  # pixels; what the codec takes


@dataclass(frozen=True)
class ClipSettings:
    """How clips are cut.

    min_frames, max_frames: of a clip.
    height: pixels of the shorter side at most.
    scene_threshold: a cut's change over the mean change of its neighbours.
    min_motion: mean absolute luma difference (8-bit codes) under which a frame repeats the one
    before.
    max_clips_per_scene: None = no limit.
    crf: of x264.

    Raises ValueError.

    The two thresholds were set on 53 joined clips of real video: 2.1 found all 48 cuts and no
    other (the library's 3.0 found 41); repeats after lossy coding were under 0.13, slow motion
    over 0.26.
    """

    min_frames: int = 16
    max_frames: int = 32
    height: int = 256
    scene_threshold: float = 2.1
    min_motion: float = 0.2
    max_clips_per_scene: int | None = None
    crf: int = 12

    def __post_init__(self) -> None:
        if not 1 <= self.min_frames <= self.max_frames:
            raise UserError(
                f"a clip needs 1 or more frames and at least as many at most, "
                f"not {self.min_frames}..{self.max_frames}"
            )
        if self.height < SMALLEST or self.height % 2:
            raise UserError(f"the height must be even and {SMALLEST} or more, not {self.height}")
        if not self.scene_threshold > 0:
            raise UserError(f"the scene threshold must be positive, not {self.scene_threshold}")
        if not self.min_motion >= 0:
            raise UserError(f"the least motion must be 0 or more, not {self.min_motion}")
        if self.max_clips_per_scene is not None and self.max_clips_per_scene < 1:
            raise UserError(f"clips per scene must be 1 or more, not {self.max_clips_per_scene}")
        if not 0 <= self.crf <= 51:
            raise UserError(f"crf must be in 0..51, not {self.crf}")

    def __str__(self) -> str:
        return " ".join(f"{name}={value}" for name, value in asdict(self).items())
