"""Shared fixtures: the nano model with weights large enough to make real bits, generated video."""

from __future__ import annotations

import importlib.util
import json
import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402
import pytest  # noqa: E402
import scipy.ndimage  # noqa: E402
import torch  # noqa: E402

from cmfr.evaluation.records import Record  # noqa: E402
from cmfr.models.cmfr.config import CMFRConfig  # noqa: E402
from cmfr.models.cmfr.latent import CMFRLatentCoder, calibrate  # noqa: E402
from cmfr.models.dcvc.config import DCVCConfig  # noqa: E402
from cmfr.models.presets import PRESETS  # noqa: E402
from cmfr.models.video_model import VideoModel  # noqa: E402
from cmfr.nn.init import SMALL_GAIN  # noqa: E402
from cmfr.report.collect import CodecResults  # noqa: E402
from cmfr.report.comparison import build  # noqa: E402
from cmfr.report.text import Line, bd_lines  # noqa: E402
from cmfr.video.info import Frame  # noqa: E402

# One each where tests run side by side.
torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else 2)
SHARED = Path(__file__).parents[2] / "shared"


@torch.no_grad()
def awaken(model: VideoModel, gain: float) -> None:
    """Convolutions that start at zero or near it get random weights; gain: relative to a usual
    start. The reference feature is read damped, or features would grow from frame to frame."""
    for layer in model.modules():
        if isinstance(layer, torch.nn.Conv2d):
            usual = layer.weight[0].numel() ** -0.5
            if layer.weight.std() < 10 * SMALL_GAIN * usual:
                layer.weight.normal_(0, gain * usual)
    for adaptor in model.inter.adaptor.of_feature:
        adaptor.weight.mul_(0.4)


def lively(cfg: CMFRConfig, seed: int = 0) -> VideoModel:
    """An untrained codec whose latents are spread over many symbols, and whose parts all do
    something: what starts at zero is woken up. Values are scaled to about 8, hyper-latents to 0.7,
    and the entropy model is calibrated to that.
    """
    torch.manual_seed(seed)
    model = VideoModel(cfg).eval()
    awaken(model, 0.5)
    clip, quality = moving_clip(3, 128, 128), torch.tensor([40])
    coders = [part for part in model.modules() if isinstance(part, CMFRLatentCoder)]
    with torch.no_grad():
        for coder in coders:  # in the order of their dependence
            calibrate([coder], lambda: model(clip, quality))
            coder.log_spread.add_(1.0)  # few outliers
            symbol = coder.log_spread.exp() * coder.gain.gain(quality)[0, :, 0, 0]
            coder.gain.log_gain.sub_((symbol.mean() / 8).log())
            seen: list[torch.Tensor] = []
            last = coder.hyper_encoder[-1]
            hook = last.register_forward_hook(lambda *a, seen=seen: seen.append(a[2]))
            model(clip, quality)
            hook.remove()
            last.weight.mul_(0.7 / max(z.std() for z in seen))
    return model


def published(generation: str) -> tuple[Any, dict, dict]:
    """The formulas of tests/data, what is told of a published DCVC ("dc", "fm"), and its state
    dicts ("image", "video") filled by formula."""
    data = Path(__file__).parent / "data"
    spec = importlib.util.spec_from_file_location("formulas", data / "formulas.py")
    formulas = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(formulas)
    told = json.loads((data / f"dcvc_{generation}.json").read_text())
    states = {
        network: {
            name: torch.from_numpy(formulas.weights(name, tuple(shape), told["seed"], told["gain"]))
            for name, shape in entries.items()
        }
        for network, entries in told["state_dict"].items()
    }
    return formulas, told, states


def lively_dcvc(cfg: DCVCConfig, seed: int = 0) -> VideoModel:
    """An untrained DCVC whose hyper-latents are spread, and that predicts no scale below 4.

    Of random weights half would be negative, and the published estimate is no good there.
    """
    torch.manual_seed(seed)
    model = VideoModel(cfg).eval()
    awaken(model, 0.02)
    inter = model.inter
    with torch.no_grad():
        for latent in (model.intra.latent, inter.motion_codec.latent, inter.residual_codec.latent):
            latent.hyper_encoder[-1].weight.mul_(4)
            latent.scale_activation = lambda scale: scale.clamp(min=4)
    return model


def dcvc_png(frame: Frame) -> np.ndarray:
    """The 8-bit RGB picture [3, H, W] that DCVC's conversion of test data writes for an 8-bit 4:2:0
    picture of even size (github.com/microsoft/DCVC: BT.709, full range, chroma by scipy's zoom of
    order 1, all in float32), in its own order of operations."""
    y, u, v = (plane.astype(np.float32) / 255 for plane in frame.planes)
    cb, cr = scipy.ndimage.zoom(np.stack([u, v]), (1, 2, 2), order=1)
    kr, kg, kb = 0.2126, 0.7152, 0.0722
    r, b = y + (2 - 2 * kr) * (cr - 0.5), y + (2 - 2 * kb) * (cb - 0.5)
    rgb = np.clip(np.stack([r, (y - kr * r - kb * b) / kg, b]), 0, 1)
    return np.clip(np.rint(rgb * 255), 0, 255).astype(np.uint8)


def bd_rates(anchor: list[Record], tested: list[Record], metric: str) -> list[Line]:
    """The lines of `cmfr bdrate` for the records of two codecs."""
    codecs = [CodecResults.of(records[0].codec, records) for records in (anchor, tested)]
    return bd_lines(build(codecs, [metric], partial=True), metric)


def moving_clip(frames: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    """Smooth noise that pans, [1, T, 3, H, W] in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, height // 4 + 8, width // 4 + 8, generator=generator)
    scene = torch.nn.functional.interpolate(coarse, scale_factor=4, mode="bicubic").clamp(0, 1)
    views = [scene[..., t : t + height, 2 * t : 2 * t + width] for t in range(frames)]
    return torch.stack(views, 1)


@pytest.fixture(scope="session")
def nano_config() -> CMFRConfig:
    return PRESETS["cmfr-nano"]


@pytest.fixture(scope="session")
def nano(nano_config: CMFRConfig) -> VideoModel:
    return lively(nano_config)


@pytest.fixture
def yuv_file(tmp_path: Path) -> Path:
    """Six frames of 80x48 4:2:0 video in a raw file whose name says so."""
    path = tmp_path / "moving_80x48_25.yuv"
    write_yuv(path, 6, 48, 80)
    return path


def write_yuv(path: Path, frames: int, height: int, width: int) -> None:
    clip = (moving_clip(frames, height, width)[0] * 255).round().byte().numpy()
    half = np.s_[: (height + 1) // 2 * 2 : 2, : (width + 1) // 2 * 2 : 2]
    with path.open("wb") as file:
        for y, u, v in clip:
            file.write(y.tobytes() + u[half].tobytes() + v[half].tobytes())
