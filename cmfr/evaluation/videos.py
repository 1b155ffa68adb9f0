"""Rate and distortion of a codec on video files, from real bytes: encode, decode, compare."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import signal
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from cmfr.codec.bitstream import BitstreamReader
from cmfr.codec.codec import Codec, CodingReport, load_codec
from cmfr.config import QUALITIES, Strict
from cmfr.utils.errors import UserError
from cmfr.utils.files import atomic_write_text
from cmfr.utils.signals import on_signals
from cmfr.utils.versions import code_hash
from cmfr.video.color import tensor_to_planes
from cmfr.video.info import MATRIX_CODES, ColorInfo, VideoInfo
from cmfr.video.metrics import FrameQuality, compare
from cmfr.video.reader import open_video
from cmfr.video.writer import open_writer

VIDEO_SUFFIXES = (".y4m", ".yuv", ".mp4", ".mkv", ".mov", ".webm", ".avi")


class GeneratedConfig(Strict):
    """Rendered scenes number `first`, `first` + 1, ... (training takes those from 0 on)."""

    clips: int = Field(2, ge=1)
    size: tuple[int, int] = (192, 128)  # width, height
    frames: int = Field(8, ge=1)
    first: int = Field(1000, ge=0)


class EvaluationConfig(Strict):
    """What every variant codes. videos: files, folders of videos, folders of PNGs; or generated
    ones. frames: the first so many (default: all). intra_period: see `Codec.encode_video`."""

    videos: tuple[Path, ...] = ()
    generated: GeneratedConfig | None = None
    qualities: tuple[Annotated[int, Field(ge=0, lt=QUALITIES)], ...] = (0, 21, 42, 63)
    frames: int | None = Field(None, ge=1)
    intra_period: int = -1

    @model_validator(mode="after")
    def _one_source(self) -> EvaluationConfig:
        if bool(self.videos) == (self.generated is not None):
            raise UserError("give either videos or generated")
        if list(self.qualities) != sorted(set(self.qualities)) or not self.qualities:
            raise UserError(f"qualities {list(self.qualities)} do not rise")
        if self.intra_period != -1 and self.intra_period < 1:
            raise UserError(f"intra_period {self.intra_period} is neither -1 nor at least 1")
        return self

    def sequences(self, folder: Path) -> dict[str, Path]:
        """The videos by name; generated ones are to be in `folder`, and may not be there yet."""
        made = self.generated
        if made is None:
            return find_videos(self.videos)
        kind = f"{made.size[0]}x{made.size[1]}_{made.frames}.y4m"
        names = [f"scene{made.first + i:04d}" for i in range(made.clips)]
        return {name: folder / f"{name}_{kind}" for name in names}

    def task(self, weights: Path, device: str, video: Path) -> CurveTask:
        """The measurement of one video with some weights."""
        return CurveTask(weights, device, video, self.qualities, self.intra_period, self.frames)


@dataclass(frozen=True)
class RatePoint:
    """A video coded at one quality index.

    bytes: of the whole file; bpp: its bits over the pixels of the frames. psnr: dB per plane (Y, U,
    V or R, G, B); psnr_yuv: (6 Y + U + V) / 8, of RGB video the PSNR over its three planes;
    ms_ssim: linear, of luma (or RGB), None for frames that are too small. All are means over the
    frames that the file decodes to. Speeds in frames per second; encoding includes reading.
    """

    quality: int
    frames: int
    bytes: int
    bpp: float
    psnr: tuple[float, float, float]
    psnr_yuv: float
    ms_ssim: float | None
    encode_fps: float
    decode_fps: float

    @classmethod
    def of(cls, values: dict[str, Any]) -> RatePoint:
        """The inverse of `dataclasses.asdict`, of values that went through JSON."""
        return cls(**{**values, "psnr": tuple(values["psnr"])})


def measure_point(
    codec: Codec,
    video: str | Path,
    quality: int,
    intra_period: int = -1,
    frames: int | None = None,
) -> RatePoint:
    """Code the first `frames` frames (default: all) at a quality, decode the file, compare.

    Raises what `Codec.encode_video` and `open_video` raise: ValueError or OSError.
    """
    with tempfile.TemporaryDirectory() as folder:
        stream = Path(folder) / "a.cmfr"
        encoded = codec.encode_video(
            video, stream, quality=quality, intra_period=intra_period, frames=frames
        )
        seconds, compared = _compare_decoded(codec, video, stream, frames)
    similarity = [frame.ms_ssim for frame in compared if frame.ms_ssim is not None]
    first, second, third = (float(x) for x in np.mean([frame.psnr for frame in compared], axis=0))
    return RatePoint(
        quality=quality,
        frames=encoded.frames,
        bytes=encoded.bytes,
        bpp=encoded.bpp,
        psnr=(first, second, third),
        psnr_yuv=float(np.mean([frame.combined for frame in compared])),
        ms_ssim=float(np.mean(similarity)) if similarity else None,
        encode_fps=encoded.fps,
        decode_fps=len(compared) / seconds if seconds else 0.0,
    )


def measure_curve(
    codec: Codec,
    video: str | Path,
    qualities: Sequence[int],
    intra_period: int = -1,
    frames: int | None = None,
) -> list[RatePoint]:
    """`measure_point` at several qualities."""
    return [measure_point(codec, video, q, intra_period, frames) for q in qualities]


def _compare_decoded(
    codec: Codec, video: str | Path, stream: Path, frames: int | None
) -> tuple[float, list[FrameQuality]]:
    """Seconds of decoding alone, and each decoded frame against its original.

    Frames are compared as they are decoded: no decoded file is written and read again.
    """
    seconds, compared = 0.0, []
    with open_video(video, frames=frames) as source, stream.open("rb") as file:
        reader = BitstreamReader(file)
        info = reader.header.info()
        decoded = codec.decode_frames(reader, info, CodingReport(info), keep_going=False)
        for original in source:
            began = time.perf_counter()
            result = next(decoded).reconstruction
            seconds += time.perf_counter() - began
            compared.append(compare(original, result, source.info))
        assert next(decoded, None) is None, "the stream holds more frames than were coded"
    return seconds, compared


# --- many videos and weights, side by side, each curve a JSON file


@dataclass(frozen=True)
class CurveTask:
    """A curve to measure, as another process can be told it: see `measure_curve`.

    device: "cpu" or "cuda".
    """

    weights: Path
    device: str
    video: Path
    qualities: tuple[int, ...]
    intra_period: int = -1
    frames: int | None = None

    def measure(self) -> list[RatePoint]:
        codec = load_codec(self.weights, self.device)
        return measure_curve(codec, self.video, self.qualities, self.intra_period, self.frames)

    def conditions(self) -> dict[str, Any]:
        """What the curve depends on, the code that measures it included. Raises OSError when the
        weights or the video are not there."""
        files = sorted(self.video.iterdir()) if self.video.is_dir() else [self.video]
        return {
            "weights_sha256": hashlib.sha256(self.weights.read_bytes()).hexdigest(),
            "code": code_hash(__name__),
            "device": self.device,
            "video": self.video.name,
            "video_bytes": sum(file.stat().st_size for file in files),
            "qualities": list(self.qualities),
            "intra_period": self.intra_period,
            "frames": self.frames,
        }


@dataclass(frozen=True)
class Measured:
    """A curve from a file, and what it was measured with (git revision, machine, ...)."""

    points: list[RatePoint]
    versions: dict[str, str]


def read_curve(path: Path, task: CurveTask) -> Measured | None:
    """The curve that the file holds, if it was measured under the task's conditions."""
    try:
        stored = json.loads(path.read_text())
        if stored["conditions"] == task.conditions():
            return Measured([RatePoint.of(p) for p in stored["points"]], stored["versions"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # absent, damaged, or without weights: to be measured
    return None


def measure_curves(
    tasks: Mapping[Path, CurveTask], processes: int, threads: int | None, versions: dict[str, str]
) -> dict[str, str]:
    """Measure side by side what the files do not hold yet; each is written when it is done.

    Returns the reasons of curves that could not be measured (bad files, a full GPU, a killed
    process), by folder and file name; the others go on. threads: of each process. On Ctrl-C and
    SIGTERM, which raise KeyboardInterrupt, measurements under way are dropped.
    """
    missing = {path: task for path, task in tasks.items() if read_curve(path, task) is None}
    failures: dict[str, str] = {}
    if not missing:
        return failures
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(
        min(processes, len(missing)),
        multiprocessing.get_context("spawn"),
        begin_measuring,
        (threads,),
    )
    with on_signals(signal.default_int_handler):
        try:
            futures = {pool.submit(task.measure): path for path, task in missing.items()}
            for future in as_completed(futures):
                path = futures[future]
                name = f"{path.parent.name} on {path.stem}"
                try:
                    _write_curve(path, missing[path], future.result(), versions)
                    print(f"{name}: measured", flush=True)
                except (ValueError, OSError, RuntimeError) as error:
                    failures[name] = " ".join(str(error).split())
                    print(f"{name}: {failures[name]}", flush=True)
        except BaseException:
            for process in set(multiprocessing.active_children()) - others:
                process.terminate()
            raise
        finally:
            pool.shutdown(cancel_futures=True)
    return failures


def _write_curve(
    path: Path, task: CurveTask, points: list[RatePoint], versions: dict[str, str]
) -> None:
    record = {
        "conditions": task.conditions(),
        "versions": versions,
        "points": [asdict(point) for point in points],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_text(path, json.dumps(record, indent=1) + "\n")


def begin_measuring(threads: int | None) -> None:
    """What a measuring process does first."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C: the parent ends it
    if threads:
        torch.set_num_threads(threads)


def find_videos(paths: Sequence[Path]) -> dict[str, Path]:
    """Videos by name: files, folders of PNGs, and all video files of other folders.

    Raises FileNotFoundError for a path that is not there, ValueError for a folder without videos
    and for two videos of one name.
    """
    found: dict[str, Path] = {}
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"no video {path}")
        videos = [path]
        if path.is_dir():
            inside = sorted(path.iterdir())
            pictures = any(file.suffix.lower() == ".png" for file in inside)
            videos = [f for f in inside if f.suffix.lower() in VIDEO_SUFFIXES]
            if not videos and not pictures:
                raise UserError(f"{path} holds no videos")
            videos = videos or [path]
        for video in videos:
            name = video.name if video.is_dir() else video.stem
            if name in found:
                raise UserError(f"two videos are called {name}: {found[name]} and {video}")
            found[name] = video
    return found


def write_clip(path: Path, clip: Tensor, frame_rate: int = 25) -> None:
    """RGB [T, 3, H, W] in [0, 1] as an 8-bit 4:2:0 .y4m (BT.709, full range)."""
    height, width = clip.shape[2:]
    color = ColorInfo("bt709", "full", matrix_code=MATRIX_CODES["bt709"])
    info = VideoInfo(width, height, Fraction(frame_rate), color, "420", 8)
    with open_writer(path, info) as writer:
        for picture in clip:
            writer.write(tensor_to_planes(picture[None], info, "rgb"))
