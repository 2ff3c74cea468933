"""The TLS certificate of /metrics, or of the dashboard: a mounted one, or a self-signed one that is made at start.

A mounted one of /metrics is looked for where controller-runtime looks. It is reloaded when it changes, as cert-manager's do.
"""

from __future__ import annotations

import asyncio
import datetime
import hashlib
import ipaddress
import logging
import os
import re
import ssl
import tempfile
from pathlib import Path

from runner.errors import ConfigurationError
from runner.private_files import below_shared, owners_of

logger = logging.getLogger(__name__)

# controller-runtime's defaults: CertDir, CertName, KeyName.
MOUNTED = Path(tempfile.gettempdir()) / "k8s-metrics-server" / "serving-certs"
MOUNTED_FOR_DASHBOARD = Path(tempfile.gettempdir()) / "rolerunner-dashboard" / "serving-certs"
_CERTIFICATE, _KEY = "tls.crt", "tls.key"
_CERTIFICATE_BLOCK = re.compile(rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)

_LIFETIME = datetime.timedelta(days=3650)
# Seconds between two looks at a mounted certificate.
_INTERVAL = 10.0


class ServingCertificate:
    """A server's certificate in an `ssl.SSLContext`. Raises ConfigurationError for a mounted one that cannot be used."""

    def __init__(self, folder: Path = MOUNTED, *, of: str = "metrics") -> None:
        """`of` names what is served with it."""
        self._of = of
        self.context = _context()
        # The SHA-256 of what clients are shown; empty where that could not be read from the file.
        self.fingerprint = b""
        self._files = (folder / _CERTIFICATE, folder / _KEY)
        self.is_mounted = all(path.exists() for path in self._files) and not _is_foreign(folder, of)
        self._state = self._stat() if self.is_mounted else None
        if self.is_mounted:
            try:
                self.context.load_cert_chain(*self._files)
            except (OSError, ssl.SSLError) as error:
                raise ConfigurationError(
                    f"{self._files[0]}: cannot be used with {_KEY} beside it to serve {of} ({error}); "
                    "mount a pair in PEM, or none to have one made"
                ) from error
            self.fingerprint = self._mounted_fingerprint()
        else:
            pem = _self_signed(of)
            _load(self.context, pem)
            self.fingerprint = _fingerprint(pem)

    async def follow(self) -> None:
        """Reload a mounted certificate whenever it changes, until cancelled."""
        while True:
            await asyncio.sleep(_INTERVAL)
            self.refresh()

    def refresh(self) -> None:
        """Reload a mounted certificate if it has changed and can be used; new connections get it."""
        if not self.is_mounted or (state := self._stat()) == self._state:
            return
        self._state = state
        try:
            # Tried elsewhere first: a context is left with half of a pair that does not fit.
            _context().load_cert_chain(*self._files)
            self.context.load_cert_chain(*self._files)
        except (OSError, ssl.SSLError) as error:
            logger.warning("The new certificate cannot be used", extra={"server": self._of, "error": str(error)})
        else:
            self.fingerprint = self._mounted_fingerprint()
            logger.info("The certificate is a new one", extra={"server": self._of, "path": str(self._files[0])})

    def _mounted_fingerprint(self) -> bytes:
        # Should it have changed since it was loaded, the next look finds that, and both are read again.
        try:
            return _fingerprint(self._files[0].read_bytes())
        except OSError:
            return b""

    def _stat(self) -> tuple[tuple[int, int], ...]:
        try:
            return tuple((stat.st_ino, stat.st_mtime_ns) for stat in map(Path.stat, self._files))
        except OSError:
            return ()


def _context() -> ssl.SSLContext:
    return ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)


def _load(context: ssl.SSLContext, pem: bytes) -> None:
    """Load a certificate by way of a temporary private file, as Python reads them from files only."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(pem)
        file.flush()
        context.load_cert_chain(file.name)


def _fingerprint(pem: bytes) -> bytes:
    """The SHA-256 of the first certificate, which is the server's own; empty if there is none."""
    found = _CERTIFICATE_BLOCK.search(pem)
    try:
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(found[0].decode())).digest() if found else b""
    except ValueError:
        return b""


def _is_foreign(folder: Path, of: str) -> bool:
    """True if another user may have put it there: by default it is looked for below /tmp, which is world-writable."""
    foreign = next((path for path in below_shared(folder) if not owners_of(path) <= {0, os.geteuid()}), None)
    if foreign is not None:
        fields = {"server": of, "path": str(foreign)}
        logger.warning("A certificate was passed over; it belongs to another user", extra=fields)
    return foreign is not None


def _self_signed(of: str) -> bytes:
    """A key and a self-signed certificate for localhost, as controller-runtime's: it encrypts, but proves no identity."""
    # Large, and not needed where metrics are not served over TLS.
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"rolerunner {of}")])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.IPv4Address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + _LIFETIME)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )
    encoding = serialization.Encoding.PEM
    return certificate.public_bytes(encoding) + key.private_bytes(
        encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
