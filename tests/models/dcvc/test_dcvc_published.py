import json
import re
from pathlib import Path

import pytest
import torch

from cmfr.cli.main import main
from cmfr.codec.checkpoint import read_weights, weights_hash
from cmfr.codec.codec import load_codec
from cmfr.codec.model_files import read_published
from cmfr.models.dcvc.published import NAMES, read_checkpoint, translated
from cmfr.models.presets import PRESETS
from cmfr.models.video_model import VideoModel
from cmfr.nn.densities import weights_of

DATA = Path(__file__).parents[2] / "data"


def official(generation):
    told = json.loads((DATA / f"dcvc_{generation}.json").read_text())
    return told["state_dict"]


def state(entries):
    """Small numbers of the right shapes; gains must be positive."""
    return {name: torch.full(tuple(shape), 0.01) for name, shape in entries.items()}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Both generations' files, wrapped in the ways that are met."""
    folder = tmp_path_factory.mktemp("official")
    dc, fm = official("dc"), official("fm")
    files = {
        "cvpr2023_image_psnr.pth.tar": {"state_dict": state(dc["image"])},
        "cvpr2023_video_psnr.pth.tar": state(dc["video"]),
        "cvpr2023_image_yuv420_psnr.pth.tar": {"net": state(dc["image"])},
        "cvpr2023_video_yuv420_psnr.pth.tar": {
            "state_dict": {f"module.{k}": v for k, v in state(dc["video"]).items()}
        },
        "cvpr2024_image.pth.tar": {"state_dict": {"net": state(fm["image"])}},
        "cvpr2024_video.pth.tar": {f"module.{k}": v for k, v in state(fm["video"]).items()},
    }
    for name, tree in files.items():
        torch.save(tree, folder / name)
    return folder


@pytest.mark.parametrize("generation", ["dc", "fm"])
def test_every_published_name_has_one_of_ours_and_none_is_left(generation):
    entries = official(generation)
    with torch.device("meta"):
        ours = set(weights_of(VideoModel(PRESETS[f"dcvc-{generation}"])))
    names = [
        translated(part, name).replace("gain.table", "gain.log_gain")
        for part, network in (("intra", "image"), ("inter", "video"))
        for name in entries[network]
    ]
    if generation == "fm":
        names = [n.replace("coder_gain.log_gain", "coder_gain.gain") for n in names]
    assert len(names) == len(set(names))
    assert set(names) == ours


def test_no_rule_of_the_table_is_idle():
    used = set()
    for generation in ("dc", "fm"):
        for part, network in (("intra", "image"), ("inter", "video")):
            for name in official(generation)[network]:
                for pattern, replacement in NAMES[part]:
                    name, count = re.subn(pattern, replacement, name)
                    used |= {pattern} if count else set()
    assert used == {pattern for rules in NAMES.values() for pattern, _ in rules}


@pytest.mark.parametrize(
    ("files", "model", "color"),
    [
        (("cvpr2023_image_psnr", "cvpr2023_video_psnr"), "dcvc-dc", "rgb"),
        (("cvpr2023_video_yuv420_psnr", "cvpr2023_image_yuv420_psnr"), "dcvc-dc", "ycbcr"),
        (("cvpr2024_image", "cvpr2024_video"), "dcvc-fm", "ycbcr"),
    ],
)
def test_published_files_are_read_however_they_are_wrapped(checkpoints, files, model, color):
    paths = [checkpoints / f"{name}.pth.tar" for name in files]
    cfg, weights = read_published(paths, model)
    assert (cfg.name, cfg.color) == (model, color)
    with torch.device("meta"):
        expected = weights_of(VideoModel(cfg))
    assert {k: v.shape for k, v in weights.items()} == {k: v.shape for k, v in expected.items()}


def test_convert_writes_what_loading_gives(checkpoints, tmp_path, capsys):
    paths = [str(checkpoints / f"cvpr2023_{kind}_psnr.pth.tar") for kind in ("image", "video")]
    output = tmp_path / "dc.safetensors"
    command = ["convert", "--model", "dcvc-dc", "--weights", *paths, "-o", str(output)]
    assert main([*command, "--quality-gains", "anchors"]) == 0
    assert "dcvc-dc, rgb, 50.78 M parameters" in capsys.readouterr().out
    cfg, weights, metadata = read_weights(output)
    assert cfg.quality_gains == "anchors" and "cvpr2023_image_psnr" in metadata["source"]
    direct = load_codec("dcvc-dc", "cpu", paths)
    assert direct.weights_id == weights_hash(weights)
    assert load_codec(output, "cpu").weights_id == direct.weights_id


def test_what_does_not_fit_is_named(checkpoints, tmp_path):
    image, video = (checkpoints / f"cvpr2023_{kind}_psnr.pth.tar" for kind in ("image", "video"))
    other = checkpoints / "cvpr2024_video.pth.tar"
    cases = [
        ([image], "needs its P-frame"),
        ([image, image], "a second I-frame"),
        ([image, other], "is a checkpoint of DCVC-FM"),
        ([image, tmp_path / "no.pth"], "no checkpoint"),
        ([image, checkpoints / "cvpr2023_video_yuv420_psnr.pth.tar"], "one for RGB"),
    ]
    for paths, words in cases:
        with pytest.raises((ValueError, FileNotFoundError), match=words):
            read_published(paths, "dcvc-dc")
    with pytest.raises(ValueError, match="not of cmfr-s"):
        read_published([image, video], "cmfr-s")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("enc.enc_1.0.conv1.weight"), "missing, e.g. intra.encoder_head.0.conv1"),
        (lambda s: s.update(surprise=torch.zeros(1)), "surprise is no weight"),
        (lambda s: s.update({"refine.1.weight": torch.zeros(3, 8, 3, 3)}), "refine.1.weight has"),
        (lambda s: s.update(q_scale_enc=-torch.ones(4, 1, 1, 1)), "not positive"),
        (lambda s: s.update(note="text"), "'note' is no tensor"),
    ],
)
def test_conversion_is_strict(checkpoints, tmp_path, change, words):
    image = state(official("dc")["image"])
    change(image)
    path = tmp_path / "image.pth.tar"
    torch.save(image, path)
    with pytest.raises(ValueError, match=words):
        read_published([path, checkpoints / "cvpr2023_video_psnr.pth.tar"], "dcvc-dc")


class Payload:
    def __reduce__(self):
        return (Path.write_text, (Path("/tmp/owned"), "x"))


def test_nothing_is_unpickled(tmp_path):
    path = tmp_path / "evil.pth.tar"
    torch.save({"state_dict": Payload()}, path)
    with pytest.raises(ValueError, match="nothing but tensors"):
        read_checkpoint(path)
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match="nothing but tensors"):
        read_checkpoint(path)
