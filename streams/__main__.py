"""`python -m streams init`, in the folder of manage.py: `manage.py streams_init` for a project that has no Streams yet.

`manage.py` knows its command only if `streams` is in INSTALLED_APPS, which is the first of the changes.
"""

from __future__ import annotations

import argparse
import ast
import os
import sys
from pathlib import Path

import django
from django.core.exceptions import ImproperlyConfigured


def main(arguments: list[str]) -> int:
    """Run a command, and return the exit code."""
    from streams.installation import init

    parser = argparse.ArgumentParser(prog="python -m streams", description="Set up Streams in a Django project.")
    command = parser.add_subparsers(required=True, metavar="COMMAND").add_parser("init", help=init.HELP)
    init.add_arguments(command)
    options = vars(parser.parse_args(arguments))
    try:
        _set_up_django()
    except (ImportError, ImproperlyConfigured, OSError, SyntaxError) as error:
        print(f"The settings cannot be loaded: {error}", file=sys.stderr)
        return 1
    from streams.installation.source import CannotChange

    try:
        is_done = init.run(sys.stdout.write, sys.stderr.write, **options)
    except CannotChange as error:
        print(error, file=sys.stderr)
        return 1
    return 0 if is_done or not options["write"] else 1


def _set_up_django() -> None:
    """Load the settings that manage.py names, unless the environment names others."""
    from streams.installation.asgi_file import settings_module_in

    if "DJANGO_SETTINGS_MODULE" not in os.environ:
        manage = Path("manage.py")
        if not manage.exists():
            raise ImproperlyConfigured("run this command in the folder of manage.py, or set DJANGO_SETTINGS_MODULE.")
        module = settings_module_in(ast.parse(manage.read_bytes()))
        if module is None:
            raise ImproperlyConfigured("manage.py names none; set DJANGO_SETTINGS_MODULE.")
        os.environ["DJANGO_SETTINGS_MODULE"] = module
    sys.path.insert(0, os.getcwd())
    django.setup()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
