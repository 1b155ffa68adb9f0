"""Finished measurements, each in a file under a hash of everything that decides it: what a command
that was interrupted, or is given again with other rates and sequences, need not measure again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from cmfr.evaluation.records import Record, read_results, write_results
from cmfr.utils.errors import UserError


def kept_beside(output: Path) -> Path:
    """The folder for the finished measurements of a results file."""
    return output.with_name(output.name + ".parts")


def identity_hash(identity: Mapping[str, object]) -> str:
    """identity: by name, as JSON or as str() says it."""
    text = json.dumps(identity, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def kept_file(folder: Path, key: str) -> Path:
    """key: an `identity_hash`."""
    return folder / f"{key[:24]}.json"


def read_kept(path: Path, rate_index: int, set_sequences: tuple[str, ...]) -> Record | None:
    """The record of a finished measurement, at its place among others; None where there is none, or
    a damaged file."""
    if path.is_file():
        with suppress(UserError):
            [record] = read_results(path)
            return replace(record, rate_index=rate_index, set_sequences=set_sequences)
    return None


def keep(path: Path, record: Record) -> None:
    """Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_results(path, [record])
