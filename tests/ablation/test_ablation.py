"""An ablation from its configuration to the table: what differs, what is resumed, what is said."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from conftest import lively, write_yuv

from cmfr.ablation.config import common_run, load_ablation, resolve
from cmfr.ablation.report import describe
from cmfr.ablation.run import _locked, idlest, standing, visible_gpus
from cmfr.analysis.complexity import count
from cmfr.cli.main import main
from cmfr.codec.checkpoint import read_weights, save_weights
from cmfr.evaluation.records import read_results, write_results
from cmfr.models.video_model import VideoModel
from cmfr.nn.densities import weights_of
from cmfr.training.config import load_train_config
from cmfr.training.run_dir import read_versions
from cmfr.utils.errors import UserError
from cmfr.utils.yaml_config import differences, plain
from cmfr.video.reader import open_video
from cmfr.video.writer import write_clip

CONFIGS = Path(__file__).parents[2] / "configs" / "ablation"
SMOKE = CONFIGS / "smoke.yaml"
SWITCHES = {"residual": "none", "fusion": "concat", "motion_refiner": False}
VARIANTS = {
    "base": {"title": "plain", "changes": SWITCHES},
    "refiner": {"title": "+ 100 % Motion_Refiner", "changes": {"motion_refiner": True}},
}
# The shortest schedule that goes through every stage.
SHORT = [
    f"variants={json.dumps(VARIANTS)}",
    "evaluation={qualities: [0, 21, 42, 63], generated: {clips: 2, size: [64, 48], frames: 3}}",
    "base.validation=null", "base.data.train.count=2", "base.data.train.size=[64, 64]",
    *(f"base.stages.{i}.{key}" for i in range(5) for key in ("steps=2", "batch=2", "crop=48")),
]  # fmt: skip


def leaves(tree, where=""):
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        if isinstance(value, dict | list):
            yield from leaves(value, f"{where}{key}.")
        else:
            yield f"{where}{key}", value


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda p: p.name)
def test_variants_differ_from_the_anchor_by_the_intended_keys_only(path):
    cfg = load_ablation(path)
    runs = resolve(cfg)
    base = load_train_config(cfg.base, list(cfg.overrides))
    anchor = plain(runs[cfg.anchor])
    assert list(runs) == list(cfg.variants)
    assert {k: anchor["model"][k] for k in SWITCHES} == SWITCHES
    assert anchor["model"] | SWITCHES == plain(base.model) | SWITCHES
    for name, run in runs.items():
        found = {key: value for key, _, value in differences(anchor, plain(run))}
        assert found.pop("run_dir", str(run.run_dir)) == str(cfg.run_dir / "variants" / name)
        changes = cfg.variants[name].changes if name != cfg.anchor else {}
        assert found.pop("seed", base.seed) == (cfg.variants[name].seed or base.seed)
        assert found == {f"model.{key}": value for key, value in leaves(changes)}
        assert not any(stage.objective == "intra" for stage in run.stages)
        assert not any(prefix.startswith("intra") for s in run.stages for prefix in s.trainable)
    common = common_run(cfg)
    if common is not None:
        assert [stage.objective for stage in common.stages] == ["intra"]
        assert anchor["init"] == [
            {"file": str(common.run_dir / "weights.safetensors"), "modules": ["intra"]}
        ]
    else:
        assert any("intra" in module for init in anchor["init"] for module in init["modules"])
    assert len(common.stages if common else ()) + len(runs[cfg.anchor].stages) == len(base.stages)
    text = path.read_text()
    assert text.startswith("#") and f"cmfr ablate configs/ablation/{path.name}" in text
    assert "Hardware" in text


@pytest.mark.parametrize("size", ["paper", "small"])
def test_every_residual_every_method_and_each_left_out(size):
    models = {
        name: run.model for name, run in resolve(load_ablation(CONFIGS / f"{size}.yaml")).items()
    }
    plain_models = [m for m in models.values() if m.fusion == "concat" and not m.motion_refiner]
    assert {m.residual for m in plain_models} == {
        "none", "pixel", "masked_pixel", "feature", "masked_feature",
    }  # fmt: skip
    full = models["full"]
    assert (full.residual, full.fusion, full.motion_refiner) == ("masked_feature", "sff", True)
    assert models["sff"].residual == "none" and models["sff"].fusion == "sff"
    assert models["motion_refiner"].motion_refiner and models["cmfr_sff"].fusion == "sff"
    less = {
        "cmfr_sff": "motion_refiner",
        "full_without_sff": "fusion",
        "full_without_mask": "residual",
    }
    for name, switch in less.items():
        assert {key for key, _, _ in differences(plain(full), plain(models[name]))} == {switch}
    assert models["base"] == models["base_again"] and full == models["full_again"]


@pytest.mark.parametrize("size", ["paper", "small"])
def test_a_wider_model_without_the_methods_costs_what_the_full_one_does(size):
    runs = resolve(load_ablation(CONFIGS / f"{size}.yaml"))
    wide, full = (count(VideoModel(runs[name].model))[1] for name in ("base_wide", "full"))
    changed = differences(plain(runs["base"].model), plain(runs["base_wide"].model))
    assert {key.split(".")[0] for key, _, _ in changed} == {"context_channels"}
    assert wide.encode_kmac_per_pixel == pytest.approx(full.encode_kmac_per_pixel, rel=0.05)
    assert wide.decode_kmac_per_pixel == pytest.approx(full.decode_kmac_per_pixel, rel=0.05)


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["anchor=nothing"], "no variant is called 'nothing'; there are base, motion_refiner"),
        (["parallell=2"], r"parallell: no key is called .* did you mean parallel\?"),
        (["variants.full.change={}"], r"variants.full.change: no key .* mean changes\?"),
        (["variants.cmfr.changes={fusoin: sff}"], r"variant cmfr: fusoin: no key .* mean fusion\?"),
        (["variants.cmfr.changes={fusion: magic}"], "variant cmfr: fusion: Input should be"),
        (["variants.cmfr.changes.fusion=concat"], "variant cmfr: fusion is the same in the anchor"),
        (["variants.cmfr.changes={}"], "variant cmfr changes nothing"),
        (["variants.cmfr.changes={motion_refiner: true}"], "motion_refiner and cmfr are the same"),
        (["variants.cmfr.changes={intra: {latent: 32}}"], "variant cmfr changes intra, and with"),
        (["variants.cmfr.changes={name: x}"], "name is no difference"),
        (["variants.a/b={title: x}"], "variants.a/b"),
        (
            [
                "variants.more={title: x, seed: 0, changes: {residual: pixel}}",
                "variants.again={title: y, seed: 0, changes: {residual: pixel}}",
            ],
            "variants more and again are the same model",
        ),
        (["base.stages.4.trainable=[intra, inter]"], "stage cascade trains the intra codec"),
        (["base.stages.4.trainable=['']"], "stage cascade trains the intra codec"),
        (["base.stages.3.init=[{file: x}]"], "stage inter loads an intra codec"),
        (["base.stages.2.stepz=1"], r"stages.2.stepz: no key .* did you mean steps\?"),
        (["evaluation.videos=[x]"], "give either videos or generated"),
        (["evaluation.sets={hevc_d: x}"], "give either videos or generated or sets"),
        (["evaluation.matrix=bt601"], "are for --color rgb"),
        (["variants.full.title=without the proposed methods"], "two have the title 'without"),
        (["evaluation.qualities=[21, 0]"], "do not rise"),
        (["evaluation.intra_period=0"], "intra period 0 is neither"),
    ],
)
def test_mistakes_are_one_sentence(overrides, reason):
    with pytest.raises(ValueError, match=reason):
        resolve(load_ablation(SMOKE, overrides))


def test_one_frozen_intra_codec_and_none():
    """A stage may name the intra codec if it freezes it; without intra stage there is no run."""
    frozen = ["base.stages.4.trainable=['']", "base.stages.4.frozen=[intra]"]
    assert len(resolve(load_ablation(SMOKE, frozen))) == 4
    stages = plain(load_train_config(SMOKE.parent / "../train/smoke.yaml"))["stages"][1:4]
    cfg = load_ablation(SMOKE, ["overrides=[]", f"base.stages={json.dumps(stages)}"])
    assert common_run(cfg) is None and not resolve(cfg)["base"].init


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("ablation")


def ablate(folder, *arguments):
    return main(["ablate", str(SMOKE), *SHORT, f"run_dir={folder}", *map(str, arguments)])


@pytest.fixture
def finished(folder, capsys):
    """The runs of test_smoke: they are there, or are made where that ran in another process."""
    assert ablate(folder) == 0
    capsys.readouterr()
    return folder


def snapshot(folder):
    """Everything that was trained, generated or measured, with its time."""
    kinds = ("*.pt", "*.safetensors", "*.json", "*.y4m", "train.*")
    files = [path for kind in kinds for path in folder.rglob(kind)]
    files = [path for path in files if path.parent.name != "results"]  # made of its .parts
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def test_smoke(folder, capsys):
    """Dry run; a variant that cannot train and its repair; a lost result; nothing done twice."""
    assert ablate(folder, "--dry-run") == 0
    out = capsys.readouterr().out
    assert "refiner              motion_refiner = true" in out
    assert "8 steps (flow 2, motion 2, inter 2, cascade 2): not begun" in out
    assert "2 variants x 2 sequences (scene1000, scene1001), 4 qualities each; 0 of 4" in out
    assert not list(folder.iterdir())

    broken = folder / "variants" / "refiner" / "state.pt"
    broken.parent.mkdir(parents=True)
    broken.write_bytes(b"no training state")
    assert ablate(folder) == 1
    out, err = capsys.readouterr()
    assert err.startswith("cmfr ablate: refiner: cmfr train:") and "no readable" in err
    assert err.count("\n") == 1 and "base: trained" in out
    assert "base on scene1001 at quality 63: measured" in out
    table = folder / "report" / "bd_rate.md"
    assert "refiner: training is not finished (damaged)" in plain_text(table)
    assert "| + 100 % Motion_Refiner |" not in plain_text(table)  # no rows without a number
    first = snapshot(folder)
    results = folder / "results"
    assert [path.name for path in results.glob("*.json")] == ["base.json"]
    parts = {}
    for path in (results / "base.json.parts").iterdir():
        [record] = read_results(path)
        parts[record.sequence, record.label] = path
    assert len(parts) == 8

    lost = parts["scene1001", 21]
    lost.unlink()
    assert ablate(folder, "--report-only") == 0 and not lost.exists()
    assert "generated (1 of 2 sequences)" in plain_text(table)
    broken.unlink()
    capsys.readouterr()
    assert ablate(folder) == 0
    out = capsys.readouterr().out
    assert "base: trained" not in out and out.count("base on") == 1
    assert "base on scene1001 at quality 21: measured" in out
    second = snapshot(folder)
    kept = {path for path in first if "refiner" not in path.parts and path != lost}
    assert {path: second[path] for path in kept} == {path: first[path] for path in kept}
    assert sorted(path.name for path in results.glob("*.json")) == ["base.json", "refiner.json"]
    check_files(folder)

    tables = {path: path.read_bytes() for path in (folder / "report").iterdir()}
    assert ablate(folder) == 0 and snapshot(folder) == second
    assert {path: path.read_bytes() for path in tables} == tables
    assert len(tables) == 6 + 6


def plain_text(path):
    """Markdown without its escapes."""
    return re.sub(r"\\(.)", r"\1", path.read_text())


def check_files(folder):
    report = folder / "report"
    text = plain_text(report / "bd_rate.md")
    assert "trained once for 2 steps (intra 2)" in text and "seed 0" in text
    assert "motion_refiner = true" in text and "DIFFER" not in text and "not finished" not in text
    assert "## What the parts do" in text
    parts = {
        name: json.loads((folder / "parts" / f"{name}.json").read_text())["parts"]
        for name in ("base", "refiner")
    }
    base, refiner = parts.values()  # the first has no refiner
    assert base["PSNR-Y refined q42"] == base["PSNR-Y decoded q42"]
    assert refiner["PSNR-Y refined q42"] != refiner["PSNR-Y decoded q42"]
    assert all(named["motion_y bpp q21"] > 0 for named in parts.values())
    assert "## Complexity" in text and "| scene1001 |" in text and "Qualities 0, 21, 42, 63" in text
    with (report / "complexity.csv").open() as file:
        rows = {row["codec"]: row for row in csv.DictReader(file)}
    base, refiner = rows["plain"], rows["+ 100 % Motion_Refiner"]
    assert float(refiner["parameters, M"]) > float(base["parameters, M"])
    assert float(refiner["decode, kMAC/pixel"]) > 1
    with (report / "bd_rate_sequences.csv").open() as file:
        found = {(row["codec"], row["sequence"]) for row in csv.DictReader(file)}
    assert {(codec, f"scene100{i}") for codec in rows for i in range(2)} < found
    latex = (report / "bd_rate.tex").read_text()
    assert r"+ 100 \% Motion\_Refiner &" in latex and r"\toprule" in latex
    assert r"% base: weights" not in latex and r"encode, kMAC/pixel" in latex
    page = (report / "index.html").read_text()
    assert "motion_refiner = true" in page and "+ 100 % Motion_Refiner" in page
    for name in ("rd_generated", "rd_generated_scene1000", "rd_generated_scene1001"):
        assert (report / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
        assert "<svg" in (report / f"{name}.svg").read_text()
    intra = []
    for name in ("base", "refiner"):
        _, weights, head = read_weights(folder / "variants" / name / "weights.safetensors")
        intra.append({k: v for k, v in weights.items() if k.startswith("intra.")})
        assert head["steps"] == "8"
    assert all(bool((value == intra[1][key]).all()) for key, value in intra[0].items())
    records = read_results(folder / "results" / "base.json")
    assert [(r.sequence, r.label) for r in records] == [
        (f"scene100{i}", quality) for i in range(2) for quality in (0, 21, 42, 63)
    ]
    assert {(r.codec, r.average().frames) for r in records} == {("plain", 3)}


def test_another_configuration_is_refused_and_other_conditions_are_measured(finished, capsys):
    folder = finished
    assert ablate(folder, "base.seed=7") == 1
    assert "holds a run of another configuration (seed: 0 there, 7 here)" in capsys.readouterr().err
    cfg = load_ablation(SMOKE, [*SHORT, f"run_dir={folder}", "evaluation.frames=2"])
    assert "0 of 4 are measured" in describe(cfg)
    assert all(standing(run) == "finished" for run in resolve(cfg).values())


@pytest.fixture
def kept(finished, tmp_path):
    """What is left of the runs when their variants are thinned."""
    unwanted = shutil.ignore_patterns("*.pt", "*.safetensors", "*.parts", "report", "sequences")
    return shutil.copytree(finished, tmp_path / "kept", ignore=unwanted)


def test_a_variant_thinned_to_its_results_is_done(finished, kept, capsys):
    assert ablate(kept) == 0
    out = capsys.readouterr().out
    assert ": trained" not in out and ": measured" not in out and not list(kept.rglob("*.pt"))
    tables = [plain_text(run / "report" / "bd_rate.md").splitlines() for run in (finished, kept)]
    added = [f"- {name}: its weights were not kept." for name in ("base", "refiner")]
    assert [line for line in tables[1] if line not in added] == tables[0]
    assert set(added) < set(tables[1])
    assert ablate(kept, "--dry-run") == 0
    out = capsys.readouterr().out
    assert out.count("finished, weights not kept") == 2 and "4 of 4 are measured" in out
    assert ablate(kept, "base.seed=7") == 1
    assert "holds a run of another configuration (seed: 0 there, 7 here)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "measured"),
    [
        ("evaluation.qualities=[0, 42]", 4),
        ("evaluation.qualities=[0, 43]", 0),
        ("evaluation.generated.clips=1", 2),
        ("evaluation.generated.first=1001", 2),
        ("evaluation.generated.frames=2", 0),
        ("evaluation.frames=2", 0),
        ("evaluation.color=rgb", 0),
        ("evaluation.intra_period=2", 0),
        ("evaluation.part_frames=8", 4),
    ],
)
def test_of_a_thinned_variant_only_what_is_asked_for_is_shown(kept, capsys, change, measured):
    assert ablate(kept, change, "--dry-run") == 0
    assert f"; {measured} of " in capsys.readouterr().out
    assert ablate(kept, change, "--report-only") == 0
    text = plain_text(kept / "report" / "bd_rate.md")
    otherwise = "base: its weights were not kept, and it was measured otherwise"
    assert (otherwise in text) == (measured == 0)
    assert ("Parts: " in text) == ("qualities" in change and measured > 0)


def test_first_frames_tell_of_another_intra_codec_when_the_weights_are_gone(kept):
    file = kept / "results" / "refiner.json"
    changed = []
    for record in read_results(file):
        first, *rest = record.frames
        changed.append(replace(record, frames=(replace(first, bits=first.bits * 1.01), *rest)))
    write_results(file, changed)
    assert ablate(kept, "--report-only") == 0
    text = plain_text(kept / "report" / "bd_rate.md")
    assert "The intra codecs DIFFER: the first frames of refiner are not those of the rest" in text


def test_variants_that_would_begin_with_other_weights_are_not_trained(finished, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    shutil.rmtree(folder / "variants" / "refiner")
    [entry] = read_versions(folder / "variants" / "base")
    [(what, _)] = entry["init"].items()
    assert what == "weights: intra"
    versions = folder / "variants" / "base" / "versions.json"
    versions.write_text(json.dumps([entry | {"init": {what: "0123456789abcdef"}}]))
    capsys.readouterr()
    assert ablate(folder) == 1
    err = capsys.readouterr().err
    assert (
        "variant base began with other weights than refiner would (weights: intra: 0123456" in err
    )
    assert not (folder / "variants" / "refiner").exists()


def test_given_weights_are_taken(tmp_path, capsys):
    """A variant with weights is not trained, and its weights have to be those of its model."""
    again = "variants.again={title: plain again, seed: 1}"
    cfg = load_ablation(SMOKE, [*SHORT, again])
    options = [again, "evaluation.qualities=[0, 63]", "evaluation.generated.clips=1"]
    for name, run in resolve(cfg).items():
        save_weights(tmp_path / f"{name}.safetensors", weights_of(VideoModel(run.model)), run.model)
        options.append(f"variants.{name}.weights={tmp_path / name}.safetensors")
    folder = tmp_path / "run"
    assert ablate(folder, *options) == 0
    text = plain_text(folder / "report" / "bd_rate.md")
    assert not (folder / "variants").exists() and not (folder / "common").exists()
    assert "base: weights taken from base.safetensors" in text
    assert "has 2 points, and BD-rate needs 4" in text
    assert "codecs DIFFER: the first frames of refiner, again are not those of the rest" in text
    wrong = f"variants.refiner.weights={tmp_path}/base.safetensors"
    capsys.readouterr()
    assert ablate(folder, *options, wrong) == 1
    assert "variant refiner: motion_refiner is True, but False in" in capsys.readouterr().err


def test_an_interrupted_ablation_saves(tmp_path, capsys):
    """SIGTERM reaches the training, which saves; the lock keeps a second command away."""
    options = [*SHORT, f"run_dir={tmp_path}", "base.stages.0.steps=100000", "base.log_every=1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "cmfr", "ablate", str(SMOKE), *options],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    log = tmp_path / "common" / "log.jsonl"
    try:
        deadline = time.monotonic() + 180
        while not (log.is_file() and log.stat().st_size) and time.monotonic() < deadline:
            assert process.poll() is None, process.communicate()
            time.sleep(0.1)
        assert main(["ablate", str(SMOKE), *options]) == 1
        assert "is used by another ablation" in capsys.readouterr().err
        os.kill(process.pid, signal.SIGTERM)
        _, err = process.communicate(timeout=1500)
    finally:
        process.kill()
    assert process.returncode == 130 and err == "cmfr ablate: interrupted\n"
    where = standing(common_run(load_ablation(SMOKE, options)))
    assert where.startswith("stopped after step ") and "of stage intra" in where
    assert yaml.safe_load((tmp_path / "common" / "train.yaml").read_text())["seed"] == 0


def test_test_sets_rgb_and_ms_ssim(tmp_path, capsys):
    """What `cmfr evaluate` can measure an ablation can."""
    sequence = {"name": "pan", "width": 176, "height": 168, "frame_rate": 25, "frames": 2}
    tree = {"name": "own", "title": "Own", "source": "here", "sequences": [sequence]}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(tree))
    write_yuv(tmp_path / "pan.yuv", 2, 168, 176)
    options = [f"run_dir={tmp_path / 'run'}", "evaluation.generated=null", "parallel=2",
               f"evaluation.sets={{{tmp_path / 'own.yaml'}: {tmp_path}}}",
               "evaluation.qualities=[10, 50]", "evaluation.color=rgb"]  # fmt: skip
    for name, run in resolve(load_ablation(SMOKE, SHORT)).items():
        save_weights(tmp_path / f"{name}.safetensors", weights_of(lively(run.model)), run.model)
        options.append(f"variants.{name}.weights={tmp_path / name}.safetensors")
    assert main(["ablate", str(SMOKE), *SHORT, *options]) == 0
    out, err = capsys.readouterr()
    assert (
        "pan.yuv: 176x168, 4:2:0, 8 bit" in err and "refiner on pan at quality 50: measured" in out
    )
    records = read_results(tmp_path / "run" / "results" / "refiner.json")
    assert [set(r.average().quality) for r in records] == [{"psnr_rgb", "ms_ssim_rgb"}] * 2
    assert {r.dataset for r in records} == {"own"} and records[0].set_sequences == ("pan",)
    text = plain_text(tmp_path / "run" / "report" / "bd_rate.md")
    assert "PSNR-RGB, dB" in text and "MS-SSIM-RGB, linear" in text
    (tmp_path / "pan.yuv").write_bytes(b"")
    assert main(["ablate", str(SMOKE), *SHORT, *options]) == 1
    assert "not what the test set says" in capsys.readouterr().err


def test_a_clip_becomes_a_video_of_its_colors(tmp_path):
    clip = torch.zeros(3, 3, 32, 48)
    clip[:, 0] = 1  # red
    write_clip(tmp_path / "red.y4m", clip)
    with open_video(tmp_path / "red.y4m") as reader:
        frames = list(reader)
    assert len(frames) == 3 and (reader.info.width, reader.info.height) == (48, 32)
    assert [int(plane[0, 0]) for plane in frames[2].planes] == [54, 98, 255]  # BT.709, full range


def test_runs_spread_over_the_gpus_that_may_be_used(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5,6")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    gpus, used = visible_gpus(), []
    for _ in range(4):
        used.append(idlest(gpus, used))
    assert used == ["2", "5", "6", "2"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert visible_gpus() == []


def test_the_training_of_a_killed_ablation_is_waited_for(tmp_path, capsys):
    """It has the lock until it has saved; a command that is still there is not waited for."""
    lock = tmp_path / ".lock"
    hold = "import fcntl, sys, time; f = open(sys.argv[1], 'a'); fcntl.flock(f, 2); "
    ended = subprocess.Popen(["true"])
    ended.wait()
    for command, waits in ((ended.pid, True), (os.getpid(), False)):
        lock.write_text(str(command))
        code = hold + "print('held', flush=True); time.sleep(0.5)"
        holder = subprocess.Popen(
            [sys.executable, "-c", code, str(lock)], stdout=subprocess.PIPE, text=True
        )
        assert holder.stdout.readline() == "held\n"
        if waits:
            with _locked(tmp_path):
                assert lock.read_text() == str(os.getpid())
            assert "waiting for the training of a killed ablation" in capsys.readouterr().err
        else:
            with pytest.raises(UserError, match="is used by another ablation"):
                with _locked(tmp_path):
                    pass
        holder.wait()


KEPT = Path(__file__).parents[2] / "docs" / "ablation" / "small"


def lines_of_tables(text):
    return [line for line in text.splitlines() if line.startswith("|")]


def test_measured_tables_in_the_docs_are_of_the_report():
    _, _, measured = (KEPT.parents[1] / "ablation.md").read_text().partition("## Measured\n")
    shown, made = lines_of_tables(measured), (KEPT / "report" / "bd_rate.md").read_text()
    assert len(shown) > 20 and set(shown) <= set(made.splitlines())


@pytest.mark.slow
def test_kept_runs_give_the_report_again(tmp_path, capsys):
    """Without sequences, clips and weights."""
    shutil.copytree(KEPT, tmp_path / "kept", ignore=shutil.ignore_patterns("report"))
    assert main(["ablate", "small", f"run_dir={tmp_path / 'kept'}", "--report-only"]) == 0
    made = (tmp_path / "kept" / "report" / "bd_rate.md").read_text()
    assert made == (KEPT / "report" / "bd_rate.md").read_text()
