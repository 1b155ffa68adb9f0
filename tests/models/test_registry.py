"""What a newcomer adds: a residual mode, and a codec family without motion. Each is one class (or
folder) and one entry, and is then coded, stored, trained and found like those that there are."""

from typing import Literal

import pytest
import torch
from conftest import lively, moving_clip, write_yuv
from torch import nn

from cmfr.codec.checkpoint import save_weights
from cmfr.codec.codec import load_codec
from cmfr.config import CodecConfig
from cmfr.models.base import FrameCodec, FrameSize, InterCodec
from cmfr.models.cmfr.config import CMFRConfig
from cmfr.models.cmfr.residual_modes import RESIDUAL_MODES, FeatureResidual, Subtrahend
from cmfr.models.presets import PRESETS
from cmfr.models.refinement import refined_motion
from cmfr.models.registry import FAMILIES, Family, parse_model, with_present_names
from cmfr.models.state import FrameOutput, ReferenceState
from cmfr.models.video_model import VideoModel
from cmfr.nn.densities import GAUSSIAN, weights_of
from cmfr.training.config import LossConfig, StageConfig
from cmfr.training.stage import StageModel


class HalfResidual(FeatureResidual):
    """f_x - f_p / 2."""

    def forward(self, prediction, context):
        return Subtrahend(features=self.predicted_features(prediction, context) / 2)


class DifferenceConfig(CodecConfig):
    family: Literal["difference"] = "difference"


class DifferenceCoder(nn.Module):
    """Pixels less what predicts them, as a latent of a fixed scale."""

    def __init__(self):
        super().__init__()
        self.log_gain = nn.Parameter(torch.full((1,), 0.1))

    def forward(self, coder, x, prediction, quality):
        gain = (self.log_gain + quality / 16).exp()[:, None, None, None] * 4
        y = None if x is None else (x - prediction) * gain
        zeros = torch.zeros_like(prediction)
        return prediction + coder.code_latent("y", y, zeros, zeros + 2, GAUSSIAN, 0.0) / gain


class DifferenceIntra(FrameCodec[FrameSize]):
    def __init__(self, cfg):
        super().__init__()
        self.difference = DifferenceCoder()

    def symbols(self, size):
        return 3 * size.height * size.width

    def _code(self, coder, x, quality, past):
        grey = torch.full((len(quality), 3, *past), 0.5, device=quality.device)
        x_hat = self._clamped(self.difference(coder, x, grey, quality))
        return FrameOutput(x_hat, ReferenceState(x_hat))


class DifferenceInter(InterCodec):
    """Codes no motion, keeps no feature and no latents."""

    def __init__(self, cfg):
        super().__init__()
        self.difference = DifferenceCoder()

    def symbols(self, size):
        return 3 * size.height * size.width

    def _code(self, coder, x, quality, past):
        x_hat = self._clamped(self.difference(coder, x, past.frame, quality))
        return FrameOutput(x_hat, ReferenceState(x_hat, position=past.position + 1))


@pytest.fixture
def half(monkeypatch):
    monkeypatch.setitem(RESIDUAL_MODES, "half", HalfResidual)
    return parse_model({**PRESETS["cmfr-nano"].model_dump(), "residual": "half"})


@pytest.fixture
def difference(monkeypatch):
    family = Family(DifferenceConfig, DifferenceIntra, DifferenceInter)
    monkeypatch.setitem(FAMILIES, "difference", family)
    return parse_model({"family": "difference", "name": "difference"})


def test_a_family_that_says_too_few_symbols_cannot_encode(difference, monkeypatch):
    """Rather than give streams that cannot be decoded."""
    monkeypatch.delattr(DifferenceIntra, "symbols")
    model = VideoModel(difference).eval()
    with pytest.raises(AssertionError, match="DifferenceIntra.symbols says 0: too few"):
        model.encode_frame(torch.rand(1, 3, 16, 16), 30, None)


def test_refining_does_nothing_where_no_motion_is_coded(difference):
    model = VideoModel(difference).eval()
    x, index = torch.rand(1, 3, 16, 16), torch.tensor([30])
    past = model.code_intra(x, index).state
    assert refined_motion(model.inter, x, index, past, model.cfg, 1) is None


def through_files(model, tmp_path):
    """Encode and decode a video with the model from a weights file; the frames of both ends."""
    save_weights(tmp_path / "w.safetensors", weights_of(model), model.cfg)
    codec = load_codec(tmp_path / "w.safetensors", "cpu")
    write_yuv(tmp_path / "in_70x50_25.yuv", 4, 50, 70)
    sent, received = [], []
    codec.encode_video(tmp_path / "in_70x50_25.yuv", tmp_path / "a.cmfr", on_frame=sent.append)
    codec.decode_video(tmp_path / "a.cmfr", tmp_path / "out_70x50_25.yuv", on_frame=received.append)
    assert len(sent) == len(received) == 4
    for a, b in zip(sent, received, strict=True):
        assert torch.equal(a.output.x_hat, b.output.x_hat)
    return sent


def test_a_sixth_residual_mode(half, tmp_path):
    assert isinstance(half, CMFRConfig) and half.residual == "half"
    coded = through_files(lively(half), tmp_path)
    assert coded[1].output.motion.mask is None


def test_an_unknown_residual_mode_is_an_error_that_names_them():
    with pytest.raises(ValueError, match="there is no 'halv'; there are masked_feature, feature"):
        parse_model({**PRESETS["cmfr-nano"].model_dump(), "residual": "halv"})


def test_a_family_without_motion(difference, tmp_path):
    model = VideoModel(difference).eval()
    coded = through_files(model, tmp_path)
    assert all(frame.output.motion is None for frame in coded)
    assert [frame.intra for frame in coded] == [True, False, False, False]


def test_a_family_without_motion_is_trained(difference):
    model, clip = VideoModel(difference), moving_clip(3, 32, 32)
    stage = StageConfig(
        name="s", objective="inter", trainable=["inter"], steps=2, frames=3, crop=32, lr=1e-3
    )
    trained = StageModel(model, LossConfig(), stage, bf16=False)
    quality = torch.tensor([20])
    past = trained.reference(clip[:, :1], quality, 0)
    result = trained(clip[:, 1:], quality, past, 1.0, 0)
    result.loss.backward()
    assert result.loss.isfinite() and model.inter.difference.log_gain.grad.abs() > 0
    motion = stage.model_copy(update={"objective": "motion"})
    with pytest.raises(ValueError, match="stage s: difference codes no motion"):
        StageModel(model, LossConfig(), motion, bf16=False)


def test_weights_of_earlier_versions_get_their_present_names():
    now = weights_of(VideoModel(PRESETS["cmfr-nano"]))
    before = {name.replace("residual_mode.", ""): value for name, value in now.items()}
    assert before.keys() != now.keys()
    assert with_present_names(before, "cmfr").keys() == now.keys()
    assert with_present_names(now, "cmfr").keys() == now.keys()


def test_the_old_key_of_the_residual_codec_is_read():
    """In weights files, training configurations and ablations of before."""
    present = PRESETS["cmfr-nano"]
    tree = present.model_dump()
    tree["inter"] = tree.pop("residual_codec")
    assert parse_model(tree) == present
    changed = parse_model({**present.model_dump(), "inter": {"latent": 32}})
    assert changed.residual_codec == present.residual_codec.model_copy(update={"latent": 32})
    with pytest.raises(ValueError, match=r"residual_codec\.latnt"):
        parse_model({**present.model_dump(), "inter": {"latnt": 32}})
