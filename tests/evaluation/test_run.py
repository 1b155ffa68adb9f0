import json
import mmap
import shutil
import time
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from conftest import SHARED, lively, moving_clip, write_yuv
from PIL import Image
from pytorch_msssim import ms_ssim

from cmfr.cli.main import main
from cmfr.codec.checkpoint import save_weights
from cmfr.codec.codec import Codec, load_codec
from cmfr.evaluation.conditions import CodingConditions
from cmfr.evaluation.measure import SequenceTask, evaluate_sequence
from cmfr.evaluation.records import read_results
from cmfr.evaluation.sequences import TestSequence
from cmfr.models.base import FrameSize
from cmfr.models.presets import PRESETS
from cmfr.models.state import FrameOutput, ReferenceState
from cmfr.models.video_model import VideoModel
from cmfr.nn.bit_estimator import BitEstimator
from cmfr.nn.densities import weights_of
from cmfr.utils import versions
from cmfr.utils.device import peak_memory, reset_peak_memory
from cmfr.video.color import ycbcr_to_rgb
from cmfr.video.info import ColorInfo, Frame, VideoInfo
from cmfr.video.metrics import PSNR_CAP, compare
from cmfr.video.reader import open_video
from cmfr.video.writer import open_writer


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Weights, a test set of two small raw sequences, and their folder."""
    folder = tmp_path_factory.mktemp("evaluate")
    save_weights(folder / "nano.safetensors", weights_of(lively(PRESETS["cmfr-nano"])),
                 PRESETS["cmfr-nano"])  # fmt: skip
    sequences = []
    for name, height, width in (("small", 48, 80), ("large", 168, 176)):
        write_yuv(folder / f"{name}.yuv", 5, height, width)
        sequences.append(
            {"name": name, "width": width, "height": height, "frame_rate": 25, "frames": 5}
        )
    tree = {"name": "made", "title": "Made", "source": "here", "sequences": sequences}
    (folder / "made.yaml").write_text(yaml.safe_dump(tree))
    return folder


def evaluate(place, output, *options):
    return main(
        ["evaluate", "--model", str(place / "nano.safetensors"), "--test",
         str(place / "made.yaml"), "--root", str(place), "--qualities", "40,5", "--frames", "4",
         "--intra-period", "3", "--device", "cpu", "-o", str(output), *options]
    )  # fmt: skip


def test_records_are_of_the_bytes_and_of_what_they_decode_to(place, tmp_path):
    output = tmp_path / "out.json"
    assert evaluate(place, output, "--compressai", str(tmp_path / "theirs.json")) == 0
    records = read_results(output)
    columns = json.loads((tmp_path / "theirs.json").read_text())["results"]
    assert columns["q"] == [5, 40] and len(columns["psnr-y"]) == len(columns["bitrate"]) == 2
    assert [(r.sequence, r.rate_index, r.label) for r in records] == [
        ("small", 0, 5), ("small", 1, 40), ("large", 0, 5), ("large", 1, 40),
    ]  # fmt: skip
    codec = load_codec(place / "nano.safetensors", "cpu")
    for record in records:
        source = place / f"{record.sequence}.yuv"
        size = {"size": (record.width, record.height), "frame_rate": 25}
        stream, decoded = tmp_path / "a.cmfr", tmp_path / "a.y4m"
        codec.encode_video(source, stream, quality=record.label, frames=4, intra_period=3, **size)
        codec.decode_video(stream, decoded)
        pixels = record.width * record.height
        assert record.bpp == pytest.approx(8 * stream.stat().st_size / pixels / 4)
        assert [f.type for f in record.frames] == ["I", "P", "P", "I"]
        with open_video(source, frames=4, **size) as a, open_video(decoded) as b:
            frames = [compare(x, y, a.info) for x, y in zip(a, b, strict=True)]
        assert record.mean("psnr_yuv") == pytest.approx(np.mean([f.combined for f in frames]))
        assert record.mean("psnr_u") == pytest.approx(np.mean([f.psnr[1] for f in frames]))
        # The estimate counts symbols; the file also has headers, an index and a checksum a frame.
        estimate = record.average().estimated_bpp * pixels * 4 / 8
        assert 0 < stream.stat().st_size - estimate < 0.03 * estimate + 250
        assert record.times.encode > 0
        assert set(record.times.decode_parts) == {"network", "entropy", "io"}
        assert record.metadata["weights_id"] == codec.weights_id.hex()
    large = next(r for r in records if r.sequence == "large")
    assert 0 < large.mean("ms_ssim_y") < 1
    with pytest.raises(ValueError, match="has no ms_ssim_y"):
        records[0].mean("ms_ssim_y")  # too small


def rgb_pngs(source, size, matrix, folder, frames=4):
    """The sequence as a folder of PNGs, as `cmfr data yuv2png` and `decode` write them."""
    colors = {"matrix": matrix[0], "range": matrix[1]}
    with open_video(source, size=size, frame_rate=25, frames=frames, **colors) as reader:
        with open_writer(folder, reader.info) as writer:
            for frame in reader:
                writer.write(frame)


@pytest.mark.parametrize("rounding", ["float", "8bit"])
@pytest.mark.parametrize("colors", [("bt709", "full"), ("bt601", "limited")])
def test_rgb_is_measured_as_on_pngs(place, tmp_path, rounding, colors):
    """On RGB pictures of the source, by the matrix and range asked for: what a YCbCr network gets
    and is judged against is what it gets of PNGs of them."""
    output = tmp_path / "out.json"
    options = ["--color", "rgb", "--sequences", "large"]
    options += ["--matrix", colors[0], "--range", colors[1]]
    options += ["--round-8bit"] if rounding == "8bit" else []
    assert evaluate(place, output, *options) == 0
    record = read_results(output)[1]
    assert (record.conditions.color, record.conditions.rounding) == ("rgb", rounding)
    assert (record.conditions.matrix, record.conditions.range) == colors
    codec = load_codec(place / "nano.safetensors", "cpu")
    measured, bits = [], []

    def on_frame(coded):
        x = torch.from_numpy(np.stack(coded.source.planes) / 255)[None].float()
        y = ycbcr_to_rgb(coded.output.x_hat[..., :168, :176], "bt709", "full").clamp(0, 1)
        y = (y * 255).round() / 255 if rounding == "8bit" else y
        psnr = -10 * float((x - y).square().mean().log10())
        measured.append((psnr, float(ms_ssim(y, x, data_range=1.0))))
        bits.append(coded.bits)

    rgb_pngs(place / "large.yuv", (176, 168), colors, tmp_path / "pngs")
    codec.encode_video(
        tmp_path / "pngs", tmp_path / "a.cmfr", quality=40, frame_rate=25, intra_period=3,
        on_frame=on_frame,
    )  # fmt: skip
    psnr, similarity = np.mean(measured, axis=0)
    assert [f.bits for f in record.frames][1:] == bits[1:]
    assert record.mean("psnr_rgb") == pytest.approx(psnr, abs=1e-4)
    assert record.mean("ms_ssim_rgb") == pytest.approx(similarity, abs=1e-5)


CLIPS = ("carphone_qcif_176x144", "davis_parkour_416x240", "vid4_foliage_704x480")


class Identity:
    """In place of an RGB network's frames: the 8-bit picture that it gets, and gives."""

    def begin_frame(self, x, quality, past, period=None, made=None, estimate=False, refine=0):
        payload = (x * 255).round().to(torch.uint8).numpy().tobytes()
        output = FrameOutput(x, ReferenceState(x))
        return SimpleNamespace(output=output, finish=lambda: (payload, output)), quality

    def decode_frame(self, payload, quality, past, refresh_period=None, picture_bytes=None):
        size = past if isinstance(past, FrameSize) else FrameSize(*past.frame.shape[2:])
        x = torch.frombuffer(bytearray(payload), dtype=torch.uint8).float() / 255
        x = x.reshape(1, 3, *size)
        return FrameOutput(x, ReferenceState(x))


