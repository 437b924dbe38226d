"""The distribution as users install it: built from this checkout, and installed into an environment of its own."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from tests.support.sites import ROOT

# Variables of this process that would lead the environment's programs to the checkout or to another site.
FOREIGN = ("DATABASE_URL", "DJANGO_SETTINGS_MODULE", "PYTHONDONTWRITEBYTECODE", "PYTHONPATH", "STREAMS_SETTINGS")


def build(folder: Path, source: Path = ROOT) -> tuple[Path, Path]:
    """Build the wheel and the source distribution without a network, and return their paths."""
    argv = [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--sdist", "--outdir", str(folder), str(source)]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    [wheel], [sdist] = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return wheel, sdist


class Environment:
    """A virtual environment that sees the libraries of the running one, but not the checkout.

    It has the commands `python`, `pip` and `django-admin`. pip finds no packages except those that are installed and
    those in `folder`.
    """

    def __init__(self, folder: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
        [site_packages] = folder.glob("lib/python*/site-packages")
        (site_packages / "libraries.pth").write_text(sysconfig.get_path("purelib"))
        python = folder / "bin" / "python"
        for name, module in (("pip", "pip"), ("django-admin", "django")):
            script = folder / "bin" / name
            script.write_text(f'#!/bin/sh\nexec {shlex.quote(str(python))} -m {module} "$@"\n')
            script.chmod(0o755)
        inherited = {name: value for name, value in os.environ.items() if name not in FOREIGN}
        self.env = {
            **inherited,
            "PATH": os.pathsep.join([str(folder / "bin"), os.environ.get("PATH", "")]),
            "VIRTUAL_ENV": str(folder),
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_NO_INDEX": "1",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PYTHONUNBUFFERED": "1",
        }

    def run(self, command: str, cwd: Path, *, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a line of shell."""
        done = subprocess.run(
            command, shell=True, cwd=cwd, env=self.env, capture_output=True, text=True, timeout=120, **options
        )
        assert done.returncode == 0 or not check, f"{command}\n{done.stdout}{done.stderr}"
        return done
