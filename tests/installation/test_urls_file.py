"""The imports that a URLconf needs."""

from __future__ import annotations

from pathlib import Path

import pytest

from streams.installation import urls_file
from streams.installation.source import SourceFile


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("from django.urls import path\n", "from django.urls import include, path\n"),
        ("from django.urls import (\n    path,\n)\n", "from django.urls import (\n    include, path,\n)\n"),
        ("from django.urls import include, path\n", "from django.urls import include, path\n"),
        (
            "from django.conf.urls import include\n",
            "from django.conf.urls import include\nfrom django.urls import path\n",
        ),
        ('"""Docs."""\nA = 1\n', '"""Docs."""\nfrom django.urls import include, path\nA = 1\n'),
        ("import os\n\nA = 1\n", "import os\nfrom django.urls import include, path\n\nA = 1\n"),
        ("A = 1\n", "from django.urls import include, path\nA = 1\n"),
    ],
)
def test_missing_names_are_imported(tmp_path: Path, before: str, after: str) -> None:
    (tmp_path / "urls.py").write_text(before)
    file = SourceFile(tmp_path / "urls.py")
    urls_file._import_names(file)
    assert file.after().decode() == after


def test_streams_are_found_at_any_depth() -> None:
    """This site has them."""
    assert urls_file.has_streams()
    assert not urls_file.has_streams([])
