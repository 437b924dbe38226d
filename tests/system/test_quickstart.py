"""The steps of the README and of the tutorial work in a new project, exactly as written, with the built wheel."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from tests.support.distribution import Environment
from tests.support.documents import FILE, Reader, blocks
from tests.support.services import missing
from tests.system.browser.browsers import CHROMIUM, CHROMIUM_OPTIONS

pytestmark = pytest.mark.once

README = "README.md"
SECTION = "Use it in your project"


@pytest.fixture
def newcomer(distribution: tuple[Path, Path], tmp_path: Path) -> Iterator[Reader]:
    """A reader with a clean virtual environment, who still has to install Streams."""
    reader = Reader(Environment(tmp_path / "venv"), tmp_path, distribution[0])
    yield reader
    reader.stop()


@pytest.fixture
def reader(installed: Environment, distribution: tuple[Path, Path], tmp_path: Path) -> Iterator[Reader]:
    reader = Reader(installed, tmp_path, distribution[0])
    yield reader
    reader.stop()


@pytest.fixture
def page() -> Iterator[Page]:
    if not CHROMIUM:
        missing("Chromium", "chromium-headless-shell")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_OPTIONS)
        yield browser.new_page()
        browser.close()


def test_readme_has_a_block_for_each_step() -> None:
    """The test below finds the steps by their first words."""
    sh = [line for language, text in blocks(README, SECTION) if language == "sh" for line in text.splitlines()]
    assert [" ".join(line.split()[:3]).removeprefix("python ") for line in sh] == [
        "pip install daphne",
        "django-admin startproject mysite",
        "cd mysite",
        "manage.py migrate",
        "manage.py runserver",
        "manage.py publish",
        'curl -N "http://127.0.0.1:8000/events/news/?replay=10"',
    ]


def follow_readme(reader: Reader, until: str) -> Iterator[tuple[str, str]]:
    """Follow the README up to the block that starts with `until`, and return the blocks from there on."""
    steps = blocks(README, SECTION)
    while not steps[0][1].startswith(until):
        reader.follow(*steps.pop(0))
    return iter(steps)


@pytest.mark.slow
def test_readme_project_shows_messages_over_a_restart(newcomer: Reader, page: Page) -> None:
    """It follows the README from the installation to its end, with the page open in Chromium, and curl."""
    steps = follow_readme(newcomer, "python manage.py publish")
    where = newcomer.type('python -c "import streams; print(streams.__file__)"')
    assert where.startswith(newcomer.environment.env["VIRTUAL_ENV"]), "the checkout has more files than the wheel"
    assert "no issues" in newcomer.type("python manage.py check")
    page.goto(f"http://127.0.0.1:{newcomer.port}/")
    newcomer.follow(*next(steps))
    items = page.locator("#news li")
    expect(items).to_have_text(["Hello"])
    with newcomer.watching(next(steps)[1]) as wait_for_line:
        wait_for_line("data: Hello")
        newcomer.type('python manage.py publish news "Second"')
        wait_for_line("data: Second")
    expect(items).to_have_text(["Second", "Hello"])

    newcomer.stop()
    newcomer.follow(*next(steps))  # publishes from code, while the server is stopped
    newcomer.start()
    expect(items).to_have_text(['{"title":"Hello"}', "Hello", "Second", "Hello"], timeout=30_000)
    assert list(steps) == []


def test_readme_project_needs_no_asgi_file(reader: Reader) -> None:
    """Real projects often have no asgi.py, unlike those that startproject makes."""
    reader.delete_after("django-admin startproject mysite", "mysite/mysite/asgi.py")
    steps = follow_readme(reader, "curl")
    with reader.watching(next(steps)[1]) as wait_for_line:
        wait_for_line("data: Hello")


# The names that the tutorial's shell has after its first block.
SHELL = """
from auction.models import Lot
from auction.services import close, place_bid
from django.contrib.auth.models import User

lot = Lot.objects.get()
ann, bob = User.objects.get(username="ann"), User.objects.get(username="bob")
"""


@pytest.mark.slow
def test_tutorial_holds_an_auction(reader: Reader, page: Page) -> None:
    follow_readme(reader, "python manage.py migrate")
    asked = {"USERNAME": "staff", "PASSWORD": "staff", "EMAIL": "staff@example.com"}
    reader.environment.env |= {f"DJANGO_SUPERUSER_{name}": value for name, value in asked.items()}
    typed = []
    for language, text in blocks("docs/tutorial.md"):
        if language == "python" and not FILE.match(text):
            typed.append(text)
        elif "curl" not in text:
            reader.follow(language, text.replace("createsuperuser", "createsuperuser --no-input"))
    assert "no issues" in reader.type("python manage.py check")
    create, two_bids, while_stopped, higher, close = typed
    reader.start()
    reader.follow("python", create)
    page.goto(f"http://127.0.0.1:{reader.port}/lots/1/")
    bids = page.locator("#bids li")
    reader.follow("python", SHELL + two_bids)
    expect(bids).to_have_text(["120 from bob", "100 from ann"])
    reader.stop()
    reader.follow("python", SHELL + while_stopped)
    reader.start()
    expect(bids).to_have_text(["150 from ann", "120 from bob", "100 from ann"], timeout=30_000)
    reader.follow("python", SHELL + higher)
    reader.follow("python", SHELL + close)
    expect(page.locator("#state")).to_have_text("Sold to bob.")
    page.reload()
    expect(bids).to_have_count(4)
