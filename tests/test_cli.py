"""The commands as a user types them; errors are one sentence, exit code not 0, nothing left."""

import subprocess
import sys

import pytest
from conftest import lively

from cmfr.checkpoint import save_weights, weights_of
from cmfr.cli import build_parser, main
from cmfr.presets import PRESETS


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
    assert "encode" in err and "5/5" in err  # the progress bar
    assert main(["info", str(stream)]) == 0
    text = capsys.readouterr().out
    rows = [line.split() for line in text.splitlines() if line.split()[1:2] in (["I"], ["P"])]
    assert [row[1] for row in rows] == ["I", "P", "P", "P", "I"]
    assert sum(int(row[3]) for row in rows) < stream.stat().st_size
    assert "80x48" in text and "cmfr-nano" in text and "intra period" in text
    decoded = tmp_path / "b.yuv"
    assert main(["decode", str(stream), str(decoded), "--model", weights]) == 0
    assert decoded.read_bytes() == recon.read_bytes()
    assert len(decoded.read_bytes()) == 5 * 80 * 48 * 3 // 2


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
    ):
        assert expected in failing(capsys, "encode", *arguments, *model)
        assert not list(tmp_path.glob("*out*")), arguments
    broken = tmp_path / "weights.safetensors"
    broken.write_bytes(b"\x80\x04pickle")
    assert "not a readable safetensors" in failing(
        capsys, "encode", yuv_file, target, "--model", broken
    )
    assert "no weights are shipped" in failing(capsys, "encode", yuv_file, target, "--model", "no")


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
    parser = build_parser()
    for action in parser._subparsers._group_actions[0].choices.values():
        for option in action._actions:
            assert option.help, option


@pytest.mark.parametrize("arguments", [["--help"], ["encode", "--help"], ["--version"]])
def test_python_m_cmfr(arguments):
    done = subprocess.run(
        [sys.executable, "-m", "cmfr", *arguments], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0 and "cmfr" in done.stdout and not done.stderr


def test_bench_prints_complexity(capsys):
    assert main(["bench", "--model", "cmfr-nano", "--size", "64x64", "--frames", "4"]) == 0
    out = capsys.readouterr().out
    assert "kmac_per_pixel" in out and "cmfr-nano intra 64x64: encode" in out
