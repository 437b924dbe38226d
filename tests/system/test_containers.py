"""The Dockerfile and the compose file of the docs: their parsers accept them, and the image is built and run."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.support.services import wait_until
from tests.support.services.containers import Podman, podman
from tests.support.sites import BIN, ROOT

pytestmark = pytest.mark.once

FOLDER = ROOT / "docs" / "operations" / "deploying"
DOCKERFILE, COMPOSE = FOLDER / "Dockerfile", FOLDER / "compose.yaml"
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(COMPOSE.read_text())["services"]

[BASE] = re.findall(r"^FROM (\S+)$", DOCKERFILE.read_text(), re.MULTILINE)


# --- Parsers ----------------------------------------------------------------------------------------------------------


def test_compose_file_fits_the_specification() -> None:
    command = [str(BIN / "check-jsonschema"), "--builtin-schema", "vendor.compose-spec", str(COMPOSE)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_linters_accept_both_files() -> None:
    for command in ([str(BIN / "hadolint"), str(DOCKERFILE)], [str(BIN / "compose-lint"), str(COMPOSE)]):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


def test_base_image_has_an_exact_version() -> None:
    """test_hardening.py looks at the images of the compose file."""
    assert re.fullmatch(r"python:\d+\.\d+\.\d+-slim-[a-z]+(@sha256:[0-9a-f]{64})?", BASE)


def test_services_wait_until_others_are_healthy() -> None:
    """Each service that runs on has a health check. The one of the servers is in the Dockerfile."""
    assert re.search(r"^HEALTHCHECK .*/api/health/ready", DOCKERFILE.read_text(), re.MULTILINE)
    for name, settings in SERVICES.items():
        if name == "migrate":
            assert settings["healthcheck"] == {"disable": True}
        elif not settings["image"].startswith("site:"):
            assert settings["healthcheck"]["test"], name
        for other, condition in settings.get("depends_on", {}).items():
            wanted = "service_completed_successfully" if other == "migrate" else "service_healthy"
            assert condition == {"condition": wanted}, (name, other)


# --- The image --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Podman]:
    """podman with the image of the Dockerfile, which is built from the files of a clone."""
    clone = tmp_path_factory.mktemp("clone")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0"):
        if name and (ROOT / name).is_file() and not name.startswith("tests/"):
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, clone / name)
    (clone / ".env").write_text("SECRET_KEY=must-not-be-in-the-image\n")
    with podman() as engine:
        engine.make_base(BASE)
        engine.build("site:local", clone / DOCKERFILE.relative_to(ROOT), clone)
        yield engine


def run_as_composed(engine: Podman, name: str, *env: str) -> None:
    """Start the image with the options of the compose file's servers."""
    server = SERVICES["web1"]
    options = ["--read-only"] if server["read_only"] else []
    options += [f"--cap-drop={capability}" for capability in server["cap_drop"]]
    options += [f"--security-opt={option.replace(':true', '')}" for option in server["security_opt"]]
    options += [f"--tmpfs={path}" for path in server["tmpfs"]]
    options += [f"--memory={server['mem_limit']}", f"--pids-limit={server['pids_limit']}"]
    engine.run("--detach", "--name", name, *options, *(f"--env={pair}" for pair in env), "site:local")


@pytest.mark.slow
def test_image_runs_without_privileges(engine: Podman) -> None:
    """Its database is in the tmpfs, which shows that the site writes nowhere else."""
    env = ["SECRET_KEY=for-tests-only", "DATABASE_URL=sqlite:////tmp/db.sqlite3", "ALLOWED_HOSTS=example.com"]
    run_as_composed(engine, "web", *env)
    probe = "id -u; grep -E '^(CapEff|CapBnd|NoNewPrivs)' /proc/self/status; ls -a"
    found = engine("exec", "web", "sh", "-c", probe).stdout.split()
    assert found[0] == "10001"
    assert found[found.index("CapEff:") + 1] == found[found.index("CapBnd:") + 1] == "0" * 16
    assert found[found.index("NoNewPrivs:") + 1] == "1"
    assert "manage.py" in found
    assert ".env" not in found
    for path in ("/srv/site/x", "/etc/x", "/x"):
        assert engine("exec", "web", "touch", path, check=False).returncode != 0

    # The server answers, but it is not ready without its tables.
    assert not engine.health("web")
    engine("exec", "web", "python", "manage.py", "migrate", "-v0")
    wait_until(lambda: engine.health("web"), "the health check")

    engine("stop", "--time", "30", "web")
    assert engine("inspect", "--format", "{{.State.ExitCode}}", "web").stdout.strip() == "0"
