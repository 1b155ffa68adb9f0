"""Output files are complete or not there; killed processes leave nothing for ever."""

import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from cmfr.utils import files
from cmfr.utils.errors import UserError
from cmfr.utils.files import (
    Part,
    atomic_write_text,
    check_distinct,
    output_file,
    remove_leftovers,
    remove_unfinished,
    unfinished,
)

WRITES_FOR_EVER = """
import sys, time
from pathlib import Path
from cmfr.utils.files import Part

part = Part(Path(sys.argv[1]), folder=len(sys.argv) > 2)
print("writing", flush=True)
time.sleep(60)
"""


def test_a_link_is_followed_and_stays(tmp_path):
    real, link = tmp_path / "real" / "file", tmp_path / "link"
    real.parent.mkdir()
    link.symlink_to(real)
    for text in ("first", "second"):  # what it leads to need not be there
        atomic_write_text(link, text)
        assert link.is_symlink() and real.read_text() == text
    assert list(real.parent.iterdir()) == [real]
    link.unlink()
    link.symlink_to(link)
    with pytest.raises(OSError, match="link"):
        atomic_write_text(link, "x")
    link.unlink()
    link.symlink_to(tmp_path / "nowhere" / "file")
    with pytest.raises(FileNotFoundError, match="no folder .*nowhere to write link to"):
        atomic_write_text(link, "x")


def test_a_pipe_and_a_device_are_written_into(tmp_path):
    pipe, got = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()))
    reader.start()
    with output_file(pipe) as file:
        file.write(b"through the pipe")
    reader.join()
    assert got == [b"through the pipe"] and stat.S_ISFIFO(pipe.stat().st_mode)
    assert list(tmp_path.iterdir()) == [pipe]
    before = Path("/dev/null").stat()
    with output_file(Path("/dev/null")) as file:
        file.write(b"x")
    assert Path("/dev/null").stat().st_ino == before.st_ino


def test_a_part_of_a_killed_process_is_removed_and_that_of_a_living_one_is_not(tmp_path):
    command = [sys.executable, "-c", WRITES_FOR_EVER]
    target = tmp_path / "out.mkv"
    processes = [
        subprocess.Popen([*command, str(target), *more], stdout=subprocess.PIPE, text=True)
        for more in ([], [], ["folder"])
    ]
    try:
        for process in processes:
            assert process.stdout.readline() == "writing\n"
        assert len(list(tmp_path.iterdir())) == 3
        for process in processes[1:]:
            process.kill()
            process.wait()
        (tmp_path / ".mine.part.mkv").touch()
        remove_leftovers(tmp_path)
        left = sorted(path.name for path in tmp_path.iterdir())
        assert len(left) == 2 and left[0] == ".mine.part.mkv"
        processes[0].kill()
        processes[0].wait()
        files._cleared.discard(tmp_path)
        atomic_write_text(target, "done")  # a next run
        assert sorted(p.name for p in tmp_path.iterdir()) == [".mine.part.mkv", "out.mkv"]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def test_parts_of_other_machines_are_left_alone(tmp_path, monkeypatch):
    part = Part(tmp_path / "file")
    os.close(part._lock)  # as if its process had been killed
    monkeypatch.setattr("socket.gethostname", lambda: "elsewhere")
    remove_leftovers(tmp_path)
    assert part.temporary.exists()
    monkeypatch.undo()
    remove_leftovers(tmp_path)
    assert not part.temporary.exists()


def test_writers_of_one_name_do_not_collide(tmp_path):
    """Threads, and processes that have one number in two containers."""
    faults, path = [], tmp_path / "file"

    def write(text):
        try:
            for _ in range(20):
                atomic_write_text(path, text)
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=write, args=(c * 5000,)) for c in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults
    assert path.read_text() in {c * 5000 for c in "abcd"} and list(tmp_path.iterdir()) == [path]
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask


def test_data_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    calls, sync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda f: (calls.append(os.fstat(f).st_size), sync(f)))
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append("renamed"), replace(a, b)))
    atomic_write_text(tmp_path / "file", "x" * 777)
    assert calls[:2] == [777, "renamed"] and len(calls) == 3


def test_long_names(tmp_path):
    path = tmp_path / ("ä" * 120 + ".cmfr")
    atomic_write_text(path, "x")
    assert list(tmp_path.iterdir()) == [path]


