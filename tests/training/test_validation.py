import pytest
import torch

from cmfr.models.presets import PRESETS
from cmfr.nn.densities import make_tables
from cmfr.nn.payload import SMALL
from cmfr.training.config import LossConfig, ValidationConfig
from cmfr.training.data.config import GeneratedConfig
from cmfr.training.data.datasets import GeneratedClips
from cmfr.training.data.sampler import to_network
from cmfr.training.distributed import Team
from cmfr.training.validation import RDPoint, Validation, averaged
from cmfr.utils.device import exact_arithmetic

CPU = torch.device("cpu")
CLIPS = GeneratedClips(GeneratedConfig(count=3, frames=4, size=(100, 72)))


def validation(team=None, **changes):
    cfg = ValidationConfig(data="x", clips=2, frames=3, qualities=(5, 40), **changes)
    return Validation(cfg, CLIPS, LossConfig(), PRESETS["cmfr-nano"], team or Team(0, 1, CPU))


def test_points_agree_with_real_coding(nano):
    """Bits within 1 % of the written bytes but for the checksum; PSNR equal."""
    curve = validation().run(nano, intra=False)
    make_tables(nano)
    for point in curve:
        bits = psnr = 0.0
        for index in (0, 2):
            x = to_network(CLIPS.read(index, range(3)).first[..., :64, :96], None, "ycbcr")
            past = None
            with exact_arithmetic():
                for frame in x:
                    payload, _, output = nano.encode_frame(frame[None], point.quality, past)
                    past = output.state
                    assert len(payload) < SMALL
                    bits += 8 * (len(payload) - 2)  # the checksum
                    mse = (output.x_hat[0] - frame).square().mean((1, 2))
                    y, u, v = (-10 * mse.log10()).tolist()
                    psnr += (6 * y + u + v) / 8
        assert point.psnr_yuv == pytest.approx(psnr / 6, abs=1e-3)
        assert point.bpp == pytest.approx(bits / (6 * 64 * 96), rel=0.01)


def test_clips_that_are_too_small_are_named():
    loss = LossConfig(distortion={"ms_ssim_y": 1})
    cfg = ValidationConfig(data="x", clips=2, frames=3)
    large = GeneratedClips(GeneratedConfig(count=1, frames=2, size=(200, 180)))
    for clips, told in ((CLIPS, "scene0000 is smaller than 176x176"), (large, None)):
        arguments = (cfg, clips, loss, PRESETS["cmfr-nano"], Team(0, 1, CPU))
        if told:
            with pytest.raises(ValueError, match=f"validation: {told}"):
                Validation(*arguments)
        else:
            assert Validation(*arguments).clips[0].size == (176, 192)


def test_training_goes_on_as_before(nano):
    nano.train()
    nano.intra.eval()
    validation().run(nano, intra=True)
    assert nano.training and nano.inter.training and not nano.intra.training
    nano.eval()


def test_averaged_weights_are_put_back():
    torch.manual_seed(0)
    from cmfr.models.video_model import VideoModel
    from cmfr.nn.densities import weights_of

    model = VideoModel(PRESETS["cmfr-nano"])
    own = {name: value.clone() for name, value in weights_of(model).items()}
    other = {name: value + 1 for name, value in own.items()}
    with averaged(model, other):
        assert all(torch.equal(v, other[n]) for n, v in weights_of(model).items())
    assert all(torch.equal(v, own[n]) for n, v in weights_of(model).items())


def test_the_score_weighs_all_rates_alike():
    measured = validation()
    low = RDPoint(0, bpp=0.01, psnr_yuv=25, distortion=0.001)
    high = RDPoint(63, bpp=1.0, psnr_yuv=40, distortion=0.0001)

    def cheaper(p):
        return RDPoint(p.quality, p.bpp / 2, p.psnr_yuv, p.distortion / 2)

    score = measured.score([low, high], intra=False)
    a = measured.score([cheaper(low), high], intra=False)
    b = measured.score([low, cheaper(high)], intra=False)
    assert a == pytest.approx(b) and a == pytest.approx(score / 2**0.5)
