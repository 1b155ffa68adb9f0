"""Lists in options: words, commas or both; and which commands have them."""

import argparse

import pytest

from cmfr.cli.main import build_parser
from cmfr.cli.options import existing_paths
from cmfr.evaluation.conditions import CodingConditions

COMMANDS = {
    "evaluate": ["--test", "t", "--root", "r", "-o", "o"],
    "anchor": ["--codec", "x264", "-o", "o"],
    "bdrate": ["f.json", "--anchor", "a"],
    "report": ["f.json", "--anchor", "a", "-o", "o"],
    "bench": [],
}


def parse(command, *words):
    return build_parser().parse_args([command, *COMMANDS[command], *words])


@pytest.mark.parametrize(
    ("command", "option", "name", "found"),
    [
        ("evaluate", "--qualities", "qualities", [5, 21, 40]),
        ("evaluate", "--sequences", "sequences", ["a", "b", "c"]),
        ("anchor", "--crfs", "crfs", [22.0, 27.5, 32.0]),
        ("anchor", "--qps", "qps", [22.0, 27.0, 32.0]),
        ("bdrate", "--metric", "metric", ["psnr_y", "psnr_rgb", "ms_ssim_y"]),
        ("report", "--metric", "metric", ["psnr_y", "psnr_rgb", "ms_ssim_y"]),
        ("report", "--published", "published", ["vtm", "hm", "dcvc-dc"]),
        ("bench", "--model", "model", ["cmfr", "cmfr-s", "dcvc-dc"]),
    ],
)
def test_lists_take_commas_or_spaces(command, option, name, found):
    default = getattr(parse(command), name)
    a, b, c = map(str, found)
    for words in ([a, b, c], [f"{a},{b},{c}"], [f"{a}, {b},", c], [a, b, option, c]):
        assert getattr(parse(command, option, *words), name) == found, words
    assert getattr(parse(command), name) == default  # which no list was added to


@pytest.mark.parametrize("words", [["5,64"], ["-1"], ["5", "x"], ["5;6"]])
def test_what_is_no_quality_is_refused(words, capsys):
    with pytest.raises(SystemExit):
        parse("evaluate", "--qualities", *words)
    assert "--qualities" in capsys.readouterr().err


def test_a_file_with_a_comma_in_its_name_is_one_file(tmp_path):
    (tmp_path / "a,b.mp4").touch()
    assert existing_paths(str(tmp_path / "a,b.mp4")) == [tmp_path / "a,b.mp4"]
    assert list(map(str, existing_paths("a.mp4, b.mp4"))) == ["a.mp4", "b.mp4"]
    found = parse("anchor", "--videos", "x.mp4,y.mp4", "z.mp4").videos
    assert list(map(str, found)) == ["x.mp4", "y.mp4", "z.mp4"]


def test_what_is_measured_on():
    from cmfr.cli.options import conditions

    def chosen(*words) -> CodingConditions:
        return conditions(parse("evaluate", *words))

    assert chosen() == CodingConditions("yuv420", intra_period=-1)
    assert chosen("--color", "rgb") == CodingConditions("rgb", "bt709", "full", -1, None, "float")
    words = ("--color", "rgb", "--matrix", "bt601", "--range", "limited", "--round-8bit")
    assert chosen(*words) == CodingConditions("rgb", "bt601", "limited", -1, None, "8bit")
    assert chosen("--refresh-period", "8").refresh_period == 8
    assert chosen("--refine", "3").refine == 3
    with pytest.raises(ValueError, match="number of refining steps"):
        chosen("--refine", "-1")
    with pytest.raises(ValueError, match="are for --color rgb"):
        chosen("--matrix", "bt601")
    assert isinstance(parse("anchor", *words), argparse.Namespace)
