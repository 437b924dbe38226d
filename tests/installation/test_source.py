"""Changes to a Python file that leave the rest of it as it is."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from streams.installation.source import CannotChange, SourceFile


def source(folder: Path, text: str | bytes) -> SourceFile:
    path = folder / "settings.py"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return SourceFile(path)


def add(folder: Path, text: str) -> str:
    """Add "x" before the first and "y" after the last item of the list or tuple APPS."""
    file = source(folder, text)
    value = file.assignments("APPS")[-1].value
    assert isinstance(value, ast.List | ast.Tuple)
    file.add_first(value.elts, value, '"x"')
    file.add_last(value.elts, value, '"y"')
    return file.after().decode()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('APPS = ["a"]', 'APPS = ["x", "a", "y"]'),
        ("APPS = ['a', 'b', ]\n", "APPS = ['x', 'a', 'b', 'y' ]\n"),
        ('APPS = ("a",)', 'APPS = ("x", "a", "y")'),
        ('APPS = [\n    "a",\n    "b"\n]', 'APPS = [\n    "x",\n    "a",\n    "b",\n    "y",\n]'),
        ('APPS = [\n    "a", "b",\n]', 'APPS = [\n    "x",\n    "a", "b", "y"\n]'),
        ('APPS = [\n  "a",\n  "b"]', 'APPS = [\n  "x",\n  "a",\n  "b", "y"]'),
        ('APPS = ["a",\n        "b"]', 'APPS = ["x", "a",\n        "b", "y"]'),
        (
            'APPS = [  # apps\n    # Django, first\n    "a",\n    "ü",  # the last, really\n    # "c",\n]\n# end',
            'APPS = [  # apps\n    "x",\n    # Django, first\n    "a",\n    "ü",  # the last, really\n    "y",\n'
            '    # "c",\n]\n# end',
        ),
        ('APPS = [\n\t"a"  # no comma, yet\n]', 'APPS = [\n\t"x",\n\t"a",  # no comma, yet\n\t"y",\n]'),
        ('APPS = [\r\n    "a",\r\n]\r\n', 'APPS = [\r\n    "x",\r\n    "a",\r\n    "y",\r\n]\r\n'),
        ('ä = "ö"; APPS: list[str] = ["a"]; b = 1', 'ä = "ö"; APPS: list[str] = ["x", "a", "y"]; b = 1'),
        ('"""Text\n\nmore"""\nAPPS = [\n    "a",\n]', '"""Text\n\nmore"""\nAPPS = [\n    "x",\n    "a",\n    "y",\n]'),
        ('\ufeffAPPS = ["a"]\n', '\ufeffAPPS = ["x", "a", "y"]\n'),
    ],
)
def test_items_are_added(tmp_path: Path, before: str, after: str) -> None:
    assert add(tmp_path, before) == after


@pytest.mark.parametrize("text", ['APPS = [("a")]', 'APPS = [\n    (\n        "a"\n    ),\n]'])
def test_item_in_parentheses_is_refused(tmp_path: Path, text: str) -> None:
    """A comma after the item, inside of its parentheses, would make it a tuple."""
    with pytest.raises(CannotChange, match=r"the list at line \d has a form that is not known"):
        add(tmp_path, text)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("A = 1\nB = 2\n", "A = 1\nC = 3\nB = 2\n\nD = 4\n"),
        ("A = (\n    1\n)  # one", "A = (\n    1\n)  # one\nC = 3\n\nD = 4\n"),
        ("A = 1\r\n", "A = 1\r\nC = 3\r\n\r\nD = 4\r\n"),
    ],
)
def test_lines_are_added(tmp_path: Path, before: str, after: str) -> None:
    file = source(tmp_path, before)
    file.insert_after_statement(file.assignments("A")[0], "C = 3\n")
    file.append("D = 4\n")
    assert file.after().decode() == after


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"A = [\n", "it is not valid Python"),
        (b"A = '\0'\n", "it is not valid Python"),
        (b"# -*- coding: latin-1 -*-\nA = '\xe4'\n", "its encoding is iso-8859-1"),
        (b"A = '\xe4'\n", "it is not valid Python"),
        (b"# coding: nothing\n", "it is not valid Python"),
    ],
)
def test_unreadable_file_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    with pytest.raises(CannotChange, match=reason):
        source(tmp_path, content)
    assert (tmp_path / "settings.py").read_bytes() == content


def test_file_of_a_package_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "site-packages"
    folder.mkdir()
    with pytest.raises(CannotChange, match="it belongs to an installed package"):
        source(folder, "A = 1\n")


def test_change_that_breaks_the_file_is_refused(tmp_path: Path) -> None:
    file = source(tmp_path, "A = 1\n")
    file.append("B = [\n")
    with pytest.raises(CannotChange, match="the change would not be valid Python"):
        file.after()


def test_assignments_leave_out_those_that_use_the_old_value(tmp_path: Path) -> None:
    file = source(tmp_path, "A = [1]\nA = A + [2]\nA += [3]\nA: list\nB = A = 4\nif A:\n    A = 5\n")
    assert [statement.lineno for statement in file.assignments("A")] == [1, 5]


def test_diff_names_a_new_file_and_a_missing_end_of_line(tmp_path: Path) -> None:
    old, new = source(tmp_path, "A = 1"), SourceFile(tmp_path / "new.py")
    old.insert_after_statement(old.assignments("A")[0], "B = 2\n")
    new.append("C = 3\n")
    assert old.diff(tmp_path) == (
        "--- a/settings.py\n+++ b/settings.py\n@@ -1 +1,2 @@\n-A = 1\n\\ No newline at end of file\n+A = 1\n+B = 2\n"
    )
    assert new.diff(tmp_path) == "--- /dev/null\n+++ b/new.py\n@@ -0,0 +1 @@\n+C = 3\n"
