"""The browsers of the tests: Chromium, which Playwright controls, and Firefox, which only opens a URL."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

from playwright.async_api import Browser, Playwright

from tests.support.services import missing

# The headless shell is Chromium without its user interface. It needs half as much processor time.
CHROMIUM = shutil.which("chromium-headless-shell") or shutil.which("chromium") or ""
CHROMIUM_OPTIONS = [
    "--no-sandbox",  # CI runs as root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

# Disable the first-run pages and all background requests.
FIREFOX_PREFERENCES = {
    "app.normandy.enabled": False,
    "app.update.enabled": False,
    "browser.aboutwelcome.enabled": False,
    "browser.newtabpage.enabled": False,
    "browser.safebrowsing.downloads.remote.enabled": False,
    "browser.safebrowsing.malware.enabled": False,
    "browser.safebrowsing.phishing.enabled": False,
    "browser.safebrowsing.update.enabled": False,
    "browser.search.update": False,
    "browser.shell.checkDefaultBrowser": False,
    "browser.startup.homepage_override.mstone": "ignore",
    "browser.startup.page": 0,
    "browser.topsites.contile.enabled": False,
    "datareporting.healthreport.uploadEnabled": False,
    "datareporting.policy.dataSubmissionEnabled": False,
    "datareporting.usage.uploadEnabled": False,
    "dom.disable_open_during_load": False,
    "dom.push.enabled": False,
    "extensions.getAddons.cache.enabled": False,
    "extensions.systemAddon.update.enabled": False,
    "extensions.update.enabled": False,
    "geo.enabled": False,
    "media.gmp-manager.updateEnabled": False,
    "network.captive-portal-service.enabled": False,
    "network.connectivity-service.enabled": False,
    "network.dns.disablePrefetch": True,
    "network.prefetch-next": False,
    "network.trr.mode": 5,
    "services.settings.server": "http://127.0.0.1:9/",
    "toolkit.telemetry.enabled": False,
    "toolkit.telemetry.server": "",
    "toolkit.telemetry.unified": False,
    "trailhead.firstrun.didSeeAboutWelcome": True,
}


async def launch_chromium(playwright: Playwright) -> Browser:
    """Launch Chromium with a fresh profile."""
    if not CHROMIUM:
        missing("Chromium", "chromium-headless-shell")
    return await playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_OPTIONS)


async def launch_with_back_forward_cache(playwright: Playwright) -> Browser:
    """Launch Chromium with the cache that Playwright disables, and that the headless shell does not have."""
    if (program := shutil.which("chromium")) is None:
        missing("Chromium", "chromium")
    return await playwright.chromium.launch(
        executable_path=program,
        args=[*CHROMIUM_OPTIONS, "--headless=new"],
        ignore_default_args=["--disable-back-forward-cache"],
    )


class Firefox:
    """A headless Firefox with a fresh profile."""

    def __init__(self, folder: Path) -> None:
        program = shutil.which("firefox-esr")
        if program is None:
            missing("Firefox", "firefox-esr")
        self._program = program
        self._profile = folder / "firefox"
        self._profile.mkdir()
        lines = (f"user_pref({name!r}, {_literal(value)});\n" for name, value in FIREFOX_PREFERENCES.items())
        (self._profile / "user.js").write_text("".join(lines).replace("'", '"'))
        self._process: subprocess.Popen[bytes] | None = None

    def open(self, url: str) -> None:
        log = (self._profile / "log").open("ab")
        command = [str(self._program), "--headless", "--no-remote", "-profile", str(self._profile), url]
        env = {**os.environ, "HOME": str(self._profile), "MOZ_CRASHREPORTER_DISABLE": "1"}
        # A new session, so that close() can kill all processes of Firefox at once.
        self._process = subprocess.Popen(command, stdout=log, stderr=log, env=env, start_new_session=True)

    def close(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(timeout=60)


def _literal(value: object) -> str:
    return str(value).lower() if isinstance(value, bool | int) else f'"{value}"'
