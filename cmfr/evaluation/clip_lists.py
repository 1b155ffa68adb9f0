"""Sets of many short clips that lists name, as Vimeo-90k septuplets; whether they are there."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from cmfr.config import Strict
from cmfr.utils.errors import UserError
from cmfr.utils.files import inner_name, inside
from cmfr.video.pictures import open_picture

Positive = Annotated[int, Field(ge=1)]
Inner = Annotated[str, AfterValidator(inner_name)]  # leads nowhere but into a folder
Track = Callable[[list[str]], Iterable[str]]  # iterates over names, e.g. with a progress bar


class ClipLists(Strict):
    """A set of many short clips of one size, as Vimeo-90k septuplets.

    lists: list file -> number of its lines, each a folder below `folder`.
    picture: name of a frame in it, numbered from 1.
    frames: of each clip.
    width, height: pixels.
    """

    lists: dict[Inner, Positive] = Field(min_length=1)
    folder: Inner
    picture: Annotated[str, Field(pattern=r"^[^{}/]*\{\}[^{}/]*$")]
    frames: Positive
    width: Positive
    height: Positive


def check_clips(clips: ClipLists, root: Path, full: bool, track: Track) -> list[str]:
    """Lists, files of every clip, and the size of its first picture (of all, if `full`)."""
    folder = inside(root, clips.folder)
    names, faults = _read_lists(clips, root)
    if not folder.is_dir():
        return [*faults, f"{folder} is missing"]
    pictures = [clips.picture.format(n) for n in range(1, clips.frames + 1)]
    for name in track(names):
        try:
            clip = inside(folder, name)
        except UserError as error:
            faults.append(str(error))
            continue
        if not clip.is_dir():
            faults.append(f"{clip} is missing")
            continue
        present = {file.name for file in clip.iterdir()}
        if missing := [picture for picture in pictures if picture not in present]:
            faults.append(f"{clip}: {', '.join(missing)} missing")
        there = [picture for picture in pictures if picture in present]
        for picture in there if full else there[:1]:
            fault = _picture_fault(clip / picture, (clips.width, clips.height), full)
            if fault:
                faults.append(fault)
    return faults


def _read_lists(clips: ClipLists, root: Path) -> tuple[list[str], list[str]]:
    """(names of clips, faults) of the list files."""
    names, faults = [], []
    for list_file, expected in clips.lists.items():
        path = inside(root, list_file)
        if not path.is_file():
            faults.append(f"{path} is missing (a list of {expected} clips)")
            continue
        lines = path.read_text(encoding="utf-8", errors="replace").split()
        if len(lines) != expected:
            faults.append(f"{path}: expected {expected} lines, found {len(lines)}")
        names += lines
    return list(dict.fromkeys(names)), faults


def _picture_fault(path: Path, size: tuple[int, int], full: bool) -> str | None:
    try:
        with open_picture(path) as image:  # reads the header only
            if image.format != "PNG":
                return f"{path}: expected a PNG, found {image.format}"
            if image.size != size:
                found = f"{image.width}x{image.height}"
                return f"{path}: expected {size[0]}x{size[1]}, found {found}"
            if full:
                image.load()
    except UserError as error:
        return str(error)
    return None