def sequence_task(path, sequence, folder, **changes):
    values = {"weights": folder / "identity.safetensors", "device": "cpu", "dataset": "made",
              "sequence": sequence, "source": path, "quality": 1, "rate_index": 0,
              "conditions": CodingConditions.asked("rgb", frames=2)}  # fmt: skip
    values["weights"].touch()
    return SequenceTask(**{**values, **changes})


@pytest.mark.parametrize("colors", [("bt709", "full"), ("bt601", "limited")])
@pytest.mark.parametrize("name", [*CLIPS, "large"])
def test_an_identity_rgb_codec_gets_the_cap(place, tmp_path, name, colors):
    """What an RGB network is fed, and what it is judged against, is one picture."""
    path = place / "large.yuv"
    info = {"name": "large", "width": 176, "height": 168, "frame_rate": 25, "frames": 4}
    if name != "large":
        path = SHARED / "data" / "devtest" / f"{name}.mp4"
        if not path.is_file():
            pytest.skip("no development sequences here")
        width, height = map(int, name.rpartition("_")[2].split("x"))
        info |= {"name": name, "width": width, "height": height}
    codec = Codec(VideoModel(PRESETS["dcvc-dc-nano"].model_copy(update={"color": "rgb"})),
                  bytes(8), torch.device("cpu"))  # fmt: skip
    codec.model.begin_frame, codec.model.decode_frame = (
        Identity().begin_frame, Identity().decode_frame,
    )  # fmt: skip
    task = sequence_task(path, TestSequence.model_validate(info), tmp_path,
                         conditions=CodingConditions.asked("rgb", *colors, frames=2))  # fmt: skip
    record = evaluate_sequence(codec, task)
    assert [f.quality["psnr_rgb"] for f in record.frames] == [PSNR_CAP] * 2
    assert record.conditions.matrix == colors[0] and record.conditions.rounding == "float"


