"""The dashboard of the replica that leads, as its Lease names it to the replicas that wait: an address and a certificate.

The leader writes this into the Lease that it holds anyway, and the others read that anyway: nobody needs a right more. Who
may write Leases in the operator's namespace, as its roles' runs may, decides where a replica that waits sends its callers'
tokens. What is read has to name the Lease's present holder, an IP address, and the one certificate that is accepted there.

Next on the way: `runner.dashboard.relay`.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from runner.config.settings import Address, parse_address
from runner.json_codec import decode, encode

# Characters of the annotation; what is longer is none of ours.
_LONGEST = 1000
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
# Hosts to listen on that stand for all of the pod's addresses.
_EVERYWHERE = ("", "0.0.0.0", "::")


@dataclass(frozen=True, slots=True)
class LeaderEndpoint:
    """The leader's dashboard: where it is, and the SHA-256 of the certificate that it serves (DER)."""

    address: Address
    fingerprint: bytes


def reachable(pod_ip: str, bound: Address) -> Address | None:
    """The address at which other replicas reach what listens on `bound`; None if that is not known."""
    return Address(pod_ip, bound.port) if pod_ip and bound.host in (*_EVERYWHERE, pod_ip) else None


def to_annotation(address: Address, fingerprint: bytes, *, holder: str) -> str:
    """What the Lease's `holder` has it say of its dashboard."""
    return encode({"holder": holder, "address": str(address), "sha256": fingerprint.hex()}).decode()


def from_annotation(text: str, *, holder: str, own: Address | None) -> LeaderEndpoint | None:
    """The dashboard that the Lease of `holder` names; None for nothing that could be one. `own`: this replica's."""
    if not 0 < len(text) <= _LONGEST:
        return None
    try:
        value = decode(text.encode())
    except (ValueError, RecursionError):
        return None
    match value:
        case {"holder": str(named), "address": str(where), "sha256": str(digest)}:
            address = _address(where, may_be_loopback=own is not None and _is_loopback(own.host))
        case _:
            return None
    # What an earlier leader left says nothing of this one, which may serve no dashboard.
    if not named or named != holder or address is None or address == own or not _SHA256.fullmatch(digest):
        return None
    return LeaderEndpoint(address, bytes.fromhex(digest))


def _address(text: str, *, may_be_loopback: bool) -> Address | None:
    """The address of a pod. Names are none: what they lead to is somebody else's decision."""
    try:
        address = parse_address(text)
        ip = ipaddress.ip_address(address.host if address else "")
    except ValueError:
        return None
    # In its usual form alone: what is written in two ways may be taken for two things.
    if address is None or not address.port or str(Address(str(ip), address.port)) != text:
        return None
    if "%" in text or (isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped):
        return None
    # Link-local addresses are those of a cloud's metadata service; loopback is this pod's own.
    if ip.is_unspecified or ip.is_multicast or ip.is_link_local or (ip.is_loopback and not may_be_loopback):
        return None
    return address


def _is_loopback(host: str) -> bool:
    return ipaddress.ip_address(host).is_loopback
