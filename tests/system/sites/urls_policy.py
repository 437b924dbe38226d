"""The URLs of a site whose static files are served by middleware."""

from tests.system.sites.urls import for_tests, site

urlpatterns = [*for_tests, *site]
