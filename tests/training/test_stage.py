import pytest
import torch
from conftest import moving_clip

from cmfr.models.presets import PRESETS
from cmfr.models.video_model import VideoModel
from cmfr.nn.bit_estimator import TrainingNoise
from cmfr.training.config import LossConfig, StageConfig
from cmfr.training.stage import StageModel, learning_rate, rate_weight
from cmfr.utils.errors import UserError

CLIP = torch.cat([moving_clip(4, 48, 64, seed) for seed in range(4)])  # [4, 4, 3, 48, 64]
QUALITY = torch.tensor([3, 20, 41, 60])


def stage_of(**changes):
    values = {"name": "s", "objective": "inter", "trainable": ["inter"], "frames": 4, "steps": 100,
              "lr": 1.0}  # fmt: skip
    return StageConfig(**{**values, **changes})


def module_of(stage, bf16=False, seed=0):
    torch.manual_seed(seed)
    return StageModel(VideoModel(PRESETS["cmfr-nano"]), LossConfig(), stage, bf16)


def gradients(stage, parts=1, bf16=False, seed=0):
    """Gradients of one cascaded pass over CLIP, the batch in so many parts."""
    module = module_of(stage, bf16, seed)
    size = len(CLIP) // parts
    for i in range(parts):
        x, q = CLIP[i * size : (i + 1) * size], QUALITY[i * size : (i + 1) * size]
        torch.manual_seed(5)
        module.set_noise(i * size, len(CLIP))
        past = module.reference(x[:, :1], q, 0)
        torch.manual_seed(6)
        (frames,) = module.updates(4)
        (module(x[:, frames], q, past, 1.0, 0).loss / parts).backward()
    return {n: p.grad for n, p in module.codec.named_parameters() if p.grad is not None}


def same(a, b, rtol):
    assert a.keys() == b.keys()
    for name in a:
        scale = a[name].abs().max().clamp(min=1e-6)
        assert float((a[name] - b[name]).abs().max() / scale) < rtol, name


def test_updates_cover_the_clip():
    assert module_of(stage_of()).updates(4) == [slice(1, 2), slice(2, 3), slice(3, 4)]
    assert module_of(stage_of(cascaded=True)).updates(4) == [slice(1, 4)]
    both = {"trainable": ["intra", "inter"]}
    assert module_of(stage_of(**both)).updates(3) == [slice(0, 2), slice(2, 3)]
    assert module_of(stage_of(**both, cascaded=True)).updates(3) == [slice(0, 3)]
    intra = stage_of(objective="intra", trainable=["intra"], frames=1)
    assert module_of(intra).updates(1) == [slice(0, 1)]


def test_only_what_the_stage_names_learns():
    stage = stage_of(frozen=["inter.motion_codec"], cascaded=True)
    module = module_of(stage)
    learning = {n for n, p in module.codec.named_parameters() if p.requires_grad}
    assert learning and not any(n.startswith(("intra", "inter.motion_codec")) for n in learning)
    assert not module.codec.intra.training and module.codec.inter.training
    got = gradients(stage)
    assert got.keys() <= learning
    # Everything that learns has a part in the loss (adaptors: those of the positions coded).
    missing = learning - got.keys()
    assert not {n for n in missing if ".adaptor" not in n}, missing


def test_a_lead_is_coded_as_the_frames_after_it_are_but_not_learnt_from():
    module = module_of(stage_of(lead=[2], frames=2, cascaded=True)).eval()
    outputs = module.codec(CLIP, QUALITY)
    past = module.reference(CLIP[:, :3], QUALITY, 0)
    assert past.position == 2 and torch.equal(past.frame, outputs[2].x_hat)
    assert not past.feature.requires_grad
    result = module(CLIP[:, 3:], QUALITY, past, 1.0, 0)
    assert torch.equal(result.output.x_hat, outputs[3].x_hat)
    assert module.reference(CLIP[:, :3], QUALITY, 5).position == 7


def test_where_i_frames_learn_there_is_no_lead():
    with pytest.raises(ValueError, match="stage s: I-frames cannot learn after a lead"):
        module_of(stage_of(lead=[0, 2], trainable=["intra", "inter"]))
    with pytest.raises(ValueError, match="stage s: lead needs objective inter, and start intra"):
        stage_of(lead=[2], start="source")


def test_recomputed_activations_give_the_same_gradients():
    stage = stage_of(cascaded=True, trainable=["intra", "inter"])
    less = stage.model_copy(update={"checkpoint_activations": True})
    same(gradients(stage), gradients(less), 1e-5)
    # Weights are cast to bfloat16 once a pass, but anew where a frame is computed again.
    same(gradients(stage, bf16=True), gradients(less, bf16=True), 0.02)


def test_accumulated_parts_give_the_gradient_of_the_whole_batch():
    stage = stage_of(cascaded=True, trainable=["intra", "inter"])
    # Sums of other sizes round differently, and with some weights a value then comes to lie on the
    # other side of a kink (activations, clamps): up to 0.01. Not with these.
    whole = gradients(stage, seed=3)
    same(whole, gradients(stage, parts=2, seed=3), 2e-3)
    same(whole, gradients(stage, parts=4, seed=3), 2e-3)


