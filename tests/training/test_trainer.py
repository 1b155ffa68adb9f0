import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import pytest
import torch
import yaml
from conftest import moving_clip

from cmfr.codec.checkpoint import load_training_state, read_weights
from cmfr.codec.codec import load_codec
from cmfr.training.config import OptimizerConfig, load_train_config
from cmfr.training.optimizer import StageOptimizer
from cmfr.training.run_dir import RunDir, read_versions
from cmfr.training.trainer import Trainer, train
from cmfr.utils import locks
from cmfr.utils.errors import UserError
from cmfr.video.info import ColorInfo, Frame, VideoInfo
from cmfr.video.writer import open_writer

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """A folder with three short lossless videos."""
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
     "warp_weight": 0.5, "prediction_weight": 0.5},
    {"name": "inter", "objective": "inter", "trainable": ["inter"], "frames": 3,
     "lead": [0, 2], "prediction_weight": 0.1, "random_position": True, "quantization": "noise"},
    {"name": "joint", "objective": "inter", "trainable": ["intra", "inter"], "frames": 3,
     "cascaded": True, "accumulate": 2, "quantization": "noise"},
]  # fmt: skip


def config(tmp_path, clips, steps=4, stages=STAGES, **changes):
    stages = [{"crop": 48, "batch": 2, "steps": steps, "lr": 1e-3, **stage} for stage in stages]
    tree = {
        "model": "cmfr-nano", "run_dir": str(tmp_path / "run"),
        "data": {"train": {"root": str(clips), "preload": True}},
        "validation": {"data": "train", "every": 3, "clips": 1, "frames": 3, "qualities": [0, 63]},
        "stages": stages, "log_every": 1, "image_every": 3, "save_every": 3, "device": "cpu",
        "threads": 1,  # a process of its own must compute the same
        **changes,
    }  # fmt: skip
    path = tmp_path / "train.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def final_state(folder):
    return load_training_state(folder / "state.pt", torch.device("cpu"))


def records(folder, name="log.jsonl"):
    """The log without what depends on the machine's speed."""
    lines = [json.loads(line) for line in (folder / name).read_text().splitlines()]
    varying = ("seconds", "samples_per_second")
    return [{k: v for k, v in line.items() if k not in varying} for line in lines]


