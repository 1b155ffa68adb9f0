"""Output files: complete under their name or not there; links followed, devices written into."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import secrets
import shutil
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from cmfr.utils.errors import UserError

_PART = re.compile(r"(\..*\.)([0-9a-f]{8})-[0-9a-f]{8}\.(part|kept)(\.[^.]*)?", re.DOTALL)
_cleared: set[Path] = set()  # folders without leftovers, by this process


class Part:
    """What is written in place of `path` until it is complete: `temporary`, hidden beside it.

    `commit` puts it on the disk and renames it, `discard` removes it; later calls of either do
    nothing. A link is followed: what it leads to is replaced. A device or a pipe is no file, it
    is its own `temporary`.

    A part is locked as long as its process lives, and has the machine in its name: the first part
    in a folder removes those of this machine that nobody holds, left by processes that were killed.

    folder: `temporary` is a folder.
    kept: the part of a killed process is left for `unfinished` instead.

    Raises OSError, UserError.
    """

    def __init__(self, path: Path, *, folder: bool = False, kept: bool = False) -> None:
        self._target, self._lock, self._kept = followed(path), -1, kept
        self.temporary = self._target
        if is_stream(path):
            return
        if not self._target.parent.is_dir():
            raise FileNotFoundError(f"no folder {self._target.parent} to write {path.name} to")
        if self._target.parent not in _cleared:
            remove_leftovers(self._target.parent)
            _cleared.add(self._target.parent)
        while self._lock < 0:
            self._make(path, folder)

    def _make(self, path: Path, folder: bool) -> None:
        kind = "kept" if self._kept else "part"
        name = f"{_head(self._target)}{_machine()}-{secrets.token_hex(4)}.{kind}"
        self.temporary = self._target.with_name(name + ("" if folder else self._target.suffix))
        if folder:
            self.temporary.mkdir()
            try:
                lock = os.open(self.temporary, os.O_RDONLY)
            except FileNotFoundError:  # taken for a leftover, as below
                return
        else:
            lock = os.open(self.temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        _locked(lock, fcntl.LOCK_EX)
        if self.temporary.exists():  # else someone took it for a leftover just before
            self._lock = lock
        else:
            os.close(lock)

    def commit(self, over: bool = False) -> None:
        """over: a folder may take the place of one that is not empty. What was there is put aside
        before: a process that is killed just then leaves neither under the name."""
        if self._lock < 0:
            return
        folder = self.temporary.is_dir()
        for file in self.temporary.iterdir() if folder else ():
            _sync(file)
        _sync(self.temporary)
        if not (folder and self._target.is_dir()):
            os.replace(self.temporary, self._target)
        elif over:
            self._put_aside()
        else:  # an empty one, which is not replaced everywhere
            self._target.rmdir()
            os.replace(self.temporary, self._target)
        self._release()
        _sync(self._target.parent)

    def _put_aside(self) -> None:
        aside = Part(self._target, folder=True)
        former = aside.temporary / "former"
        try:
            os.rename(self._target, former)
            try:
                os.rename(self.temporary, self._target)
            except OSError:
                os.rename(former, self._target)
                raise
        finally:
            aside.discard()

    def discard(self) -> None:
        if self._lock >= 0:
            _remove(self.temporary)
            self._release()

    def leave(self) -> None:
        """End as if the process had been killed; for parts that are kept."""
        if self._lock >= 0:
            self._release()

    def _release(self) -> None:
        os.close(self._lock)
        self._lock = -1


def atomic_write(path: Path, write: Callable[[Path], None]) -> None:
    """Call ``write(temporary)`` and give the result the name `path`; see `Part`. `write` must write
    into the file that is there. An OSError names `path`."""
    with _completed(path) as temporary:
        write(temporary)


def atomic_write_bytes(path: Path, data: bytes) -> None:
    """A file that appears complete or not at all."""
    with output_file(path) as file:
        file.write(data)


def atomic_write_text(path: Path, text: str) -> None:
    """A text file that appears complete or not at all."""
    atomic_write_bytes(path, text.encode())


@contextmanager
def output_file(path: Path, *, kept: bool = False) -> Iterator[BinaryIO]:
    """A binary file to write, that appears complete at the end or not at all; see `Part`.

    kept: what is written is kept for `unfinished` where a signal ends this, too.
    """
    with _completed(path, kept) as temporary, temporary.open("wb") as file:
        yield file


@contextmanager
def _completed(path: Path, kept: bool = False) -> Iterator[Path]:
    """What to write in place of `path`, which appears at the end; an error leaves nothing."""
    with _named(path):
        part = Part(path, kept=kept)
        try:
            yield part.temporary
            part.commit()
        except Exception:
            part.discard()
            raise
        finally:
            if kept:
                part.leave()
            part.discard()


@contextmanager
def unfinished(path: Path) -> Iterator[Path | None]:
    """The largest part of `path` that a process of this machine has left, or None. It is kept from
    here on, until `remove_unfinished`, and nobody else has it within."""
    found = _parts_of(followed(path))
    for part, kept in sorted(found.items(), key=lambda pair: pair[0].stat().st_size, reverse=True):
        lock = os.open(part, os.O_RDONLY)
        try:
            if _locked(lock, fcntl.LOCK_EX | fcntl.LOCK_NB):
                part.rename(kept)
                yield kept
                return
        finally:
            os.close(lock)
    yield None


def remove_unfinished(path: Path) -> None:
    """Remove all that `unfinished` would find."""
    for part in _parts_of(followed(path)):
        _remove_left(part)


def _parts_of(target: Path) -> dict[Path, Path]:
    """Parts of a file, with the names under which they are kept."""
    if not target.parent.is_dir():
        return {}
    found = {}
    for path in target.parent.iterdir():
        name = _PART.fullmatch(path.name)
        whose = name and (name[1], name[2], name[4] or "")
        if name and whose == (_head(target), _machine(), target.suffix) and path.is_file():
            start, end = name.span(3)
            found[path] = path.with_name(f"{path.name[:start]}kept{path.name[end:]}")
    return found


def _head(target: Path) -> str:
    """How the names of its parts begin; names have 255 bytes."""
    return f".{target.stem.encode()[:160].decode(errors='ignore')}."


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """A failure of the system names the file that was asked for: a full disk names none."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename in (None, str(path)):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def followed(path: Path) -> Path:
    """The file that a name stands for; what a link leads to need not be there."""
    if not path.is_symlink():
        return path
    try:
        return path.resolve()
    except (OSError, RuntimeError):
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path)) from None


