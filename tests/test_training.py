import json
from pathlib import Path

import pytest
import torch
from conftest import moving_clip

from cmfr.checkpoint import load_training_state
from cmfr.coding import load_codec
from cmfr.config import PRESETS
from cmfr.frames import ColorInfo, Frame, VideoInfo
from cmfr.losses import frame_loss, weighted_mse
from cmfr.state import FrameOutput, ReferenceState
from cmfr.train_config import LossConfig, StageConfig, load_train_config
from cmfr.training import Trainer, learning_rate, train
from cmfr.video_out import open_writer

CONFIGS = sorted((Path(__file__).parents[1] / "configs" / "train").glob("*.yaml"))


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """A folder with three short lossless videos."""
    from fractions import Fraction

    folder = tmp_path_factory.mktemp("clips")
    info = VideoInfo(96, 64, Fraction(25), ColorInfo(), "420", 8)
    for seed in range(3):
        with open_writer(folder / f"{seed}.mkv", info) as writer:
            for x in (moving_clip(9, 64, 96, seed)[0] * 255).byte().numpy():
                writer.write(Frame((x[0], x[1, ::2, ::2].copy(), x[2, ::2, ::2].copy())))
    return folder


STAGES = [
    {"name": "intra", "objective": "intra", "trainable": ["intra"], "frames": 1},
    {"name": "motion", "objective": "motion", "start": "source", "frames": 2,
     "trainable": ["inter.motion_codec", "inter.motion_refiner", "inter.motion_estimation"],
     "warp_weight": 1.0},
    {"name": "inter", "objective": "inter", "trainable": ["inter"], "frames": 3,
     "warp_weight": 0.1, "random_position": True},
    {"name": "joint", "objective": "inter", "trainable": ["intra", "inter"], "frames": 3,
     "cascaded": True},
]  # fmt: skip


def config(tmp_path, clips, steps=4, **changes):
    import yaml

    stages = [{"crop": 48, "batch": 2, "steps": steps, "lr": 1e-3, **stage} for stage in STAGES]
    tree = {
        "model": "cmfr-nano", "run_dir": str(tmp_path / "run"), "data": {"root": str(clips)},
        "stages": stages, "log_every": 1, "image_every": 3, "save_every": 3, "device": "cpu",
        **changes,
    }  # fmt: skip
    path = tmp_path / "train.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def final_state(folder):
    return load_training_state(folder / "state.pt", torch.device("cpu"))


def test_all_stages_train_log_and_give_a_codec(tmp_path, clips):
    train(load_train_config(config(tmp_path, clips)))
    run = tmp_path / "run"
    records = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [r["stage"] for r in records] == [s["name"] for s in STAGES for _ in range(4)]
    assert all(r["skipped"] == 0 and r["grad_norm"] > 0 for r in records)
    assert "bpp_motion_y" in records[-1] and "bpp_residual_z" in records[-1]
    assert list(run.glob("events.out.tfevents*"))
    assert {"git", "torch"} <= json.loads((run / "versions.json").read_text()).keys()
    assert load_codec(run / "weights.safetensors", "cpu").name == "cmfr-nano"


def test_training_learns(tmp_path, clips):
    stage = {**STAGES[0], "crop": 48, "batch": 4, "steps": 60, "lr": 3e-3}
    path = config(tmp_path, clips)
    train(load_train_config(path, ["stages=" + json.dumps([stage])]))
    lines = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    loss = [json.loads(line)["loss"] for line in lines]
    assert sum(loss[-10:]) < 0.5 * sum(loss[:10])


@pytest.mark.parametrize("stop_after", [2, 5, 9])
def test_resumed_training_equals_uninterrupted(tmp_path, clips, stop_after):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    train(load_train_config(config(tmp_path / "a", clips)))
    cfg = load_train_config(config(tmp_path / "b", clips))
    trainer, steps = Trainer(cfg), 0
    one_step = trainer._step

    def counted(*arguments):
        nonlocal steps
        steps += 1
        trainer.stop = steps == stop_after
        return one_step(*arguments)

    trainer._step = counted
    trainer.run()
    assert final_state(tmp_path / "b" / "run")["progress"]["total_steps"] == stop_after
    train(cfg)
    a, b = (final_state(tmp_path / name / "run") for name in "ab")
    assert a["progress"] == b["progress"]
    for part in ("model", "ema"):
        for name, value in a[part].items():
            assert torch.equal(value, b[part][name]), (part, name)


