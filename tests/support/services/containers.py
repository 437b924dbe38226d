"""Build and run containers with podman, without a registry: the base image is made of this machine's own files."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.services import missing

# podman's defaults, and what works in a container that has no systemd.
RUNTIMES = ([], ["--runtime", "runc", "--cgroup-manager", "cgroupfs"])

LINKS = ("bin", "lib", "lib64", "sbin")
SECONDS = 120


class Podman:
    """podman with a storage of its own in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._options = ["--root", str(folder / "store"), "--runroot", str(folder / "run"), "--storage-driver", "vfs"]
        # The programs and the Python of this machine, at the same paths. Images hold only what is built.
        prefixes = {"/usr", os.path.realpath(sys.prefix), os.path.realpath(sys.base_prefix)}
        self._mounts = [argument for path in sorted(prefixes) for argument in ("--volume", f"{path}:{path}:ro")]
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        # The machine's own limits, because a container without privileges cannot raise them.
        self._run_options = [*self._mounts, "--network", "none", "--ulimit", f"nofile={soft}:{hard}"]
        self._run_options += ["--ulimit", "nproc=1024:1024"]

    def __call__(self, *args: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            ["podman", *self._options, *args], capture_output=True, text=True, timeout=SECONDS, stdin=subprocess.DEVNULL
        )
        assert done.returncode == 0 or not check, f"podman {' '.join(args)}:\n{done.stdout}{done.stderr}"
        return done

    def make_base(self, name: str) -> None:
        """Make an image with this name from empty folders. Programs come from the mounts."""
        context = self.folder / "base"
        root = context / "root"
        for name_of_folder in ("usr", "proc", "sys", "dev", "tmp", "etc", "var", "srv"):
            (root / name_of_folder).mkdir(parents=True)
        (root / "tmp").chmod(0o1777)  # a tmpfs gets the mode of the folder below it
        for link in LINKS:
            (root / link).symlink_to(f"usr/{link}")
        for file in ("passwd", "group", "login.defs"):
            shutil.copy(f"/etc/{file}", root / "etc")
        path = f"{os.path.realpath(sys.prefix)}/bin:/usr/sbin:/usr/bin"
        # What is installed fulfils the lock file, so that pip needs no index.
        lines = ["FROM scratch", "COPY root /", f"ENV PATH={path} PIP_NO_INDEX=1 PIP_ROOT_USER_ACTION=ignore"]
        (context / "Dockerfile").write_text("\n".join([*lines, ""]))
        done = self.build(name, context / "Dockerfile", context, check=False)
        if done.returncode != 0:
            pytest.skip(f"podman cannot build images on this machine: {done.stderr.strip()[-500:]}")
        self.check(name)

    def build(self, name: str, file: Path, context: Path, *, check: bool = True) -> subprocess.CompletedProcess[str]:
        common = ["--isolation", "chroot", "--pull=never", "--format", "docker"]
        return self("build", *common, *self._mounts, "--file", str(file), "--tag", name, str(context), check=check)

    def run(self, *args: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self("run", *self._run_options, *args, check=check)

    def check(self, image: str) -> None:
        """Find options with which containers run here. Skips the test if there are none: many CI systems forbid it."""
        for runtime in RUNTIMES:
            plain, self._options = self._options, [*self._options, *runtime]
            done = self.run("--rm", image, "true", check=False)
            if done.returncode == 0:
                return
            self._options = plain
        pytest.skip(f"podman cannot run containers on this machine: {done.stderr.strip()[-500:]}")

    def health(self, container: str) -> bool:
        """Run the image's health check now, and return True if it succeeds."""
        return self("healthcheck", "run", container, check=False).returncode == 0


@contextlib.contextmanager
def podman() -> Iterator[Podman]:
    """Yield a podman, or skip the test if there is none. Its images and containers are removed at the end."""
    if shutil.which("podman") is None:
        missing("podman", "podman")
    if os.geteuid() != 0:
        pytest.skip("the containers' test needs root, because it mounts folders of this machine")
    folder = Path(tempfile.mkdtemp(prefix="streams-podman-"))
    engine = Podman(folder)
    try:
        yield engine
    finally:
        engine("rm", "--all", "--force", "--time", "0", check=False)
        engine("rmi", "--all", "--force", check=False)
        shutil.rmtree(folder, ignore_errors=True)