def assert_same_run(a, b, timed=False):
    """Two run directories stand at the same place, bit for bit, and logged the same; `timed`: after
    the same time too."""
    one, other = final_state(a), final_state(b)
    for state in (one, other):
        if not timed:
            state["progress"] |= {"seconds": 0, "stage_began": 0}
    assert one["progress"] == other["progress"]
    for part in ("model", "ema"):
        for name, value in one[part].items():
            assert torch.equal(value, other[part][name]), (part, name)
    for name in ("log.jsonl", "validation.jsonl"):
        assert records(a, name) == records(b, name)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, clips):
    """The run directory of a whole run."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    train(load_train_config(config(folder, clips)))
    return folder / "run"


def test_all_stages_train_log_and_give_a_codec(uninterrupted):
    run = uninterrupted
    log = records(run)
    assert [r["stage"] for r in log] == [s["name"] for s in STAGES for _ in range(4)]
    assert [r["total"] for r in log] == list(range(1, 17))
    assert all(r["skipped"] == 0 and r["grad_norm"] > 0 for r in log)
    expected = {"loss", "psnr", "bpp", "lambda_d", "lr", "epoch", "i_frame_psnr",
                "bpp_motion_y", "bpp_motion_z", "bpp_residual_y", "bpp_residual_z"}  # fmt: skip
    assert expected <= log[-1].keys()
    assert list(run.glob("events.out.tfevents*"))
    [entry] = read_versions(run)
    assert {"git", "torch"} <= entry.keys() and "(bf16: auto; this CPU" in entry["arithmetic"]
    assert entry["from_step"] == 0 and entry["init"] == {}
    assert load_codec(run / "weights.safetensors", "cpu").name == "cmfr-nano"


def test_validation_gives_curves_and_keeps_the_best(uninterrupted):
    curves = records(uninterrupted, "validation.jsonl")
    # Every third step and at the end of each stage that reconstructs.
    assert [(c["stage"], c["step"]) for c in curves] == [
        (stage, step) for stage in ("intra", "inter", "joint") for step in (3, 4)
    ]
    assert [p["quality"] for p in curves[0]["curve"]] == [0, 63]
    inter = [c for c in curves if c["stage"] != "intra"]
    best = final_state(uninterrupted)["progress"]["best"]
    assert best["objective"] == "inter"
    assert best["score"] == pytest.approx(min(c["score"] for c in inter), rel=1e-5)
    _, _, metadata = read_weights(uninterrupted / "best.safetensors")
    assert metadata["steps"] == str(best["total_steps"])


def test_tensorboard_has_scalars_pictures_and_curves(uninterrupted):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(uninterrupted)).Reload()
    tags = events.Tags()
    assert {"inter/bpp_residual_y", "inter/lambda_d", "inter/grad_norm", "inter/lr",
            "inter_validation/psnr_yuv_q63"} <= set(tags["scalars"])  # fmt: skip
    assert {"inter/reconstruction", "inter/flow_decoded", "inter/flow_refined", "inter/mask",
            "inter_validation/rd"} <= set(tags["images"])  # fmt: skip


def test_training_learns(tmp_path, clips):
    """At one quality: the loss of all of them is mostly which ones were drawn."""
    stage = {**STAGES[0], "crop": 48, "batch": 4, "steps": 60, "lr": 3e-3, "qualities": [40, 40]}
    path = config(tmp_path, clips)
    train(load_train_config(path, ["stages=" + json.dumps([stage])]))
    lines = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    loss = [json.loads(line)["loss"] for line in lines]
    assert sum(loss[-10:]) < 0.8 * sum(loss[:10])  # the start is a good transform already


@pytest.mark.parametrize("stop_after", [2, 5, 9, 16])
def test_terminated_and_resumed_training_equals_uninterrupted(
    tmp_path, clips, uninterrupted, stop_after
):
    cfg = load_train_config(config(tmp_path, clips))
    trainer, steps = Trainer(cfg), 0
    one_step = trainer._step

    def counted(*arguments):
        nonlocal steps
        steps += 1
        if steps == stop_after:
            os.kill(os.getpid(), signal.SIGTERM)
        return one_step(*arguments)

    trainer._step = counted
    told = trainer.run()
    assert final_state(tmp_path / "run")["progress"]["total_steps"] == stop_after
    stage, step = divmod(stop_after - 1, 4)
    assert f"stopped after step {step + 1} of 4 of stage {STAGES[stage]['name']} (asked to)" in told
    assert str(tmp_path / "run" / "state.pt") in told and "The same command goes on" in told
    train(cfg)
    assert_same_run(tmp_path / "run", uninterrupted)


def test_a_signal_to_all_processes_of_a_run_saves_too(tmp_path, clips):
    """As `timeout`, clusters and terminals send it: to the workers that read ahead, too."""
    data = {"train": {"root": str(clips), "workers": 2}}
    path = config(tmp_path, clips, steps=100_000, stages=STAGES[:1], data=data, validation=None)
    for kind in (signal.SIGTERM, signal.SIGINT):
        log = tmp_path / "run" / "log.jsonl"
        before = log.stat().st_size if log.is_file() else 0
        process = subprocess.Popen(
            [sys.executable, "-m", "cmfr", "train", str(path)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        try:
            deadline = time.monotonic() + 120
            while not (log.is_file() and log.stat().st_size > before):
                assert process.poll() is None and time.monotonic() < deadline
                time.sleep(0.05)
            os.killpg(process.pid, kind)
            out, err = process.communicate(timeout=1500)
        finally:
            process.kill()
        assert process.returncode == 0, err
        assert "stopped after step" in out and "(asked to)" in out


def test_what_a_save_left_that_was_killed_at_its_end_is_removed(tmp_path, clips):
    """A finished run is not saved again."""
    path = config(tmp_path, clips, steps=1)
    train(load_train_config(path))
    before = sorted(p.name for p in (tmp_path / "run").iterdir() if "events" not in p.name)
    (tmp_path / "run" / "optimizer-3.pt").touch()
    train(load_train_config(path))
    after = sorted(p.name for p in (tmp_path / "run").iterdir() if "events" not in p.name)
    assert after == before and "optimizer-4.pt" in after


def test_the_end_of_a_run_says_where_everything_is(tmp_path, clips, capfd):
    path = config(tmp_path, clips, steps=1)
    run = tmp_path / "run"
    first = train(load_train_config(path))
    assert first.startswith(f"{run}: finished; 4 steps, 0:00:")
    for part in (f"--model {run / 'weights.safetensors'}", f"tensorboard --logdir {run}",
                 f"best validation: {run / 'best.safetensors'}"):  # fmt: skip
        assert part in first
    again = train(load_train_config(path))
    assert again.startswith(f"{run}: was finished before, nothing is left to do; 4 steps")
    assert again.splitlines()[1:] == first.splitlines()[1:]
    err = capfd.readouterr().err  # no bar where there is no terminal
    assert "stage intra: 1 steps to do" in err and "sample/s" not in err


def test_the_time_limit_is_told(tmp_path, clips):
    path = config(tmp_path, clips, steps=2)
    told = train(load_train_config(path, ["time_limit_minutes=1.0e-9"]))
    assert "stopped after step 1 of 2 of stage intra (1e-09 minutes are over)" in told


def test_the_bar_has_the_time_left_of_the_whole_run(tmp_path, clips, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("cmfr.training.trainer.hours", lambda seconds: "1:02:05")
    train(load_train_config(config(tmp_path, clips, steps=1)))
    err = capsys.readouterr().err
    assert "joint: 100%" in err and "run=1:02:05 left" in err


def test_resuming_in_the_middle_of_a_log_interval(tmp_path, clips):
    for name, calls, override in (("a", 1, []), ("b", 13, ["time_limit_minutes=1.0e-9"])):
        (tmp_path / name).mkdir()
        path = config(tmp_path / name, clips, steps=6, log_every=4, stages=[STAGES[0], STAGES[3]])
        for _ in range(calls):  # with the time limit every call makes one step
            train(load_train_config(path, override))
    assert_same_run(tmp_path / "a" / "run", tmp_path / "b" / "run")


class StepClock:
    """Goes on by a second whenever it is asked: at the start of a call and after every step."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        self.now += 1
        return self.now


