"""Every command that trains, as the documentation has it, finds its data and begins.

Data sets are as small as their layouts allow: flat pictures of the size that the stages cut from.
"""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_docs import FILES, ROOT, arguments, commands

from cmfr.codec.model_files import find_weights
from cmfr.training.config import load_train_config
from cmfr.training.distributed import Team
from cmfr.training.setup import open_data_sets, stage_samplers
from cmfr.training.validation import Validation

SIDE = 256


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder with Vimeo-90k in small, and one of clips as `cmfr data clips` writes them."""
    root = tmp_path_factory.mktemp("data")
    picture = Image.fromarray(np.full((SIDE, SIDE, 3), 90, np.uint8))
    for name in ("00001/0001", "00001/0002"):
        folder = root / "vimeo_septuplet" / "sequences" / name
        folder.mkdir(parents=True)
        for i in range(7):
            picture.save(folder / f"im{i + 1}.png")
    (root / "vimeo_septuplet" / "sep_trainlist.txt").write_text("00001/0001\n")
    (root / "vimeo_septuplet" / "sep_testlist.txt").write_text("00001/0002\n")
    for name in ("a", "b"):
        (root / "clips" / name).mkdir(parents=True)
        for i in range(32):
            picture.save(root / "clips" / name / f"{i:03d}.png")
    return root


def training_commands():
    found = {}
    for path in FILES:
        for line in commands(path):
            words = arguments(line)
            if words and words[0] == "train" and "--dry-run" not in words:
                found[f"{path.relative_to(ROOT)}: {line}"] = words[1:]
    return found


COMMANDS = training_commands()


def test_every_shipped_configuration_says_its_command():
    named = {Path(words[0]).stem for words in COMMANDS.values()}
    assert {path.stem for path in (ROOT / "configs" / "train").glob("*.yaml")} <= named


@pytest.mark.parametrize("command", COMMANDS)
def test_it_begins(command, data, monkeypatch, tmp_path):
    config, *overrides = COMMANDS[command]
    assert "..." not in overrides, "a command that is cut short begins nowhere"
    overrides = [
        re.sub(r"PATH/TO/[\w/]*CLIPS", str(data / "clips"), word).replace(
            "PATH/TO/vimeo_septuplet", str(data / "vimeo_septuplet")
        )
        for word in overrides
    ]
    if config.endswith(".yaml"):
        config = ROOT / config
    monkeypatch.chdir(tmp_path)  # a shipped configuration works from anywhere
    cfg = load_train_config(config, overrides)
    sets = open_data_sets(cfg, torch.device("cpu"))
    stage_samplers(cfg, sets)
    if cfg.validation:
        clips = sets[cfg.validation.data]
        Validation(cfg.validation, clips, cfg.loss, cfg.model, Team(0, 1, torch.device("cpu")))
        assert not set(clips.names) & set(sets[next(iter(cfg.data))].names)
    for init in cfg.init:
        if not any(part in str(init.file) for part in ("PATH", "runs/")):
            assert find_weights(init.file).is_file()
