"""The shipped weights: they load, fit their budget, and do on real video what they promise."""

from pathlib import Path

import pytest
import torch
from conftest import SHARED

from cmfr.codec.checkpoint import read_weights
from cmfr.codec.codec import load_codec
from cmfr.codec.model_files import find_weights
from cmfr.models.presets import PRESETS
from cmfr.nn.layers import pad_to_multiple
from cmfr.utils.device import exact_arithmetic
from cmfr.video.color import planes_to_tensor
from cmfr.video.metrics import compare
from cmfr.video.reader import open_video

CLIP = SHARED / "data" / "devtest" / "davis_parkour_416x240.mp4"


def test_shipped_weights_are_of_the_preset_and_small():
    path = find_weights("cmfr-s")
    cfg, weights, _ = read_weights(path)
    assert cfg == PRESETS["cmfr-s"]
    assert all(value.dtype == torch.float16 for value in weights.values())
    assert path.stat().st_size <= 12_000_000


@pytest.mark.slow
@pytest.mark.skipif(not CLIP.is_file(), reason="no test sequences here")
def test_real_video(tmp_path: Path):
    """Rate and PSNR rise with quality, decoding is exact, estimates are within 1 % of the bytes."""
    codec = load_codec("cmfr-s", "cpu")
    with open_video(CLIP) as reader:
        info = reader.info
    points = []
    for quality in (0, 21, 42, 63):
        shown, psnr = [], []

        def on_frame(coded, shown=shown, psnr=psnr):
            shown.append(coded.reconstruction)
            psnr.append(compare(coded.source, coded.reconstruction, info).combined)

        report = codec.encode_video(
            CLIP, tmp_path / "a.cmfr", quality=quality, frames=6, on_frame=on_frame
        )
        codec.decode_video(tmp_path / "a.cmfr", tmp_path / "b.y4m")
        with open_video(tmp_path / "b.y4m") as decoded:
            for a, b in zip(decoded, shown, strict=True):
                assert all((p == q).all() for p, q in zip(a.planes, b.planes, strict=True))
        points.append((report.bpp, sum(psnr) / len(psnr)))
    assert points == sorted(points) and [p for _, p in points] == sorted(p for _, p in points)

    with open_video(CLIP, frames=3) as reader:
        frames = [planes_to_tensor(frame, reader.info, "ycbcr") for frame in reader]
    past = None
    with exact_arithmetic():
        estimates = codec.model(
            pad_to_multiple(torch.stack(frames, 1)[0], 16)[None], torch.tensor([63])
        )
        for x, estimate in zip(frames, estimates, strict=True):
            payload, _, output = codec.model.encode_frame(pad_to_multiple(x, 16), 63, past)
            assert len(payload) > 1000
            assert float(estimate.total_bits) == pytest.approx(8 * len(payload), rel=0.01)
            past = output.state