def test_a_run_that_goes_by_the_clock_ends_its_schedule_and_resumes_exactly(tmp_path, clips):
    changes = {"schedule_clock": True, "time_limit_minutes": 9 / 60}
    for name, stops in (("a", []), ("b", [2, 6])):
        (tmp_path / name).mkdir()
        # Two steps of the first stage, then what is left of nine seconds for the second.
        path = config(tmp_path / name, clips, steps=20, **changes)
        cfg = load_train_config(path, ["stages.0.steps=2"])
        for stop in [*stops, 100]:
            trainer = Trainer(cfg, clock=StepClock())
            one_step = trainer._step

            def step(*arguments, trainer=trainer, one_step=one_step, stop=stop):
                if trainer.progress.total_steps + 1 == stop:
                    trainer.requested = True
                return one_step(*arguments)

            trainer._step = step
            trainer.run()
            if stop < 100:
                assert trainer.progress.total_steps == stop
    assert_same_run(tmp_path / "a" / "run", tmp_path / "b" / "run", timed=True)
    log = records(tmp_path / "a" / "run")
    assert [r["stage"] for r in log] == ["intra"] * 2 + ["motion"] * 7
    rates = [r["lr"] for r in log[2:]]
    # A cosine over seven seconds though the stage has twenty steps (two of them warm it up).
    assert rates[2] == pytest.approx(1e-3 * 0.5 * (1 + math.cos(math.pi * 2 / 7)), rel=1e-3)
    assert rates[2:] == sorted(rates[2:], reverse=True) and rates[-1] < 1e-4
    state = final_state(tmp_path / "b" / "run")
    assert state["progress"]["seconds"] == 9 and state["progress"]["stage_began"] == 2

    trainer = Trainer(cfg, clock=StepClock())  # it is finished
    trainer.run()
    assert trainer.progress.total_steps == 9 and trainer.progress.finished(cfg)
    longer = load_train_config(path, ["stages.0.steps=2", "time_limit_minutes=0.2"])
    trainer = Trainer(longer, clock=StepClock())
    trainer.run()
    assert trainer.progress.total_steps == 12


