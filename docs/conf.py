"""The documentation site: `make docs` builds it with Sphinx into docs/_build/html, and treats warnings as errors."""

from __future__ import annotations

import html
import os
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"

import django  # noqa: E402
from pygments.lexers.templates import HtmlDjangoLexer  # noqa: E402
from sphinx.application import Sphinx  # noqa: E402

django.setup()

import streams  # noqa: E402

project = "Streams"
author = "the Streams authors"
project_copyright = f"2026, {author}"
release = version = streams.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]

root_doc = "index"  # it shows the project's README
exclude_patterns = ["_build"]

nitpicky = False
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence", "deflist"]
# The prompt and the output of a command are not copied.
copybutton_prompt_text = r"\$ |>>> "
copybutton_prompt_is_regexp = True

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_preserve_defaults = True
add_module_names = False
default_role = "code"  # for names in `backticks`
napoleon_numpy_docstring = False

# Files outside of this folder, and the pages that show them.
OUTSIDE = {
    "README.md": "index",
    "CHANGELOG.md": "changelog",
    "CONTRIBUTING.md": "contributing",
    "SECURITY.md": "security",
    "LICENSE": "license",
}

# A picture for light and dark pages. GitHub shows it as it is; the theme has classes for the two images.
PICTURE = re.compile(
    r'<picture>\s*<source media="\(prefers-color-scheme: dark\)" srcset="(?P<dark>[^"]+)">\s*'
    r'<img alt="(?P<alt>[^"]*)" src="(?P<light>[^"]+)">\s*</picture>'
)

html_theme = "furo"
html_title = f"Streams {release}"
html_static_path: list[str] = []
# No file of the site is loaded from elsewhere, and no build depends on the network.
html_show_sphinx = False


def _read(app: Sphinx, docname: str, content: list[str]) -> None:
    """Put the files of OUTSIDE into their pages, and let the links to these files lead to the pages."""
    text = content[0]
    to_root = "../" * (docname.count("/") + 1)
    for name, page in OUTSIDE.items():
        if page == docname:
            app.env.note_dependency(str(ROOT / name))
            text = (ROOT / name).read_text() + "\n" + text
            text = text if text.startswith("#") else f"# {text}"  # the first line of the license
            to_root = ""
    if not to_root:
        text = text.replace("](docs/", "](/")
    for name, page in OUTSIDE.items():
        text = text.replace(f"]({to_root}{name}", f"](/{page}.md")
    content[0] = PICTURE.sub(_images, text)


def _images(picture: re.Match[str]) -> str:
    alt = html.unescape(picture["alt"])
    return "\n\n".join(
        f"```{{image}} {picture[theme]}\n:alt: {alt}\n:class: only-{theme}\n```" for theme in ("light", "dark")
    )


def _mark_code(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Mark the indented examples of docstrings as code, as reStructuredText requires."""
    marked: list[str] = []
    last = ""  # the last line that is not empty
    for line in lines:
        if line.startswith("    ") and marked and not marked[-1] and not last.startswith((" ", ":", "..")):
            marked += ["::", ""]
        marked.append(line)
        last = line or last
    lines[:] = marked


def setup(app: Sphinx) -> None:
    app.connect("source-read", _read)
    app.connect("autodoc-process-docstring", _mark_code)
    app.add_lexer("html", HtmlDjangoLexer)  # the pages in the documents are Django's templates
