"""Safe YAML 1.2 with line numbers: text to plain data, and the line of any place in it.

Refuses what could exhaust the machine (size, aliases, depth) before building anything.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent
from ruamel.yaml.scalarfloat import ScalarFloat

from vitmodel.config.base import UserError

MAX_BYTES, MAX_ALIASES, MAX_NODES, MAX_DEPTH = 256 * 1024, 20, 20_000, 32

Place = tuple[str | int, ...]


class YamlTree:
    """A parsed YAML file: `data` is plain dicts, lists and scalars; `line(place)` says where something stands."""

    def __init__(self, path: Path) -> None:
        self.file = str(path)
        self._root = _load(path)
        self.data: Any = _plain(self._root)

    def line(self, place: Place) -> int | None:
        """Line (from 1) of a place such as ("pretrain", "models", 0); parts that are not in the file are skipped."""
        node, line = self._root, None
        for part in place:
            if isinstance(node, CommentedMap) and part in node:
                line = node.lc.key(part)[0] + 1
            elif isinstance(node, CommentedSeq) and isinstance(part, int) and part < len(node):
                line = node.lc.item(part)[0] + 1
            else:
                continue
            node = node[part]
        return line

    def error(self, message: str, place: Place, allowed: str = "", missing: str = "") -> UserError:
        """A UserError that points at a place of this file; parts that are not in it are left out, but for a missing key."""
        field = dotted((*self._existing(place), missing) if missing else self._existing(place))
        return UserError(message, file=self.file, line=self.line(place), field=field, allowed=allowed)

    def _existing(self, place: Place) -> Place:
        node, found = self._root, []
        for part in place:
            in_map = isinstance(node, dict) and part in node
            in_list = isinstance(node, list) and isinstance(part, int) and part < len(node)
            if in_map or in_list:
                node = node[part]
                found.append(part)
        return tuple(found)


def dotted(place: Place) -> str:
    """("pretrain", "models", 0) as pretrain.models[0]."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place)
    return text.removeprefix(".")


def _load(path: Path) -> Any:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UserError(f"larger than {MAX_BYTES // 1024} KiB", file=str(path))
        text = path.read_text(encoding="utf-8")
        _check_events(text, str(path))
        tree = YAML(typ="rt", pure=True).load(text)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot be read: {error}", file=str(path)) from None
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else None
        raise UserError(f"not YAML: {error.problem}", file=str(path), line=line) from None
    if not isinstance(tree, CommentedMap):
        raise UserError("a study is a mapping of sections", file=str(path), line=1)
    return tree


def _check_events(text: str, file: str) -> None:
    """Count aliases and nodes in the event stream, which expands nothing."""
    aliases = nodes = depth = 0
    for event in YAML(typ="safe", pure=True).parse(text):
        aliases += isinstance(event, AliasEvent)
        nodes += isinstance(event, CollectionStartEvent)
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        if aliases > MAX_ALIASES or nodes > MAX_NODES or depth > MAX_DEPTH:
            limits = f"{MAX_ALIASES} aliases, {MAX_NODES} nodes, {MAX_DEPTH} levels"
            raise UserError("too many aliases, nodes or levels", file=file, line=event.start_mark.line + 1, allowed=limits)


def _plain(node: Any) -> Any:
    if isinstance(node, dict):
        return {str(key): _plain(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_plain(value) for value in node]
    if isinstance(node, ScalarFloat):
        return float(node)
    if isinstance(node, bool) or node is None:
        return node
    return int(node) if isinstance(node, int) else str(node) if isinstance(node, str) else node