@pytest.mark.parametrize(
    ("distortion", "lambdas"),
    [({"mse_yuv": 1}, (4, 2048)), ({"mse_rgb": 0.5}, (2, 1024)), ({"ms_ssim_y": 1}, (48, 24576))],
)
def test_weights_say_what_a_squared_error_weighed(tmp_path, clips, distortion, lambdas):
    """What `encode --refine` goes by; where none was trained for, it stays the preset's."""
    stages = [{**STAGES[0], "crop": 176}]
    data = {"train": {"kind": "generated", "count": 1, "frames": 1, "size": [192, 192]}}
    path = config(tmp_path, clips, 1, stages, loss={"distortion": distortion}, data=data)
    train(load_train_config(path, ["validation=null", "stages.0.crop=176"]))
    assert read_weights(tmp_path / "run" / "weights.safetensors")[0].lambda_range == lambdas


def test_a_run_from_before_there_were_new_keys_is_resumed(tmp_path, clips):
    path = config(tmp_path, clips, steps=1)
    train(load_train_config(path))
    written = tmp_path / "run" / "config.yaml"
    tree = yaml.safe_load(written.read_text())
    del tree["schedule_clock"]
    for stage in tree["stages"]:
        del stage["decay"]
    for data in tree["data"].values():  # keys without effect were written too
        data |= {"list_file": "sep_trainlist.txt", "count": 8}
        assert data["kind"] == "clips"
    written.write_text(yaml.safe_dump(tree))
    train(load_train_config(path))
    with pytest.raises(ValueError, match=r"stages\.0\.decay: 0\.2 there, 0\.5 here"):
        train(load_train_config(path, ["stages.0.decay=0.5"]))


KILLED_WHILE_SAVING = """
import os, signal, sys, torch
from cmfr.training.config import load_train_config
from cmfr.training.trainer import train

save, saves = torch.save, 0

def half(state, path):
    global saves
    saves += 1
    save(state, path)
    if saves == int(sys.argv[2]):  # in the third stage, after two log records not saved yet
        os.truncate(path, path.stat().st_size // 2)
        os.kill(os.getpid(), signal.SIGKILL)

torch.save = half
train(load_train_config(sys.argv[1]))
"""


@pytest.mark.parametrize("save", [9, 10])  # the fifth: the optimizer's file, then the rest
def test_a_run_killed_while_it_saves_is_resumed(tmp_path, clips, uninterrupted, save):
    path = config(tmp_path, clips)
    command = [sys.executable, "-c", KILLED_WHILE_SAVING, str(path), str(save)]
    assert subprocess.run(command, capture_output=True).returncode == -signal.SIGKILL
    run = tmp_path / "run"
    assert list(run.glob(".*.part*"))
    logged, saved = records(run)[-1]["total"], final_state(run)["progress"]["total_steps"]
    assert saved < logged < 16
    train(load_train_config(path))
    assert_same_run(run, uninterrupted)
    assert not list(run.glob(".*.part*"))


