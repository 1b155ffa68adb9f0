"""The shipped configurations, by name."""

from __future__ import annotations

from pathlib import Path

from cmfr.utils.errors import UserError, unknown

SUFFIXES = (".yaml", ".yml")


def shipped(kind: str) -> Path:
    """The folder of a kind of configuration ("train", "ablation", "test"): inside the installed
    package, or beside it in a checkout."""
    package = Path(__file__).parents[1]
    inside = package / "configs" / kind
    return inside if inside.is_dir() else package.parent / "configs" / kind


def find_config(kind: str, name: str | Path) -> Path:
    """A YAML file as it is, or a shipped configuration by its name ("smoke").

    Raises FileNotFoundError or UserError; the message says what there is.
    """
    path, folder = Path(name), shipped(kind)
    names = sorted(file.stem for file in folder.glob("*.yaml"))
    if path.is_file():
        return path
    if path.suffix.lower() not in SUFFIXES:
        if str(name) not in names:
            raise UserError(unknown(f"no {kind} configuration is called", str(name), names))
        return folder / f"{name}.yaml"
    hint = f"; the shipped one is called {path.stem}" if path.stem in names else ""
    raise FileNotFoundError(f"no configuration file {path}{hint}")
