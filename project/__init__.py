"""The demo site: it shows the app `streams`, and manage.py runs it."""
