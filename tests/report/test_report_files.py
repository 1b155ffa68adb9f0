"""`cmfr report`: which files it writes, what is escaped in them, and what it refuses."""

# ruff: noqa: F811 (fixtures come by import, and are arguments too)
from __future__ import annotations

import json
import re
import subprocess
import sys
from xml.etree import ElementTree

import pytest
from test_report_command import ANCHOR, GOOD, folder, report, results  # noqa: F401

from cmfr.report.plots import file_names
from cmfr.report.tables import escape_latex

# --- files


def test_all_files_are_there_and_nothing_else(folder, results):
    names = {f.name for f in folder.iterdir()}
    places = ["class_d", "class_d_Pass_416x240", "class_d_Bubbles_416x240", "talk",
              "talk_Four_People"]  # fmt: skip
    plots = {f"rd_{place}.{suffix}" for place in places for suffix in ("png", "svg")}
    tables = {"bd_rate.csv", "bd_rate.md", "bd_rate.tex", "bd_rate_sequences.csv"}
    assert names == plots | tables | {"index.html"}
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]
    for name in plots:
        if name.endswith("png"):
            assert (folder / name).read_bytes().startswith(b"\x89PNG")
        else:
            ElementTree.parse(folder / name)


def test_files_of_the_same_results_are_the_same(folder, results, tmp_path):
    options = ("--anchor", ANCHOR, "--metric", "psnr_yuv", "ms_ssim_y", "ms_ssim_y_db")
    report(*results.values(), *options, "--title", "A <b> & C", "-o", tmp_path / "again")
    for file in folder.iterdir():
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes(), file.name


def test_file_names_never_collide():
    class Sets:
        sets = {"a": ["b/c", "b c", "B_C"], "a_b": ["c"]}

    names = list(file_names(Sets()).values())  # type: ignore[arg-type]
    assert len({name.lower() for name in names}) == len(names) == 6
    assert all(re.fullmatch(r"[\w.+-]+", name) for name in names)


def test_latex_is_escaped_and_booktabs(folder):
    text = (folder / "bd_rate.tex").read_text()
    body = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    assert "x265 \\textless{}medium\\textgreater{} \\& co\\_50\\%" in body
    assert "class\\_d & talk & average \\\\" in body
    assert body.count("\\toprule") == body.count("\\bottomrule") == 6  # 3 metrics, 2 averages
    assert not re.search(r"(?<!\\)[_%#]", body)
    assert not re.search(r"(?<!\\)%", body) and "<" not in body
    assert escape_latex("a\\b~{c}^[d]$") == (
        "a\\textbackslash{}b\\textasciitilde{}\\{c\\}\\textasciicircum{}{[}d]\\$"
    )


def test_markdown_is_escaped(folder):
    text = (folder / "bd_rate.md").read_text()
    assert "| x265 &lt;medium> &amp; co\\_50% | 0.0 | 0.0 | 0.0 |" in text
    assert "<b>" not in text and "# A &lt;b> &amp; C" in text


def test_page_is_escaped_and_loads_nothing(folder):
    text = (folder / "index.html").read_text()
    assert "<title>A &lt;b&gt; &amp; C</title>" in text
    assert text.count("<script") == text.count("</script>") == 2
    assert "<script>alert" not in text and "<medium>" not in text and "{{" not in text
    assert not re.search(r"(src|href)=\"(?!#|data:,|rd_|bd_rate)", text)
    assert not re.search(r"@import|url\(", text)
    data = re.search(r'id="data">(.*?)</script>', text, re.S)
    assert data and not set("<>&") & set(data[1])
    assert data and json.loads(data[1])["codecs"][0]["name"] == ANCHOR


def test_page_shows_complexity_memory_and_versions(folder):
    text = (folder / "index.html").read_text()
    for said in ("<td>1024 (cpu)</td>", "<td>56.25</td>", "<td>5.98</td>", "f" * 64, "abc1234",
                 "2.9.1", "-1 (only the first frame)"):  # fmt: skip
        assert said in text, said


# --- refusals; nothing half-written


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["absent.json", "--anchor", "vtm"], "no results file"),
        (["GOOD", "--anchor", "nothing"], "no codec of the results .* no file .* dcvc-dc"),
        (["TWICE", "--anchor", "vtm"], "is there twice at rate index 0"),
        (["GOOD", "GOOD2", "--anchor", GOOD], "they have cmfr-s .1., cmfr-s .copy."),
        (["GOOD", "--anchor", GOOD, "--metric", "psnr_rgb"], "no codec has psnr_rgb, only psnr_y"),
        (["GOOD", "--anchor", GOOD, "--metric", "psnr_y_db"], "only MS-SSIM"),
        (["GOOD", "--anchor", GOOD, "--paper-table", "--metric", "psnr_y"], "is of MS-SSIM"),
        (["GOOD", "--anchor", GOOD, "--published", "nobody"], "'nobody' is not published"),
        (["--anchor", "vtm"], "nothing to compare"),
    ],
)
def test_bad_input_is_one_sentence_and_writes_nothing(results, tmp_path, arguments, reason):
    (tmp_path / "copy.json").write_text(results[GOOD].read_text())
    head = "dataset,sequence,bpp,psnr_y,rate_index\n"
    (tmp_path / "twice.csv").write_text(head + "d,s,1,30,0\nd,s,2,31,0\n")
    places = {"GOOD": results[GOOD], "GOOD2": tmp_path / "copy.json"}
    places["TWICE"] = tmp_path / "twice.csv"
    out = tmp_path / "out"
    with pytest.raises((ValueError, FileNotFoundError), match=reason):
        report(*(places.get(a, a) for a in arguments), "-o", out)
    assert not out.exists()


def test_only_an_earlier_report_is_replaced(results, tmp_path):
    out = tmp_path / "out"
    arguments = (results[GOOD], "--anchor", GOOD, "-o", out)
    report(*arguments)
    (out / "rd_old.png").write_text("of an earlier report")
    report(*arguments)
    assert not (out / "rd_old.png").exists() and (out / "index.html").exists()
    (out / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds notes.txt, which is no part of a report"):
        report(*arguments)
    assert (out / "notes.txt").read_text() == "mine"


def test_a_failure_in_the_middle_leaves_the_earlier_report(results, tmp_path, monkeypatch):
    out = tmp_path / "out"
    arguments = (results[GOOD], "--anchor", GOOD, "-o", out)
    report(*arguments)
    before = (out / "index.html").read_text()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cmfr.report.write.page", full)
    with pytest.raises(OSError, match="No space"):
        report(*arguments, "--title", "new")
    assert (out / "index.html").read_text() == before
    assert [f.name for f in tmp_path.iterdir()] == ["out"]


def test_the_parser_needs_no_torch():
    code = (
        "import argparse, sys, cmfr.cli.report as c\n"
        "c.add_commands(argparse.ArgumentParser().add_subparsers())\n"
        "assert not {'torch', 'matplotlib', 'numpy', 'cmfr.evaluation.records'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
