"""Data flows one way: packages import downward, files never circle, walls hold."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "cmfr"
# What the files of a package may import, and nothing else of cmfr: bottom first.
MAY_IMPORT = {
    "utils": set(),
    "config": {"utils"},
    "video": {"utils"},
    "nn": {"utils", "config"},
    "models": {"utils", "config", "nn"},
    "codec": {"utils", "config", "video", "nn", "models"},
    "analysis": {"utils", "config", "video", "nn", "models", "codec"},
    "evaluation": {"utils", "config", "video", "codec", "analysis"},
    "training": {"utils", "config", "video", "nn", "models", "codec", "analysis"},
    "report": {"utils", "evaluation"},
    "ablation": {
        "utils", "config", "video", "models", "codec", "analysis", "evaluation", "training",
        "report",
    },
    "cli": {
        "utils", "config", "video", "nn", "models", "codec", "analysis", "evaluation", "training",
        "report", "ablation",
    },
    "__main__": {"cli"},
}  # fmt: skip


def imports(nodes: list[ast.AST]) -> set[str]:
    """Modules that these statements import; of `from package import module`, the module."""
    names = set()
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module:
            inside = {f"{node.module}.{alias.name}".removeprefix("cmfr.") for alias in node.names}
            names |= (inside & FILES.keys()) or {node.module.removeprefix("cmfr.")}
        elif isinstance(node, ast.Import):
            names |= {alias.name.removeprefix("cmfr.") for alias in node.names}
    return names


def at_the_top(path: Path) -> list[ast.AST]:
    """Statements that run when the file is imported: outside functions and `if TYPE_CHECKING`."""
    body = ast.parse(path.read_text()).body
    return [part for node in body for part in (node.body if isinstance(node, ast.With) else [node])]


FILES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
    for path in PACKAGE.rglob("*.py")
    if path.name != "__init__.py"
}
IMPORTS = {name: imports(at_the_top(path)) for name, path in FILES.items()}
EVER = {name: imports(list(ast.walk(ast.parse(p.read_text())))) for name, p in FILES.items()}


def test_packages_import_downward():
    """Everywhere: in functions and for type checkers too."""
    packages = list(MAY_IMPORT)
    for place, package in enumerate(packages):
        assert MAY_IMPORT[package] <= set(packages[:place]), f"{package} is not above them"
    assert {name.partition(".")[0] for name in FILES} == set(packages)
    for name, others in EVER.items():
        package = name.partition(".")[0]
        used = {other.partition(".")[0] for other in others if other in FILES}
        assert used <= MAY_IMPORT[package] | {package}, name


def test_imports_do_not_circle():
    done: set[str] = set()

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, " -> ".join((*above, name))
        if name not in done:
            for other in IMPORTS[name]:
                if other in IMPORTS:
                    visit(other, (*above, name))
            done.add(name)

    for name in IMPORTS:
        visit(name, ())


def test_packages_are_imported_without_what_is_in_them():
    """One module of a package does not bring the others: `cmfr --help` is instant."""
    for path in PACKAGE.rglob("__init__.py"):
        tops = at_the_top(path)
        assert not {i for i in imports(tops) if i.startswith("cmfr") or i in FILES}, path


def test_cmfr_does_not_know_dcvc():
    for name in FILES:
        if name.startswith(("models.cmfr.", "nn.")):
            assert not {i for i in EVER[name] if i.startswith("models.dcvc")}, name


def test_two_modules_import_compressai():
    """One the rANS coder, one the entropy models."""
    users = {n: {m for m in i if m.startswith("compressai")} for n, i in EVER.items()}
    assert {n: m for n, m in users.items() if m} == {
        "nn.entropy_coder": {"compressai.ans"}, "nn.densities": {"compressai.entropy_models"},
    }  # fmt: skip


def test_only_commands_import_training_and_only_when_they_run():
    users = {
        name
        for name, others in IMPORTS.items()
        if not name.startswith("training.") and any(i.startswith("training.") for i in others)
    }
    # Settings of a command, plain data.
    assert {i for i in IMPORTS["cli.data"] if i.startswith("training")} == {
        "training.data.clip_settings"
    }
    ablation = {f"ablation.{name}" for name in ("config", "run", "thinned", "report")}
    assert users == ablation | {"cli.data"}


def test_files_stay_readable():
    long = {
        name: lines
        for name, path in FILES.items()
        if (lines := len(path.read_text().splitlines())) > 360
    }
    assert not long
