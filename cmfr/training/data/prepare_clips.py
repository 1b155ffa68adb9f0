"""Training clips from any videos: no scene cuts, no repeated frames, small 8-bit 4:2:0 files.

One pass over a video, frame by frame, so memory does not grow with its length: shrink, leave out
repeats, find cuts among the frames that are left (a repeat would look like still motion to the
detector), cut into clips. `cmfr data clips` does this to whole folders.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cmfr.training.data.clip_settings import SMALLEST, ClipSettings
from cmfr.utils.errors import UserError
from cmfr.video.color import planes_to_tensor, rgb_to_ycbcr
from cmfr.video.info import UNSPECIFIED, Frame, VideoInfo, resolve_color
from cmfr.video.reader import open_video
from cmfr.video.writer import open_writer

MAX_REPEATS = 4  # repeats in a row that are left out of a clip (12 fps shown at 60); more end it
Row = list[str]  # of a CSV file
CLIP_COLUMNS = "file source first_frame frames repeats width height fps mean_motion".split()
_WINDOW = 2  # frames on either side that the cut detector compares a frame with
_MIN_CONTENT = 15.0  # least change (0..255, mean over hue, saturation, luma) that can be a cut


# --- one frame


def clip_info(info: VideoInfo, height: int) -> VideoInfo:
    """Shape of the clips of a video: 8-bit 4:2:0 of even size, shorter side `height` at most.

    Never larger than the video. RGB becomes BT.709 full range; other color tags are kept.
    Raises ValueError if too little is left.
    """
    width, full_height = info.width // 2 * 2, info.height // 2 * 2
    scale = min(1.0, height / max(1, min(width, full_height)))
    width, full_height = (2 * round(side * scale / 2) for side in (width, full_height))
    if min(width, full_height) < SMALLEST:
        raise UserError(f"{info.width}x{info.height} is too small: {SMALLEST}x{SMALLEST} at least")
    color = info.color
    if info.chroma == "rgb":
        color = replace(color, matrix="bt709", range="full", matrix_code=1)
    return VideoInfo(width, full_height, info.frame_rate, color, "420", 8)


def shrink(frame: Frame, info: VideoInfo, target: VideoInfo) -> Frame:
    """A frame of `info` as one of `target` (see clip_info), plane by plane: antialiased bicubic.

    An odd last row or column is left out first; nothing but that happens to samples of a video
    that has the target's size and layout.
    """
    planes = _codes_of_8_bit(frame, info)
    height, width = info.height // 2 * 2, info.width // 2 * 2
    part = 2 if info.chroma == "420" else 1
    sizes = ((height, width), (height // part, width // part), (height // part, width // part))
    y, u, v = (
        _resized(plane[:h, :w], shape)
        for plane, (h, w), shape in zip(planes, sizes, target.plane_shapes, strict=True)
    )
    return Frame((y, u, v))


def _codes_of_8_bit(frame: Frame, info: VideoInfo) -> list[np.ndarray]:
    """YUV planes in units of 8-bit codes: uint8, or float32 where they came from something else."""
    if info.chroma == "rgb":
        x = rgb_to_ycbcr(planes_to_tensor(frame, info, "rgb"), "bt709", "full")
        y, u, v = (x[0] * 255).numpy()
        # Neutral chroma lies between two codes: all of it becomes the upper one, as H.273 has it.
        return [y, u + 0.5, v + 0.5]
    if info.bit_depth == 8:
        return list(frame.planes)
    unit = 255 / 1023 if info.color.range == "full" else 1 / 4  # as H.273 defines the levels
    return [plane.astype(np.float32) * np.float32(unit) for plane in frame.planes]


def _resized(plane: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """[H, W] to uint8 `shape`, rounded and clamped."""
    if plane.shape == shape and plane.dtype == np.uint8:
        return np.ascontiguousarray(plane)
    x: Tensor = torch.from_numpy(plane.astype(np.float32))[None, None]
    if plane.shape != shape:
        x = F.interpolate(x, shape, mode="bicubic", antialias=True)
    return x[0, 0].round().clamp(0, 255).to(torch.uint8).numpy()


# --- one video


@dataclass(frozen=True)
class MovingFrame:
    """A frame that differs from the one kept before it.

    number: in the source, from 0.
    motion: mean absolute luma difference to the frame kept before, in 8-bit codes.
    repeats: frames left out between the two.
    """

    number: int
    frame: Frame
    motion: float = 0.0
    repeats: int = 0


def moving_frames(
    frames: Iterable[Frame], info: VideoInfo, target: VideoInfo, min_motion: float
) -> Iterator[MovingFrame]:
    """Frames of `info` shrunk to `target`, without those that repeat the frame kept before."""
    last: MovingFrame | None = None
    for number, frame in enumerate(frames):
        small = shrink(frame, info, target)
        if last is None:
            last = MovingFrame(number, small)
        else:
            before, now = (f.planes[0].astype(np.int16) for f in (last.frame, small))
            motion = float(np.abs(now - before).mean())
            if motion < min_motion:
                continue
            last = MovingFrame(number, small, motion, number - last.number - 1)
        yield last


def mark_cuts(
    frames: Iterable[MovingFrame], info: VideoInfo, threshold: float
) -> Iterator[tuple[MovingFrame, bool]]:
    """Each frame with whether a scene starts there, by PySceneDetect's AdaptiveDetector.

    The detector compares a frame's change with that of its neighbours; past both ends the video
    is mirrored, so that it decides on every frame.
    """
    detector, timecode = _scene_detector(threshold)
    unknown = {
        name: word
        for name, word in (("matrix", "bt709"), ("range", "limited"))
        if getattr(info.color, name) == UNSPECIFIED
    }
    info = resolve_color(info, **unknown)  # good enough to see cuts in; nothing else uses it
    waiting: deque[MovingFrame | None] = deque()
    for number, (picture, moving) in enumerate(_padded(frames, info)):
        cut = bool(detector.process_frame(timecode(number, 25.0), picture))
        waiting.append(moving)
        if len(waiting) > _WINDOW:  # the detector has just decided on the frame in its middle
            decided = waiting.popleft()
            if decided is not None:
                yield decided, cut


def _padded(
    frames: Iterable[MovingFrame], info: VideoInfo
) -> Iterator[tuple[np.ndarray, MovingFrame | None]]:
    """Each frame with its picture [H, W, 3] in B, G, R; mirrored pictures come with no frame."""
    pictures = ((_bgr(moving.frame, info), moving) for moving in frames)
    head = list(islice(pictures, _WINDOW + 1))
    if not head:
        return
    yield from reversed([(picture, None) for picture in _next([p for p, _ in head])])
    recent: deque[np.ndarray] = deque(maxlen=_WINDOW + 1)
    for picture, moving in chain(head, pictures):
        recent.appendleft(picture)
        yield picture, moving
    yield from ((picture, None) for picture in _next(recent))


def _next(pictures: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The _WINDOW pictures after the first; the last again where there are fewer."""
    return [pictures[min(i, len(pictures) - 1)] for i in range(1, _WINDOW + 1)]


