import asyncio
import hashlib
import os
import ssl
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest
from cryptography import x509
from prometheus_client import CollectorRegistry

from devkit.devcluster import pki
from runner.config.settings import Address
from runner.errors import ConfigurationError
from runner.serving import certificate
from runner.serving.certificate import ServingCertificate
from runner.serving.role_metrics import RoleMetrics
from runner.serving.server import serving_metrics


def mount(folder: Path, issued: Path) -> Path:
    """A pair in the folder, taken from what the devcluster makes for a server; its CA is in `issued`."""
    pki.write(issued, service_address="10.0.0.1")
    folder.mkdir(exist_ok=True)
    for name in ("crt", "key"):
        # As the kubelet does: the name points to another file from one moment to the next.
        new = folder / f"new.{name}"
        new.symlink_to(issued / f"server.{name}")
        new.replace(folder / f"tls.{name}")
    return issued / "ca.crt"


async def shown(address: Address, context: ssl.SSLContext) -> str:
    # A connection of its own: it is the handshake that shows the certificate.
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"https://localhost:{address.port}/metrics", ssl=context) as answer,
    ):
        return await answer.text()


async def test_without_a_mounted_one_it_is_made_for_localhost_and_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    made = ServingCertificate(tmp_path / "nothing")
    assert list(tmp_path.iterdir()) == []
    async with serving_metrics(Address("127.0.0.1", 0), RoleMetrics(CollectorRegistry()), certificate=made) as address:
        pem = await asyncio.to_thread(ssl.get_server_certificate, ("127.0.0.1", address.port))
        assert "ansible_operator_build_info" in await shown(address, ssl.create_default_context(cadata=pem))
        with pytest.raises(aiohttp.ClientSSLError):
            await shown(address, ssl.create_default_context())
    assert hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).digest() == made.fingerprint
    names = x509.load_pem_x509_certificate(pem.encode()).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert names.value.get_values_for_type(x509.DNSName) == ["localhost"]


def test_while_it_is_read_the_key_is_its_owners_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    modes = []
    load = ssl.SSLContext.load_cert_chain

    def look(context: ssl.SSLContext, path: str) -> None:
        modes.append(os.stat(path).st_mode & 0o777)
        load(context, path)

    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", look)
    ServingCertificate(Path("/nothing"))
    assert modes == [0o600]


async def test_a_mounted_one_is_taken_and_followed(tmp_path: Path) -> None:
    mounted = tmp_path / "mounted"
    first = ssl.create_default_context(cafile=mount(mounted, tmp_path / "first"))
    taken = ServingCertificate(mounted)
    async with AsyncExitStack() as stack:
        serving = serving_metrics(Address("127.0.0.1", 0), RoleMetrics(CollectorRegistry()), certificate=taken)
        address = await stack.enter_async_context(serving)
        await shown(address, first)
        second = ssl.create_default_context(cafile=mount(mounted, tmp_path / "second"))
        taken.refresh()
        await shown(address, second)
        with pytest.raises(aiohttp.ClientSSLError):
            await shown(address, first)
        # Half of it changed: the pair that fits is kept.
        (mounted / "tls.key").unlink()
        (mounted / "tls.key").symlink_to(tmp_path / "first" / "server.key")
        taken.refresh()
        await shown(address, second)


async def test_the_fingerprint_is_that_of_the_certificate_that_is_shown(tmp_path: Path) -> None:
    mounted = tmp_path / "mounted"
    mount(mounted, tmp_path / "first")
    taken = ServingCertificate(mounted)
    serving = serving_metrics(Address("127.0.0.1", 0), RoleMetrics(CollectorRegistry()), certificate=taken)
    async with serving as address:

        async def is_shown(fingerprint: bytes) -> bool:
            pem = await asyncio.to_thread(ssl.get_server_certificate, ("127.0.0.1", address.port))
            return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).digest() == fingerprint

        before = taken.fingerprint
        assert await is_shown(before)
        mount(mounted, tmp_path / "second")
        # Until it is read again, the first one is served.
        assert (taken.fingerprint, await is_shown(before)) == (before, True)
        taken.refresh()
        assert taken.fingerprint != before
        assert await is_shown(taken.fingerprint)
        # A pair that does not fit changes neither.
        after = taken.fingerprint
        (mounted / "tls.crt").unlink()
        (mounted / "tls.crt").symlink_to(tmp_path / "first" / "server.crt")
        taken.refresh()
        assert (taken.fingerprint, await is_shown(after)) == (after, True)


@pytest.mark.parametrize("before", ["", "A comment.\n", "\n\n"])
@pytest.mark.parametrize("after", [b"", b"\n-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_of_a_chain_it_is_the_first_ones(before: str, after: bytes) -> None:
    pem = ssl.DER_cert_to_PEM_cert(b"the server's own")
    expected = hashlib.sha256(b"the server's own").digest()
    assert certificate._fingerprint(before.encode() + pem.encode() + after) == expected


@pytest.mark.parametrize(
    "pem",
    [b"", b"x", b"-----BEGIN CERTIFICATE-----", b"-----BEGIN CERTIFICATE-----\xff-----END CERTIFICATE-----"],
)
def test_of_what_is_no_certificate_there_is_none(pem: bytes) -> None:
    assert certificate._fingerprint(pem) == b""


async def test_changes_are_looked_for_all_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificate, "_INTERVAL", 0.001)
    mount(tmp_path / "mounted", tmp_path / "first")
    taken = ServingCertificate(tmp_path / "mounted")
    seen = asyncio.Event()
    monkeypatch.setattr(taken, "refresh", seen.set)
    async with serving_metrics(Address("127.0.0.1", 0), RoleMetrics(CollectorRegistry()), certificate=taken):
        await asyncio.wait_for(seen.wait(), 60)


def test_a_mounted_one_that_cannot_be_used_is_a_clear_error(tmp_path: Path) -> None:
    for name in ("tls.crt", "tls.key"):
        (tmp_path / name).write_text("nothing of the kind")
    with pytest.raises(ConfigurationError, match=r"tls\.crt: cannot be used with tls\.key beside it to serve metrics"):
        ServingCertificate(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give something away")
def test_one_that_another_user_has_put_into_a_shared_folder_is_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shared = tmp_path / "tmp"
    (shared / "k8s-metrics-server").mkdir(parents=True)
    mount(shared / "k8s-metrics-server" / "serving-certs", tmp_path / "first")
    shared.chmod(0o1777)
    assert ServingCertificate(shared / "k8s-metrics-server" / "serving-certs").is_mounted
    os.chown(shared / "k8s-metrics-server", 65534, -1)
    assert not ServingCertificate(shared / "k8s-metrics-server" / "serving-certs").is_mounted
    assert "A certificate was passed over; it belongs to another user" in caplog.messages
