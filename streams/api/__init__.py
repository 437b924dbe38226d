"""The HTTP API: publish, history, channels, tokens, disconnecting, health. `path("api/", include("streams.api.urls"))`.

It needs djangorestframework and drf-spectacular, which the extra `api` installs. The only apps that it needs in
INSTALLED_APPS are `streams`, the apps of the site's authentication classes and, for the page `api/docs/`,
`drf_spectacular_sidecar`.
"""
