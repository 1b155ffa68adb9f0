"""The folder of a report: all its files, or none."""

from __future__ import annotations

import os
import re
from pathlib import Path

from cmfr.report.comparison import Report
from cmfr.report.csv_tables import comma_separated, complexity_csv, sequences_csv
from cmfr.report.page import page
from cmfr.report.plots import write_plots
from cmfr.report.tables import latex, markdown
from cmfr.utils.errors import UserError
from cmfr.utils.files import Part

OURS = re.compile(
    r"index\.html|bd_rate(_sequences)?\.(csv|md|tex)|complexity\.csv|rd_.*\.(png|svg)"
)


def check_output(folder: Path) -> None:
    """Raises ValueError for a folder that holds anything but an earlier report."""
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise UserError(f"{folder} is no folder")
    if folder.is_dir():
        foreign = sorted(f.name for f in folder.iterdir() if not OURS.fullmatch(f.name))
        if foreign:
            raise UserError(f"{folder} holds {foreign[0]}, which is no part of a report")


def write_report(report: Report, folder: str | Path) -> list[str]:
    """Write index.html, bd_rate.* and rd_*; an earlier report in the folder is replaced.

    Returns the files' names. Raises ValueError, OSError.
    """
    target = Path(os.path.abspath(folder))
    check_output(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = Part(target, folder=True)
    made = part.temporary
    try:
        texts = {
            "bd_rate.csv": comma_separated(report),
            "bd_rate_sequences.csv": sequences_csv(report),
            "bd_rate.md": markdown(report),
            "bd_rate.tex": latex(report),
        }
        if report.detailed:
            texts["complexity.csv"] = complexity_csv(report)
        for name, text in texts.items():
            (made / name).write_text(text, encoding="utf-8", newline="\n")
        for _ in write_plots(report, made):
            pass
        files = sorted(file.name for file in made.iterdir())
        (made / "index.html").write_text(page(report, files), encoding="utf-8", newline="\n")
        part.commit(over=True)
    finally:
        part.discard()
    return ["index.html", *files]