def test_a_run_is_resumed_from_small_files(tmp_path, clips, uninterrupted, capsys):
    """Without the optimizer's state: most of what is saved is that, and it can be made anew."""
    cfg = load_train_config(config(tmp_path, clips, save_every=1))
    trainer = Trainer(cfg)
    one_step = trainer._step

    def stopped(*arguments):
        trainer.requested = trainer.progress.total_steps + 1 == 10  # in the third stage
        return one_step(*arguments)

    trainer._step = stopped
    trainer.run()
    run = tmp_path / "run"
    assert [file.name for file in run.glob("optimizer-*.pt")] == ["optimizer-10.pt"]
    (run / "optimizer-10.pt").unlink()
    train(cfg)
    assert f"{run}: resumed without the optimizer's state" in capsys.readouterr().err
    assert final_state(run)["progress"]["total_steps"] == 16
    before, after = records(uninterrupted), records(run)
    assert after[:10] == before[:10] and after[10]["loss"] != before[10]["loss"]
    assert after[10]["loss"] == pytest.approx(before[10]["loss"], rel=0.2)


def test_a_crash_at_the_start_of_a_stage_is_survived(tmp_path, clips, uninterrupted):
    """The last file on disk is the one saved between two stages."""
    cfg = load_train_config(config(tmp_path, clips))
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
    assert_same_run(tmp_path / "run", uninterrupted)


def test_a_stage_starts_from_the_weights_it_names(tmp_path, clips, uninterrupted):
    weights = uninterrupted / "weights.safetensors"
    _, given, _ = read_weights(weights)
    stage = {**STAGES[2], "crop": 48, "batch": 2, "steps": 1, "lr": 1e-9,
             "init": [{"file": str(weights), "modules": ["inter"]}]}  # fmt: skip
    path = config(tmp_path, clips)
    train(load_train_config(path, ["seed=9", "stages=" + json.dumps([stage])]))
    state = final_state(tmp_path / "run")
    for part in ("model", "ema"):
        inter = {n: v for n, v in state[part].items() if n.startswith("inter")}
        assert all(torch.allclose(v, given[n].float(), atol=1e-6) for n, v in inter.items())
        intra = "intra.analysis.0.weight"
        assert not torch.allclose(state[part][intra], given[intra].float(), atol=1e-6)


def test_mistakes_in_late_stages_are_found_at_the_start(tmp_path, clips):
    path = config(tmp_path, clips)
    for override, expected in (
        ("stages.3.trainable=[inter, nonsense]", "stage joint: no module is called nonsense"),
        ("stages.3.crop=512", "stage joint: no clip has 3 frames of 512x512"),
        ("init=[{file: RUN, modules: [intre]}]", "has no modules called"),
        ("stages.3.init=[{file: RUN, modules: [intre]}]", "has no modules called"),
        ("stages.3.init=[{file: cmfr-s}]", "does not fit the model|has shape"),
        ("stages.3.lead=[2]", "stage joint: I-frames cannot learn after a lead"),
        ("stages.3.calibrate=[inter.residuals]", "calibrate: no latents belong to inter.residuals"),
    ):
        if "RUN" in override:
            train(load_train_config(path, ["stages.0.steps=1"]))
            weights = tmp_path / "run" / "weights.safetensors"
            override = override.replace("RUN", str(weights))
        with pytest.raises(ValueError, match=expected):
            Trainer(load_train_config(path, [override, f"run_dir={tmp_path / 'other'}"]))


def test_one_training_at_a_time_has_a_run_dir(tmp_path, clips, monkeypatch, capsys):
    monkeypatch.setattr(locks, "SAVING", 0.3)
    cfg = load_train_config(config(tmp_path, clips))
    first = Trainer(cfg)
    with pytest.raises(UserError, match="run is used by another training; choose another run_dir"):
        Trainer(cfg)
    assert "waiting for another training here to save" in capsys.readouterr().err
    first.run()
    assert "finished" in Trainer(cfg).run()


