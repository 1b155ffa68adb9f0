"""Every command works on DCVC as it does on CMFR."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import dcvc_png, lively_dcvc, published, write_yuv
from PIL import Image

from cmfr.cli.main import main
from cmfr.codec.checkpoint import read_weights, save_weights
from cmfr.evaluation.records import read_results
from cmfr.models.presets import PRESETS
from cmfr.nn.densities import weights_of
from cmfr.video.info import Frame

NAMES = ["dcvc-dc-nano", "dcvc-fm-nano"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A raw sequence, a test set of it, and weights of both small models."""
    folder = tmp_path_factory.mktemp("dcvc")
    for name in NAMES:
        weights = weights_of(lively_dcvc(PRESETS[name]))
        save_weights(folder / f"{name}.safetensors", weights, PRESETS[name])
    write_yuv(folder / "clip.yuv", 4, 48, 80)
    sequence = {"name": "clip", "width": 80, "height": 48, "frame_rate": 25, "frames": 4}
    tree = {"name": "made", "title": "Made", "source": "here", "sequences": [sequence]}
    (folder / "made.yaml").write_text(yaml.safe_dump(tree))
    return folder


def evaluate(place, output, *options):
    return main(
        ["evaluate", "--test", str(place / "made.yaml"), "--root", str(place), "--device", "cpu",
         "-o", str(output), *options]
    )  # fmt: skip


def test_published_checkpoints_are_evaluated_as_they_are(place, tmp_path, capsys):
    _, _, states = published("dc")
    files = []
    for network, state in states.items():
        files.append(str(tmp_path / f"cvpr2023_{network}_yuv420_psnr.pth.tar"))
        wrapped = {f"module.{name}": value for name, value in state.items()}
        torch.save({"state_dict": wrapped}, files[-1])
    output = tmp_path / "dc.json"
    options = ["--model", "dcvc-dc", "--weights", *files, "--qualities", "21", "--frames", "2"]
    assert evaluate(place, output, *options) == 0
    record = read_results(output)[0]
    assert (record.codec, record.label, record.frames[0].type) == ("dcvc-dc", 21, "I")
    assert record.metadata["model"]["color"] == "ycbcr"
    # What was measured is found again, whatever file the weights were converted to.
    part = next((tmp_path / "dc.json.parts").iterdir())
    written = part.stat().st_mtime_ns
    assert evaluate(place, output, *options) == 0
    assert [p.stat().st_mtime_ns for p in part.parent.iterdir()] == [written]
    capsys.readouterr()
    assert main(["evaluate", "--model", "dcvc-dc", "--test", str(place / "made.yaml"), "--root",
                 str(place), "-o", str(output)]) == 1  # fmt: skip
    assert "--weights" in capsys.readouterr().err


@pytest.mark.parametrize("name", NAMES)
def test_evaluate_inspect_and_encode(place, tmp_path, name):
    weights = str(place / f"{name}.safetensors")
    output = tmp_path / "out.json"
    assert evaluate(place, output, "--model", weights, "--qualities", "10,50") == 0
    assert [r.codec for r in read_results(output)] == [name, name]
    pictures = tmp_path / "pictures"
    clip = [str(place / "clip.yuv"), "--size", "80x48", "--matrix", "bt709", "--range", "full"]
    assert main(["inspect", *clip, "--model", weights, "--frame", "2", "-o", str(pictures)]) == 0
    made = {path.stem for path in pictures.glob("*.png")}
    assert {"reconstruction", "prediction", "flow_decoded", "bits", "sheet"} <= made
    assert not made & {"mask", "residual_masked"}
    stream, back = str(tmp_path / "a.cmfr"), str(tmp_path / "back_80x48.yuv")
    model = ["--model", name, "--weights", weights]
    assert main(["encode", clip[0], stream, *clip[1:], *model, "--quality", "30", "--quiet"]) == 0
    assert main(["decode", stream, back, *model, "--quiet"]) == 0
    assert Path(back).stat().st_size == Path(clip[0]).stat().st_size


