"""URLs with a language, and with the streams in a namespace of the site."""

from django.conf.urls.i18n import i18n_patterns
from django.contrib import admin
from django.urls import include, path

from tests.system.sites import views
from tests.system.sites.urls import for_tests, static

live = [path("events/", include("streams.urls")), path("page/", views.page, name="page")]

urlpatterns = [
    *for_tests,
    *static,
    path("api/", include("streams.api.urls")),
    *i18n_patterns(path("", include((live, "live"))), path("admin/", admin.site.urls)),
]
