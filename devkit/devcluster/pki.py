"""Certificates and keys of one development cluster: CA, server, administrator, and the key that signs tokens."""

from __future__ import annotations

import ssl
from pathlib import Path

import trustme

from runner.private_files import write_private

_SERVER_NAMES = ("localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "127.0.0.1")


def write(folder: Path, *, service_address: str) -> None:
    """`ca.crt`, `server.crt/.key`, `admin.crt/.key` (of group system:masters) and `service-account.key`, all PEM."""
    folder.mkdir(mode=0o700)
    ca = trustme.CA()
    # etcd and the API server share a certificate, with which the latter is also the former's client.
    server = ca.issue_cert(*_SERVER_NAMES, service_address, common_name="kube-apiserver")
    # Kubernetes takes a user's name from CN and their groups from O. Go refuses a certificate without any subjectAltName,
    # which trustme marks as critical.
    admin = ca.issue_cert("admin", common_name="admin", organization_name="system:masters")
    for name, content in {
        "ca.crt": ca.cert_pem,
        "server.crt": server.cert_chain_pems[0],
        "server.key": server.private_key_pem,
        "admin.crt": admin.cert_chain_pems[0],
        "admin.key": admin.private_key_pem,
        # Only a key: it signs the tokens of ServiceAccounts.
        "service-account.key": trustme.CA().private_key_pem,
    }.items():
        write_private(folder / name, content.bytes(), new=True)


def client_context(folder: Path) -> ssl.SSLContext:
    """TLS as the cluster's administrator, who trusts its CA and no other."""
    context = ssl.create_default_context(cafile=folder / "ca.crt")
    context.load_cert_chain(folder / "admin.crt", folder / "admin.key")
    return context