def test_noise_of_a_sample_does_not_depend_on_the_split():
    x = torch.zeros(6, 2, 3, 3)
    torch.manual_seed(1)
    whole = TrainingNoise(first=0, total=6).like(x)
    torch.manual_seed(1)
    part = TrainingNoise(first=2, total=6).like(x[2:4])
    assert torch.equal(part, whole[2:4]) and whole.abs().max() <= 0.5 and whole.std() > 0.2


def test_results_carry_no_graph_but_the_loss():
    module = module_of(stage_of())
    past = module.reference(CLIP[:, :1], QUALITY, 1)
    assert past.position == 1
    result = module(CLIP[:, 1:2], QUALITY, past, 1.0, 1)
    assert result.loss.requires_grad and not result.output.x_hat.requires_grad
    assert not result.output.state.feature.requires_grad and result.output.state.position == 2
    assert {"loss", "psnr", "bpp", "lambda_d", "bpp_motion_y", "bpp_residual_z"} <= set(
        result.scalars
    )


def test_numbers_for_the_log_are_means_over_frames_and_samples():
    module = module_of(stage_of(cascaded=True, trainable=["intra", "inter"])).eval()
    scalars = module(CLIP, QUALITY, None, 1.0, 0).scalars
    outputs = module.codec(CLIP, QUALITY)
    psnr = [module.loss.distortion(o.x_hat, CLIP[:, t]).psnr for t, o in enumerate(outputs)]
    bits = torch.stack([o.bits["residual_y"] for o in outputs[1:]]) / (48 * 64)
    expected = {"i_frame_psnr": psnr[0].mean(), "psnr": torch.stack(psnr[1:]).mean(),
                "bpp_residual_y": bits.mean()}  # fmt: skip
    assert "i_frame_bpp_intra_y" in scalars and "bpp_intra_y" not in scalars
    for name, value in expected.items():
        assert float(scalars[name]) == pytest.approx(float(value), rel=1e-5), name


def test_frame_weights_follow_the_position():
    quality = torch.tensor([30])
    losses = {}
    for weights in ((1.0, 1.0, 1.0, 1.0), (1.0, 1.0, 3.0, 1.0)):
        module = module_of(stage_of(frame_weights=weights)).eval()
        past = module.reference(CLIP[:1, :1], quality, 1)
        result = module(CLIP[:1, 1:2], quality, past, 1.0, 1)  # the frame at position 2
        losses[weights] = result
    a, b = losses.values()
    more = float((b.loss - a.loss).detach())
    assert more == pytest.approx(2 * float(a.scalars["lambda_d"]), rel=1e-4)


def test_learning_rate_warms_up_and_follows_its_schedule():
    def rates(**changes):
        stage = stage_of(steps=1000, lr=1.0, lr_end=0.1, **changes)
        return [learning_rate(stage, step) for step in range(1001)]

    cosine, linear, constant = (rates(schedule=s) for s in ("cosine", "linear", "constant"))
    for values in (cosine, linear):
        assert values[0] < 0.02 and max(values) == pytest.approx(1.0)
        assert values[-1] == pytest.approx(0.1)
        assert values[100:] == sorted(values[100:], reverse=True)
    assert linear[550] == pytest.approx(0.55) and set(constant[100:]) == {1.0}


def test_wsd_is_constant_then_linear():
    stage = stage_of(steps=1000, lr=1.0, lr_end=0.1, schedule="wsd", decay=0.25, warmup=20)
    rates = [learning_rate(stage, step) for step in range(1001)]
    assert rates[9] == 0.5 and set(rates[20:755]) == {1.0}
    assert rates[1000] == pytest.approx(0.1) and rates[878] == pytest.approx(0.55, abs=0.01)
    falling = rates[756:]
    assert all(a > b for a, b in zip(falling, falling[1:], strict=False))


@pytest.mark.parametrize("schedule", ["cosine", "linear", "wsd"])
def test_a_schedule_follows_the_clock_where_it_is_ahead(schedule):
    stage = stage_of(steps=1000, lr=1.0, lr_end=0.1, schedule=schedule, warmup=100)
    assert learning_rate(stage, 300, clock=1.0) == pytest.approx(0.1)
    assert learning_rate(stage, 300, clock=0.9) == learning_rate(stage, 910)
    assert learning_rate(stage, 910, clock=0.5) == learning_rate(stage, 910)
    assert learning_rate(stage, 50, clock=0.05) < learning_rate(stage, 50, clock=0) + 1e-9
    assert learning_rate(stage, 50, clock=1.0) == 0  # there was no time to warm up


def test_the_rate_counts_less_at_first():
    stage = stage_of(rate_warmup=10)
    assert [rate_weight(stage, step) for step in (0, 4, 9, 50)] == [0.1, 0.5, 1.0, 1.0]
    assert rate_weight(stage_of(), 0) == 1.0


def test_a_flow_stage_needs_a_motion_estimation_that_it_can_train():
    stage = stage_of(name="flow", objective="flow", trainable=("inter.motion_estimation",))
    with pytest.raises(UserError, match="stage flow: .* has no motion estimation for it"):
        StageModel(VideoModel(PRESETS["dcvc-dc-nano"]), LossConfig(), stage, bf16=False)