def test_a_crash_at_the_start_of_a_stage_is_survived(tmp_path, clips):
    """The last file on disk is the one saved between two stages."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    train(load_train_config(config(tmp_path / "a", clips)))
    cfg = load_train_config(config(tmp_path / "b", clips))
    trainer = Trainer(cfg)
    one_stage = trainer._stage

    def crash(stage, state):
        if stage.name == "inter":
            raise KeyboardInterrupt
        one_stage(stage, state)

    trainer._stage = crash
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    train(cfg)
    a, b = (final_state(tmp_path / name / "run") for name in "ab")
    assert all(torch.equal(value, b["model"][name]) for name, value in a["model"].items())


def test_mistakes_in_late_stages_are_found_at_the_start(tmp_path, clips):
    path = config(tmp_path, clips)
    for override, expected in (
        ("stages.3.trainable=[inter, nonsense]", "stage joint: no module is called nonsense"),
        ("stages.3.crop=512", "stage joint: no clip has 3 frames of 512x512"),
        ("init=[{file: RUN, modules: [intre]}]", "has no modules called"),
    ):
        if "RUN" in override:
            train(load_train_config(path, ["stages.0.steps=1"]))
            weights = tmp_path / "run" / "weights.safetensors"
            override = override.replace("RUN", str(weights))
        with pytest.raises(ValueError, match=expected):
            Trainer(load_train_config(path, [override, f"run_dir={tmp_path / 'other'}"]))


def test_another_configuration_is_refused_with_the_difference(tmp_path, clips):
    path = config(tmp_path, clips, steps=1)
    train(load_train_config(path))
    with pytest.raises(ValueError, match="seed: 0 there, 5 here"):
        train(load_train_config(path, ["seed=5"]))


def test_steps_with_a_gradient_that_is_not_finite_are_skipped_and_counted(tmp_path, clips):
    trainer = Trainer(load_train_config(config(tmp_path, clips)))
    parameter = next(p for n, p in trainer.model.named_parameters() if n.startswith("intra"))
    trainer.optimizer = torch.optim.AdamW([parameter], lr=1.0)
    before = parameter.detach().clone()
    trainer._update((parameter * float("nan")).sum())
    assert torch.equal(parameter, before) and trainer.progress.skipped == 1
    trainer._update(parameter.sum())
    assert not torch.equal(parameter, before) and trainer.progress.skipped == 1


def test_lambda_and_loss_have_the_stated_units():
    cfg = LossConfig(lambda_min=16, lambda_max=2048)
    assert cfg.lambda_of(0) == 16 and cfg.lambda_of(63) == pytest.approx(2048)
    assert cfg.lambda_of(31.5) == pytest.approx((16 * 2048) ** 0.5)
    x = torch.zeros(1, 3, 16, 16)
    x_hat = x + torch.tensor([0.1, 0.2, 0.3])[:, None, None]
    output = FrameOutput(x_hat, ReferenceState(x_hat), {"y": torch.tensor([64.0])})
    terms = frame_loss(cfg, output, x, torch.tensor([0]), weight=0.5)
    mse = (6 * 0.01 + 0.04 + 0.09) / 8
    assert float(terms.distortion) == pytest.approx(mse, rel=1e-5)
    assert float(terms.total) == pytest.approx(16 * 0.5 * mse + 64 / 256, rel=1e-5)
    assert float(weighted_mse(x_hat, x, (1, 0, 0))) == pytest.approx(0.01, rel=1e-5)


def test_learning_rate_warms_up_and_falls():
    stage = StageConfig(
        name="s", objective="intra", trainable=("intra",), steps=1000, lr=1.0, lr_end=0.1
    )
    rates = [learning_rate(stage, step) for step in range(1001)]
    assert rates[0] < 0.02 and max(rates) == pytest.approx(1.0)
    assert rates[-1] == pytest.approx(0.1) and rates[100:] == sorted(rates[100:], reverse=True)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.name)
def test_every_shipped_configuration_loads(path):
    cfg = load_train_config(path)
    assert cfg.model in PRESETS.values() or cfg.model.name in PRESETS
    assert path.read_text().startswith("#")  # command, hardware, time, result


def test_mistakes_in_a_configuration_are_named(tmp_path, clips):
    path = config(tmp_path, clips)
    for override, expected in (
        ("learning_rate=1", "learning_rate: Extra inputs"),
        ("stages.0.stepz=1", "stages.0.stepz: Extra inputs"),
        ("model=nope", "no preset is called 'nope'"),
        ("model.residual=magic", "model.residual"),
        ("stages.0.crop=50", "stages.0.crop"),
        ("stages.9.crop=64", "no such place"),
        ("nonsense", "not of the form key=value"),
        ("stages=[1", "not valid YAML"),
        ("data.gaps=[0]", "data.gaps"),
        ("data.preload=false", "preload: false is for septuplets"),
        ("model.motion.estimation=[{stride: 8}, {stride: 3}]", "each a divisor of the one before"),
    ):
        with pytest.raises(ValueError, match=expected.replace(".", r"\.")):
            load_train_config(path, [override])
    with pytest.raises(FileNotFoundError, match="no configuration file"):
        load_train_config(tmp_path / "absent.yaml")
    assert load_train_config(path, ["model.fusion=concat"]).model.fusion == "concat"
    changed = load_train_config(path, ["model.motion.latent=16"]).model.motion
    assert changed == PRESETS["cmfr-nano"].motion.model_copy(update={"latent": 16})
