"""Motion refined by the encoder: cheaper frames, the same decoder."""

from pathlib import Path

import pytest
import torch

from cmfr.codec.codec import load_codec
from cmfr.models.presets import PRESETS
from cmfr.models.refinement import refined_motion
from cmfr.models.video_model import VideoModel
from cmfr.nn.bit_estimator import BitEstimator
from cmfr.nn.moved_latents import MovedLatents
from cmfr.utils.errors import UserError

DATA = Path(__file__).parents[1] / "data"
VIDEO = DATA / "version1_64x48_25.yuv"


@pytest.fixture(scope="module")
def codec():
    """A little trained."""
    return load_codec(DATA / "version1.safetensors", "cpu")


def sizes(codec, path, **options):
    frames = []
    codec.encode_video(VIDEO, path, on_frame=lambda coded: frames.append(coded), **options)
    return [coded.bits for coded in frames], frames[-1].reconstruction


def cost(model, x, past, quality, moves=None):
    low, high = model.cfg.lambda_range
    output = model.inter(x, torch.tensor([quality]), past, BitEstimator(False), moves)
    bits = float(output.total_bits) / x[0, 0].numel()
    error = float((output.x_hat - x).square().mean())
    return bits + low * (high / low) ** (quality / 63) * error


@pytest.mark.parametrize("steps", [1, 8])
def test_a_refined_frame_costs_less(codec, steps):
    model, rng = codec.model, torch.Generator().manual_seed(0)
    texture = torch.nn.functional.avg_pool2d(torch.rand(1, 3, 56, 72, generator=rng), 5, 1, 2)
    first, x = texture[..., :48, :64], texture[..., 3:51, 2:66]
    with torch.no_grad():
        past = model.code_intra(first, torch.tensor([50])).state
        moves = refined_motion(model.inter, x, torch.tensor([50]), past, model.cfg, steps)
        assert moves and not any(move.requires_grad for move in moves)
        before, after = cost(model, x, past, 50), cost(model, x, past, 50, moves)
        assert after < before
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("portable", [False, True])
def test_a_refined_stream_is_decoded_as_any_other(codec, tmp_path, portable):
    """And is the same each time; only P-frames change."""
    plain, _ = sizes(codec, tmp_path / "plain.cmfr", quality=40, frames=4, portable=portable)
    options = {"quality": 40, "frames": 4, "portable": portable, "refine": 6}
    refined, shown = sizes(codec, tmp_path / "a.cmfr", **options)
    assert refined[0] == plain[0] and refined[1:] != plain[1:]
    sizes(codec, tmp_path / "again.cmfr", **options)
    assert (tmp_path / "a.cmfr").read_bytes() == (tmp_path / "again.cmfr").read_bytes()
    codec.decode_video(tmp_path / "a.cmfr", tmp_path / "back_64x48_25.yuv")
    last = b"".join(plane.tobytes() for plane in shown.planes)
    assert (tmp_path / "back_64x48_25.yuv").read_bytes()[-len(last) :] == last


@pytest.mark.parametrize("name", ["cmfr-nano", "dcvc-dc-nano", "dcvc-fm-nano"])
def test_every_family_can_be_refined(name):
    torch.manual_seed(0)
    model = VideoModel(PRESETS[name]).eval().requires_grad_(False)
    x = model.padded(torch.rand(1, 3, 32, 48))
    with torch.inference_mode():  # as coding does
        past = model.code_intra(x, torch.tensor([30])).state
        before = cost(model, x.flip(3), past, 30)
        moves = refined_motion(model.inter, x.flip(3), torch.tensor([30]), past, model.cfg, 2)
        assert cost(model, x.flip(3), past, 30, moves) <= before


def test_moves_go_to_the_latents_they_are_made_for():
    class Kept(BitEstimator):
        def code_factorized(self, name, values, model, shape):
            seen.append((name, values))
            return values

    seen, moves = [], []
    x = torch.rand(1, 2, 3, 4)
    for _ in range(2):
        coder = MovedLatents(Kept(False), "motion", moves)
        for name in ("motion_z", "residual_z", "motion_y"):
            coder.code_factorized(name, x, None, (1, 2, 3, 4))
        if len(moves) == 2 and len(seen) == 3:
            moves = [moves[0].detach() + 1, moves[1].detach() + 2]
    assert [name for name, _ in seen] == ["motion_z", "residual_z", "motion_y"] * 2
    for (_, values), added in zip(seen, (0, 0, 0, 1, 0, 2), strict=True):
        assert torch.equal(values, x + added)


def test_steps_are_checked(codec, tmp_path):
    with pytest.raises(UserError, match="number of refining steps"):
        codec.encode_video(VIDEO, tmp_path / "a.cmfr", refine=-1)
    assert not list(tmp_path.iterdir())
