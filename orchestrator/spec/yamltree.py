"""Safe YAML 1.2 with line numbers: text to plain data, and the line of every place in it.

Refuses what could exhaust memory (size, aliases, depth) before anything is built. Duplicate keys and unknown tags are
collected in `faults`, so that they are reported together with the faults of the content.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.constructor import SafeConstructor
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from vitmodel.config.base import UserError

MAX_BYTES, MAX_ALIASES, MAX_NODES, MAX_DEPTH = 256 * 1024, 20, 20_000, 32
LARGEST = 2**63 - 1  # of whole numbers
TAG, MERGE = "tag:yaml.org,2002:", "tag:yaml.org,2002:merge"
TEXT_TAGS = {f"{TAG}str", f"{TAG}timestamp", f"{TAG}value"}  # a date is text
PLAIN_TAGS = TEXT_TAGS | {f"{TAG}{name}" for name in ("int", "float", "bool", "null", "map", "seq")}

# the parser's context: what it was reading
OPENED = {
    "while parsing a flow sequence": "list",
    "while parsing a flow mapping": "mapping",
    "while parsing a block collection": "list",
    "while parsing a block mapping": "mapping",
    "while scanning a quoted scalar": "quoted text",
}
# part of the parser's message: what the user most likely has to do
REMEDIES = {
    "could not find expected ':'": "write a colon and a space after the key",
    "mapping values are not allowed": "indent all keys of a mapping equally, and quote text that contains ': '",
    "found character": "indent with spaces, not tabs; quote text that starts with @, ` or %",
    "expected ',' or ']'": "close the list with ]",
    "expected ',' or '}'": "close the mapping with }",
    "expected <block end>": "indent all entries of a list or mapping equally",
    "expected a single document": "write one document per file, without a second ---",
    "found undefined alias": "define the anchor before it is used, as in &name; quote text that starts with *",
    "while scanning a quoted scalar": "close the quotation mark",
    "found unexpected end of stream": "close the quotation mark",
}

Place = tuple[str | int, ...]


class YamlTree:
    """A parsed YAML file. `data` is plain dicts, lists and scalars; `line(place)` is the line of a place in it.

    `what` names the kind of file in messages. Raises UserError where the text is not YAML, or not a mapping of `keys`.
    """

    def __init__(self, path: Path, *, what: str = "a study file", keys: tuple[str, ...] = ()) -> None:
        self.file = str(path)
        self.faults: list[UserError] = []
        self._constructor = SafeConstructor(loader=YAML(typ="safe", pure=True))
        root = self._parse(_read(path))
        if not isinstance(root, MappingNode):
            raise self._not_a_mapping(root, what, keys)
        self._root: Node = root
        self.data: dict[str, Any] = self._plain(self._root, (), ())

    def line(self, place: Place) -> int | None:
        """Line (from 1) of a place such as ("pretrain", "models", 0); parts that are not in the file are skipped."""
        lines = [line for _, line, _ in self._walk(place)]
        return lines[-1] if lines else None

    def existing(self, place: Place) -> Place:
        """The parts of a place that are in the file."""
        return tuple(part for part, _, _ in self._walk(place))

    def value(self, place: Place) -> Any:
        """What is in the file at a place; parts that are not in it are skipped."""
        value = self.data
        for part in self.existing(place):
            value = value[part]  # type: ignore[index]
        return value

    def error(self, message: str, place: Place, allowed: str = "", missing: str = "", example: str = "") -> UserError:
        """A UserError that points at a place of this file. Parts that are not in it are left out, except a missing key."""
        existing = self.existing(place)
        field = dotted((*existing, missing) if missing else existing)
        line = self.line(place) or (1 if missing else None)
        return UserError(message, file=self.file, line=line, field=field, allowed=allowed, example=example)

    def _walk(self, place: Place) -> Iterator[tuple[str | int, int, Node]]:
        """The parts of a place that are in the file, each with its line and node."""
        node: Node = self._root
        for part in place:
            entry: tuple[Node, Node] | None = None
            if isinstance(node, MappingNode):
                entry = next(((key, value) for key, value in reversed(node.value) if _key(key) == part), None)
            elif isinstance(node, SequenceNode) and isinstance(part, int) and part < len(node.value):
                entry = (node.value[part], node.value[part])
            if entry is not None:
                node = entry[1]
                yield part, entry[0].start_mark.line + 1, node

    def _parse(self, text: str) -> Node | None:
        try:
            self._check_limits(text)
            return YAML(typ="safe", pure=True).compose(text)
        except MarkedYAMLError as error:
            raise self._not_yaml(error) from None
        except YAMLError as error:  # characters that YAML forbids
            reason = str(error).splitlines()[0]
            raise UserError(f"not valid YAML: {reason}", file=self.file, line=_line_of_bad_character(text)) from None

    def _check_limits(self, text: str) -> None:
        """Count aliases and nodes in the event stream, which expands nothing."""
        aliases = nodes = depth = 0
        for event in YAML(typ="safe", pure=True).parse(text):
            aliases += isinstance(event, AliasEvent)
            nodes += isinstance(event, CollectionStartEvent)
            depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
            if aliases > MAX_ALIASES or nodes > MAX_NODES or depth > MAX_DEPTH:
                limits = f"{MAX_ALIASES} aliases, {MAX_NODES} lists and mappings, {MAX_DEPTH} levels"
                line = event.start_mark.line + 1
                raise UserError("too many aliases, nodes or levels", file=self.file, line=line, allowed=limits)

    def _not_yaml(self, error: MarkedYAMLError) -> UserError:
        context, problem = str(error.context or ""), " ".join(str(error.problem or "cannot be parsed").split())
        mark, start = error.problem_mark, error.context_mark
        if problem.startswith("but "):
            problem = f"{context}, {problem}"
        if context in OPENED and start and mark and start.line != mark.line:
            problem += f", in the {OPENED[context]} that starts on line {start.line + 1}"
        remedy = next((remedy for part, remedy in REMEDIES.items() if part in f"{context} {problem}"), "")
        message = f"not valid YAML: {problem}" + (f"; {remedy}" if remedy else "")
        return UserError(message, file=self.file, line=mark.line + 1 if mark else None)

    def _not_a_mapping(self, node: Node | None, what: str, keys: tuple[str, ...]) -> UserError:
        is_empty = node is None or (isinstance(node, ScalarNode) and node.tag == f"{TAG}null")
        content = "the file is empty" if is_empty else f"the file is a {'list' if isinstance(node, SequenceNode) else 'value'}"
        line = 1 if node is None else node.start_mark.line + 1
        allowed, example = ", ".join(keys), f"{keys[0]}: ..." if keys else ""
        message = f"{content}; {what} is a mapping of keys"
        return UserError(message, file=self.file, line=line, allowed=allowed, example=example)

    def _plain(self, node: Node, place: Place, above: tuple[Node, ...]) -> Any:
        """The value of a node. `above`: the nodes that contain it, which an alias must not refer to."""
        if node in above:
            line = node.start_mark.line + 1
            raise UserError("an alias refers to a value that contains it", file=self.file, line=line, field=dotted(place))
        if node.tag not in PLAIN_TAGS:
            tag = str(node.tag).replace(TAG, "!!")
            return self._fault(f"the tag {tag} is not supported; write the value alone", node, place)
        if isinstance(node, SequenceNode):
            return [self._plain(item, (*place, i), (*above, node)) for i, item in enumerate(node.value)]
        if not isinstance(node, MappingNode):
            return self._scalar(node, place)
        self._check_duplicates(node, place)
        self._merge(node)
        return {(name := _key(key)): self._plain(value, (*place, name), (*above, node)) for key, value in node.value}

    def _fault(self, message: str, node: Node, place: Place) -> None:
        """Note a fault; the value is then None."""
        self.faults.append(UserError(message, file=self.file, line=node.start_mark.line + 1, field=dotted(place)))

    def _merge(self, node: MappingNode) -> None:
        """Replace `<<: *anchor` by the keys of the anchor, before the node's own keys."""
        if any(key.tag == MERGE for key, _ in node.value):
            try:
                self._constructor.flatten_mapping(node)
            except MarkedYAMLError as error:
                raise self._not_yaml(error) from None

    def _check_duplicates(self, node: MappingNode, place: Place) -> None:
        first: dict[str, int] = {}
        for key, _ in node.value:
            name = _key(key)
            if name in first:
                self._fault(f"duplicate key, first used on line {first[name]}; keep one of them", key, (*place, name))
            first.setdefault(name, key.start_mark.line + 1)

    def _scalar(self, node: Node, place: Place) -> Any:
        short = node.value if len(node.value) <= 40 else node.value[:37] + "..."
        if node.tag in TEXT_TAGS:
            return (
                str(node.value) if "\0" not in node.value else self._fault(f"{short!r} contains a NUL character", node, place)
            )
        try:
            value = self._constructor.yaml_constructors[node.tag](self._constructor, node)
        except (ValueError, OverflowError, MarkedYAMLError, KeyError):
            return self._fault(f"{short} cannot be read as a value; quote it if it is text", node, place)
        if isinstance(value, int) and abs(value) > LARGEST:
            return self._fault(f"{short} is too large", node, place)
        return value


def dotted(place: Place) -> str:
    """("pretrain", "models", 0) as pretrain.models[0]."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place)
    return text.removeprefix(".")


def _key(node: Node) -> str:
    """A key as text; a list or mapping as a key becomes a name that no schema has."""
    return str(node.value) if isinstance(node, ScalarNode) else "? complex key"


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UserError("the file is too large", file=str(path), allowed=f"up to {MAX_BYTES // 1024} KiB")
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError("no such file", file=str(path)) from None
    except IsADirectoryError:
        raise UserError("this is a folder; give the YAML file", file=str(path)) from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"cannot be read as UTF-8 text: byte {error.start} is {error.object[error.start]:#04x}", file=str(path)
        ) from None
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror or error}", file=str(path)) from None


def _line_of_bad_character(text: str) -> int | None:
    for number, line in enumerate(text.splitlines(), 1):
        if any(not (character.isprintable() or character in "\t\r") for character in line):
            return number
    return None
