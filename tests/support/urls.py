"""The demo site's URLs, and views for tests."""

from django.urls import include, path

from project.urls import urlpatterns as demo
from tests.support import views

urlpatterns = [
    path("test/burst/", views.burst),
    path("test/publish/", views.publish),
    path("test/process/", views.process),
    path("test/login/", views.log_in),
    path("test/logout/", views.log_out),
    path("test/queries/", views.queries),
    path("test/browser/", include("tests.system.browser.urls")),
    path("test/attacks/", include("tests.system.attacks.views")),
    path("test/response/", include("tests.support.response_views")),
    path("test/metrics/", include("streams.metrics")),
    *demo,
]
