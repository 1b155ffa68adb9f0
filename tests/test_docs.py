"""Commands in the documentation are commands that there are."""

import re
import shlex
from pathlib import Path

import pytest

from cmfr.cli.main import build_parser

ROOT = Path(__file__).parents[1]
FILES = [
    path
    for pattern in ("README.md", "docs/*.md", "checkpoints/*.md", "configs/*/*.yaml")
    for path in sorted(ROOT.glob(pattern))
]


def commands(path: Path) -> list[str]:
    """Lines of code blocks (and of the comment at the head of a configuration) that call `cmfr`,
    Python or torchrun, continued lines joined, comments left out."""
    text = re.sub(r"\\\n(#?)\s*", " ", path.read_text())
    if path.suffix == ".yaml":
        lines = re.findall(r"^#   (\S.*)$", text, re.MULTILINE)
    else:
        lines = re.findall(r"^    (\S.*)$", text, re.MULTILINE)
        for block in re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            lines += block.splitlines()
    lines = [re.sub(r"\s#.*", "", line) for line in lines]
    starts = r"(\.venv/bin/)?(cmfr|python|torchrun) |scripts/"
    return [line for line in lines if re.match(starts, line)]


def test_there_are_commands_to_check():
    assert sum(len(commands(path)) for path in FILES) > 30


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_commands_work_as_they_are_written(path, capsys):
    for line in commands(path):
        words = [word for word in shlex.split(line) if word != "..."]
        program, *arguments = words
        for word in words:
            if re.match(r"(configs|scripts|checkpoints)/[\w/.-]+$", word):
                assert (ROOT / word).exists(), line
        assert not program.startswith("scripts/"), f"not executable: {line}"
        if "scripts/train.py" in arguments:
            arguments = ["train", *arguments[arguments.index("scripts/train.py") + 1 :]]
        elif not program.endswith("cmfr"):
            continue
        try:
            args, rest = build_parser().parse_known_args(arguments)
        except SystemExit:
            pytest.fail(f"{line}\n{capsys.readouterr().err}")
        assert all("=" in word for word in rest), line
        if args.command in ("train", "ablate"):
            assert all("=" in word for word in args.overrides), line
