import pytest
import torch

from cmfr.training.config import load_train_config
from cmfr.training.setup import bfloat16_wanted, open_data_sets
from cmfr.utils.errors import UserError

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture
def config(tmp_path):
    """Loads a small configuration with a value of `bf16`, or none."""
    path = tmp_path / "train.yaml"
    path.write_text(
        "{model: cmfr-nano, run_dir: run, data: {train: {kind: generated}}, stages: "
        "[{name: intra, objective: intra, trainable: [intra], frames: 1, steps: 1, lr: 1}]}"
    )

    def load(value=None):
        return load_train_config(path, [] if value is None else [f"bf16={value}"])

    return load


@pytest.mark.parametrize(
    ("flags", "fast", "emulated", "told"),
    [
        ("fpu avx2 avx512f avx512_vnni", False, True, "neither amx_bf16 nor avx512_bf16"),
        ("fpu avx512f avx512_bf16", False, False, "this CPU has avx512_bf16, but no amx_bf16"),
        ("fpu amx_tile amx_bf16 avx512_bf16", True, False, "this CPU has amx_bf16"),
        (None, False, True, "neither"),
    ],
)
def test_bfloat16_where_it_is_faster(config, tmp_path, flags, fast, emulated, told):
    cpuinfo = tmp_path / "cpuinfo"
    if flags is not None:
        cpuinfo.write_text(f"processor\t: 0\nflags\t\t: {flags}\n\n")
    chosen, sentence = bfloat16_wanted(config(), CPU, cpuinfo)
    assert chosen is fast
    assert sentence.startswith("bfloat16 (bf16: auto" if fast else "float32 (bf16: auto")
    assert told in sentence
    assert bfloat16_wanted(config("false"), CPU, cpuinfo)[0] is False
    chosen, sentence = bfloat16_wanted(config("true"), CPU, cpuinfo)
    assert chosen is True and ("many times slower" in sentence) is emulated


@pytest.mark.parametrize("has", [True, False])
def test_bfloat16_where_the_gpu_has_it_and_does_not_emulate_it(config, monkeypatch, has):
    def supported(including_emulation=True):
        return has or including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    chosen, sentence = bfloat16_wanted(config(), GPU)
    assert chosen is has and f"this GPU has {'' if has else 'no '}bfloat16" in sentence


def test_bf16_has_three_values(config):
    assert [config(value).bf16 for value in (None, "auto", "true", "false")] == [
        "auto", "auto", True, False,
    ]  # fmt: skip
    with pytest.raises(ValueError, match="bf16"):
        config("perhaps")


def test_what_is_held_out_is_not_trained_on(tmp_path):
    """By any stage: a second set of the same folder holds out the same."""
    path = tmp_path / "train.yaml"
    stage = "objective: intra, trainable: [intra], frames: 1, steps: 1, lr: 1"
    path.write_text(
        "{model: cmfr-nano, run_dir: run, data: {clips: {kind: generated, hold_out: 0.25}, long: "
        "{kind: generated}, held_out: {like: clips, held_out: true}}, validation: {data: held_out},"
        f" stages: [{{name: a, {stage}}}, {{name: b, data: long, {stage}}}]}}"
    )
    with pytest.raises(UserError, match="data.long has 2 clips that data.held_out holds out"):
        open_data_sets(load_train_config(path), CPU)
    cfg = load_train_config(path, ["data.long.hold_out=0.25"])
    names = {name: set(data.names) for name, data in open_data_sets(cfg, CPU).items()}
    assert names["clips"] == names["long"] and not names["long"] & names["held_out"]
