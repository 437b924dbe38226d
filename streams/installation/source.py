"""A Python file of a site, and changes to it that leave the rest of the file as it is."""

from __future__ import annotations

import ast
import codecs
import difflib
import io
import os
import re
import textwrap
import tokenize
from collections.abc import Sequence
from pathlib import Path


class CannotChange(Exception):
    """The file has a form that this module does not change, because it could break the file."""


class SourceFile:
    """A file with pending changes. Positions are those of the unchanged file.

    The content is handled as bytes, because the columns of `ast` count bytes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.before = path.read_bytes() if path.exists() else None
        self._edits: list[tuple[int, int, bytes]] = []
        content = self.before or b""
        self._bom = codecs.BOM_UTF8 if content.startswith(codecs.BOM_UTF8) else b""
        self._content = content.removeprefix(self._bom)
        self._newline = "\r\n" if b"\r\n" in self._content else "\n"
        # Lines that follow the last one need its end. It is removed again if there are none.
        is_cut = self._content and not self._content.endswith((b"\n", b"\r"))
        self._added = self._newline.encode() if is_cut else b""
        self._content += self._added
        self._quote = "'" if self._content.count(b"'") > self._content.count(b'"') else '"'
        self._starts = [0]
        self._lines = self._content.splitlines(keepends=True)
        for line in self._lines:
            self._starts.append(self._starts[-1] + len(line))
        try:
            encoding, _ = tokenize.detect_encoding(io.BytesIO(content).readline)
            if encoding not in ("utf-8", "utf-8-sig"):
                raise CannotChange(f"its encoding is {encoding}")
            self.tree = ast.parse(self._content)
        except (SyntaxError, ValueError) as error:
            raise CannotChange(f"it is not valid Python: {error}") from None
        if "site-packages" in path.parts or "dist-packages" in path.parts:
            raise CannotChange("it belongs to an installed package")
        if not os.access(path if path.exists() else path.parent, os.W_OK):
            raise CannotChange("it cannot be written")

    # --- Reading ---

    def text(self, node: ast.expr) -> str:
        return self._content[self._start(node) : self._end(node)].decode()

    def assignments(self, name: str) -> list[ast.Assign | ast.AnnAssign]:
        """Return the statements at the top level that set a variable without using its old value."""
        return [
            statement
            for statement in self.tree.body
            if isinstance(statement, ast.Assign | ast.AnnAssign)
            and statement.value is not None
            and any(isinstance(target, ast.Name) and target.id == name for target in targets(statement))
            and not any(isinstance(node, ast.Name) and node.id == name for node in ast.walk(statement.value))
        ]

    # --- Changing ---

    def replace(self, node: ast.expr, text: str) -> None:
        text = text.replace('"', self._quote)
        self._edits.append((self._start(node), self._end(node), text.encode()))

    def replace_once(self, statement: ast.stmt, old: str, new: str) -> None:
        """Replace the first `old` in a statement."""
        position = self._content.index(old.encode(), self._offset(statement.lineno, statement.col_offset))
        self._edits.append((position, position + len(old), new.encode()))

    def insert_before(self, node: ast.expr | ast.alias, text: str) -> None:
        self._insert(self._start(node), text)

    def insert_after_statement(self, statement: ast.stmt | None, text: str) -> None:
        """Insert lines after the line on which a statement ends, or at the file's start."""
        line = statement.end_lineno if statement is not None else 0
        assert line is not None
        self._insert(self._starts[line], text)

    def append(self, text: str) -> None:
        """Add lines at the file's end, after an empty line."""
        self._insert(len(self._content), f"\n{text}" if self._content else text)

    def _insert(self, position: int, text: str) -> None:
        """Insert a text, with the file's quotes and ends of lines."""
        text = text.replace('"', self._quote).replace("\n", self._newline)
        self._edits.append((position, position, text.encode()))

    def add_first(self, elements: Sequence[ast.expr], node: ast.expr, item: str) -> None:
        """Add an item before the first one of a list or tuple in brackets."""
        first = elements[0]
        self._commas(self._start(node) + 1, self._start(first))  # raises if the item is in parentheses
        if first.lineno > node.lineno and (indent := self._indent(first)) is not None:
            self._insert(self._starts[node.lineno], f"{indent}{item},\n")
        else:
            self.insert_before(first, f"{item}, ")

    def add_last(self, elements: Sequence[ast.expr], node: ast.expr, item: str, key: ast.expr | None = None) -> None:
        """Add an item after the last one of a list, tuple or dict in brackets.

        `elements` are the items, or the values of a dict, whose last key is `key`.
        """
        last = elements[-1]
        end = self._end(last)
        commas = self._commas(end, self._end(node) - 1)
        line = commas[0][0] if commas else (last.end_lineno or 0)
        indent = self._indent(key or last)
        if indent is not None and (node.end_lineno or 0) > line:
            if not commas:
                self._insert(end, ",")
            self._insert(self._starts[line], textwrap.indent(f"{item},\n", indent))
        else:
            item = re.sub(r"\n\s*", " ", item).replace("{ ", "{").replace(", }", "}")
            position, text = (commas[0][1] + 1, f" {item}") if commas else (end, f", {item}")
            self._insert(position, text)

    def _commas(self, start: int, end: int) -> list[tuple[int, int]]:
        """Return (line, position) of the commas between two positions, which have only comments besides."""
        found = []
        for token in tokenize.tokenize(io.BytesIO(self._content).readline):
            line, column = token.start
            if token.type not in (tokenize.OP, tokenize.NAME, tokenize.STRING, tokenize.NUMBER) or line == 0:
                continue
            position = self._starts[line - 1] + len(self._lines[line - 1].decode()[:column].encode())
            if start <= position < end:
                if token.string != ",":
                    raise CannotChange(f"the list at line {line} has a form that is not known")
                found.append((line, position))
        return found

    # --- Results ---

    def after(self) -> bytes:
        """Return the changed content. It raises CannotChange if that would not be valid Python."""
        content = self._content
        if not any(start == len(content) for start, _, _ in self._edits):
            content = content.removesuffix(self._added)
        edits = sorted(enumerate(self._edits), key=lambda edit: (edit[1][0], edit[0]), reverse=True)
        for _, (start, end, text) in edits:
            content = content[:start] + text + content[end:]
        try:
            ast.parse(content)
        except SyntaxError as error:
            raise CannotChange(f"the change would not be valid Python: {error}") from None
        return self._bom + content

    def diff(self, root: Path) -> str:
        """Return the changes as a unified diff, as `git apply` and `patch -p1` read it."""
        name = os.path.relpath(self.path, root).replace(os.sep, "/")
        old, new = ((self.before or b"").decode(), self.after().decode())
        lines = difflib.unified_diff(
            _lines(old),
            _lines(new),
            "/dev/null" if self.before is None else f"a/{name}",
            f"b/{name}",
        )
        return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)

    def is_changed(self) -> bool:
        return bool(self._edits)

    # --- Positions ---

    def _offset(self, line: int, column: int) -> int:
        return self._starts[line - 1] + column

    def _start(self, node: ast.expr | ast.alias) -> int:
        return self._offset(node.lineno, node.col_offset)

    def _end(self, node: ast.expr | ast.alias) -> int:
        assert node.end_lineno is not None and node.end_col_offset is not None  # noqa: PT018
        return self._offset(node.end_lineno, node.end_col_offset)

    def _indent(self, node: ast.expr) -> str | None:
        """Return the white space before the first thing on a line, or None if there is something else before it."""
        before = self._content[self._starts[node.lineno - 1] : self._start(node)].decode()
        return before if before.strip() == "" else None


def targets(statement: ast.Assign | ast.AnnAssign) -> list[ast.expr]:
    return statement.targets if isinstance(statement, ast.Assign) else [statement.target]


def _lines(text: str) -> list[str]:
    """Split a text at newlines only, as `git apply` and `patch` do. str.splitlines() knows more separators."""
    return [line for line in re.split(r"(?<=\n)", text) if line]