def is_stream(path: Path) -> bool:
    """Whether `path` is a pipe or a character device, which is written into and never replaced.
    Raises UserError for what can be neither."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    if stat.S_ISBLK(mode) or stat.S_ISSOCK(mode):
        raise UserError(f"{path} is a disk or a socket; give a file, a pipe or a device")
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)


def check_distinct(output: str | Path, *inputs: str | Path) -> None:
    """Raise UserError where what is to be written is one of the files that are read, by whatever
    name or link."""
    for name in inputs:
        one, other = Path(output), Path(name)
        try:
            same = one.samefile(other) and not is_stream(one)
        except OSError:  # one of them is not there
            same = False
        if same:
            raise UserError(f"{output} is the input {name}; give another output")


def check_target(path: Path) -> None:
    """Raise FileNotFoundError or UserError, before any work is done, where a file could not be
    written: no folder to lie in, or a folder itself."""
    if not path.parent.is_dir():
        raise FileNotFoundError(f"no folder {path.parent} to write {path.name} to")
    if path.is_dir():
        raise UserError(f"{path} is a folder; give a file")


def check_outside(folder: str | Path, *inputs: str | Path) -> None:
    """Raise UserError where a file that is read lies in a folder that is to be replaced."""
    for name in inputs:
        path = Path(name)
        if path.exists() and path.resolve().is_relative_to(Path(folder).resolve()):
            raise UserError(f"{folder} is replaced, and the input {name} is in it; give another")


def inner_name(name: str) -> str:
    """A name that a file says of something in a folder, as it is. Raises UserError for one that
    leads out of the folder: absolute, or with ".."."""
    if not name or "\0" in name or Path(name).is_absolute() or ".." in Path(name).parts:
        raise UserError(f"{name!r} is no name of something inside a folder")
    return name


def inside(root: Path, name: str) -> Path:
    """root / name, for a name that a file says. Raises UserError for one that leads out of `root`,
    by itself (`inner_name`) or by a link."""
    path = root / inner_name(name)
    if not path.resolve().is_relative_to(root.resolve()):
        raise UserError(f"{path} leads out of {root}, by a link")
    return path


def remove_leftovers(folder: Path) -> None:
    """Remove what processes of this machine that were killed have left of files in a folder."""
    for path in folder.iterdir():
        found = _PART.fullmatch(path.name)
        if found and found[2] == _machine() and found[3] == "part" and not path.is_symlink():
            _remove_left(path)


def _remove_left(part: Path) -> None:
    """Remove a part that no process holds."""
    try:
        lock = os.open(part, os.O_RDONLY)
    except OSError:  # someone else's, or gone
        return
    try:
        if _locked(lock, fcntl.LOCK_EX | fcntl.LOCK_NB):
            _remove(part)
    finally:
        os.close(lock)


def _locked(file: int, how: int) -> bool:
    """Whether a lock could be had; some file systems know none, and then nothing is a leftover."""
    try:
        fcntl.flock(file, how)
    except OSError:
        return False
    return True


def _machine() -> str:
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """What was written there survives a power cut from here on."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # no file system on a disk
            raise
    finally:
        os.close(file)
