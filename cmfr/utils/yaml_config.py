"""Configurations in YAML: reading, changing, comparing, and saying what is wrong with them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import yaml
from pydantic import BaseModel, Discriminator, Tag, ValidationError

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


def with_present_keys(tree: dict[str, Any], renamed: Mapping[str, str]) -> dict[str, Any]:
    """`tree` with keys that were renamed under their present names; what it holds under the old
    name goes before."""
    present = {key: value for key, value in tree.items() if key not in renamed}
    for before, now in renamed.items():
        if before in tree:
            present = merged(present, {now: tree[before]})
    return present


def differences(a: Any, b: Any, where: str = "") -> list[tuple[str, Any, Any]]:
    """Leaves in which two trees of plain values differ: (dotted key, value in a, value in b)."""
    if isinstance(a, dict) and isinstance(b, dict):
        pairs = [(key, a.get(key), b.get(key)) for key in sorted(a.keys() | b.keys())]
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        pairs = [(str(i), x, y) for i, (x, y) in enumerate(zip(a, b, strict=True))]
    else:
        return [] if a == b else [(where, a, b)]
    return [leaf for key, x, y in pairs for leaf in differences(x, y, f"{where}.{key}".lstrip("."))]


def one_of(
    members: Mapping[str, Any],
    key: str,
    default: str,
) -> Any:
    """The type of a configuration that is one of several, by the value of `key` in it.

    members: their types by that value.
    default: where the key is left out.
    """

    def mark(value: Any) -> str:
        has = isinstance(value, dict)
        return _mark(value.get(key, default) if has else getattr(value, key, default))

    known = [Annotated[member, Tag(_mark(name))] for name, member in members.items()]
    message = f"{key}: there is no such one; there are {', '.join(members)}"
    return Annotated[
        reduce(or_, known),
        Discriminator(mark, custom_error_type=key, custom_error_message=message),
    ]


def _mark(name: Any) -> str:
    """Pydantic's mark of a member in the places of faults; no file has such a key."""
    return f"<{name}>"


def _is_mark(part: int | str) -> bool:
    return isinstance(part, str) and part == _mark(part[1:-1])


def faults(error: ValidationError, kind: Any) -> str:
    """All faults of a configuration of this type in one line, each with its place."""
    sentences = []
    for fault in error.errors():
        *parents, last = fault["loc"] or ("",)
        keys = _keys(kind, parents)
        where = ".".join(str(p) for p in fault["loc"] if not _is_mark(p)) or "configuration"
        if fault["type"] == "extra_forbidden" and keys:
            sentences.append(f"{where}: {unknown('no key is called', str(last), keys)}")
        else:
            sentences.append(f"{where}: {fault['msg'].removeprefix('Value error, ')}")
    return "; ".join(sentences)


def _keys(kind: Any, place: Sequence[int | str]) -> list[str]:
    """The keys that a configuration of this type can have at a place; none where it is no
    mapping with fixed keys."""
    if get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        if not place:
            return list(kind.model_fields)
        field = kind.model_fields.get(str(place[0]))
        return _keys(field.annotation, place[1:]) if field else []
    arguments = get_args(kind)
    if get_origin(kind) in (tuple, list, dict):  # an index or a name, then an entry
        entry = arguments[-1] if get_origin(kind) is dict else arguments[0]
        return _keys(entry, place[1:]) if place else []
    if place and _is_mark(place[0]):
        marked = {part.tag: m for m in arguments for part in get_args(m) if isinstance(part, Tag)}
        return _keys(marked[str(place[0])], place[1:])
    return next((keys for member in arguments if (keys := _keys(member, place))), [])