def test_the_same_file_by_any_name(tmp_path):
    one, hard, soft = tmp_path / "one", tmp_path / "hard", tmp_path / "soft"
    one.touch()
    hard.hardlink_to(one)
    soft.symlink_to(one)
    for output in (one, hard, soft, tmp_path / "x" / ".." / "one"):
        (tmp_path / "x").mkdir(exist_ok=True)
        with pytest.raises(UserError, match="is the input"):
            check_distinct(output, tmp_path / "not there", one)
    check_distinct(tmp_path / "other", one)
    check_distinct("/dev/null", "/dev/null")


@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGHUP])
def test_a_terminated_command_cleans_up(tmp_path, kind):
    code = """
import signal, sys, time
from pathlib import Path
from cmfr.cli.main import guarded
from cmfr.utils.files import output_file

signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may be run by nohup

def run():
    with output_file(Path(sys.argv[1])) as file:
        print("writing", flush=True)
        time.sleep(60)

sys.exit(guarded("cmfr test", run))
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "out")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout.readline() == "writing\n"
    process.send_signal(kind)
    _, said = process.communicate(timeout=1500)
    assert process.returncode == 128 + kind and said == f"cmfr test: ended by {kind.name}\n"
    assert list(tmp_path.iterdir()) == []


def test_a_folder_takes_the_place_of_another(tmp_path, monkeypatch):
    """Killed in between: neither is half, and a next run removes what is left of both."""
    target = tmp_path / "report"
    for text in ("first", "second"):
        part = Part(target, folder=True)
        (part.temporary / "page").write_text(text)
        part.commit(over=True)
        assert [path.name for path in tmp_path.iterdir()] == ["report"]
        assert (target / "page").read_text() == text
    rename, part = os.rename, Part(target, folder=True)

    def failing(source, to):
        if Path(source) == part.temporary:
            raise OSError(5, "no")
        rename(source, to)

    monkeypatch.setattr(os, "rename", failing)
    with pytest.raises(OSError, match="no"):
        part.commit(over=True)
    assert (target / "page").read_text() == "second"
    monkeypatch.setattr(os, "rename", rename)
    monkeypatch.setattr(Part, "discard", Part.leave)  # as if killed just before it has its name
    monkeypatch.setattr(
        os, "rename", lambda s, to: rename(s, to) if s == target else failing(s, to)
    )
    with pytest.raises(OSError, match="no"):
        part.commit(over=True)
    monkeypatch.undo()
    part.leave()
    remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] in ([], ["report"])


def test_what_is_kept_is_found_until_the_file_is_complete(tmp_path):
    one, other = tmp_path / "a.cmfr", tmp_path / "b.cmfr"
    for path, size in ((one, 3), (one, 5), (other, 9)):
        part = Part(path, kept=True)
        part.temporary.write_bytes(b"x" * size)
        part.leave()
    remove_leftovers(tmp_path)
    assert len(list(tmp_path.iterdir())) == 3
    with unfinished(one) as found:
        assert found.read_bytes() == b"xxxxx"
        remove_unfinished(one)  # this one is in use
        assert found.exists() and len(list(tmp_path.iterdir())) == 2
        with unfinished(one) as again:
            assert again is None
    remove_unfinished(one)
    with unfinished(other) as found:
        assert found.read_bytes() == b"x" * 9
    with unfinished(tmp_path / "c.cmfr") as found:
        assert found is None


def test_parts_of_a_file_with_another_suffix_are_not_its_own(tmp_path):
    """What a killed decoder left beside what an encoder keeps."""
    stream, video = Part(tmp_path / "a.cmfr", kept=True), Part(tmp_path / "a.mp4")
    stream.temporary.write_bytes(b"x")
    video.temporary.write_bytes(b"longer")
    stream.leave()
    video.leave()
    with unfinished(tmp_path / "a.cmfr") as found:
        assert found.read_bytes() == b"x"
    remove_unfinished(tmp_path / "a.cmfr")
    assert list(tmp_path.iterdir()) == [video.temporary]
    (tmp_path / "link").symlink_to(tmp_path / "b.cmfr")
    part = Part(tmp_path / "link", kept=True)
    part.leave()
    with unfinished(tmp_path / "link") as found:
        assert found == part.temporary


def test_a_new_part_that_is_taken_for_a_leftover_is_made_again(tmp_path, monkeypatch):
    """A folder is not locked in the moment that it is made; another process may clear then."""
    made = []

    def mkdir(path, *arguments):
        os.mkdir(path)
        made.append(path)
        if len(made) == 1:
            os.rmdir(path)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    part = Part(tmp_path / "out", folder=True)
    assert len(made) == 2 and part.temporary == made[1] and made[1].is_dir()
    part.discard()