@pytest.mark.parametrize("name", NAMES)
def test_rgb_networks_get_what_dcvcs_own_conversion_gives(place, tmp_path, name):
    """A raw 4:2:0 sequence, and the PNGs that DCVC's conversion makes of it: the same bits and the
    same quality of every frame."""
    cfg = PRESETS[name]
    if name == "dcvc-dc-nano":
        cfg = cfg.model_copy(update={"color": "rgb"})
    weights = tmp_path / "weights.safetensors"
    save_weights(weights, weights_of(lively_dcvc(cfg)), cfg)
    (tmp_path / "pngs").mkdir()
    raw = np.fromfile(place / "clip.yuv", np.uint8).reshape(4, -1)
    for number, data in enumerate(raw):
        y, u, v = np.split(data, [48 * 80, 48 * 80 + 24 * 40])
        planes = (y.reshape(48, 80), u.reshape(24, 40), v.reshape(24, 40))
        picture = Image.fromarray(dcvc_png(Frame(planes)).transpose(1, 2, 0))
        picture.save(tmp_path / "pngs" / f"im{number + 1:05d}.png")
    tree = yaml.safe_load((place / "made.yaml").read_text())
    tree["sequences"] = [tree["sequences"][0] | {"name": "pngs", "chroma": "rgb"}]
    (tmp_path / "pngs.yaml").write_text(yaml.safe_dump(tree))
    options = ["--model", str(weights), "--qualities", "30", "--color", "rgb"]
    assert evaluate(place, tmp_path / "ours.json", *options) == 0
    pngs = ["--test", str(tmp_path / "pngs.yaml"), "--root", str(tmp_path)]
    assert evaluate(place, tmp_path / "theirs.json", *options, *pngs) == 0
    [ours], [theirs] = (read_results(tmp_path / f"{n}.json") for n in ("ours", "theirs"))
    assert [f.bits for f in ours.frames] == [f.bits for f in theirs.frames]
    assert [f.quality for f in ours.frames] == [f.quality for f in theirs.frames]
    assert (ours.conditions.matrix, theirs.conditions.matrix) == ("bt709", "rgb")


def test_bench_compares_families(capsys, tmp_path):
    path = tmp_path / "bench.json"
    assert main(["bench", "--model", "cmfr-nano", *NAMES, "--size", "64x48", "--frames", "3",
                 "--json", str(path), "--device", "cpu"]) == 0  # fmt: skip
    shown = capsys.readouterr().out
    assert all(name in shown for name in NAMES)
    tree = json.loads(path.read_text())
    assert {row["model"] for row in tree["speed"]} == {"cmfr-nano", *NAMES}
    for name in NAMES:
        parts = [row for row in tree["parts"] if row["model"] == name]
        whole = [r for r in tree["complexity"] if r["model"] == name and r["frame"] == "inter"][0]
        total = sum(row["encode_kmac_per_pixel"] for row in parts)
        assert total == pytest.approx(whole["encode_kmac_per_pixel"], rel=0.02)


@pytest.mark.parametrize("name", NAMES)
def test_the_trainer_trains_it(tmp_path, name):
    """All objectives, in few steps; the loss falls and weights come out."""
    scene = {"kind": "generated", "count": 4, "frames": 4, "size": [96, 64], "preload": True}
    common = {"crop": 64, "batch": 4, "lr": 2e-3, "warmup": 2}
    loss = {"lambda_min": 8.0, "lambda_max": 1024.0}
    tree = {
        "model": name, "run_dir": str(tmp_path / "run"), "device": "cpu", "threads": 1,
        "bf16": False, "log_every": 1, "data": {"train": scene}, "loss": loss,
        "stages": [
            {"name": "intra", "objective": "intra", "trainable": ["intra"], "frames": 1,
             "steps": 30, **common},
            {"name": "motion", "objective": "motion", "start": "source", "frames": 3, "steps": 2,
             "warp_weight": 1.0, "trainable": ["inter.motion_estimation", "inter.motion_codec"],
             **common},
            {"name": "inter", "objective": "inter", "trainable": ["inter"], "frames": 3,
             "steps": 2, "random_position": True, **common},
            {"name": "cascade", "objective": "inter", "trainable": ["intra", "inter"],
             "frames": 3, "steps": 2, "cascaded": True, "checkpoint_activations": True, **common},
        ],
    }  # fmt: skip
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(tree))
    assert main(["train", str(tmp_path / "train.yaml")]) == 0
    lines = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    intra = [line["loss"] for line in lines if line["stage"] == "intra"]
    assert sum(intra[-5:]) < 0.8 * sum(intra[:5])
    assert all(line["skipped"] == 0 for line in lines)
    cfg, _, _ = read_weights(tmp_path / "run/weights.safetensors")
    # The run's lambdas in place of the published ones.
    assert cfg == PRESETS[name].model_copy(update={"lambda_range": tuple(loss.values())})
