"""Where the time of coding goes: frames per second with real bitstreams, stage by stage, memory.

The clock waits for the device at every stage boundary, so stages add up to a little more than a
frame takes without it; frames per second are therefore measured without it.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn

from cmfr.analysis.complexity import attributed
from cmfr.models.base import FrameSize
from cmfr.models.state import ReferenceState
from cmfr.models.video_model import VideoModel
from cmfr.nn.densities import make_tables
from cmfr.nn.encoder_network import coding_arithmetic
from cmfr.nn.latent_coder import LatentCoder
from cmfr.utils.device import peak_memory, reset_peak_memory
from cmfr.video.color import tensor_to_planes
from cmfr.video.info import ColorInfo, VideoInfo
from cmfr.video.reader import open_video
from cmfr.video.writer import open_writer

# The stage that a P-frame codec's part belongs to; LatentCoders are "entropy model" wherever they
# are, and everything else is "transforms".
STAGES = {
    "motion_estimation": "motion",
    "motion_codec": "motion",
    "motion_refiner": "motion refiner",
    "adaptor": "context",
    "temporal_context": "context",
}


@dataclass(frozen=True)
class Speed:
    """One frame type of one model.

    size: "WIDTHxHEIGHT".
    encode_fps, decode_fps: frames per second with a real bitstream, the median of the timed frames.
    encode_ms, decode_ms: milliseconds by stage.
    peak_mib: peak memory in MiB (of the GPU, or of the process on a CPU) while this model was
    timed, None where the system does not tell.
    """

    model: str
    frame: str  # "intra" or "inter"
    size: str
    encode_fps: float
    decode_fps: float
    encode_ms: dict[str, float]
    decode_ms: dict[str, float]
    peak_mib: float | None


@dataclass(frozen=True)
class _Coded:
    """One frame's way through encoder and decoder."""

    kind: str
    encode: float
    decode: float


def time_frames(
    model: VideoModel, frames: list[Tensor], quality: int = 32, warmup: int = 2
) -> list[Speed]:
    """Time encode and decode of `frames` ([1, 3, H, W] each): the first intra, the rest inter.

    The I-frame is timed after a first one; the first `warmup` P-frames are not counted (fewer where
    there are no more).
    """
    warmup = max(0, min(warmup, len(frames) - 2))
    model.eval()
    make_tables(model)
    device = frames[0].device
    reset_peak_memory(device)
    with coding_arithmetic(device):
        _code(model, frames[:1], quality)
        timed = [*_code(model, frames[:1], quality), *_code(model, frames, quality)[1 + warmup :]]
        stages = {side: _stages(model, frames, quality, side) for side in ("encode", "decode")}
    size = f"{frames[0].shape[3]}x{frames[0].shape[2]}"
    peak = peak_memory(device)
    peak_mib = None if peak is None else round(peak / 2**20, 1)
    rows = []
    for kind in ("intra", "inter"):
        coded = [frame for frame in timed if frame.kind == kind]
        if coded:
            rows.append(
                Speed(
                    model.cfg.name,
                    kind,
                    size,
                    round(1 / median(c.encode for c in coded), 2),
                    round(1 / median(c.decode for c in coded), 2),
                    stages["encode"][kind],
                    stages["decode"][kind],
                    peak_mib,
                )
            )
    return rows


def _code(model: VideoModel, frames: list[Tensor], quality: int) -> list[_Coded]:
    device, rows = frames[0].device, []
    past: ReferenceState | None = None
    size = FrameSize(frames[0].shape[2], frames[0].shape[3])
    for x in frames:
        began = _now(device)
        payload, frame_quality_index, output = model.encode_frame(x, quality, past)
        encoded = _now(device)
        model.decode_frame(payload, frame_quality_index, size if past is None else past)
        decoded = _now(device)
        kind = "intra" if past is None else "inter"
        rows.append(_Coded(kind, encoded - began, decoded - encoded))
        past = output.state
    return rows


def _stages(
    model: VideoModel, frames: list[Tensor], quality: int, side: str
) -> dict[str, dict[str, float]]:
    """Milliseconds by stage of an I-frame and (mean of all but the first) of a P-frame."""
    device = frames[0].device
    parts: dict[nn.Module, str] = {}
    for codec in (model.intra, model.inter):
        for name, child in codec.named_children():
            parts[child] = STAGES.get(name, "transforms")
        parts |= {
            part: "entropy model" for part in codec.modules() if isinstance(part, LatentCoder)
        }
    totals: dict[str, dict[str, float]] = {"intra": {}, "inter": {}}
    past: ReferenceState | None = None
    size = FrameSize(frames[0].shape[2], frames[0].shape[3])
    count = max(1, len(frames) - 2)
    for number, x in enumerate(frames):
        payload, frame_quality_index, output = model.encode_frame(x, quality, past)
        began = _now(device)
        with attributed(parts, lambda: _now(device)) as spent:
            if side == "encode":
                _, _, coded = model.encode_frame(x, quality, past)
            else:
                coded = model.decode_frame(
                    payload, frame_quality_index, size if past is None else past
                )
                spent["entropy model"] -= coded.coder_seconds  # which calls the coder
        spent["rANS"] = coded.coder_seconds
        spent["other"] = _now(device) - began - sum(spent.values())
        kind = "intra" if past is None else "inter"
        if number != 1 or len(frames) == 2:  # the first P-frame warms up
            for name, seconds in spent.items():
                share = 1 if kind == "intra" else count
                totals[kind][name] = totals[kind].get(name, 0.0) + 1000 * seconds / share
        past = output.state
    return {kind: {n: round(v, 2) for n, v in stages.items()} for kind, stages in totals.items()}


def time_files(frames: list[Tensor], color: str) -> dict[str, float]:
    """Milliseconds per frame of reading and of writing lossless video of these frames."""
    height, width = frames[0].shape[2:]
    info = VideoInfo(width, height, Fraction(25), ColorInfo("bt709", "full"), "420", 8)
    planes = [tensor_to_planes(x.cpu(), info, color) for x in frames]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.mkv"
        began = time.perf_counter()
        with open_writer(path, info) as writer:
            for frame in planes:
                writer.write(frame)
        written = time.perf_counter()
        with open_video(path) as reader:
            count = sum(1 for _ in reader)
        read = time.perf_counter()
    assert count == len(frames)
    return {
        "read": round(1000 * (read - written) / count, 2),
        "write": round(1000 * (written - began) / count, 2),
    }


def profile_frames(model: VideoModel, frames: list[Tensor], quality: int, path: Path) -> None:
    """A torch profiler trace (Chrome's format) of coding the last of `frames`."""
    from torch.profiler import ProfilerActivity, profile

    kinds = [ProfilerActivity.CPU]
    if frames[0].device.type == "cuda":
        kinds.append(ProfilerActivity.CUDA)
    model.eval()
    make_tables(model)
    with coding_arithmetic(frames[0].device):
        past: ReferenceState | None = None
        for x in frames[:-1]:
            past = model.encode_frame(x, quality, past)[2].state
        with profile(activities=kinds) as trace:
            payload, frame_quality_index, _ = model.encode_frame(frames[-1], quality, past)
            if past is not None:
                model.decode_frame(payload, frame_quality_index, past)
    trace.export_chrome_trace(str(path))


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
