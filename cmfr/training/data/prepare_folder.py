"""A folder of videos into a folder of training clips, with a record of what is done."""

from __future__ import annotations

import csv
import io
from collections import Counter
from contextlib import closing
from functools import partial
from pathlib import Path

from tqdm import tqdm

from cmfr.training.data.clip_settings import ClipSettings
from cmfr.training.data.prepare_clips import (
    CLIP_COLUMNS,
    Row,
    prepare_source,
    require_scene_detector,
)
from cmfr.utils.errors import UserError
from cmfr.utils.files import atomic_write_bytes
from cmfr.utils.parallel import Count, outcomes
from cmfr.video.pictures import with_suffix
from cmfr.video.reader import VIDEO_SUFFIXES

SOURCE_COLUMNS = "source bytes settings clips".split()


class _Record:
    """What is done in a folder of clips: manifest.csv, a line per clip, and sources.csv, a line
    per finished source. A source's own line is written last, so that an interrupted run leaves
    at most clips and lines of sources that are not finished; those lines are dropped here."""

    def __init__(self, folder: Path, settings: ClipSettings, sizes: dict[str, int]) -> None:
        self.manifest, self.finished = folder / "manifest.csv", folder / "sources.csv"
        self.settings = str(settings)
        clips = _read_csv(self.manifest, CLIP_COLUMNS)
        written = Counter(source for file, source, *_ in clips if (folder / file).is_file())
        sources = []
        for source, size, made_with, count in _read_csv(self.finished, SOURCE_COLUMNS):
            if made_with != self.settings:
                raise UserError(
                    f"{folder} holds clips made with {made_with}, not {self.settings}: "
                    "give another folder"
                )
            if count == str(written[source]) and sizes.get(source, int(size)) == int(size):
                sources.append([source, size, made_with, count])
        self.done = {row[0] for row in sources}
        _write_csv(self.manifest, CLIP_COLUMNS, [row for row in clips if row[1] in self.done])
        _write_csv(self.finished, SOURCE_COLUMNS, sources)

    def add(self, source: str, size: int, clips: list[Row]) -> None:
        last = [[source, str(size), self.settings, str(len(clips))]]
        for path, rows in ((self.manifest, clips), (self.finished, last)):
            with path.open("a", newline="", encoding="utf-8") as file:
                csv.writer(file, lineterminator="\n").writerows(rows)


def _read_csv(path: Path, columns: list[str]) -> list[Row]:
    """Complete lines below the header; none if the file is not there."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = list(csv.reader(file)) or [columns]
    if header != columns:
        raise UserError(f"{path} was not written here: its columns are not {', '.join(columns)}")
    return [row for row in rows if len(row) == len(columns)]


def _write_csv(path: Path, columns: list[str], rows: list[Row]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([columns, *rows])
    content = text.getvalue().encode()
    if not path.is_file() or path.read_bytes() != content:
        atomic_write_bytes(path, content)


def prepare_clips(
    root: Path, out_dir: Path, settings: ClipSettings, workers: int = 1
) -> tuple[int, int, dict[str, str]]:
    """Clips of all videos below `root`, into the flat folder `out_dir`, with a manifest.

    Videos that are done already are skipped. Returns (videos skipped, clips written, fault of
    each video that failed). Raises UserError or OSError if nothing can be done.
    """
    require_scene_detector()
    if not root.is_dir():
        raise FileNotFoundError(f"no folder {root}")
    if out_dir.resolve().is_relative_to(root.resolve()):
        raise UserError(f"{out_dir} lies in {root}: its clips would become sources")
    if workers < 1:
        raise UserError(f"workers must be 1 or more, not {workers}")
    files = with_suffix(root.rglob("*"), VIDEO_SUFFIXES)
    sizes = {p.relative_to(root).as_posix(): p.stat().st_size for p in files if p.is_file()}
    if not sizes:
        raise UserError(f"{root} holds no video files")
    out_dir.mkdir(parents=True, exist_ok=True)
    record = _Record(out_dir, settings, sizes)
    todo = [source for source in sizes if source not in record.done]
    failures, written = {}, 0
    work, threads = partial(_prepare, root, out_dir, settings), 1 if workers > 1 else None
    with closing(outcomes(work, todo, workers, threads)) as results:
        for source, outcome in tqdm(results, total=len(todo), unit="video", disable=None):
            if isinstance(outcome, Exception):
                failures[source] = str(outcome)
            else:
                record.add(source, sizes[source], outcome)
                written += len(outcome)
    return len(sizes) - len(todo), written, failures


def _prepare(
    root: Path, out_dir: Path, settings: ClipSettings, source: str, count: Count
) -> list[Row]:
    return prepare_source(root, source, out_dir, settings)
