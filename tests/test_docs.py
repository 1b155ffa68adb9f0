"""Commands in the documentation are commands that there are; what it says of the code holds."""

import ast
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


def arguments(line: str) -> list[str] | None:
    """What a line gives to `cmfr`, as which the script of torchrun counts; None of other lines."""
    program, *words = shlex.split(line)
    if "scripts/train.py" in words:
        return ["train", *words[words.index("scripts/train.py") + 1 :]]
    return words if program.endswith("cmfr") else None


def test_there_are_commands_to_check():
    assert sum(len(commands(path)) for path in FILES) > 30


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_commands_work_as_they_are_written(path, capsys):
    for line in commands(path):
        for word in shlex.split(line):
            if re.match(r"(configs|scripts|checkpoints)/[\w/.-]+$", word):
                assert (ROOT / word).exists(), line
        assert not line.startswith("scripts/"), f"not executable: {line}"
        if (words := arguments(line)) is None:
            continue
        try:
            args, rest = build_parser().parse_known_args([w for w in words if w != "..."])
        except SystemExit:
            pytest.fail(f"{line}\n{capsys.readouterr().err}")
        assert all("=" in word for word in rest), line
        if args.command in ("train", "ablate"):
            assert all("=" in word for word in args.overrides), line


def test_every_network_says_its_shapes():
    """A `forward` has them in its docstring, or in its class's."""
    silent = []
    for path in sorted((ROOT / "cmfr").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            methods = node.body if isinstance(node, ast.ClassDef) else []
            for method in methods:
                if isinstance(method, ast.FunctionDef) and method.name == "forward":
                    said = f"{ast.get_docstring(node)} {ast.get_docstring(method)}"
                    if not re.search(r"\[(B|sets), ", said):
                        silent.append(f"{path.name}: {node.name}")
    assert not silent


def test_the_map_of_modules_agrees_with_the_tree():
    """A row for each package, with all of its modules."""
    text = (ROOT / "docs" / "architecture.md").read_text().partition("## Modules")[2]
    rows = re.findall(r"^\| `([\w/]+)/` \| ([\w, ]+) \|", text, re.MULTILINE)
    package, folders = ROOT / "cmfr", {}
    for path in package.rglob("*.py"):
        if path.parent != package and path.stem != "__init__":
            folder = path.parent.relative_to(package).as_posix()
            folders.setdefault(folder, set()).add(path.stem)
    assert {name: set(modules.split(", ")) for name, modules in rows} == folders
    for path in re.findall(r"`([a-z_]+/[\w/]+\.(?:py|yaml))`", text):
        assert (package / path).is_file() or (ROOT / path).is_file(), path
