"""What a Lease says of the leader's dashboard, by the leader itself and by somebody else."""

from __future__ import annotations

import json
from typing import Any

import pytest

from runner.config.settings import Address
from runner.dashboard.leader import LeaderEndpoint, from_annotation, reachable, to_annotation

PRINT = bytes(range(32))
OWN = Address("10.1.0.9", 8444)


def said(**changes: Any) -> str:
    return json.dumps({"holder": "pod-a_1", "address": "10.1.0.8:8444", "sha256": PRINT.hex(), **changes})


@pytest.mark.parametrize("host", ["10.1.0.8", "fd00::8"])
def test_what_the_leader_writes_is_read_by_the_others(host: str) -> None:
    text = to_annotation(Address(host, 8444), PRINT, holder="pod-a_1")
    assert from_annotation(text, holder="pod-a_1", own=OWN) == LeaderEndpoint(Address(host, 8444), PRINT)
    assert from_annotation(text, holder="pod-a_1", own=None) == LeaderEndpoint(Address(host, 8444), PRINT)


@pytest.mark.parametrize("holder", ["", "pod-b_2", "pod-a", "POD-A_1"])
def test_what_an_earlier_leader_has_left_says_nothing_of_the_present_one(holder: str) -> None:
    assert from_annotation(said(), holder=holder, own=OWN) is None
    assert from_annotation(said(holder=""), holder="", own=OWN) is None


def test_a_replica_passes_nothing_on_to_itself() -> None:
    assert from_annotation(said(address=str(OWN)), holder="pod-a_1", own=OWN) is None
    assert from_annotation(said(address="10.1.0.9:8445"), holder="pod-a_1", own=OWN) is not None


@pytest.mark.parametrize(
    "address",
    [
        *("evil.example.com:8444", "localhost:8444", "10.1.0.8", "10.1.0.8:", ":8444", "", "10.1.0.8:0", "10.1.0.8:65536"),
        *(
            "10.1.0.8:-1",
            "10.1.0.8:+1",
            "10.1.0.8: 1",
            "10.1.0.8:1\n",
            "10.1.0.8:١",
            "10.1.0.8:08444",
            "10.1.0.8:999999999999",
        ),
        *("127.0.0.1:8444", "[::1]:8444", "0.0.0.0:8444", "[::]:8444", "169.254.169.254:80", "[fe80::1]:8444"),
        *("[fe80::1%eth0]:8444", "[fd00::1%eth0]:8444", "224.0.0.1:8444", "[ff02::1]:8444", "[::ffff:127.0.0.1]:8444"),
        *("[::ffff:10.1.0.8]:8444", "010.1.0.8:8444", "10.1.8:8444", "2130706433:8444", "0x7f.1:8444", "10.1.0.8 :8444"),
        *("user@10.1.0.8:8444", "10.1.0.8:8444@evil.example.com:1", "10.1.0.8:8444/x", "https://10.1.0.8:8444", "[]:1"),
        *("[FD00::8]:8444", "[fd00:0::8]:8444"),
    ],
)
def test_what_is_no_address_of_a_pod_is_passed_over(address: str) -> None:
    assert from_annotation(said(address=address), holder="pod-a_1", own=OWN) is None


def test_loopback_is_an_address_for_those_who_are_there_themselves() -> None:
    assert from_annotation(said(address="127.0.0.1:1"), holder="pod-a_1", own=Address("127.0.0.1", 2)) is not None
    assert from_annotation(said(address="127.0.0.1:1"), holder="pod-a_1", own=None) is None


@pytest.mark.parametrize(
    "text",
    [
        *("", "x", "null", "[]", "{}", '"text"', "[" * 999, '{"a":' * 150, said(extra="x" * 1000), "\ud800"),
        *(said(sha256=value) for value in ("", "00" * 31, "00" * 33, "zz" * 32, "AB" * 32, "١" * 64, 5, None)),
        said(sha256="00" * 32 + "\n"),
        *(said(address=value) for value in (None, 5, ["10.1.0.8:8444"], {})),
        *(said(holder=value) for value in (None, 5, ["pod-a_1"])),
        json.dumps([json.loads(said())]),
    ],
)
def test_what_is_none_of_ours_is_passed_over(text: str) -> None:
    assert from_annotation(text, holder="pod-a_1", own=OWN) is None


@pytest.mark.parametrize(
    ("pod_ip", "host", "expected"),
    [
        ("10.1.0.8", "", "10.1.0.8"),
        ("10.1.0.8", "0.0.0.0", "10.1.0.8"),
        ("fd00::8", "::", "fd00::8"),
        ("10.1.0.8", "10.1.0.8", "10.1.0.8"),
        # Nobody else reaches it there.
        ("10.1.0.8", "127.0.0.1", None),
        ("10.1.0.8", "localhost", None),
        ("", "", None),
        ("", "10.1.0.8", None),
    ],
)
def test_where_others_reach_what_is_listened_on(pod_ip: str, host: str, expected: str | None) -> None:
    assert reachable(pod_ip, Address(host, 8444)) == (Address(expected, 8444) if expected else None)
