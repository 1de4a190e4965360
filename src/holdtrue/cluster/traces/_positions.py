"""JSON with the line and column of every value, so that a wrong value can be pointed at."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from json.decoder import JSONDecoder

from holdtrue.errors import UsageError

_SPACE = " \t\n\r"


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One JSON value and where it begins."""

    value: "dict[str, Node] | list[Node] | str | int | float | bool | None"
    """Objects and arrays hold nodes."""
    line: int
    """From 1."""
    column: int
    """From 1."""

    @property
    def place(self) -> str:
        """`line L, column C`."""
        return f"line {self.line}, column {self.column}"

    def plain(self) -> object:
        """The value without positions."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value


def parse_json(text: str, name: str) -> Node:
    """The document with positions.

    Raises:
        UsageError: the text is not JSON; the message gives line and column.

    >>> parse_json('[1,\\n {"a": true}]', "t").value[1].value["a"].place
    'line 2, column 8'
    """
    try:
        json.loads(text)
    except json.JSONDecodeError as problem:
        raise UsageError(
            f"{name}, line {problem.lineno}, column {problem.colno}: {problem.msg}; the file must be JSON. Correct it."
        ) from problem
    node, _ = _Reader(text).read(0)
    return node


class _Reader:
    """Walks a text that is known to be JSON."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.decoder = JSONDecoder()
        self.at = self.line = 0
        self.line_start = 0

    def skip(self, at: int) -> int:
        while self.text[at] in _SPACE:
            at += 1
        return at

    def place(self, at: int) -> tuple[int, int]:
        """Line and column of an offset; offsets only grow."""
        newlines = self.text.count("\n", self.at, at)
        if newlines:
            self.line += newlines
            self.line_start = self.text.rindex("\n", 0, at) + 1
        self.at = at
        return self.line + 1, at - self.line_start + 1

    def read(self, at: int) -> tuple[Node, int]:
        at = self.skip(at)
        line, column = self.place(at)
        if self.text[at] == "{":
            members = {}
            for start in self._items(at, "}"):
                key, after = self.decoder.raw_decode(self.text, start)
                node, self._end = self.read(self.skip(after) + 1)
                members[str(key)] = node
            return Node(value=members, line=line, column=column), self._end
        if self.text[at] == "[":
            nodes = []
            for start in self._items(at, "]"):
                node, self._end = self.read(start)
                nodes.append(node)
            return Node(value=nodes, line=line, column=column), self._end
        value, end = self.decoder.raw_decode(self.text, at)
        return Node(value=value, line=line, column=column), end

    _end = 0

    def _items(self, at: int, close: str) -> Iterator[int]:
        """Offset of each member; the caller leaves the end of the last one in `_end`, as this does in the end."""
        at = self.skip(at + 1)
        while self.text[at] != close:
            self._end = at
            yield at
            at = self.skip(self._end)
            if self.text[at] == ",":
                at = self.skip(at + 1)
        self._end = at + 1
