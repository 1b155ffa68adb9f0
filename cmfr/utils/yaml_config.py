"""Configurations in YAML: reading, changing, comparing, and saying what is wrong with them."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from cmfr.utils.errors import UserError, unknown


def read_tree(path: Path, overrides: list[str]) -> dict[str, Any]:
    """A YAML mapping with ``key.sub=value`` overrides applied (values are YAML)."""
    if not path.is_file():
        raise FileNotFoundError(f"no configuration file {path}")
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    except UnicodeDecodeError:
        raise UserError(f"{path} is not valid YAML: it is no text") from None
    except RecursionError:
        raise UserError(f"{path} is nested too deeply") from None
    if not isinstance(tree, dict):
        raise UserError(f"{path} holds no mapping of keys to values")
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise UserError(f"override {override!r} is not of the form key=value")
        try:
            value = yaml.safe_load(text)
        except (yaml.YAMLError, RecursionError):
            raise UserError(f"override {override!r}: the value is not valid YAML") from None
        _set(tree, key, value)
    return tree


def plain(cfg: BaseModel) -> dict[str, Any]:
    """A configuration as plain values, as it is written to YAML and JSON."""
    return json.loads(cfg.model_dump_json())


def _set(tree: dict[str, Any], key: str, value: Any) -> None:
    """tree["a"]["b"] = value for key "a.b"; a number indexes a list ("stages.0.steps")."""
    *parents, last = key.split(".")
    node: Any = tree
    try:
        for part in parents:
            if isinstance(node, list):
                node = node[int(part)]
            else:
                if isinstance(node.get(part), str):  # `model: cmfr-s` with model.fusion=concat
                    node[part] = {"preset": node[part]}
                node = node.setdefault(part, {})
        node[int(last) if isinstance(node, list) else last] = value
    except (ValueError, IndexError, AttributeError, TypeError):
        raise UserError(f"override {key}={value}: the configuration has no such place") from None


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`base` with `changes`, section by section: what is not mentioned stays."""
    result = dict(base)
    for key, value in changes.items():
        nested = isinstance(value, dict) and isinstance(base.get(key), dict)
        result[key] = merged(base[key], value) if nested else value
    return result


def differences(a: Any, b: Any, where: str = "") -> list[tuple[str, Any, Any]]:
    """Leaves in which two trees of plain values differ: (dotted key, value in a, value in b)."""
    if isinstance(a, dict) and isinstance(b, dict):
        pairs = [(key, a.get(key), b.get(key)) for key in sorted(a.keys() | b.keys())]
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        pairs = [(str(i), x, y) for i, (x, y) in enumerate(zip(a, b, strict=True))]
    else:
        return [] if a == b else [(where, a, b)]
    return [leaf for key, x, y in pairs for leaf in differences(x, y, f"{where}.{key}".lstrip("."))]


def faults(error: ValidationError, kind: Any, tags: Collection[str]) -> str:
    """All faults of a configuration of this type in one line, each with its place.

    tags: pydantic's marks of which member of a union it is, which no file has.
    """
    told = []
    for fault in error.errors():
        *parents, last = fault["loc"] or ("",)
        keys = [key for key in _keys(kind, parents, tags) if key not in tags]
        where = ".".join(_place(fault["loc"], tags)) or "configuration"
        if fault["type"] == "extra_forbidden" and keys:
            told.append(f"{where}: {unknown('no key is called', str(last), keys)}")
        else:
            told.append(f"{where}: {fault['msg'].removeprefix('Value error, ')}")
    return "; ".join(told)


def _keys(kind: Any, place: Sequence[int | str], tags: Collection[str]) -> list[str]:
    """The keys that a configuration of this type can have at a place; none where it is no
    mapping with fixed keys."""
    if get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        if not place:
            return list(kind.model_fields)
        field = kind.model_fields.get(str(place[0]))
        return _keys(field.annotation, place[1:], tags) if field else []
    arguments = get_args(kind)
    if get_origin(kind) in (tuple, list, dict):  # an index or a name, then an entry
        entry = arguments[-1] if get_origin(kind) is dict else arguments[0]
        return _keys(entry, place[1:], tags) if place else []
    if place and place[0] in tags:
        members = [get_args(one)[0] if get_args(one) else one for one in arguments]
        families = {get_args(m.model_fields["family"].annotation)[0]: m for m in members}
        return _keys(families[place[0]], place[1:], tags)
    return next((keys for one in arguments if (keys := _keys(one, place, tags))), [])


def _place(parts: tuple[int | str, ...], tags: Collection[str]) -> list[str]:
    """Where a fault is, as the file has it: without the name of the model's family."""
    return [
        str(part)
        for i, part in enumerate(parts)
        if part not in tags or (i > 0 and parts[i - 1] != "model")
    ]