def test_refined_motion_is_another_codec(place, tmp_path):
    """Whose encoding is not what is counted for the model."""
    assert evaluate(place, tmp_path / "plain.json") == 0
    assert evaluate(place, tmp_path / "refined.json", "--refine", "1") == 0
    plain, refined = (read_results(tmp_path / f"{name}.json") for name in ("plain", "refined"))
    assert {r.codec for r in plain} == {"cmfr-nano"}
    assert {r.codec for r in refined} == {"cmfr-nano-refine1"}
    assert all("encode_kmac_per_pixel" in r.metadata for r in plain)
    assert not any("encode_kmac_per_pixel" in r.metadata for r in refined)
    assert all("decode_kmac_per_pixel" in r.metadata for r in refined)


def test_it_resumes_and_notices_other_weights(place, tmp_path, capsys):
    output = tmp_path / "out.json"
    assert evaluate(place, output) == 0
    parts = sorted((tmp_path / "out.json.parts").iterdir())
    assert len(parts) == 4
    times = [p.stat().st_mtime_ns for p in parts]
    first = output.read_bytes()
    output.unlink()
    parts[2].unlink()
    assert evaluate(place, output) == 0
    again = sorted((tmp_path / "out.json.parts").iterdir())
    assert again == parts
    kept = [p.stat().st_mtime_ns for p in again]
    assert [a == b for a, b in zip(times, kept, strict=True)] == [True, True, False, True]
    strip = [
        [(r.sequence, r.label, [f.bits for f in r.frames]) for r in records]
        for records in (read_results(output), read_results(output))
    ]
    assert strip[0] == strip[1] and len(first) > 0
    other = tmp_path / "other.safetensors"
    torch.manual_seed(1)
    save_weights(other, weights_of(lively(PRESETS["cmfr-nano"], seed=3)), PRESETS["cmfr-nano"])
    assert evaluate(place, output, "--model", str(other)) == 0
    assert len(list((tmp_path / "out.json.parts").iterdir())) == 8


