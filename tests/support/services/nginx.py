"""A real nginx with the configuration file from docs/operations/deploying. Only ports and folders differ."""

from __future__ import annotations

import datetime
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.support.services import accepts, free_port, wait_until

CONFIGURATION = Path(__file__).resolve().parents[3] / "docs" / "operations" / "deploying" / "nginx.conf"


def program() -> str | None:
    """The nginx of this machine, if it has one."""
    return shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


class NginxServer:
    """nginx before the servers on `ports`, of which there are as many as the file has.

    `secure`: with the lines for TLS and HTTP/2 as well, by a certificate of its own, on `secure_port`.
    """

    def __init__(self, ports: Sequence[int], *, secure: bool = False) -> None:
        found = program()
        assert found is not None
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="streams-nginx-"))
        self.folder.chmod(0o755)  # its workers are another user, where it is started by root
        self._process: subprocess.Popen[bytes] | None = None
        path = self.folder / "nginx.conf"
        text = CONFIGURATION.read_text()
        if secure:
            self.secure_port = free_port()
            text = secured(text, self.secure_port, *_certificate(self.folder))
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
        """What it has complained of."""
        return "".join(path.read_text() for name in ("output", "error.log") if (path := self.folder / name).exists())

    def remove(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(timeout=60)
        shutil.rmtree(self.folder, ignore_errors=True)


def configured(text: str, port: int, ports: Sequence[int], folder: Path) -> str:
    """The site's file with other ports and folders. Each place must be there, or a test would run with another file."""
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
    """Whether this nginx knows `http2 on`, which 1.25.1 brought. The file names both forms."""
    found = program()
    assert found is not None
    version = subprocess.run([found, "-v"], capture_output=True, text=True, check=True).stderr
    numbers = re.search(r"nginx/(\d+)\.(\d+)\.(\d+)", version)
    assert numbers is not None, version
    return tuple(map(int, numbers.groups())) >= (1, 25, 1)


def secured(text: str, port: int, certificate: Path, key: Path) -> str:
    """The file with its lines for TLS and HTTP/2, which are comments there until a site has its own certificate."""
    listen = f"listen 127.0.0.1:{port} ssl"
    replacements = [
        ("# listen 443 ssl;", f"{listen};" if has_http2_directive() else f"{listen} http2;"),
        ("# http2 on;", "http2 on;" if has_http2_directive() else "# http2 on;"),
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
    """For 127.0.0.1, by itself and for a day."""
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
