"""What a result depends on besides its configuration."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

import numpy as np
import torch


def versions() -> dict[str, str]:
    """Git revision, libraries, machine: what training runs and results record."""
    try:
        revision = subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=Path(__file__).parent,
            capture_output=True, text=True, timeout=10, check=True,
        ).stdout.strip()  # fmt: skip
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
