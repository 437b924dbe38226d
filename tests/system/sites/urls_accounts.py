"""The URLs of a site, and those of django-allauth."""

from django.urls import include, path

from tests.system.sites.urls import urlpatterns as of_the_site

urlpatterns = [*of_the_site, path("accounts/", include("allauth.urls"))]
