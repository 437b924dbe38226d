"""The code blocks of the documents, and what a reader of a document has before the first of them."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.sites import ROOT

# The quickstart of the README and the tutorial are run as a whole in tests/system/test_quickstart.py.
RUN_ELSEWHERE = ("README.md", "CHANGELOG.md", "tutorial.md")

BLOCK = re.compile(r"^(?P<indent> *)```(?P<language>\w+)\n(?P<code>.*?)^ *```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Snippet:
    """One code block. `line` is its first line in the document."""

    document: Path
    line: int
    language: str
    code: str

    @property
    def place(self) -> str:
        return f"{self.document.relative_to(ROOT)}:{self.line}"

    @property
    def path(self) -> str:
        """The file that the block shows, by the comment in its first line, or an empty text."""
        found = re.match(r"(?:# |<!-- |// )([\w/.-]+\.\w+)", self.code)
        return found[1] if found else ""

    @property
    def calls_a_site(self) -> bool:
        """True for a program outside of the site. tests/system/test_snippets.py runs it."""
        return "https://example.com/" in self.code

    @property
    def changes_the_process(self) -> bool:
        """True for a block that changes the whole process, and would change the tests that run in it afterwards."""
        return bool(re.search(r"sentry_sdk\.init\(|\.instrument\(|gc\.freeze\(", self.code))

    @property
    def needs_django(self) -> tuple[int, ...]:
        """The oldest version of Django for which the block is, by the comment in its first line."""
        found = re.match(r"# Django (\d+)", self.code)
        return (int(found[1]),) if found else ()

    @property
    def is_settings(self) -> bool:
        """True for a block that only sets names in capitals."""
        names = [
            node for node in ast.parse(self.code).body if not isinstance(node, ast.Import | ast.ImportFrom | ast.Expr)
        ]
        return bool(names) and all(
            isinstance(node, ast.Assign | ast.AugAssign)
            and re.match(r"[A-Z_]+\b", ast.unparse(node.targets[0] if isinstance(node, ast.Assign) else node.target))
            for node in names
        )


def snippets(document: Path, *languages: str) -> list[Snippet]:
    """Return the code blocks of a document in these languages, in their order."""
    text = document.read_text()
    return [
        Snippet(document, text.count("\n", 0, found.start()) + 2, found["language"], _dedent(found))
        for found in BLOCK.finditer(text)
        if found["language"] in languages
    ]


def _dedent(found: re.Match[str]) -> str:
    indent = len(found["indent"])
    return "".join(line[indent:] for line in found["code"].splitlines(keepends=True))


def documents(*languages: str) -> list[Path]:
    """Return the documents with code blocks in these languages, without those that are run as a whole."""
    found = [path for path in sorted((ROOT / "docs").rglob("*.md")) if path.name not in RUN_ELSEWHERE]
    return [path for path in found if snippets(path, *languages)]


def given(document: Path) -> dict[str, Any]:
    """Return the names that a document's code uses and does not define, because they belong to the reader's site."""
    return _GIVEN.get(str(document.relative_to(ROOT / "docs")), dict)()


def _user(**attributes: Any) -> Any:
    from django.contrib.auth import get_user_model

    return get_user_model().objects.create(username="ann", **attributes)


def _access() -> dict[str, Any]:
    return {"user": _user()}


def _views() -> dict[str, Any]:
    return {"current_score": lambda match_id: [0, 1]}


def _coming_from() -> dict[str, Any]:
    return {"ticker": None}


_GIVEN = {
    "guides/access.md": _access,
    "guides/answers.md": lambda: {"environ": {"DASHSCOPE_API_KEY": "key"}},
    "operations/metrics.md": lambda: {"environ": {"METRICS_TOKEN": "0123456789abcdef"}},
    "guides/coming-from.md": _coming_from,
    "guides/views.md": _views,
}
