"""A site with the same Content-Security-Policy, by the middleware of Django 6."""

from tests.system.sites.projects.policy import *  # noqa: F403
from tests.system.sites.projects.policy import INSTALLED_APPS, MIDDLEWARE, POLICY

INSTALLED_APPS = [app for app in INSTALLED_APPS if app != "csp"]
MIDDLEWARE = [
    name.replace("csp.middleware.CSPMiddleware", "django.middleware.csp.ContentSecurityPolicyMiddleware")
    for name in MIDDLEWARE
]
SECURE_CSP = POLICY