def _bgr(frame: Frame, info: VideoInfo) -> np.ndarray:
    rgb = planes_to_tensor(frame, info, "rgb")[0].clamp(0, 1).mul(255).round().byte()
    return np.ascontiguousarray(rgb.flip(0).permute(1, 2, 0).numpy())


def require_scene_detector() -> None:
    """Raise a UserError that says what to install if PySceneDetect is missing."""
    _scene_detector(1.0)


def _scene_detector(threshold: float) -> tuple[Any, Any]:
    """(detector, its class of frame numbers)."""
    try:
        from scenedetect import AdaptiveDetector, FrameTimecode
    except ImportError as error:
        raise UserError(
            f"scene cuts need PySceneDetect: pip install cmfr[prepare] ({error})"
        ) from error
    detector = AdaptiveDetector(
        threshold, min_scene_len=0, window_width=_WINDOW, min_content_val=_MIN_CONTENT
    )
    return detector, FrameTimecode


def cut_clips(
    marked: Iterable[tuple[MovingFrame, bool]], settings: ClipSettings
) -> Iterator[list[MovingFrame]]:
    """Runs of min_frames..max_frames frames of one scene, without a still stretch in between."""
    run: list[MovingFrame] = []
    clips_in_scene = 0

    def enough() -> bool:
        limit = settings.max_clips_per_scene
        return len(run) >= settings.min_frames and (limit is None or clips_in_scene < limit)

    for moving, cut in marked:
        if run and (cut or moving.repeats > MAX_REPEATS):
            if enough():
                yield run
                clips_in_scene += 1
            run = []
        if cut:
            clips_in_scene = 0
        run.append(moving)
        if len(run) == settings.max_frames:
            if enough():
                yield run
                clips_in_scene += 1
            run = []
    if enough():
        yield run


def clip_prefix(source: str) -> str:
    """What the names of a source's clips begin with: its name, and a hash of its relative path."""
    return f"{Path(source).stem[:80]}_{hashlib.sha256(source.encode()).hexdigest()[:8]}_"


def remove_clips(folder: Path, source: str) -> None:
    """Remove the clips of a source, and what an interrupted run left of one."""
    prefix = clip_prefix(source)
    for path in list(folder.iterdir()):
        if path.name.removeprefix(".").startswith(prefix) and path.suffix == ".mp4":
            path.unlink()


def prepare_source(root: Path, source: str, out_dir: Path, settings: ClipSettings) -> list[Row]:
    """Write all clips of the video `root/source` to `out_dir`, or none and raise.

    Returns a line of manifest.csv for each. repeats: frames left out between a clip's first and
    last; mean_motion: mean absolute luma difference of its neighbours, in 8-bit codes.

    Raises UserError or OSError for a video that cannot be read or clips that cannot be written.
    """
    remove_clips(out_dir, source)
    rows = []
    try:
        with open_video(root / source) as reader:
            target = clip_info(reader.info, settings.height)
            moving = moving_frames(reader, reader.info, target, settings.min_motion)
            marked = mark_cuts(moving, target, settings.scene_threshold)
            for clip in cut_clips(marked, settings):
                name = f"{clip_prefix(source)}{clip[0].number:06d}.mp4"
                with open_writer(out_dir / name, target, crf=settings.crf) as writer:
                    for part in clip:
                        writer.write(part.frame)
                motion = fmean(part.motion for part in clip[1:]) if len(clip) > 1 else 0.0
                repeats = sum(part.repeats for part in clip[1:])
                place = (name, source, clip[0].number, len(clip), repeats)
                shape = (target.width, target.height, target.frame_rate, f"{motion:.2f}")
                rows.append([str(value) for value in (*place, *shape)])
    except BaseException:
        remove_clips(out_dir, source)
        raise
    return rows
