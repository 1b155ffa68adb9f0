"""The commands as a user types them; errors are one sentence, exit code not 0, nothing left."""

import argparse
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import lively

from cmfr.cli.main import build_parser, guarded, main
from cmfr.codec.bitstream import BitstreamReader
from cmfr.codec.checkpoint import save_weights
from cmfr.models.presets import PRESETS
from cmfr.nn.densities import weights_of


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "nano.safetensors"
    save_weights(path, weights_of(lively(PRESETS["cmfr-nano"])), PRESETS["cmfr-nano"])
    return str(path)


@pytest.fixture
def stream(tmp_path, yuv_file, weights):
    path = tmp_path / "a.cmfr"
    assert main(["encode", str(yuv_file), str(path), "--model", weights, "--quiet"]) == 0
    return path


def test_encode_info_decode(tmp_path, yuv_file, weights, capsys):
    stream, recon = tmp_path / "a.cmfr", tmp_path / "recon.yuv"
    code = main(
        ["encode", str(yuv_file), str(stream), "--model", weights, "--quality", "40",
         "--intra-period", "4", "--frames", "5", "--reconstruction", str(recon)]
    )  # fmt: skip
    assert code == 0
    out, err = capsys.readouterr()
    assert "5 frames of 80x48" in out and "bpp" in out and "fps" in out
    assert not err  # no progress bar in a pipe
    assert main(["info", str(stream)]) == 0
    text = capsys.readouterr().out
    rows = [line.split() for line in text.splitlines() if line.split()[1:2] in (["I"], ["P"])]
    assert [row[1] for row in rows] == ["I", "P", "P", "P", "I"]
    assert sum(int(row[3]) for row in rows) < stream.stat().st_size
    assert "80x48" in text and "cmfr-nano" in text and "intra period" in text
    assert "matrix unspecified, range unspecified" in text and "YUV 4:2:0, 8 bit" in text
    decoded = tmp_path / "b.yuv"
    assert main(["decode", str(stream), str(decoded), "--model", weights]) == 0
    assert decoded.read_bytes() == recon.read_bytes()
    assert len(decoded.read_bytes()) == 5 * 80 * 48 * 3 // 2


@pytest.mark.parametrize("much", [lambda: bytearray(2**60), lambda: torch.empty(2**58)])
def test_too_little_memory_is_one_sentence(capsys, much):
    assert guarded("cmfr test", much) == 1
    err = capsys.readouterr().err
    assert err.startswith("cmfr test: not enough memory (") and len(err.splitlines()) == 1