def test_versions_are_of_what_trained(tmp_path, clips, uninterrupted, monkeypatch):
    """Each call that trains with something else adds an entry; one without a step left nothing."""
    run = tmp_path / "run"
    shutil.copytree(uninterrupted, run)

    def files():  # of config.yaml, run_dir is another
        return {p.name: p.read_bytes() for p in run.iterdir() if p.name != "config.yaml"}

    before = files()
    cfg = load_train_config(config(tmp_path, clips))
    monkeypatch.setattr("cmfr.training.run_dir.versions", lambda: {"git": "later"})
    train(cfg)
    assert files() == before
    folder = RunDir(cfg, writes=True)
    for step, git in ((5, "later"), (9, "later"), (12, "last"), (7, "other")):
        monkeypatch.setattr("cmfr.training.run_dir.versions", lambda git=git: {"git": git})
        folder.note_versions(step, {})
    assert [(e["from_step"], e["git"]) for e in read_versions(run)][1:] == [
        (5, "later"), (7, "other")
    ]  # fmt: skip
    (run / "versions.json").write_text('{"git": "of before"}')
    assert read_versions(run) == [{"from_step": 0, "git": "of before"}]
    (run / "versions.json").write_text("[1]")
    with pytest.raises(UserError, match="versions.json is damaged; training goes on where it is"):
        folder.note_versions(9, {})


@pytest.mark.parametrize("text", ["", "a: [1", "seed: 1\n", "data: 1\nstages: 2\n", "stages: [1]"])
def test_a_damaged_configuration_in_the_folder_is_named(tmp_path, clips, uninterrupted, text):
    run = tmp_path / "run"
    shutil.copytree(uninterrupted, run)
    (run / "config.yaml").write_text(text)
    with pytest.raises(UserError, match=r"run/config\.yaml (is|holds)"):
        train(load_train_config(config(tmp_path, clips)))


def test_another_configuration_is_refused_with_the_difference(tmp_path, clips):
    path = config(tmp_path, clips, steps=1)
    train(load_train_config(path))
    with pytest.raises(ValueError, match=r"\(seed: 0 there, 5 here; stages\.1\.lr: 0\.001 there"):
        train(load_train_config(path, ["seed=5", "stages.1.lr=0.5"]))
    for may_change in (["log_every=7", "data.train.workers=0"], ["bf16=true"], ["bf16=false"]):
        train(load_train_config(path, may_change))


def test_steps_with_a_gradient_that_is_not_finite_are_left_out_and_counted(tmp_path, clips):
    trainer = Trainer(load_train_config(config(tmp_path, clips)))
    parameter = next(p for n, p in trainer.model.named_parameters() if n.startswith("intra"))
    step = trainer.step_of(0)
    step.optimizer = StageOptimizer(OptimizerConfig(), [("", parameter)], 1.0)
    before = parameter.detach().clone()

    def update(factor):
        (parameter * factor).sum().backward()
        step.update(1.0, total_steps=0)
        return trainer.means.read(trainer.team)["skipped"]

    assert update(float("nan")) == 1 and torch.equal(parameter, before)
    assert update(1.0) == 0 and not torch.equal(parameter, before)


def test_the_smoke_configuration_trains(tmp_path):
    """As README runs it; its validation curves get better."""
    run = tmp_path / "smoke"
    cfg = load_train_config(ROOT / "configs/train/smoke.yaml", [f"run_dir={run}"])
    train(cfg)
    curves = records(run, "validation.jsonl")
    for objective in ("intra", "inter"):
        names = {stage.name for stage in cfg.stages if stage.objective == objective}
        scores = [c["score"] for c in curves if c["stage"] in names]
        assert len(scores) > 1 and scores[-1] < scores[0]
    assert load_codec(run / "best.safetensors", "cpu").name == "cmfr-nano"