def test_weights_that_change_meanwhile_give_no_table(place, tmp_path, monkeypatch, capsys):
    """Of two models under one name; what was measured is the earlier's, and stays its."""
    weights = tmp_path / "w.safetensors"
    shutil.copy(place / "nano.safetensors", weights)
    measure, output = SequenceTask.measure, tmp_path / "out.json"

    def and_trained_on(task, on_frame=None):
        record = measure(task, on_frame)
        if task.sequence.name == "large" and task.quality == 5:
            save_weights(weights, weights_of(lively(PRESETS["cmfr-nano"], seed=3)),
                         PRESETS["cmfr-nano"])  # fmt: skip
        return record

    monkeypatch.setattr(SequenceTask, "measure", and_trained_on)
    assert evaluate(place, output, "--model", str(weights)) == 1
    assert "w.safetensors changed while it was measured" in capsys.readouterr().err
    assert not output.exists()
    monkeypatch.undo()
    assert evaluate(place, output, "--model", str(weights)) == 0
    assert len({r.metadata["weights_id"] for r in read_results(output)}) == 1


class Bar:
    """In place of tqdm's."""

    def __init__(self, total, desc, disable, **_):
        assert disable is None  # hidden where there is no terminal
        self.n, self.total, self.said = 0, total, [desc]

    def update(self, n):
        self.n += n

    def set_description(self, text):
        self.said.append(text)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


@pytest.fixture
def bars(monkeypatch):
    made = []

    def make(**options):
        made.append(Bar(**options))
        return made[-1]

    monkeypatch.setattr("cmfr.evaluation.run.tqdm", make)
    return made


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_any_videos_are_measured_as_a_test_set_is(place, tmp_path):
    """The same bits and quality under the files' names."""
    assert evaluate(place, tmp_path / "set.json", "--sequences", "small") == 0
    folder = tmp_path / "videos"
    folder.mkdir()
    shutil.copy(place / "small.yuv", folder / "own_80x48_25.yuv")
    common = ["evaluate", "--model", str(place / "nano.safetensors"), "--qualities", "40,5",
              "--intra-period", "3", "--frames", "4", "--device", "cpu"]  # fmt: skip
    output = tmp_path / "videos.json"
    assert main([*common, "--videos", str(folder), "-o", str(output)]) == 0
    there, here = read_results(tmp_path / "set.json"), read_results(output)
    assert [(r.dataset, r.sequence, r.label) for r in here] == [
        ("videos", "own_80x48_25", 5), ("videos", "own_80x48_25", 40),
    ]  # fmt: skip
    assert [r.frames for r in here] == [r.frames for r in there]
    assert [r.conditions for r in here] == [r.conditions for r in there]


def test_side_by_side_gives_the_same(place, tmp_path, bars, one_thread):
    """With as many threads each: convolutions round differently with another number of them."""
    assert evaluate(place, tmp_path / "one.json") == 0
    assert evaluate(place, tmp_path / "two.json", "--processes", "2", "--threads", "1") == 0
    one, two = (read_results(tmp_path / f"{n}.json") for n in ("one", "two"))
    for a, b in zip(one, two, strict=True):
        assert (a.sequence, a.label) == (b.sequence, b.label)
        assert a.frames == b.frames
    assert [bar.n for bar in bars] == [bar.total for bar in bars]


def test_a_failure_leaves_no_hole_in_a_table(place, tmp_path, monkeypatch, capsys):
    measure = SequenceTask.measure

    def failing(task, on_frame=None):
        if task.sequence.name == "large":
            raise ValueError("the disk is on fire")
        return measure(task, on_frame)

    monkeypatch.setattr(SequenceTask, "measure", failing)
    assert evaluate(place, tmp_path / "out.json") == 1
    error = capsys.readouterr().err
    assert "large at quality 5: the disk is on fire" in error and "2 measurements failed" in error
    assert not (tmp_path / "out.json").exists()
    assert len(list((tmp_path / "out.json.parts").iterdir())) == 2
    monkeypatch.undo()
    assert evaluate(place, tmp_path / "out.json") == 0
    assert len(read_results(tmp_path / "out.json")) == 4


