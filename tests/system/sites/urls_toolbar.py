"""The URLs of a site, and those of django-debug-toolbar."""

from debug_toolbar.toolbar import debug_toolbar_urls

from tests.system.sites.urls import urlpatterns as of_the_site

urlpatterns = [*of_the_site, *debug_toolbar_urls()]
