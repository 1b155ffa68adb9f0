import json
import math
import re
import resource
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from cmfr.cli.main import main
from cmfr.codec.checkpoint import (
    load_training_state,
    load_weights,
    read_weights,
    save_weights,
    weights_hash,
    weights_id_of,
)
from cmfr.codec.codec import load_codec
from cmfr.codec.model_files import find_weights
from cmfr.evaluation.records import load_json
from cmfr.models.video_model import VideoModel
from cmfr.nn.densities import weights_of
from cmfr.utils.errors import UserError
from cmfr.utils.files import atomic_write
from cmfr.utils.yaml_config import merged, read_tree

DATA = Path(__file__).parents[1] / "data"
# Written before ids were stored in weights files.
OLD_WEIGHTS, OLD_STREAM = DATA / "version1.safetensors", DATA / "version1.cmfr"


@pytest.fixture
def weights_file(tmp_path, nano, nano_config):
    path = tmp_path / "nano.safetensors"
    save_weights(path, weights_of(nano), nano_config, {"note": "test"})
    return path


def test_the_file_alone_builds_the_model(weights_file, nano, nano_config):
    cfg, weights, metadata = read_weights(weights_file)
    assert cfg == nano_config and metadata["note"] == "test"
    model = VideoModel(cfg)
    load_weights(model, weights, "file")
    for name, value in weights_of(model).items():
        assert torch.equal(value, weights_of(nano)[name].half().float()), name
    codec = load_codec(weights_file, "cpu")
    assert codec.name == "cmfr-nano" and codec.weights_id == weights_hash(weights)
    assert metadata["weights_id"] == codec.weights_id.hex()


def test_no_derived_table_is_stored(weights_file):
    _, weights, _ = read_weights(weights_file)
    assert not [name for name in weights if "cdf" in name or "quantiles" in name]


def test_the_id_follows_the_values(weights_file, tmp_path):
    cfg, weights, metadata = read_weights(weights_file)
    name = sorted(weights)[3]
    weights[name] = weights[name].clone()
    weights[name].view(-1)[0] += 1
    save_weights(tmp_path / "other.safetensors", weights, cfg)
    other = read_weights(tmp_path / "other.safetensors")[2]
    assert weights_id_of(other) != weights_id_of(metadata)


def test_the_hash_is_of_values_not_of_memory():
    odd = torch.rand(8, 8, 1, 1).half().to(memory_format=torch.channels_last)
    assert odd.stride(-1) == 8  # and it counts as contiguous all the same
    plain = odd.clone(memory_format=torch.contiguous_format)
    assert weights_hash({"a": odd}) == weights_hash({"a": plain})


class RenamedCodec(VideoModel):
    """What `VideoModel` is after somebody called its intra codec something else."""

    def __init__(self, cfg):
        super().__init__(cfg)
        self._modules["i_frames"] = self._modules.pop("intra")

    @property
    def intra(self):
        return self._modules["i_frames"]


@pytest.fixture
def renamed_weights():
    return {
        re.sub("^intra", "i_frames", name): value for name, value in load_file(OLD_WEIGHTS).items()
    }


def test_streams_stay_decodable_when_parameters_are_renamed(tmp_path, renamed_weights, monkeypatch):
    cfg, _, metadata = read_weights(OLD_WEIGHTS)
    renamed = tmp_path / "renamed.safetensors"
    save_weights(renamed, renamed_weights, cfg, weights_id=weights_id_of(metadata))
    load_codec(OLD_WEIGHTS, "cpu").decode_video(OLD_STREAM, tmp_path / "a_64x48.yuv")
    monkeypatch.setattr("cmfr.codec.model_files.VideoModel", RenamedCodec)
    load_codec(renamed, "cpu").decode_video(OLD_STREAM, tmp_path / "b_64x48.yuv")
    assert (tmp_path / "a_64x48.yuv").read_bytes() == (tmp_path / "b_64x48.yuv").read_bytes()


def test_an_id_that_is_none_is_refused(tmp_path, weights_file):
    cfg, weights, _ = read_weights(weights_file)
    save_weights(tmp_path / "a.safetensors", weights, cfg, weights_id=b"short")
    with pytest.raises(ValueError, match="'73686f7274' is no weights id"):
        read_weights(tmp_path / "a.safetensors")


def info(capsys, path):
    """What `cmfr info` says, by name."""
    assert main(["info", str(path)]) == 0
    rows = [line[2:].split("  ", 1) for line in capsys.readouterr().out.splitlines()[1:]]
    return {row[0]: row[1].strip() for row in rows if len(row) == 2}


def test_one_id_is_printed_everywhere(tmp_path, capsys, yuv_file):
    """Of a weights file, of a stream made with it, in the table of shipped weights."""
    of_weights, of_stream = info(capsys, OLD_WEIGHTS), info(capsys, OLD_STREAM)
    assert of_weights["weights id"] == of_stream["weights id"] == "9b8b4e949ce74f78"
    assert of_weights["model"] == of_stream["model"] == "cmfr-tiny"
    stream = tmp_path / "a.cmfr"
    assert main(["encode", str(yuv_file), str(stream), "--frames", "1", "--quiet"]) == 0
    shipped = info(capsys, stream)["weights id"]
    table = (Path(__file__).parents[2] / "checkpoints" / "README.md").read_text()
    row = next(line for line in table.splitlines() if line.startswith("| `cmfr-s.safetensors`"))
    assert shipped == info(capsys, find_weights("cmfr-s"))["weights id"]
    assert f"`{shipped}`" in row