def test_files_are_held_against_their_entries_first(place, tmp_path, capsys):
    """Of all sequences; a line each. Fewer frames than listed will do where fewer are asked for."""
    write_yuv(tmp_path / "large.yuv", 3, 168, 176)
    info = VideoInfo(48, 80, Fraction(30), ColorInfo("bt709", "full"), "420", 8)
    with open_writer(tmp_path / "small.mkv", info) as writer:
        for frame in (moving_clip(4, 80, 48)[0] * 255).byte().numpy():
            planes = (frame[0], frame[1, ::2, ::2], frame[2, ::2, ::2])
            writer.write(Frame(tuple(map(np.ascontiguousarray, planes))))
    assert evaluate(place, tmp_path / "out.json", "--root", str(tmp_path)) == 1
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 3 and "small, large: not what the test set says" in error[2]
    assert "small.mkv: expected 80x48, found 48x80" in error[0]
    assert "expected 25 frames per second, found 30" in error[0]
    assert "large.yuv: expected 221760 bytes (5 frames" in error[1] and "is 3 frames" in error[1]
    assert not list(tmp_path.glob("out.json*"))
    options = ["--root", str(tmp_path), "--sequences", "large", "--qualities", "5"]
    assert evaluate(place, tmp_path / "out.json", *options, "--frames", "3") == 0
    line = "large.yuv: 176x168, 4:2:0, 8 bit, 25 frames per second, 3 frames of 5\n"
    assert line in capsys.readouterr().err
    assert evaluate(place, tmp_path / "no.json", *options, "--frames", "6") == 1
    assert "large has 5 frames, not 6" in capsys.readouterr().err


def test_a_sequence_has_as_many_frames_as_its_entry_says(place, tmp_path):
    tree = yaml.safe_load((place / "made.yaml").read_text())
    tree["sequences"] = [tree["sequences"][0] | {"frames": 2, "may_be_longer": True}]
    (tmp_path / "short.yaml").write_text(yaml.safe_dump(tree))
    arguments = ["evaluate", "--model", str(place / "nano.safetensors"), "--test",
                 str(tmp_path / "short.yaml"), "--root", str(place), "--qualities", "5",
                 "--device", "cpu", "-o", str(tmp_path / "out.json")]  # fmt: skip
    assert main(arguments) == 0
    assert [len(r.frames) for r in read_results(tmp_path / "out.json")] == [2]
    assert main(["anchor", "--codec", "x264", "--crfs", "30", *arguments[3:7], "-o",
                 str(tmp_path / "x264.json")]) == 0  # fmt: skip
    [anchor] = read_results(tmp_path / "x264.json")
    assert len(anchor.frames) == 2
    # Both say which samples they coded.
    assert anchor.conditions.source == read_results(tmp_path / "out.json")[0].conditions.source


def test_a_measurement_is_kept_for_its_code_and_samples(place, tmp_path, monkeypatch):
    sequence = TestSequence.model_validate(yaml.safe_load(
        (place / "made.yaml").read_text())["sequences"][0])  # fmt: skip
    task = sequence_task(place / "small.yuv", sequence, tmp_path,
                         weights=place / "nano.safetensors")  # fmt: skip
    key = task.key()
    write_yuv(tmp_path / "other.yuv", 5, 48, 80)  # other file, same samples
    assert replace(task, source=tmp_path / "other.yuv").key() == key
    for changes in ({"frames": 3}, {"matrix": "bt601"}, {"refresh_period": 1}):
        assert replace(task, conditions=replace(task.conditions, **changes)).key() != key
    # Other rates and sequences beside it change nothing but its place.
    beside = replace(task, rate_index=7, set_sequences=("small", "large"), quality=5)
    stored = CodingConditions.asked(frames=2)
    beside = replace(beside, parts=tmp_path / "parts", conditions=stored)
    record = beside.measure()
    first = replace(beside, rate_index=0, set_sequences=())
    assert first.key() == beside.key()
    assert first.finished() == replace(record, rate_index=0, set_sequences=())
    beside.part().write_text("{")  # damaged: not measured
    assert beside.finished() is None
    monkeypatch.setattr("cmfr.evaluation.measure.code_hash", lambda module: "corrected")
    assert task.key() != key


