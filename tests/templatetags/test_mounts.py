"""{% stream_url %} finds the mounts of streams.urls in a URLconf, and chooses the one nearest to the page."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
from django.conf.urls.i18n import i18n_patterns
from django.http import HttpRequest, HttpResponse
from django.template import Context, RequestContext, Template
from django.test import Client, RequestFactory, override_settings
from django.urls import NoReverseMatch, clear_url_caches, include, path, set_urlconf
from django.utils import translation

pytestmark = pytest.mark.django_db

TAG = '{% load streams %}{% stream_url "news" replay=0 %}'


def page(request: HttpRequest, **kwargs: int) -> HttpResponse:
    return HttpResponse(Template(TAG).render(RequestContext(request)))


def several(request: HttpRequest) -> HttpResponse:
    tag = '{% load streams %}{% autoescape off %}{% stream_url "a" "b" replay=0 %}{% endautoescape %}'
    return HttpResponse(Template(tag).render(RequestContext(request)))


PAGES = [path("page/", page), path("several/", several)]


def x_urls() -> Any:
    """Return the URLs of an app that has pages and includes streams.urls."""
    return [*PAGES, path("events/", include("streams.urls"))], "x"


def mounted(*urlpatterns: Any) -> Any:
    module: Any = ModuleType("urls_of_a_site")
    module.urlpatterns = list(urlpatterns)
    return override_settings(ROOT_URLCONF=module)


@pytest.fixture(autouse=True)
def _forget_urls() -> Iterator[None]:
    yield
    set_urlconf(None)
    clear_url_caches()


def get(url: str) -> str:
    response = Client().get(url)
    assert response.status_code == 200
    return response.content.decode()


def test_nested_include_with_a_namespace() -> None:
    with mounted(*PAGES, path("a/", include(x_urls(), namespace="a"))):
        assert get("/a/page/") == "/a/events/news/"
        assert get("/a/several/") == "/a/events/?channel=a&channel=b"
        assert get("/page/") == "/a/events/news/", "a page outside the namespace must find the mount as well"


def test_three_levels_deep() -> None:
    inner = include(x_urls(), namespace="inner")
    with mounted(*PAGES, path("outer/", include(([path("in/", inner)], "outer")))):
        assert get("/outer/in/page/") == "/outer/in/events/news/"
        assert get("/page/") == "/outer/in/events/news/"


def test_mount_in_the_pages_own_namespace_is_chosen() -> None:
    nested = [path(f"{name}/", include(x_urls(), namespace=name)) for name in ("a", "b")]
    with mounted(*nested, path("events/", include("streams.urls")), *PAGES):
        assert get("/a/page/") == "/a/events/news/"
        assert get("/b/page/") == "/b/events/news/"
        assert get("/page/") == "/events/news/"


def test_two_mounts_side_by_side() -> None:
    mounts = [path(f"{name}/", include("streams.urls", namespace=name)) for name in ("one", "two")]
    with mounted(*mounts, *PAGES):
        assert get("/page/") in ("/one/news/", "/two/news/")
    with mounted(*mounts, path("events/", include("streams.urls")), *PAGES):
        assert get("/page/") == "/events/news/", "the mount without its own namespace must be chosen"
    with mounted(*mounts):
        request = RequestFactory().get("/")
        for name in ("one", "two"):
            request.current_app = name  # type: ignore[attr-defined]
            assert Template(TAG).render(RequestContext(request)) == f"/{name}/news/"


def test_url_has_the_language_of_the_page() -> None:
    with mounted(*i18n_patterns(path("live/", include(x_urls(), namespace="live")))):
        for language in ("en", "de"):
            with translation.override(language):
                assert Template(TAG).render(Context()) == f"/{language}/live/events/news/"


def test_include_without_a_namespace() -> None:
    with mounted(path("x/", include([path("events/", include("streams.urls")), *PAGES]))):
        assert get("/x/page/") == "/x/events/news/"


def test_template_without_a_request() -> None:
    with mounted(path("a/", include(x_urls(), namespace="a"))):
        assert Template(TAG).render(Context()) == "/a/events/news/"


def test_mount_below_parameters_is_passed_over() -> None:
    with mounted(
        path("<int:shop>/", include(x_urls(), namespace="shop")), path("b/", include(x_urls(), namespace="b"))
    ):
        assert get("/7/page/") == "/b/events/news/"


@pytest.mark.parametrize("below", [[], [path("<int:shop>/", include(x_urls(), namespace="shop"))]])
def test_error_names_the_remedy(below: list[Any]) -> None:
    with (
        mounted(*below),
        pytest.raises(NoReverseMatch, match=r'Add path\("events/", include\("streams.urls"\)\) to it'),
    ):
        Template(TAG).render(Context())


def test_urlconf_of_the_request_is_used() -> None:
    module: Any = ModuleType("urls_of_a_tenant")
    module.urlpatterns = [path("tenant/", include("streams.urls"))]
    set_urlconf(module)
    assert Template(TAG).render(Context()) == "/tenant/news/"
