"""Import this first, and CompressAI's entropy models and rANS coder come without the rest of it.

The package's `__init__` imports its data sets, models and zoo, and with them torchvision,
torch_geometric and pandas: seconds, and an error where torchvision does not fit torch. Nothing
of it is needed here. Whoever needs more of CompressAI in the same process still gets it: submodules
are imported when they are asked for. Where CompressAI was imported before, this does nothing.
"""

from __future__ import annotations

import importlib
import sys
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any

_NAME = "compressai"


def _submodule(name: str) -> ModuleType:
    """`compressai.zoo` where its `__init__` would have imported it."""
    if not name.startswith("_"):
        try:
            return importlib.import_module(f"{_NAME}.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"{_NAME}.{name}":
                raise
    raise AttributeError(f"module {_NAME!r} has no attribute {name!r}")


def _install() -> None:
    spec = None if _NAME in sys.modules else find_spec(_NAME)
    if spec is None:  # there already, or not at all: then the next import says so
        return
    package: Any = module_from_spec(spec)  # not executed
    # What its entropy models ask of it when one is made.
    package.get_entropy_coder = lambda: "ans"
    package.available_entropy_coders = lambda: ["ans"]
    package.__getattr__ = _submodule
    sys.modules[_NAME] = package


_install()