def test_the_code_of_a_measurement_is_what_it_imports(tmp_path):
    package = Path(versions.__file__).parents[1]
    copy = tmp_path / "cmfr"
    shutil.copytree(package, copy, ignore=shutil.ignore_patterns("*.json", "weights"))
    module = "cmfr.evaluation.measure"
    before = versions.code_hash(module, copy)
    assert before == versions.code_hash(module, package)
    for name, changes in (("video/metrics.py", True), ("models/dcvc/inter.py", True),
                          ("evaluation/anchors/ffmpeg.py", False), ("report/page.py", False),
                          ("training/losses.py", False)):  # fmt: skip
        text = (copy / name).read_text()
        (copy / name).write_text(text + "\n")
        versions.code_hash.cache_clear()
        assert (versions.code_hash(module, copy) != before) == changes, name
        (copy / name).write_text(text)


def test_progress_counts_every_frame_once(place, tmp_path, bars):
    assert evaluate(place, tmp_path / "out.json", "--sequences", "small") == 0
    assert bars[0].n == bars[0].total == 2 * 2 * 4 * 80 * 48  # points, coded and decoded, frames
    assert bars[0].said == ["0 of 2 points", "1 of 2 points", "2 of 2 points"]
    assert evaluate(place, tmp_path / "out.json", "--sequences", "small") == 0
    assert bars[1].total == 0 and bars[1].said == ["2 of 2 points"]


def test_estimates_take_no_time_of_encoding(place, tmp_path, monkeypatch):
    """A slow estimate leaves the time of encoding as it is."""
    codec = load_codec(place / "nano.safetensors", "cpu")
    sequence = TestSequence.model_validate(yaml.safe_load(
        (place / "made.yaml").read_text())["sequences"][0])  # fmt: skip
    task = sequence_task(place / "small.yuv", sequence, tmp_path,
                         conditions=CodingConditions.asked(frames=2))  # fmt: skip
    evaluate_sequence(codec, task)  # warms up
    count, calls = BitEstimator._count, []

    def slow(*arguments):
        calls.append(time.sleep(0.2))
        return count(*arguments)

    monkeypatch.setattr(BitEstimator, "_count", slow)
    record = evaluate_sequence(codec, task)
    assert len(calls) >= 10
    slept = 0.2 * len(calls) / 4  # a frame
    assert record.times.encode < slept / 2 < slept < record.times.total / 4
    assert record.average().estimated_bpp > 0


def test_peak_memory_is_of_the_record(place, tmp_path):
    """What was in memory before a measurement and is gone is not in its peak."""
    cpu = torch.device("cpu")
    if peak_memory(cpu) is None:
        pytest.skip("this system does not tell the peak memory of a while")
    codec = load_codec(place / "nano.safetensors", "cpu")
    sequence = TestSequence.model_validate(yaml.safe_load(
        (place / "made.yaml").read_text())["sequences"][0])  # fmt: skip
    task = sequence_task(place / "small.yuv", sequence, tmp_path)
    evaluate_sequence(codec, task)  # what libraries make once and keep is there before
    reset_peak_memory(cpu)
    with mmap.mmap(-1, 2**27) as ballast:  # 128 MiB, which the system gets back
        ballast.write(b"1" * 2**27)
        before = peak_memory(cpu)
    record = evaluate_sequence(codec, task)
    assert 2**24 < record.peak_memory < before - 2**26


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_peak_memory_of_a_gpu_is_of_the_record(place, tmp_path):
    gpu = torch.device("cuda")
    ballast = torch.ones(2**30, dtype=torch.uint8, device=gpu)
    assert torch.cuda.max_memory_allocated() >= 2**30
    del ballast
    codec = load_codec(place / "nano.safetensors", "cuda")
    sequence = TestSequence.model_validate(yaml.safe_load(
        (place / "made.yaml").read_text())["sequences"][0])  # fmt: skip
    record = evaluate_sequence(codec, sequence_task(place / "small.yuv", sequence, tmp_path))
    assert 0 < record.peak_memory < 2**29


