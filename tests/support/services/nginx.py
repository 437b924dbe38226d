"""A real nginx with the configuration file in docs/operations/deploying, with other ports and folders."""

from __future__ import annotations

import datetime
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.support.services import accepts, free_port, wait_until

CONFIGURATION = Path(__file__).resolve().parents[3] / "docs" / "operations" / "deploying" / "nginx.conf"


# For `changes`: pass a 502 or 503 on to the clients of streams, as a plain `proxy_pass` does.
PASS_ERRORS = {"proxy_intercept_errors on;": "", "error_page 502 503 504 = @away;": ""}


def below(prefix: str) -> dict[str, str]:
    """Return the `changes` for a site below a prefix, such as `/app`."""
    locations = ("location / {", "location ~ ^/(events", "location /ai/ {")
    return {line: line.replace("/", f"{prefix}/", 1) for line in locations}


def program() -> str | None:
    """Return the path of the installed nginx, if there is one."""
    return shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


class NginxServer:
    """nginx in front of the servers on `ports`, which must be as many as the servers in the configuration file.

    With `secure`, it also serves TLS and HTTP/2 on `secure_port`, with a self-signed certificate; without `http2`, TLS
    only. `changes` replaces texts of the configuration file, each of which must be in it.
    """

    def __init__(
        self,
        ports: Sequence[int],
        *,
        secure: bool = False,
        http2: bool = True,
        changes: Mapping[str, str] | None = None,
    ) -> None:
        found = program()
        assert found is not None
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="streams-nginx-"))
        self.folder.chmod(0o755)  # if root starts nginx, its workers run as another user
        self._process: subprocess.Popen[bytes] | None = None
        path = self.folder / "nginx.conf"
        text = CONFIGURATION.read_text()
        for old, new in (changes or {}).items():
            assert old in text, f"{CONFIGURATION.name} has no {old!r}"
            text = text.replace(old, new)
        if secure:
            self.secure_port = free_port()
            text = secured(text, self.secure_port, *_certificate(self.folder), http2=http2)
        path.write_text(configured(text, self.port, ports, self.folder))
        self._command = [found, "-c", str(path), "-e", str(self.folder / "error.log"), "-g", "daemon off;"]

    def start(self) -> NginxServer:
        with (self.folder / "output").open("ab") as output:
            self._process = subprocess.Popen(self._command, stdout=output, stderr=output)
        wait_until(self._accepts, "nginx's start")
        return self

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def _accepts(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise RuntimeError(f"nginx ended at once:\n{self.errors()}")
        return accepts(self.port)

    def errors(self) -> str:
        """Return its output and error log."""
        return "".join(path.read_text() for name in ("output", "error.log") if (path := self.folder / name).exists())

    def remove(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(timeout=60)
        shutil.rmtree(self.folder, ignore_errors=True)


def configured(text: str, port: int, ports: Sequence[int], folder: Path) -> str:
    """Replace the ports and folders in the configuration. Assert that each is in it, so that no test uses others."""
    replacements = [("listen 80;", f"listen 127.0.0.1:{port};", 1)]
    replacements += [(name, f"{folder}/", None) for name in ("/run/", "/var/log/nginx/", "/var/lib/nginx/")]
    replacements += [(f"127.0.0.1:{8001 + n} ", f"127.0.0.1:{number} ", 1) for n, number in enumerate(ports)]
    for old, new, times in replacements:
        found = text.count(old)
        assert found == times if times else found, f"{CONFIGURATION.name} has {old!r} {found} times"
        text = text.replace(old, new)
    assert len(re.findall(r"^ *server 127\.", text, re.MULTILINE)) == len(ports)
    return text


def has_http2_directive() -> bool:
    """Return True if this nginx is 1.25.1 or newer and knows `http2 on`. The file documents both forms."""
    found = program()
    assert found is not None
    version = subprocess.run([found, "-v"], capture_output=True, text=True, check=True).stderr
    numbers = re.search(r"nginx/(\d+)\.(\d+)\.(\d+)", version)
    assert numbers is not None, version
    return tuple(map(int, numbers.groups())) >= (1, 25, 1)


def secured(text: str, port: int, certificate: Path, key: Path, *, http2: bool = True) -> str:
    """Uncomment the lines for TLS and HTTP/2, which are comments in the file because they need a certificate."""
    listen = f"listen 127.0.0.1:{port} ssl"
    old_form, new_form = http2 and not has_http2_directive(), http2 and has_http2_directive()
    replacements = [
        ("# listen 443 ssl;", f"{listen} http2;" if old_form else f"{listen};"),
        ("# http2 on;", "http2 on;" if new_form else "# http2 on;"),
        ("# http2_max_concurrent_streams", "http2_max_concurrent_streams"),
        ("# ssl_certificate     /etc/ssl/certs/site.pem;", f"ssl_certificate {certificate};"),
        ("# ssl_certificate_key /etc/ssl/private/site.key;", f"ssl_certificate_key {key};"),
        ("# ssl_protocols", "ssl_protocols"),
        ("# ssl_session_cache", "ssl_session_cache"),
    ]
    for old, new in replacements:
        assert text.count(old) == 1, f"{CONFIGURATION.name} has {old!r} {text.count(old)} times"
        text = text.replace(old, new)
    return text


def _certificate(folder: Path) -> tuple[Path, Path]:
    """Create a self-signed certificate for 127.0.0.1 that is valid for one day."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    paths = folder / "site.pem", folder / "site.key"
    paths[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    unencrypted = serialization.NoEncryption()
    paths[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, unencrypted))
    return paths
