"""The URLs of a site. The page is below the same prefixes as the streams."""

from django.contrib import admin
from django.contrib.staticfiles.views import serve
from django.urls import include, path, re_path

from tests.system.sites import views

for_tests = [
    path("test/burst/", views.burst),
    path("test/checks/", views.checks),
    path("test/process/", views.process),
    path("test/publish/", views.publish),
    path("test/login/", views.log_in),
    path("test/logout/", views.log_out),
]

site = [
    path("page/", views.page, name="page"),
    path("events/", include("streams.urls")),
    path("api/", include("streams.api.urls")),
    path("admin/", admin.site.urls),
]

static = [re_path(r"^static/(?P<path>.*)$", serve, {"insecure": True})]

urlpatterns = [*for_tests, *site, *static]