def test_mistakes_are_named_before_anything_is_measured(place, tmp_path, capsys):
    for options, expected in (
        (["--root", str(tmp_path)], "small.yuv is missing"),
        (["--sequences", "tiny"], "made has no sequence called 'tiny'; there are "),
        (["--videos", "x.mp4"], "give either --test with --root, or --videos"),
        (["--test", "nowhere"], "no test configuration is called 'nowhere'"),
        (["--processes", "0"], "--processes 0 is less than 1"),
        (["-o", str(tmp_path / "absent" / "x.json")], "no folder"),
        (["-o", str(tmp_path)], "is a folder; give a file"),
        (["--compressai", str(tmp_path / "absent" / "x.json")], "no folder"),
    ):
        assert evaluate(place, tmp_path / "out.json", *options) == 1
        assert expected in capsys.readouterr().err
    with pytest.raises(SystemExit):
        evaluate(place, tmp_path / "out.json", "--qualities", "5,64")
    assert not list(tmp_path.glob("out.json*"))


def test_bench_prints_parts_stages_and_ratios(place, tmp_path, capsys):
    report = tmp_path / "bench.json"
    assert main(
        ["bench", "--model", str(place / "nano.safetensors"), "cmfr-nano", "--size", "64x64",
         "--frames", "3", "--device", "cpu", "--json", str(report), "--profile",
         str(tmp_path / "traces")]
    ) == 0  # fmt: skip
    shown = capsys.readouterr().out
    assert "residual_codec.decoder" in shown and "rANS" in shown and "(x1.00)" in shown
    tree = json.loads(report.read_text())
    assert {"versions", "run", "complexity", "parts", "speed", "files_ms"} == set(tree)
    assert tree["run"]["device"] == "cpu" and tree["run"]["frames"] == 3
    assert len(tree["speed"]) == 4 and {p.name for p in (tmp_path / "traces").iterdir()} == {
        "nano.json", "cmfr-nano.json",
    }  # fmt: skip


def test_inspect_writes_pictures(place, tmp_path, capsys):
    arguments = ["inspect", str(place / "small.yuv"), "--size", "80x48", "--model",
                 str(place / "nano.safetensors"), "-o", str(tmp_path / "out"), "--frame", "1",
                 "--frames", "3", "--matrix", "bt709", "--range", "full"]  # fmt: skip
    assert main(arguments) == 0
    assert (tmp_path / "out" / "sheet.png").is_file()
    assert "frame 1: P" in capsys.readouterr().out


def test_pictures_are_measured_in_rgb(place, tmp_path, capsys):
    """An RGB sequence, a folder of PNGs; the decoded samples of YUV are not to be had."""
    folder = tmp_path / "root" / "pictures"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    scene = np.kron(rng.integers(0, 256, (8, 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    for i in range(3):
        Image.fromarray(np.roll(scene, 2 * i, 1)).save(folder / f"im{i + 1:05d}.png")
    sequence = {"name": "pictures", "width": 64, "height": 64, "frame_rate": 30, "frames": 3,
                "chroma": "rgb"}  # fmt: skip
    test = tmp_path / "rgb.yaml"
    tree = {"name": "rgb", "title": "RGB", "source": "here", "sequences": [sequence]}
    test.write_text(yaml.safe_dump(tree))
    options = ["--test", str(test), "--root", str(tmp_path / "root"), "--frames", "3"]
    output = tmp_path / "out.json"
    assert evaluate(place, output, *options, "--color", "rgb") == 0
    record = read_results(output)[1]
    assert record.conditions.matrix == "rgb" and 5 < record.mean("psnr_rgb") < 60
    assert evaluate(place, tmp_path / "yuv.json", *options) == 1
    assert "is RGB; measure it with --color rgb" in capsys.readouterr().err
