"""What a training run leaves to look at: TensorBoard, `log.jsonl`, versions."""

from __future__ import annotations

import json
import platform
import subprocess
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from cmfr.color import ycbcr_to_rgb
from cmfr.losses import LossTerms
from cmfr.state import FrameOutput
from cmfr.visualize import flow_to_color, heat


class TrainLog:
    """Scalars go to TensorBoard and `log.jsonl`, pictures to TensorBoard only."""

    def __init__(self, folder: Path, color: str) -> None:
        self.folder, self.color = folder, color
        self.writer = SummaryWriter(str(folder))
        self.started = time.monotonic()
        (folder / "versions.json").write_text(json.dumps(versions(), indent=1))

    def close(self) -> None:
        self.writer.close()

    def scalars(
        self, stage: str, group: str, step: int, total_steps: int, values: dict[str, float],
        terms: LossTerms, output: FrameOutput,
    ) -> dict[str, float]:  # fmt: skip
        """Record `values` and what the last frame's terms say; returns all of it."""
        pixels = output.x_hat.shape[2] * output.x_hat.shape[3]
        record = {
            **values,
            "psnr": float(terms.psnr),
            "bpp": float(terms.rate.detach().mean()),
            "lambda_d": float((terms.lambda_ * terms.distortion).detach().mean()),
        }
        if terms.warp_weight:
            record["warp_psnr"] = float(-10 * torch.log10(terms.warp.detach().mean()))
        for name, bits in output.bits.items():
            record[f"bpp_{name}"] = float(bits.detach().mean()) / pixels
        for name, value in record.items():
            self.writer.add_scalar(f"{group}/{name}", value, total_steps)
        seconds = round(time.monotonic() - self.started, 1)
        rounded = {name: float(f"{value:.6g}") for name, value in record.items()}
        with (self.folder / "log.jsonl").open("a") as file:
            head = {"stage": stage, "step": step, "seconds": seconds}
            file.write(json.dumps(head | rounded) + "\n")
        return record

    def pictures(self, group: str, total_steps: int, source: Tensor, output: FrameOutput) -> None:
        """The first sample of a batch: source [3, H, W] and what became of it."""

        def show(name: str, picture: Tensor) -> None:
            self.writer.add_image(f"{group}/{name}", picture.clamp(0, 1), total_steps)

        def rgb(x: Tensor) -> Tensor:
            x = x.detach().float()
            return ycbcr_to_rgb(x, "bt709", "full") if self.color == "ycbcr" else x

        show("source", rgb(source))
        show("reconstruction", rgb(output.x_hat[0]))
        motion = output.motion
        if motion is not None:
            show("prediction", rgb(motion.prediction[0]))
            show("flow_decoded", flow_to_color(motion.decoded[0]))
            show("flow_refined", flow_to_color(motion.refined[0]))
            if motion.mask is not None:
                show("mask", heat(motion.mask[0].mean(0), 0, 1))


def versions() -> dict[str, str]:
    """What a result depends on besides the configuration."""
    try:
        revision = subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=Path(__file__).parent,
            capture_output=True, text=True, timeout=10, check=True,
        ).stdout.strip()  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        revision = "unknown"
    return {
        "git": revision,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "machine": platform.processor() or platform.machine(),
    }
