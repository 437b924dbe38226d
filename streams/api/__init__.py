"""The HTTP API: publish, history, channels, tokens, disconnecting, health. `path("api/", include("streams.api.urls"))`.

It needs djangorestframework and drf-spectacular (the extra `api`), and no app in INSTALLED_APPS but
`streams` and what the site's own authentication classes need.
"""
