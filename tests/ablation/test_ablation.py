"""An ablation from its configuration to the table: what differs, what is resumed, what is said."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from cmfr.ablation.report import describe
from cmfr.ablation.run import common_run, load_ablation, resolve, standing
from cmfr.cli.main import main
from cmfr.codec.checkpoint import read_weights, save_weights
from cmfr.evaluation.bd_rate import compare
from cmfr.models.video_model import VideoCodec
from cmfr.nn.densities import weights_of
from cmfr.training.config import load_train_config
from cmfr.utils.yaml_config import differences, plain

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
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{where}{key}.")
        else:
            yield f"{where}{key}", value


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda p: p.name)
def test_variants_differ_from_the_anchor_by_the_intended_keys_only(path):
    cfg = load_ablation(path)
    runs = resolve(cfg)
    base = load_train_config(cfg.base)
    anchor = plain(runs[cfg.anchor])
    assert list(runs) == list(cfg.variants)
    assert {k: anchor["model"][k] for k in SWITCHES} == SWITCHES
    assert anchor["model"] | SWITCHES == plain(base.model) | SWITCHES
    for name, run in runs.items():
        found = {key: value for key, _, value in differences(anchor, plain(run))}
        assert found.pop("run_dir", str(run.run_dir)) == str(cfg.run_dir / "variants" / name)
        changes = cfg.variants[name].changes if name != cfg.anchor else {}
        assert found == {f"model.{key}": value for key, value in leaves(changes)}
        assert not any(stage.objective == "intra" for stage in run.stages)
        assert not any(prefix.startswith("intra") for s in run.stages for prefix in s.trainable)
    common = common_run(cfg)
    assert [stage.objective for stage in common.stages] == ["intra"]
    assert anchor["init"] == [
        {"file": str(common.run_dir / "weights.safetensors"), "modules": ["intra"]}
    ]
    assert len(common.stages) + len(runs[cfg.anchor].stages) == len(base.stages)
    text = path.read_text()
    assert text.startswith("#") and f"cmfr ablate configs/ablation/{path.name}" in text
    assert "Hardware" in text


def test_the_paper_has_every_residual_and_every_method():
    models = {
        name: run.model for name, run in resolve(load_ablation(CONFIGS / "paper.yaml")).items()
    }
    plain_models = [m for m in models.values() if m.fusion == "concat" and not m.motion_refiner]
    assert {m.residual for m in plain_models} == {
        "none", "pixel", "masked_pixel", "feature", "masked_feature",
    }  # fmt: skip
    full = models["full"]
    assert (full.residual, full.fusion, full.motion_refiner) == ("masked_feature", "sff", True)
    assert models["sff"].residual == "none" and models["sff"].fusion == "sff"
    assert models["motion_refiner"].motion_refiner and models["cmfr_sff"].fusion == "sff"


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
        (["base.stages.4.trainable=[intra, inter]"], "stage cascade trains the intra codec"),
        (["base.stages.4.trainable=['']"], "stage cascade trains the intra codec"),
        (["base.stages.3.init=[{file: x}]"], "stage inter loads an intra codec"),
        (["base.stages.2.stepz=1"], r"stages.2.stepz: no key .* did you mean steps\?"),
        (["evaluation.videos=[x]"], "give either videos or generated"),
        (["evaluation.qualities=[21, 0]"], "do not rise"),
        (["evaluation.intra_period=0"], "intra_period 0 is neither"),
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


def test_means_are_over_the_sequences_that_have_a_number():
    def curve(factor, shift=0.0):
        return [(factor * 2.0**i, 30 + 2.0 * i + shift) for i in range(4)]

    curves = {
        "a": {"x": curve(1), "y": curve(1), "z": curve(1)},
        "b": {"x": curve(0.9), "y": curve(0.8), "z": curve(0.5, shift=5)},
        "c": {"x": curve(1.1), "y": curve(1)[:3], "z": curve(1.2, shift=4)},
        "d": {},
    }
    table = compare(curves, "a", ["x", "y", "z"])
    assert {name: mean.over for name, mean in table.means.items()} == {
        "a": "3 of 3", "b": "2 of 3", "c": "2 of 3", "d": "0 of 3",
    }  # fmt: skip
    assert table.means["b"].percent == pytest.approx(-15) and table.means["d"].percent is None
    assert table.values["b", "y"] == pytest.approx(-20) and ("c", "y") not in table.values
    texts = {place: table.notes[number - 1] for place, number in table.footnotes.items()}
    assert texts["c", "y"] == "c on y has 3 points, and BD-rate needs 4"
    assert texts["d", "z"] == "d on z is not measured" and "d on x" in texts["d", "x"]
    assert "overlap by 16.7% of the shorter one only" in texts["b", "z"]
    assert texts["c", "z"].startswith("c on z: over 33% of the shorter curve's quality range only")
    other = compare(curves, "c", ["y"])
    assert {m.percent for m in other.means.values()} == {None} and len(other.footnotes) == 4
    assert other.notes[0] == texts["c", "y"] and other.footnotes["a", "y"] == 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("ablation")


def ablate(folder, *arguments):
    return main(["ablate", str(SMOKE), *SHORT, f"run_dir={folder}", *map(str, arguments)])


def snapshot(folder):
    """Everything that was trained, generated or measured, with its time."""
    kinds = ("*.pt", "*.safetensors", "*.json", "*.y4m", "train.*")
    files = [path for kind in kinds for path in folder.rglob(kind)]
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
    assert err.count("\n") == 1 and "base: trained" in out and "base on scene1001: measured" in out
    assert "refiner: training is not finished (damaged)" in (folder / "ablation.md").read_text()
    first = snapshot(folder)
    results = folder / "results"
    assert len(list(results.rglob("*.json"))) == 2  # the anchor's

    lost = results / "base" / "scene1001.json"
    lost.unlink()
    assert ablate(folder, "--report-only") == 0 and not lost.exists()
    assert "base on scene1001 is not measured" in (folder / "ablation.md").read_text()
    broken.unlink()
    assert ablate(folder) == 0
    out = capsys.readouterr().out
    assert "base: trained" not in out and "base on scene1000: measured" not in out
    second = snapshot(folder)
    kept = {path for path in first if "refiner" not in path.parts and path != lost}
    assert {path: second[path] for path in kept} == {path: first[path] for path in kept}
    assert len(list(results.rglob("*.json"))) == 4
    check_files(folder)

    made = [*folder.glob("ablation.*"), *folder.glob("rd_*")]
    tables = {path: path.read_bytes() for path in made}
    assert ablate(folder) == 0 and snapshot(folder) == second
    assert {path: path.read_bytes() for path in tables} == tables
    assert len(tables) == 3 + 6


def check_files(folder):
    text = (folder / "ablation.md").read_text()
    rows = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 4 and len({len(row) for row in rows}) == 1 and len(rows[0]) == 6
    assert rows[0][3].strip() == "scene1000" and rows[3][0].strip() == "+ 100 % Motion_Refiner"
    assert "trained once for 2 steps (intra 2)" in text and "seed 0" in text
    assert "motion_refiner = true" in text and "DIFFER" not in text and "not finished" not in text
    with (folder / "ablation.csv").open() as file:
        table = {row["variant"]: row for row in csv.DictReader(file)}
    assert float(table["refiner"]["parameters_m"]) > float(table["base"]["parameters_m"])
    assert float(table["refiner"]["decode_kmac_per_pixel"]) > 1
    assert {"bd_rate_scene1000", "bd_rate_scene1001", "bd_rate_mean"} <= table["base"].keys()
    latex = (folder / "ablation.tex").read_text()
    assert r"+ 100 \% Motion\_Refiner &" in latex and r"\toprule" in latex
    for name in ("rd_scene1000", "rd_scene1001", "rd_mean"):
        assert (folder / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
        assert "<svg" in (folder / f"{name}.svg").read_text()
    intra = []
    for name in ("base", "refiner"):
        _, weights, head = read_weights(folder / "variants" / name / "weights.safetensors")
        intra.append({k: v for k, v in weights.items() if k.startswith("intra.")})
        assert head["steps"] == "8"
    assert all(bool((value == intra[1][key]).all()) for key, value in intra[0].items())
    result = json.loads((folder / "results" / "base" / "scene1000.json").read_text())
    assert [p["quality"] for p in result["points"]] == [0, 21, 42, 63]
    assert {p["frames"] for p in result["points"]} == {3}


def test_another_configuration_is_refused_and_other_conditions_are_measured(folder, capsys):
    """Needs the runs of test_smoke."""
    assert ablate(folder, "base.seed=7") == 1
    assert "holds a run of another configuration (seed: 0 there, 7 here)" in capsys.readouterr().err
    cfg = load_ablation(SMOKE, [*SHORT, f"run_dir={folder}", "evaluation.frames=2"])
    assert "0 of 4 are measured" in describe(cfg)
    assert all(standing(run) == "finished" for run in resolve(cfg).values())


def test_given_weights_are_taken(tmp_path, capsys):
    """A variant with weights is not trained, and its weights have to be those of its model."""
    cfg = load_ablation(SMOKE, SHORT)
    options = ["evaluation.qualities=[0, 63]", "evaluation.generated.clips=1"]
    for name, run in resolve(cfg).items():
        save_weights(tmp_path / f"{name}.safetensors", weights_of(VideoCodec(run.model)), run.model)
        options.append(f"variants.{name}.weights={tmp_path / name}.safetensors")
    folder = tmp_path / "run"
    assert ablate(folder, *options) == 0
    text = (folder / "ablation.md").read_text()
    assert not (folder / "variants").exists() and not (folder / "common").exists()
    assert "base: weights taken from base.safetensors" in text
    assert "has 2 points, and BD-rate needs 4" in text
    assert "The intra codecs DIFFER between the variants" in text
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
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130 and err == "cmfr ablate: interrupted\n"
    where = standing(common_run(load_ablation(SMOKE, options)))
    assert where.startswith("stopped after step ") and "of stage intra" in where
    assert yaml.safe_load((tmp_path / "common" / "train.yaml").read_text())["seed"] == 0
