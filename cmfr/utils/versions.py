"""What a result depends on besides its configuration."""

from __future__ import annotations

import ast
import hashlib
import platform
import subprocess
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch


def versions() -> dict[str, str]:
    """Git revision, libraries, machine: what training runs and results record."""
    try:
        revision = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        revision = "unknown"
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {
        "git": revision,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "machine": platform.processor() or platform.machine(),
        "gpu": gpu,
    }


@lru_cache
def code_hash(module: str, package: Path = Path(__file__).parents[1]) -> str:
    """SHA-256 of the text of a module ("cmfr.video.metrics") and of all modules of this package
    that it imports, and those import: what a measurement made by it depends on. In hexadecimal."""
    texts: dict[str, bytes] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        path = package.joinpath(*name.split(".")[1:]).with_suffix(".py")
        if name in texts or not path.is_file():  # a package or a name in a module, not a module
            continue
        texts[name] = path.read_bytes()
        for node in ast.walk(ast.parse(texts[name])):
            if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
                waiting += [node.module, *(f"{node.module}.{n.name}" for n in node.names)]
            elif isinstance(node, ast.Import):
                waiting += [n.name for n in node.names]
        waiting = [name for name in waiting if name.startswith(f"{package.name}.")]
    digest = hashlib.sha256()
    for name in sorted(texts):
        digest.update(f"{name} {len(texts[name])};".encode() + texts[name])
    return digest.hexdigest()