def test_all_that_is_damaged_is_named(tmp_path, yuv_file, weights, capsys):
    stream, out = tmp_path / "a.cmfr", tmp_path / "out.yuv"
    long = tmp_path / "long_80x48_25.yuv"
    long.write_bytes(yuv_file.read_bytes() * 5)
    command = ["encode", str(long), str(stream), "--intra-period", "2", "--model", weights]
    assert main([*command, "--quiet"]) == 0
    with stream.open("rb") as file:
        packets = list(BitstreamReader(file))
    data = bytearray(stream.read_bytes())
    for number in (1, 4, *range(6, 28, 2)):
        data[packets[number].offset + packets[number].size // 2] ^= 1
    stream.write_bytes(data)
    decode = ["decode", str(stream), str(out), "--model", weights, "--quiet", "--keep-going"]
    assert main(decode) == 1
    assert "25 damaged or lost frames: 1, 4-27\n" in capsys.readouterr().err
    data[-30] ^= 1
    stream.write_bytes(data)
    assert main(decode) == 1
    assert f"{stream}: the index is damaged: checksum" in capsys.readouterr().err


@pytest.mark.parametrize("place", [-3, -20])
def test_a_damaged_index_alone_is_named(tmp_path, stream, weights, capsys, place):
    data = bytearray(stream.read_bytes())
    data[place] ^= 1
    stream.write_bytes(data)
    decode = ["decode", str(stream), str(tmp_path / "out.yuv"), "--model", weights, "--quiet"]
    assert main(decode) == 1 and not (tmp_path / "out.yuv").exists()
    capsys.readouterr()
    assert main([*decode, "--keep-going"]) == 1
    assert len((tmp_path / "out.yuv").read_bytes()) == 6 * 80 * 48 * 3 // 2
    err = capsys.readouterr().err
    assert err.startswith(f"cmfr: {stream}: the ") and "damaged" in err


def failing(capsys, *arguments):
    """Runs a command that must fail; returns its message, which must be one line."""
    code = main([str(a) for a in arguments])
    err = capsys.readouterr().err
    message = [line for line in err.splitlines() if line.startswith("cmfr ")]
    assert code == 1 and len(message) == 1, err
    return message[0]


def test_bad_input_to_encode(tmp_path, yuv_file, weights, capsys):
    target = tmp_path / "out.cmfr"
    text, short = tmp_path / "text.mp4", tmp_path / "short_80x48.yuv"
    text.write_text("no video")
    short.write_bytes(b"0" * 100)
    model = ("--model", weights)
    for arguments, expected in (
        ((tmp_path / "absent.mp4", target), "absent.mp4 does not exist"),
        ((text, target), "not a video"),
        ((short, target), "100"),
        ((yuv_file, target, "--quality", "64"), "quality 64 is not in 0..63"),
        ((yuv_file, target, "--intra-period", "0"), "intra period 0"),
        ((yuv_file, target, "--start", "99"), "ends before"),
        ((yuv_file, tmp_path / "no" / "out.cmfr"), "no folder"),
        ((yuv_file, tmp_path / "out.mp4"), "out.mp4: what is written is a .cmfr file"),
        ((yuv_file, tmp_path / "out.Y4M"), "what is written is a .cmfr file"),
        ((yuv_file, target, "--refresh-period", "-1"), "refresh period -1"),
        ((yuv_file, target, "--frames", "0"), "frames"),
        ((yuv_file, target, "--refine", "-1"), "number of refining steps"),
    ):
        assert expected in failing(capsys, "encode", *arguments, *model)
        assert not list(tmp_path.glob("*out*")), arguments
    broken = tmp_path / "weights.safetensors"
    broken.write_bytes(b"\x80\x04pickle")
    assert "not a readable safetensors" in failing(
        capsys, "encode", yuv_file, target, "--model", broken
    )
    message = failing(capsys, "encode", yuv_file, target, "--model", "cmfr_s")
    assert "no model is called 'cmfr_s'; there are cmfr, cmfr-s, cmfr-xs, " in message
    assert "did you mean cmfr-s?" in message and "shipped weights are of cmfr-s" in message
    message = failing(capsys, "encode", yuv_file, target, "--model", "cmfr")
    assert "no weights are shipped for cmfr: it has to be trained first" in message


def test_bad_input_to_decode(tmp_path, stream, weights, capsys):
    target, model = tmp_path / "out.yuv", ("--model", weights)
    data = stream.read_bytes()
    damaged = tmp_path / "damaged.cmfr"
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 4
    for content, expected in (
        (data[: len(data) // 2], "ends within frame"),
        (bytes(flipped), "is damaged"),
        (b"RIFF" + data[4:], "not a .cmfr file"),
        (data[:3], "not a .cmfr file"),
        (b"", "not a .cmfr file"),
    ):
        damaged.write_bytes(content)
        message = failing(capsys, "decode", damaged, target, *model)
        assert expected in message and "damaged.cmfr" in message
        assert not list(tmp_path.glob("*out*"))
    assert "no file" in failing(capsys, "decode", tmp_path / "absent.cmfr", target)
    assert "no file" in failing(capsys, "info", tmp_path / "absent.cmfr")
    other = tmp_path / "other.safetensors"
    save_weights(other, weights_of(lively(PRESETS["cmfr-nano"], seed=1)), PRESETS["cmfr-nano"])
    assert "was coded with weights" in failing(capsys, "decode", stream, target, "--model", other)
    assert "is not one of" in failing(capsys, "decode", stream, tmp_path / "out.xyz", *model)


@pytest.fixture
def terminal(monkeypatch):
    """Makes stderr look like one."""

    def on():
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)

    return on


def test_a_terminal_gets_a_bar_with_the_time_left(tmp_path, yuv_file, weights, capsys, terminal):
    terminal()
    target = tmp_path / "a.cmfr"
    assert main(["encode", str(yuv_file), str(target), "--model", weights]) == 0
    err = capsys.readouterr().err
    assert "encode: 100%" in err and "6/6" in err and "<00:00" in err and "bpp=" in err
    assert main(["encode", str(yuv_file), str(target), "--model", weights, "--quiet"]) == 0
    assert (
        main(["decode", str(target), str(tmp_path / "a.yuv"), "--model", weights, "--quiet"]) == 0
    )
    assert capsys.readouterr() == ("", "")


def test_bad_options_fail_before_a_bar_is_drawn(
    tmp_path, yuv_file, stream, weights, capsys, terminal
):
    terminal()
    video = tmp_path / "out.mp4"
    for arguments in (
        ("encode", yuv_file, tmp_path / "b.cmfr", "--intra-period", "0"),
        ("encode", yuv_file, tmp_path / "b.cmfr", "--refresh-period", "70000"),
        ("encode", yuv_file, tmp_path / "b.cmfr", "--reconstruction", tmp_path / "r.xyz"),
        ("decode", stream, video, "--crf", "99"),
        ("decode", stream, tmp_path / "out.xyz"),
    ):
        assert main([*map(str, arguments), "--model", weights]) == 1
        err = capsys.readouterr().err
        assert err.count("\n") == 1 and err.startswith("cmfr "), err
    assert {path.name for path in tmp_path.iterdir()} == {yuv_file.name, "a.cmfr"}


def test_a_mistake_of_ours_shows_where_it_is(tmp_path, yuv_file, weights, capsys, monkeypatch):
    def wrong(*_, **__):
        return {}["no such key"]

    monkeypatch.setattr("cmfr.codec.codec.Codec.encode_video", wrong)
    arguments = ["encode", str(yuv_file), str(tmp_path / "a.cmfr"), "--model", weights]
    assert main(arguments) == 1
    err = capsys.readouterr().err
    assert "Traceback" in err and 'return {}["no such key"]' in err
    last = err.strip().splitlines()[-1]
    assert last.startswith("cmfr encode: KeyError: 'no such key'") and "please report it" in last


def test_errors_of_the_user_show_where_they_are_when_asked(tmp_path, yuv_file, capsys, monkeypatch):
    arguments = ["encode", str(yuv_file), str(tmp_path / "a.mp4")]
    assert "what is written" in failing(capsys, *arguments)
    monkeypatch.setenv("CMFR_TRACEBACK", "1")
    assert main(arguments) == 1
    err = capsys.readouterr().err
    assert "Traceback" in err and "check_request" in err and "please report" not in err


def test_shipped_configurations_go_by_name_anywhere(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "smoke", "--dry-run", "log_every=7", "stages.0.steps=3"]) == 0
    tree = json.loads(capsys.readouterr().out)
    assert (tree["log_every"], tree["stages"][0]["steps"]) == (7, 3)
    assert main(["train", "smoke", "seed=3", "--dry-run"]) == 0
    assert json.loads(capsys.readouterr().out)["seed"] == 3
    assert main(["ablate", "smoke", "--dry-run", "base.seed=3"]) == 0
    assert "runs/ablation-smoke" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_what_there_is_not_is_named_with_what_there_is(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for arguments, expected in (
        (["train", "smok"], ["no train configuration is called 'smok'; there are cmfr, ",
                             "did you mean smoke?"]),
        (["ablate", "papers"], ["no ablation configuration", "there are paper, small, smoke; did "
                                "you mean paper?"]),
        (["train", "configs/train/smoke.yaml"], ["no configuration file configs/train/smoke.yaml",
                                                 "the shipped one is called smoke"]),
        (["train", "smoke", "model=cmfr-nan"], ["no preset is called 'cmfr-nan'; there are cmfr, ",
                                                "did you mean cmfr-nano?"]),
        (["train", "smoke", "stages.0.stepz=1"], ["stages.0.stepz: no key is called 'stepz'; there "
                                                  "are name, ", "did you mean steps?"]),
        (["train", "smoke", "model.fusoin=sff"], ["model.fusoin", "did you mean fusion?"]),
        (["train", "smoke", "data.train.cuont=1"], ["data.train.cuont", "did you mean count?"]),
        (["ablate", "smoke", "evaluation.qualitys=1"], ["did you mean qualities?"]),
    ):  # fmt: skip
        message = failing(capsys, *arguments)
        assert all(part in message for part in expected), message


def test_options_that_there_are_not(capsys):
    for arguments in (["train", "smoke", "--dryer", "a=1"], ["info", "a.cmfr", "key=value"]):
        with pytest.raises(SystemExit) as exit:
            main(arguments)
        assert exit.value.code == 2
        assert "unrecognized arguments" in capsys.readouterr().err


def test_lists_take_commas_or_spaces(capsys):
    for text in ("0,21,42", "0 21 42", "[0, 21, 42]", "0, 21, 42"):
        arguments = [f"validation.qualities={text}", "stages.3.trainable=intra,inter"]
        assert main(["train", "smoke", "--dry-run", *arguments]) == 0
        tree = json.loads(capsys.readouterr().out)
        assert tree["validation"]["qualities"] == [0, 21, 42]
        assert tree["stages"][3]["trainable"] == ["intra", "inter"]
    assert main(["train", "smoke", "--dry-run", "stages.1.trainable=inter"]) == 0


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /dev/full")
def test_a_full_disk_is_one_sentence(tmp_path, yuv_file, weights, capsys, monkeypatch):
    from pathlib import Path

    real = Path.open

    def to_full(self, mode="r", *rest, **options):
        if "w" in mode and ".cmfr" in self.name:
            return real(Path("/dev/full"), "wb", buffering=0)
        return real(self, mode, *rest, **options)

    monkeypatch.setattr(Path, "open", to_full)
    message = failing(capsys, "encode", yuv_file, tmp_path / "a.cmfr", "--model", weights)
    assert "No space left" in message and "a.cmfr" in message
    assert not list(tmp_path.glob("*.cmfr*"))


def test_help_is_complete():
    def check(parser):
        for action in parser._actions:
            assert action.help or isinstance(action, argparse._SubParsersAction), action
            if isinstance(action, argparse._SubParsersAction):
                assert len(action._choices_actions) == len(action.choices)  # each has its line
                for command in action.choices.values():
                    check(command)

    check(build_parser())


@pytest.mark.parametrize("arguments", [["--help"], ["encode", "--help"], ["--version"]])
def test_python_m_cmfr(arguments):
    done = subprocess.run(
        [sys.executable, "-m", "cmfr", *arguments], capture_output=True, text=True, timeout=1500
    )
    assert done.returncode == 0 and "cmfr" in done.stdout and not done.stderr


def test_bench_prints_complexity(capsys):
    assert main(["bench", "--model", "cmfr-nano", "--size", "64x64", "--frames", "4"]) == 0
    out = capsys.readouterr().out
    assert "kmac_per_pixel" in out and "cmfr-nano intra 64x64: encode" in out


@pytest.mark.parametrize("how", ["absolute", "relative", "bare"])
def test_a_streams_model_name_is_never_a_path(
    tmp_path, yuv_file, weights, capsys, monkeypatch, how
):
    """Nothing is read from where it points, weights that would fit least of all."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "near.safetensors").write_bytes(Path(weights).read_bytes())
    name = {"absolute": tmp_path / "near.safetensors", "relative": "./near.safetensors"}
    said = str(name.get(how, "near.safetensors"))
    assert main(["encode", str(yuv_file), "a.cmfr", "--model", weights, "--quiet"]) == 0
    with Path("a.cmfr").open("rb") as file:
        header = BitstreamReader(file).header
    forged = replace(header, model=said[-255:]).to_bytes()
    Path("a.cmfr").write_bytes(forged + Path("a.cmfr").read_bytes()[len(header.to_bytes()) :])
    capsys.readouterr()
    assert main(["decode", "a.cmfr", "b.yuv"]) == 1
    assert f"no model is called {said!r}" in capsys.readouterr().err
    assert not Path("b.yuv").exists()


@pytest.mark.parametrize(
    ("command", "files"),
    [
        (["evaluate", "--model", "W", "--videos", "V", "-o"], ["W", "V"]),
        (["evaluate", "--model", "W", "--videos", "V", "-o", "new", "--compressai"], ["W", "V"]),
        (["evaluate", "--model", "W", "--test", "T", "--root", "R", "-o"], ["W", "T", "V"]),
        (["anchor", "--codec", "x264", "--crfs", "30", "--videos", "V", "-o"], ["V"]),
        (["anchor", "--codec", "x264", "--crfs", "30", "--test", "T", "--root", "R", "-o"], ["T"]),
        (["bench", "--model", "W", "--json"], ["W"]),
        (["bdrate", "J", "--anchor", "A", "--csv"], ["J", "A"]),
        (["encode", "V"], ["W", "V"]),
    ],
)
def test_no_output_goes_over_an_input(tmp_path, yuv_file, weights, capsys, command, files):
    here = {"V": yuv_file, "R": tmp_path, "new": tmp_path / "new.json"}
    for letter, name in (("W", "w.safetensors"), ("T", "t.yaml"), ("J", "j.json"), ("A", "a.json")):
        here[letter] = tmp_path / name
    here["W"].write_bytes(Path(weights).read_bytes())
    here["T"].write_text(
        "{name: own, title: Own, source: nowhere, sequences: [{name: moving_80x48_25, width: 80, "
        "height: 48, frame_rate: 25, frames: 6}]}"
    )
    here["J"].write_text("{}")
    here["A"].write_text("{}")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for letter in files:
        link = tmp_path / "link"
        link.symlink_to(here[letter])
        rest = ["--model", here["W"]] if command[0] == "encode" else []
        assert main([str(here.get(w, w)) for w in [*command, link, *rest]]) == 1
        line = capsys.readouterr().err.splitlines()[-1]
        assert f"{link} is the input {here[letter]}" in line
        link.unlink()
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_report_does_not_replace_what_it_is_made_of(tmp_path, capsys):
    folder = tmp_path / "report"
    folder.mkdir()
    (folder / "bd_rate.csv").write_text("sequence,bpp\n")
    for inputs in (
        ["--anchor", "vtm", folder / "bd_rate.csv"],
        ["--anchor", folder / "bd_rate.csv"],
    ):
        assert main(["report", *map(str, inputs), "-o", str(folder)]) == 1
        assert "the input" in capsys.readouterr().err
    assert [path.name for path in folder.iterdir()] == ["bd_rate.csv"]
