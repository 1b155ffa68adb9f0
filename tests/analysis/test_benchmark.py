import json

import pytest
import torch

from cmfr.analysis.benchmark import profile_frames, time_files, time_frames

FRAMES = [torch.rand(1, 3, 64, 64) for _ in range(4)]


def test_both_frame_types_and_all_stages(nano):
    rows = time_frames(nano, FRAMES)
    assert [row.frame for row in rows] == ["intra", "inter"]
    for row in rows:
        assert row.encode_fps > 0 and row.decode_fps > 0 and row.peak_mib > 0
        assert row.size == "64x64"
    _, inter = rows
    common = {"motion", "motion refiner", "context", "transforms", "entropy model", "rANS", "other"}
    for stages in (inter.encode_ms, inter.decode_ms):
        assert set(stages) == common and all(value >= 0 for value in stages.values())


def test_reading_and_writing_files():
    times = time_files(FRAMES, "ycbcr")
    assert set(times) == {"read", "write"} and min(times.values()) > 0


def test_a_trace_names_operators(tmp_path, nano):
    profile_frames(nano, FRAMES[:2], 30, tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert any("conv" in event.get("name", "") for event in events)


@pytest.mark.parametrize("count", [1, 2])
def test_few_frames(nano, count):
    rows = time_frames(nano, FRAMES[:count], warmup=0)
    assert len(rows) == count
