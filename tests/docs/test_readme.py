"""The README and the documents are correct: their settings, checks, codes, commands, links and Python code."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from django.core.management import get_commands

from streams import checks, conf
from streams.installation import checks as server_checks
from streams.relay import checks as relay_checks

ROOT = Path(__file__).resolve().parents[2]
TOP = [ROOT / f"{name}.md" for name in ("README", "CHANGELOG", "CONTRIBUTING", "SECURITY")]
DOCUMENTS = [*TOP, *sorted((ROOT / "docs").rglob("*.md"))]
# docs/conf.py fills these pages of the documentation site.
SITE_ONLY = [ROOT / "docs" / f"{name}.md" for name in ("index", "changelog", "contributing", "security", "license")]
SETTINGS = (ROOT / "docs" / "reference" / "settings.md").read_text()
CHECKS = (ROOT / "docs" / "reference" / "checks.md").read_text()
COMMANDS = (ROOT / "docs" / "reference" / "commands.md").read_text()


def name_of(document: Path) -> str:
    return str(document.relative_to(ROOT))


def test_settings_table_has_every_key() -> None:
    rows = re.findall(r"^\| `([A-Z_]+)` \| [^|]+ \| `([^`]+)` \|", SETTINGS, re.MULTILINE)
    documented = {key: ast.literal_eval(default) for key, default in rows}
    assert len(documented) == len(rows)
    assert documented == {key: setting.default for key, setting in conf.known().items()}


def test_settings_named_in_documents_exist() -> None:
    """A name with one of the prefixes of our settings must be a setting. The changelog also contains old names."""
    own = re.compile(r"`((?:MAX|RELAY|GENERATION|RETENTION|WINDOW|QUEUE|PUBLISH|PRESENCE|RECHECK)_[A-Z_]+)`")
    documents = [document for document in DOCUMENTS if document.name != "CHANGELOG.md"]
    named = {key for document in documents for key in own.findall(document.read_text())}
    assert named
    assert named - conf.known().keys() == set()


@pytest.mark.parametrize(
    ("modules", "prefix"), [([checks, server_checks], "streams"), ([relay_checks], "streams_relay")]
)
def test_every_check_is_documented(modules: list[ModuleType], prefix: str) -> None:
    """The reference and the module's docstring must both contain it."""
    pattern = rf"\b{prefix}\.[EW]\d{{3}}"
    documented: set[str] = set()
    for module in modules:
        used = set(re.findall(rf'id="({pattern})"', Path(str(module.__file__)).read_text()))
        assert used
        assert set(re.findall(pattern, module.__doc__ or "")) == used
        documented |= used
    assert set(re.findall(rf"^\| `({pattern})` \|", CHECKS, re.MULTILINE)) == documented


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_checks_named_in_documents_exist(document: Path) -> None:
    pattern = r"`(streams(?:_relay)?\.[EW]\d{3})`"
    assert set(re.findall(pattern, document.read_text())) <= set(re.findall(pattern, CHECKS))


def test_public_names_have_their_docstrings_in_the_reference() -> None:
    names = (ROOT / "docs" / "reference" / "python.md").read_text()
    shown = (ROOT / "docs" / "reference" / "docstrings.md").read_text()
    listed = {
        (module, name)
        for module, found in re.findall(r"`from (streams[\w.]*) import ([\w, ]+)`", names)
        for name in found.split(", ")
    }
    listed |= set(re.findall(r"`(streams\.[\w.]+)\.([A-Z]\w+)`", names))
    assert len(listed) > 20
    assert {f"{module}.{name}" for module, name in listed if not re.search(rf"\b{name}\b", shown)} == set()


def python_code() -> Iterator[tuple[str, str]]:
    for document in DOCUMENTS:
        for number, code in enumerate(re.findall(r"```python\n(.*?)```", document.read_text(), re.DOTALL)):
            yield f"{name_of(document)}-{number}", code


@pytest.mark.parametrize("code", [pytest.param(code, id=name) for name, code in python_code()])
def test_python_code_is_valid(code: str) -> None:
    ast.parse(code)


def test_every_command_is_documented() -> None:
    documented = set(re.findall(r"^\| `manage\.py (\w+)", COMMANDS, re.MULTILINE))
    assert documented == {name for name, app in get_commands().items() if app in ("streams", "streams.relay")}


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_commands_in_documents_exist(document: Path) -> None:
    text = document.read_text()
    assert set(re.findall(r"manage\.py (\w+)", text)) - {"startapp"} <= get_commands().keys()
    makefile = (ROOT / "Makefile").read_text()
    for code in re.findall(r"```sh\n(.*?)```|`(make \w[^`]*)`", text, re.DOTALL):
        for target in re.findall(r"^make (\w+)", "".join(code), re.MULTILINE):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_links_lead_somewhere(document: Path) -> None:
    for link, anchor in re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", document.read_text()):
        if link.startswith("http"):
            continue
        target = document.parent / link if link else document
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), f"{link}#{anchor}"


def anchors(document: Path) -> set[str]:
    """Return the anchors that GitHub gives to the headings of a document."""
    headings = re.findall(r"^#+ (.*)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_page_is_short_and_listed() -> None:
    """A reader finds each page from an index, and no page is long."""
    listed = "".join((ROOT / index).read_text() for index in ("docs/README.md", "docs/internals/architecture.md"))
    for document in DOCUMENTS[len(TOP) :]:
        if document in SITE_ONLY:
            continue
        limit = 350 if document.name == "tutorial.md" else 260  # it contains the files of a whole project
        assert len(document.read_text().splitlines()) <= limit, document
        assert document.name == "README.md" or f"{document.name})" in listed, document
    assert len(TOP[0].read_text().splitlines()) <= 150