def test_strict_loading_names_what_does_not_fit(weights_file, nano_config):
    _, weights, _ = read_weights(weights_file)
    model = VideoModel(nano_config)
    name = "inter.frame_generator.tail.weight"
    with pytest.raises(ValueError, match=f"1 weights missing .{name}"):
        load_weights(model, {k: v for k, v in weights.items() if k != name}, "x")
    with pytest.raises(ValueError, match="1 unknown .surplus"):
        load_weights(model, {**weights, "surplus": torch.zeros(1)}, "x")
    with pytest.raises(ValueError, match="has shape"):
        load_weights(model, {**weights, name: torch.zeros(1)}, "x")


def test_files_that_are_no_weights(tmp_path):
    with pytest.raises(FileNotFoundError, match="no weights file"):
        read_weights(tmp_path / "absent.safetensors")
    text = tmp_path / "text.safetensors"
    text.write_text("not at all")
    with pytest.raises(ValueError, match="not a readable safetensors"):
        read_weights(text)
    other = tmp_path / "other.safetensors"
    save_file({"a": torch.zeros(2)}, other)
    with pytest.raises(ValueError, match="not a cmfr weights file"):
        read_weights(other)
    save_file({"a": torch.zeros(2)}, other, {"format": "cmfr-weights-1", "config": "{}"})
    with pytest.raises(ValueError, match="configuration cannot be read"):
        read_weights(other)


HUGE = [
    {"intra": {"channels": [10**9, 8, 16]}},
    {"intra": {"channels": [4096, 4096, 4096]}},  # the most that a configuration may have
    {"intra": {"blocks": [10**9, 1, 1]}},
    {"intra": {"blocks": [64, 64, 64]}},
    {"motion": {"estimation": [{"stride": 0}]}},
    {"motion": {"estimation": [{"stride": 8, "widths": [8] * 10**6}]}},
    {"motion": {"refiner": {"width": 8, "hypotheses": 10**9}}},
    {"inter": {"latent": 2**40}},
    {"inter": {"generator_blocks": 10**9}},
    {"hierarchy": {"weights": [1], "quality_offsets": [0], "adaptors": [10**9]}},
    {"context_channels": [-1, 8, 16]},
]


@pytest.mark.parametrize("changes", HUGE, ids=lambda c: str(c)[:40])
def test_a_config_is_believed_as_far_as_the_weights_go(tmp_path, weights_file, changes):
    """Before memory is taken, and without end: channels and blocks of anyone."""
    limit = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss + 500_000
    _, weights, metadata = read_weights(weights_file)
    tree = merged(json.loads(metadata["config"]), changes)
    path = tmp_path / "forged.safetensors"
    save_file(weights, path, {**metadata, "config": json.dumps(tree)})
    with pytest.raises(UserError, match=f"{path}(: its model configuration| does not fit|: intra)"):
        load_codec(path, "cpu")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < limit


@pytest.mark.parametrize("value", [math.nan, math.inf, 0.0])
def test_weights_that_are_none(tmp_path, weights_file, nano_config, value):
    _, weights, _ = read_weights(weights_file)
    name = "inter.frame_generator.tail.weight"
    for key in [name] if value else weights:
        weights[key] = torch.full_like(weights[key], value)
    save_weights(tmp_path / "a.safetensors", weights, nano_config)
    with pytest.raises(UserError, match="no finite numbers" if value else "all weights are zero"):
        load_codec(tmp_path / "a.safetensors", "cpu")


def test_deeply_nested_files_are_one_sentence(tmp_path, weights_file):
    deep = "[" * 10**5 + "]" * 10**5
    _, weights, metadata = read_weights(weights_file)
    path = tmp_path / "a.safetensors"
    save_file(weights, path, {**metadata, "config": deep})
    with pytest.raises(UserError, match="its model configuration cannot be read"):
        read_weights(path)
    nested = "[" * 1000 + "]" * 1000  # enough for YAML, which takes long
    for name, text in (("a.yaml", f"a: {nested}"), ("b.yaml", b"\xff\xfe\x00")):
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.raises(UserError, match="is nested too deeply|it is no text"):
            read_tree(tmp_path / name, [])
    with pytest.raises(UserError, match="the value is not valid YAML"):
        read_tree(write(tmp_path / "c.yaml", "a: 1"), [f"a={nested}"])
    with pytest.raises(UserError, match="nested too deeply"):
        load_json(write(tmp_path / "a.json", deep))


def write(path, text):
    path.write_text(text)
    return path


@pytest.mark.parametrize("state", [{"model": {}, "progress": {}}, [1], torch.zeros(2)])
def test_training_state_without_its_keys(tmp_path, state):
    path = tmp_path / "state.pt"
    torch.save(state, path)
    with pytest.raises(UserError, match="is no training state: it has no .*ema, means, "):
        load_training_state(path, torch.device("cpu"))


def test_training_state_is_never_unpickled(tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("unpickled",))

    path = tmp_path / "state.pt"
    torch.save({"model": Evil()}, path)
    with pytest.raises(ValueError, match="no readable training state"):
        load_training_state(path, torch.device("cpu"))


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def fail(temporary):
        temporary.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        atomic_write(path, fail)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_unknown_model_names_are_explained():
    with pytest.raises(FileNotFoundError, match="no weights are shipped for cmfr: it has to be"):
        load_codec("cmfr", "cpu")
    with pytest.raises(ValueError, match="no model is called 'unheard-of'; there are cmfr, "):
        load_codec("unheard-of", "cpu")
    with pytest.raises(FileNotFoundError, match="no weights file runs/a/weights"):
        load_codec("runs/a/weights", "cpu")
