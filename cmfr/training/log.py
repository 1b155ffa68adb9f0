"""What a training run leaves to look at: TensorBoard, `log.jsonl`, `validation.jsonl`."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from cmfr.analysis.visualize import flow_to_color, heat
from cmfr.models.state import FrameOutput
from cmfr.training.distributed import Team
from cmfr.training.validation import RDPoint
from cmfr.utils.files import atomic_write_text
from cmfr.video.color import ycbcr_to_rgb


class Means:
    """Running means of scalars that stay on the device until they are read.

    Those that are added together are kept together, as one vector under all their names.
    """

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}  # "loss,psnr": [2], float64
        self.counts: dict[str, int] = {}

    def add(self, values: dict[str, Tensor]) -> None:
        names, vector = ",".join(values), torch.stack(list(values.values())).double()
        self.sums[names] = self.sums[names] + vector if names in self.sums else vector
        self.counts[names] = self.counts.get(names, 0) + 1

    def read(self, team: Team) -> dict[str, float]:
        """The means over the team, and start again. Waits for the device once."""
        if not self.sums:
            return {}
        sums = team.mean(torch.cat([value.reshape(-1) for value in self.sums.values()])).tolist()
        totals: dict[str, tuple[float, int]] = {}
        for names, count in self.counts.items():
            for name in names.split(","):
                total, counted = totals.get(name, (0.0, 0))
                totals[name] = total + sums.pop(0), counted + count
        self.sums, self.counts = {}, {}
        return {name: total / count for name, (total, count) in totals.items()}

    def state(self) -> dict[str, Any]:
        return {"sums": self.sums, "counts": self.counts}

    def restore(self, state: dict[str, Any], device: torch.device) -> None:
        self.sums = {name: value.to(device) for name, value in state["sums"].items()}
        self.counts = dict(state["counts"])


class TrainLog:
    """Scalars go to TensorBoard and `log.jsonl`, pictures to TensorBoard only.

    color: of the network, "ycbcr" or "rgb".
    total_steps: where the run resumes; records of later steps, which a killed process left, are
    dropped.
    """

    def __init__(self, folder: Path, color: str, total_steps: int) -> None:
        self.folder, self.color = folder, color
        for name in ("log.jsonl", "validation.jsonl"):
            _drop_after(folder / name, total_steps)
        self.writer = SummaryWriter(str(folder), purge_step=total_steps + 1)
        self.started = time.monotonic()
        self.first_curves = _first_curves(folder / "validation.jsonl")  # by group

    def close(self) -> None:
        self.writer.close()

    def scalars(self, group: str, head: dict[str, Any], values: dict[str, float]) -> None:
        """One line of the log.

        head: stage, step and total (steps of the run).
        """
        for name, value in values.items():
            self.writer.add_scalar(f"{group}/{name}", value, head["total"])
        seconds = {"seconds": round(time.monotonic() - self.started, 1)}
        rounded = {name: _rounded(value) for name, value in values.items()}
        self._append("log.jsonl", head | seconds | rounded)

    def validation(
        self, group: str, head: dict[str, Any], score: float, curve: Sequence[RDPoint]
    ) -> None:
        """A validation curve: scalars by quality, a figure against the first curve of the group:
        I-frames alone and videos are not measured alike."""
        total = head["total"]
        self.writer.add_scalar(f"{group}_validation/score", score, total)
        for point in curve:
            for name, value in asdict(point).items():
                if name != "quality":
                    where = f"{group}_validation/{name}_q{point.quality}"
                    self.writer.add_scalar(where, value, total)
        first = self.first_curves.setdefault(group, curve)
        figure = _rd_figure({"first": first, f"step {total}": curve})
        self.writer.add_figure(f"{group}_validation/rd", figure, total)
        points = [
            {"quality": p.quality}
            | {name: _rounded(value) for name, value in asdict(p).items() if name != "quality"}
            for p in curve
        ]
        record = {"objective": group, "score": _rounded(score), "curve": points}
        self._append("validation.jsonl", head | record)

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
                show("mask", heat(motion.mask[0].float().mean(0), 0, 1))

    def _append(self, name: str, record: dict[str, Any]) -> None:
        with (self.folder / name).open("a") as file:
            file.write(json.dumps(record) + "\n")


def _first_curves(path: Path) -> dict[str, Sequence[RDPoint]]:
    """The first validation curve of each group that a resumed run has in its file."""
    found: dict[str, Sequence[RDPoint]] = {}
    for line in path.read_text().splitlines() if path.is_file() else []:
        record = json.loads(line)
        if "objective" in record:
            found.setdefault(record["objective"], [RDPoint(**point) for point in record["curve"]])
    return found


def _rd_figure(curves: dict[str, Sequence[RDPoint]]) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="bits per pixel", ylabel="PSNR-YUV (6:1:1), dB")
    for name, curve in curves.items():
        axes.plot([p.bpp for p in curve], [p.psnr_yuv for p in curve], "o-", label=name)
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def _rounded(value: float) -> float:
    """Six significant digits."""
    return float(f"{value:.6g}")


def _drop_after(path: Path, total_steps: int) -> None:
    """Keep the records up to `total_steps`; a line that was half written goes too."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if record["total"] <= total_steps:
            kept.append(line + "\n")
    atomic_write_text(path, "".join(kept))
