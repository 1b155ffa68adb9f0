"""Data flows one way: imports never circle, walls hold."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "cmfr"


def runtime_imports(path: Path) -> set[str]:
    """Modules imported at the top of a file, outside `if TYPE_CHECKING`."""
    names = set()
    for node in ast.parse(path.read_text()).body:
        nodes = node.body if isinstance(node, ast.With) else [node]
        for part in nodes:
            if isinstance(part, ast.ImportFrom) and part.module:
                names.add(part.module)
            elif isinstance(part, ast.Import):
                names |= {alias.name for alias in part.names}
    return names


FILES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
    for path in PACKAGE.rglob("*.py")
    if path.name != "__init__.py"
}
IMPORTS = {name: runtime_imports(path) for name, path in FILES.items()}


def test_imports_do_not_circle():
    done: set[str] = set()

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, " -> ".join((*above, name))
        if name not in done:
            for other in IMPORTS[name]:
                if other.removeprefix("cmfr.") in IMPORTS:
                    visit(other.removeprefix("cmfr."), (*above, name))
            done.add(name)

    for name in IMPORTS:
        visit(name, ())


def test_two_modules_import_compressai():
    """One the rANS coder, one the entropy models."""
    users = {n: {m for m in i if m.startswith("compressai")} for n, i in IMPORTS.items()}
    assert {n: m for n, m in users.items() if m} == {
        "entropy": {"compressai.ans"}, "densities": {"compressai.entropy_models"},
    }  # fmt: skip


def test_codecs_know_nothing_of_training_or_files():
    network = {"layers", "entropy", "payload", "latent", "motion", "motion_estimation",
               "features", "context", "residual", "intra", "starts", "model", "video_codec",
               "frame_codec", "state", "densities", "models.dcvc", "models.dcvc_blocks",
               "models.dcvc_intra", "models.dcvc_latent", "models.dcvc_motion"}  # fmt: skip
    allowed = {f"cmfr.{name}" for name in network | {"config", "errors"}}
    for name in network:
        assert {i for i in IMPORTS[name] if i.startswith("cmfr")} <= allowed, name


def test_only_commands_import_training():
    """Codecs know nothing of training; commands import it when they run."""
    users = {
        name
        for name, imports in IMPORTS.items()
        if not name.startswith("training.") and any(i.startswith("cmfr.training") for i in imports)
    }
    assert users <= {"ablation", "ablation_report"}


def test_files_stay_readable():
    long = {
        name: lines
        for name, path in FILES.items()
        if (lines := len(path.read_text().splitlines())) > 360
    }
    assert not long
