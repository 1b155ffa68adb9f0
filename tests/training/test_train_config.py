from pathlib import Path

import pytest
import yaml

from cmfr.models.presets import PRESETS
from cmfr.training.config import load_train_config
from cmfr.utils.yaml_config import differences, plain

CONFIGS = sorted((Path(__file__).parents[2] / "configs" / "train").glob("*.yaml"))


@pytest.fixture
def path(tmp_path):
    stages = [
        {"name": "intra", "objective": "intra", "trainable": ["intra"], "frames": 1},
        {"name": "inter", "objective": "inter", "trainable": ["inter"], "frames": 3},
    ]
    tree = {
        "model": "cmfr-nano", "run_dir": "run", "data": {"train": {"kind": "generated"}},
        "stages": [{"crop": 48, "batch": 2, "steps": 4, "lr": 1e-3, **stage} for stage in stages],
    }  # fmt: skip
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(tree))
    return tmp_path / "train.yaml"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.name)
def test_every_shipped_configuration_loads(path):
    cfg = load_train_config(path)
    assert cfg.model.name in PRESETS
    text = path.read_text()
    assert text.startswith("#") and "cmfr train configs" in text and "Hardware" in text
    assert load_train_config(path, ["seed=3"]).seed == 3


def test_a_data_set_like_another_has_its_keys_but_for_its_own(path):
    changes = [
        "data.more={like: train, count: 3, augmentation: {halved: 0.5}}",
        "data.train.gaps=[2]",
    ]
    cfg = load_train_config(path, changes)
    train, more = cfg.data["train"], cfg.data["more"]
    assert more.count == 3 and more.augmentation.halved == 0.5
    assert more.gaps == train.gaps == (2,) and more.size == train.size


def test_mistakes_in_a_configuration_are_named(path):
    for override, expected in (
        ("learning_rate=1", "learning_rate: no key is called 'learning_rate'; there are model"),
        ("stages.0.stepz=1", "stages.0.stepz: no key is called 'stepz'"),
        ("model=nope", "no preset is called 'nope'"),
        ("model.residual=magic", "model: residual: there is no 'magic'; there are"),
        ("stages.0.crop=50", "stages.0.crop"),
        ("stages.9.crop=64", "no such place"),
        ("nonsense", "not of the form key=value"),
        ("stages=[1", "not valid YAML"),
        ("data.train.gaps=[0]", "data.train.gaps"),
        ("data.train.kind=clips", "data.train.root: Field required"),
        ("data.train.kind=clip", "there is no such one; there are clips, septuplets, images"),
        ("model.family=vvc", "there is no such one; there are cmfr, dcvc"),
        ("stages.1.data=long", "stage inter: no data set is called 'long'; there are train"),
        ("validation.data=held_out", "validation: no data set is called 'held_out'"),
        ("stages.0.accumulate=3", "batch 2 is no multiple of accumulate 3"),
        ("stages.0.frames=2", "objective intra codes 1 frame, not 2"),
        ("stages.1.frames=1", "objective inter needs frames >= 2"),
        ("stages.1.qualities=[5, 64]", "qualities 5..64 are not within 0..63"),
        ("schedule_clock=true", "schedule_clock: true needs time_limit_minutes"),
        ("stages.0.decay=0", "stages.0.decay"),
        ("loss.distortion={mse_yuv: 0}", "every weight is zero"),
        ("loss.distortion={ms_ssim_rgb: 1}", "MS-SSIM needs a crop of 176 at least, not 48"),
        ("model.motion.estimation=[{stride: 8}, {stride: 3}]", "each a divisor of the one before"),
        (
            "data.more={like: vimeo}",
            "data.more.like: no data set is called 'vimeo'; there are train",
        ),
        ("data.more={like: more}", "data.more.like: no data set is called 'more'"),
        ("data={a: , b: {like: a}}", "data.b.like: no data set is called 'a'"),
        ("data.more={like: [train]}", "data.more.like: no data set is called"),
        ("data.train.held_out=true", "held_out: true needs hold_out"),
        ("data.train.hold_out=1", "data.train.hold_out"),
        (
            "data.trian={root: clips}",
            "data: no stage and no validation reads 'trian'; there are train; did you mean train?",
        ),
        ("loss.yuv_weights=[0, 0, 0]", "yuv_weights: every weight is zero"),
        ("loss.yuv_weights=[1, -1, 1]", "loss.yuv_weights.1"),
        ("validation={data: train, qualities: []}", "validation.qualities"),
        ("optimizer.betas=[2, 3]", "optimizer.betas.0"),
    ):
        with pytest.raises(ValueError, match=expected.replace(".", r"\.")):
            load_train_config(path, [override])
    with pytest.raises(FileNotFoundError, match="no configuration file"):
        load_train_config(path.parent / "absent.yaml")


@pytest.mark.parametrize(
    ("kind", "key"),
    [
        ("clips", "list_file"),
        ("clips", "size"),
        ("septuplets", "include"),
        ("septuplets", "count"),
        ("images", "gaps"),
        ("images", "reversal"),
        ("generated", "root"),
        ("generated", "list_file"),
    ],
)
def test_a_key_without_effect_for_a_kind_of_data_is_an_error(path, kind, key):
    tree = yaml.safe_load(path.read_text())
    tree["data"]["clips"] = {"kind": kind, key: 1} | ({} if kind == "generated" else {"root": "x"})
    path.write_text(yaml.safe_dump(tree))
    with pytest.raises(ValueError, match=rf"data\.clips\.{key}: no key is called '{key}'; there"):
        load_train_config(path)


def test_data_sets_are_clips_unless_they_say(path):
    overrides = ["data.more={root: here}", "stages.1.data=more"]
    data = load_train_config(path, overrides).data["more"]
    assert (data.kind, data.gaps, data.root) == ("clips", (1,), Path("here"))


def test_overrides_change_presets_section_by_section(path):
    assert load_train_config(path, ["model.fusion=concat"]).model.fusion == "concat"
    changed = load_train_config(path, ["model.motion.latent=16"]).model.motion
    assert changed == PRESETS["cmfr-nano"].motion.model_copy(update={"latent": 16})


def test_differences_name_the_leaves(path):
    a, b = (
        load_train_config(path),
        load_train_config(path, ["stages.1.lr=0.5", "model.fusion=concat"]),
    )
    assert differences(plain(a), plain(b)) == [
        ("model.fusion", "sff", "concat"), ("stages.1.lr", 1e-3, 0.5),
    ]  # fmt: skip
    assert differences(plain(a), plain(a)) == []
