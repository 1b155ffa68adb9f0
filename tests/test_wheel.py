"""The package as others install it: everything that it needs is in the wheel."""

import os
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

from cmfr import __version__

ROOT = Path(__file__).parents[1]
LOOK = """
from pathlib import Path
import cmfr
from cmfr.codec.checkpoint import read_weights
from cmfr.codec.model_files import find_weights
from cmfr.evaluation.published import published, published_names
from cmfr.models.presets import PRESETS
from cmfr.report.page import HERE
from cmfr.utils.config_files import find_config, shipped

print(Path(cmfr.__file__).parent)
weights = find_weights("cmfr-s")
assert read_weights(weights)[0] == PRESETS["cmfr-s"]
print(weights)
for kind in ("train", "ablation", "test"):
    for file in shipped(kind).glob("*.yaml"):
        print(find_config(kind, file.stem))
assert all(published(name) for name in published_names())
assert all((HERE / f"page.{kind}").read_text() for kind in ("html", "css", "js"))
"""


def run(*command: object, cwd: Path, path: Path | None = None) -> str:
    """What a command prints; `path` is where the package lies."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment |= {"PYTHONPATH": str(path)} if path else {}
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, env=environment, capture_output=True, text=True
    )
    if "No matching distribution found for hatchling" in done.stderr:
        pytest.skip("hatchling, which builds the wheel, is not there")
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the package is installed into; its dependencies are those of this Python."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    alone = ["--no-build-isolation"] if find_spec("hatchling") else []
    run(*pip, "wheel", "--no-deps", *alone, "-w", folder, ROOT, cwd=folder)
    [wheel] = folder.glob(f"cmfr-{__version__}-*.whl")
    inside = set(zipfile.ZipFile(wheel).namelist())
    wanted = {p.relative_to(ROOT).as_posix() for p in (ROOT / "cmfr").rglob("*") if p.is_file()}
    assert {name for name in wanted if "__pycache__" not in name} <= inside
    run(*pip, "install", "--no-deps", "--target", folder / "site", wheel, cwd=folder)
    return folder / "site"


@pytest.mark.slow
def test_the_installed_package_has_all_that_it_needs(installed: Path, tmp_path: Path):
    """From a folder outside of the repository."""
    places = run(sys.executable, "-c", LOOK, cwd=tmp_path, path=installed).split("\n")[:-1]
    assert all(place.startswith(str(installed / "cmfr")) for place in places)
    shipped = {Path(place).name for place in places}
    for folder in ("train", "ablation", "test"):
        assert {file.name for file in (ROOT / "configs" / folder).glob("*.yaml")} <= shipped
    assert "cmfr-s.safetensors" in shipped


@pytest.mark.slow
def test_the_installed_commands_answer(installed: Path, tmp_path: Path):
    answers = [
        run(*command, "--help", cwd=tmp_path, path=installed)
        for command in ([sys.executable, "-m", "cmfr"], [installed / "bin" / "cmfr"])
    ]
    assert answers[0] == answers[1] and "encode" in answers[0]
    weights = installed / "cmfr" / "weights" / "cmfr-s.safetensors"
    assert "cmfr-s" in run(
        installed / "bin" / "cmfr", "info", weights, cwd=tmp_path, path=installed
    )
