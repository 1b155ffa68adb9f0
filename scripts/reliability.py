"""Commands that are killed (`kill -9`) at random moments: nothing half, nothing in the way.

    python scripts/reliability.py [KILLS] [COMMAND ...]

Each command runs undisturbed once, with the smallest model and generated video. Then it is killed
KILLS times, at moments spread over the time that it took, and run again at once; an ablation, which
takes long, is killed five times before it may end. What is there after a kill must be whole; the
last run must succeed, with the same results, and nothing else may be left, neither files nor
processes, but for the folders with sockets that Python's worker processes make for themselves.
Prints a table; exits with 1 where there was a fault.

Commands run in forks of this process, which has imported what they import and has read the weights:
a start costs nothing then, and moments fall into the work.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import yaml
from safetensors.torch import load_file

import cmfr.ablation.report
import cmfr.ablation.run
import cmfr.codec.codec
import cmfr.evaluation.run
import cmfr.report.write
import cmfr.training.trainer
from cmfr.cli.main import main as cmfr_main
from cmfr.training.data.generated import generated_clip
from cmfr.utils import files
from cmfr.video.writer import write_clip

ROOT = Path(__file__).parents[1]
WEIGHTS = ROOT / "tests" / "data" / "version1.safetensors"
SECONDS = 600  # that a run may take
GONE = 30  # seconds in which the other processes of one that was killed must end
ENDS = ("nothing there yet", "unfinished", "complete")

MODEL = ["--model", str(WEIGHTS), "--quiet"]
CODING = ["clip.y4m", "out.cmfr", *MODEL, "--intra-period", "4"]
TRAINING = {
    "model": "cmfr-nano", "run_dir": "run", "device": "cpu", "bf16": False, "threads": 1,
    "data": {"train": {"kind": "generated", "count": 2, "frames": 3, "size": [64, 64]}},
    "validation": {"data": "train", "every": 2, "clips": 1, "frames": 2, "qualities": [0, 63]},
    "stages": [
        {"name": name, "objective": name, "trainable": [name], "frames": frames, "crop": 48,
         "batch": 2, "steps": 4, "lr": 1e-3}
        for name, frames in (("intra", 1), ("inter", 2))
    ],
    "log_every": 1, "image_every": 100, "save_every": 2,
}  # fmt: skip
ABLATION = {
    "base": "train.yaml", "run_dir": "ablation", "anchor": "base", "parallel": 2, "threads": 1,
    "overrides": [
        "validation=null", "save_every=1", "stages.0.steps=2", "stages.1.steps=2",
    ],
    "variants": {
        "base": {"title": "plain", "changes": {"motion_refiner": False}},
        "refiner": {"title": "+ Motion Refiner", "changes": {"motion_refiner": True}},
    },
    "evaluation": {
        "generated": {"clips": 1, "size": [64, 48], "frames": 2}, "qualities": [0, 21, 42, 63],
    },
}  # fmt: skip


@dataclass(frozen=True)
class Command:
    """arguments: of `cmfr`; output: what is there when it has done its work.

    in_a_row: runs that are killed, each going on from the one before, until one may end.
    """

    arguments: Sequence[str]
    output: str
    in_a_row: int = 1

    def rows(self, kills: int, seconds: float, rng: random.Random) -> list[list[float]]:
        """When to kill, by row: spread over what a run of a row does of so many seconds' work."""
        span = seconds * min(1, 2 / self.in_a_row) / kills
        moments = [span * (number + rng.random()) for number in range(kills)]
        count = -(-kills // self.in_a_row)
        return [moments[first::count] for first in range(count)]


COMMANDS = {
    "encode": Command(["encode", *CODING], "out.cmfr"),
    "encode --resume": Command(["encode", *CODING, "--resume"], "out.cmfr"),
    "encode --resume --target-bitrate": Command(
        ["encode", *CODING, "--resume", "--target-bitrate", "20k"], "out.cmfr"
    ),
    "decode": Command(["decode", "stream.cmfr", "out.y4m", *MODEL], "out.y4m"),
    "train": Command(["train", "train.yaml"], "run/state.pt"),
    "evaluate": Command(
        ["evaluate", "--model", str(WEIGHTS), "--videos", "clip.y4m", "--frames", "3",
         "--qualities", "10", "40", "-o", "out.json"], "out.json",
    ),
    "ablate": Command(["ablate", "ablation.yaml"], "ablation/report/index.html", in_a_row=5),
}  # fmt: skip


def prepare(folder: Path) -> None:
    """What the commands read."""
    write_clip(folder / "clip.y4m", generated_clip(3, 14, (64, 48)))
    (folder / "train.yaml").write_text(yaml.safe_dump(TRAINING, sort_keys=False))
    (folder / "ablation.yaml").write_text(yaml.safe_dump(ABLATION, sort_keys=False))
    stream = ["encode", "clip.y4m", "stream.cmfr", *MODEL]
    if ended(begin(stream, folder, folder)) != 0:
        raise SystemExit((folder / "log").read_text())
    shutil.rmtree(folder / "tmp")
    (folder / "log").unlink()


# --- processes


def begin(arguments: Sequence[str], folder: Path, log: Path) -> int:
    """`cmfr` with these arguments in a folder, in a session of its own; the process's number. Its
    files for the moment are in folder/tmp; what it says goes to log/log."""
    (folder / "tmp").mkdir(exist_ok=True)
    process = os.fork()
    if process:
        return process
    os.setsid()
    os.chdir(folder)
    tempfile.tempdir = str(folder / "tmp")
    _run(arguments, log / "log")
    raise AssertionError("it has ended")


def _run(arguments: Sequence[str], log: Path) -> Any:
    """In a process just forked: as if it had been started anew."""
    code = 1
    try:
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for stream in (1, 2):
            os.dup2(file, stream)
        files._cleared.clear()
        cmfr.ablation.run.subprocess = SimpleNamespace(  # type: ignore[assignment]
            Popen=Forked, DEVNULL=subprocess.DEVNULL
        )
        code = cmfr_main(list(arguments))
    finally:
        (log.parent / "modules").write_text("\n".join(sys.modules))
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


class Forked:
    """What an ablation needs of `subprocess.Popen`, for `python -m cmfr ...`."""

    def __init__(self, command: Sequence[str], stdout: Any, preexec_fn: Any, **_: Any) -> None:
        self.returncode: int | None = None
        self.pid = os.fork()
        if not self.pid:
            for kind in (signal.SIGTERM, signal.SIGHUP):
                signal.signal(kind, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            preexec_fn()
            _run(command[3:], Path(stdout.name))

    def poll(self, how: int = os.WNOHANG) -> int | None:
        if self.returncode is None:
            process, status = os.waitpid(self.pid, how)
            if process:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self) -> int | None:
        return self.poll(0)

    def terminate(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGTERM)


def ended(process: int, seconds: float = SECONDS) -> int | None:
    """The exit code, negative for signals; None where it runs on after so many seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    return None


def session(process: int) -> list[int]:
    """Processes that are left of a session."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, leader = path.read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(leader) == process and state != "Z":
            found.append(int(path.parent.name))
    return found


# --- what is there


def tree(folder: Path) -> dict[str, Path]:
    """All files by name; those that have the time in their names, or many, by one."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = re.sub(r"events\.out\.tfevents.*", "events", str(path.relative_to(folder)))
        found[name] = path
    return found


# With the hash of a weights file's bytes: safetensors orders what it says of itself as it comes.
VARYING = re.compile(
    r".*time.*|peak_memory|seconds|samples_per_second|stage_began|memory.*|weights_sha256"
)


def _steady(value: Any) -> Any:
    """Without what depends on the speed of the machine."""
    if isinstance(value, dict):
        return {k: _steady(v) for k, v in value.items() if not VARYING.fullmatch(str(k))}
    if isinstance(value, (list, tuple)):
        return [_steady(each) for each in value]
    if isinstance(value, torch.Tensor):
        return hashlib.sha256(value.contiguous().numpy().tobytes()).hexdigest()
    return value


def content(path: Path) -> Any:
    """What a file says, for comparison. Raises an error of some kind where it is not whole."""
    match path.suffix:
        case ".json":
            return _steady(json.loads(path.read_text()))
        case ".jsonl":
            return [_steady(json.loads(line)) for line in path.read_text().splitlines()]
        case ".pt":
            return _steady(torch.load(path, weights_only=True))
        case ".safetensors":
            return _steady(load_file(path))
        case ".yaml":
            return yaml.safe_load(path.read_text())
        case ".cmfr" | ".y4m":
            return path.read_bytes()
        case ".md" | ".csv" | ".tex":
            return re.sub(r"\d+ \(cpu\)", "", path.read_text())  # memory
    return None  # pages and pictures with times, logs


def half(folder: Path, whole: dict[str, Any]) -> str | None:
    """What is under its name and is not whole, or not what it is at the end."""
    for name, path in tree(folder).items():
        parts = Path(name).parts
        if path.is_dir() or any(part.startswith(".") for part in parts) or parts[0] == "tmp":
            continue
        if path.suffix == ".jsonl" or name in ("log", "events"):  # the next run takes care of it
            continue
        try:
            found = content(path)
        except Exception as error:
            return f"{name} is half: {type(error).__name__} {error}"
        if path.suffix in (".cmfr", ".y4m") and found != whole.get(name):
            return f"{name} is another one"
    return None


def results(folder: Path) -> dict[str, Any]:
    """Of all files but the sockets of Python's own worker processes, which no later run clears, and
    the lists of modules that `_run` leaves."""
    return {
        name: None if path.is_dir() else content(path)
        for name, path in tree(folder).items()
        if not name.startswith("tmp/pymp-") and path.name != "modules"
    }


# --- kills


@dataclass
class Case:
    """A command with what an undisturbed run gave, in how many seconds."""

    name: str
    inputs: Path
    space: Path
    whole: dict[str, Any]
    seconds: float

    @classmethod
    def of(cls, name: str, inputs: Path, space: Path) -> Case:
        case, took = cls(name, inputs, space, {}, 0.0), []
        for _ in range(2):  # the first one says what is imported
            folder, began = case.fresh(), time.monotonic()
            if ended(begin(COMMANDS[name].arguments, folder, space)) != 0:
                raise SystemExit(f"{name} fails undisturbed:\n{(space / 'log').read_text()}")
            took.append(time.monotonic() - began)
            for module in (space / "modules").read_text().split():
                with contextlib.suppress(Exception):
                    importlib.import_module(module)
            found = results(folder)
            if case.whole and found != case.whole:
                raise SystemExit(
                    f"{name} gives other results each time: {_apart(found, case.whole)}"
                )
            case.whole = found
        case.seconds = min(took)
        return case

    def fresh(self) -> Path:
        folder = self.space / "case"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.inputs, folder)
        (self.space / "log").unlink(missing_ok=True)
        return folder

    def killed(self, moments: Sequence[float]) -> tuple[list[str], str | None]:
        """Kills, each after so many seconds of a run: how far the command was, and what is wrong
        after them or after one more run."""
        folder, command = self.fresh(), COMMANDS[self.name]
        before = tree(folder).keys() | {"tmp"}
        ends, runs = [], []
        for moment in moments:
            runs.append(begin(command.arguments, folder, self.space))
            time.sleep(moment)
            os.kill(runs[-1], signal.SIGKILL)
            ended(runs[-1])
            there = tree(folder)
            end = "complete" if command.output in there else "unfinished"
            ends.append(end if there.keys() - before else "nothing there yet")
            if fault := half(folder, self.whole):
                return ends, fault
        code = ended(begin(command.arguments, folder, self.space))
        if code != 0:
            return ends, f"the next run ends with {code}: {(self.space / 'log').read_text()[-300:]}"
        late = time.monotonic() + GONE
        while left := [process for run in runs for process in session(run)]:
            if time.monotonic() > late:
                return ends, f"processes are left: {left}"
            time.sleep(0.05)
        found = results(folder)
        return ends, _apart(found, self.whole) if found != self.whole else None


def _apart(found: dict[str, Any], whole: dict[str, Any]) -> str:
    other = [name for name in found.keys() & whole.keys() if found[name] != whole[name]]
    surplus, missing = found.keys() - whole.keys(), whole.keys() - found.keys()
    return f"left: {sorted(surplus)}, missing: {sorted(missing)}, other: {sorted(other)}"


def run(
    kills: int, names: Sequence[str], tell: Callable[[str], None] = lambda line: None
) -> tuple[Counter[tuple[str, str]], dict[str, str]]:
    """How far commands were when they were killed, and how often; faults by kill."""
    threads, load = torch.get_num_threads(), cmfr.codec.codec.load_codec
    torch.set_num_threads(1)
    known = functools.lru_cache(load)
    known(str(WEIGHTS), "auto", None)
    cmfr.codec.codec.load_codec = known
    counts: Counter[tuple[str, str]] = Counter()
    faults = {}
    with tempfile.TemporaryDirectory() as place:
        inputs = Path(place) / "inputs"
        inputs.mkdir()
        prepare(inputs)
        for name in names:
            case, rng = Case.of(name, inputs, Path(place)), random.Random(name)
            for moments in COMMANDS[name].rows(kills, case.seconds, rng):
                found, fault = case.killed(moments)
                counts.update((name, end) for end in found)
                if fault:
                    after = ", ".join(f"{moment:.3f}" for moment in moments[: len(found)])
                    where = f"{name}, killed after {after} s"
                    faults[where] = fault
                    tell(f"{where}: {fault}")
            told = {end: counts[name, end] for end in ENDS}
            tell(f"{name}: {case.seconds:.2f} s undisturbed; {told}")
    torch.set_num_threads(threads)
    cmfr.codec.codec.load_codec = load
    return counts, faults


def table(counts: Mapping[tuple[str, str], int], faults: dict[str, str]) -> str:
    """Markdown: a row a command, a column how far it was."""
    rows = [["command", "kills", *ENDS, "faults"], ["---"] * (len(ENDS) + 3)]
    for name in sorted({name for name, _ in counts}):
        each = [counts.get((name, end), 0) for end in ENDS]
        bad = sum(fault.startswith(f"{name},") for fault in faults)
        rows.append([f"`{name}`", *map(str, (sum(each), *each, bad))])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> int:
    kills, names = int(sys.argv[1]) if sys.argv[1:] else 50, sys.argv[2:] or list(COMMANDS)
    counts, faults = run(kills, names, lambda line: print(line, file=sys.stderr, flush=True))
    print(table(counts, faults))
    for where, fault in faults.items():
        print(f"{where}: {fault}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
