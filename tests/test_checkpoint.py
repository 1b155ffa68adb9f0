import pytest
import torch
from safetensors.torch import save_file

from cmfr.checkpoint import (
    atomic_write,
    load_training_state,
    load_weights,
    read_weights,
    save_weights,
    weights_hash,
    weights_of,
)
from cmfr.coding import load_codec
from cmfr.video_codec import VideoCodec


@pytest.fixture
def weights_file(tmp_path, nano, nano_config):
    path = tmp_path / "nano.safetensors"
    save_weights(path, weights_of(nano), nano_config, {"note": "test"})
    return path


def test_the_file_alone_builds_the_model(weights_file, nano, nano_config):
    cfg, weights, metadata = read_weights(weights_file)
    assert cfg == nano_config and metadata["note"] == "test"
    model = VideoCodec(cfg)
    load_weights(model, weights, "file")
    for name, value in weights_of(model).items():
        assert torch.equal(value, weights_of(nano)[name].half().float()), name
    codec = load_codec(weights_file, "cpu")
    assert codec.name == "cmfr-nano" and codec.weights_id == weights_hash(weights)


def test_no_derived_table_is_stored(weights_file):
    _, weights, _ = read_weights(weights_file)
    assert not [name for name in weights if "cdf" in name or "quantiles" in name]


def test_hash_follows_the_values(weights_file):
    _, weights, _ = read_weights(weights_file)
    before = weights_hash(weights)
    name = sorted(weights)[3]
    weights[name] = weights[name].clone()
    weights[name].view(-1)[0] += 1
    assert weights_hash(weights) != before


def test_strict_loading_names_what_does_not_fit(weights_file, nano_config):
    _, weights, _ = read_weights(weights_file)
    model = VideoCodec(nano_config)
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
    with pytest.raises(FileNotFoundError, match="give a file or a model name"):
        load_codec("unheard-of", "cpu")
