"""What jobs compute: pauses, hosts, and what a step that failed says."""

from itertools import pairwise

import pytest

from broker_api.state.operation_claims import LEASE_SECONDS
from workers.clusters.connection_strings import osb_endpoints
from workers.engine import leases
from workers.engine.backoff import LONGEST_BACKOFF_SECONDS, backoff
from workers.transport import LONGEST_PAUSE_SECONDS

MANY = 200


def longest(attempts: int) -> float:
    return max(backoff(attempts) for _ in range(MANY))


def test_pauses_double_up_to_a_cap_and_are_never_all_the_same() -> None:
    for attempts in range(40):
        pauses = {backoff(attempts) for _ in range(MANY)}
        assert len(pauses) > MANY // 2
        assert 0 < min(pauses) <= max(pauses) <= LONGEST_BACKOFF_SECONDS
    assert all(later > earlier for earlier, later in pairwise(longest(attempts) for attempts in range(4)))


def test_a_million_attempts_are_paused_for_like_ten() -> None:
    assert backoff(1_000_000) <= LONGEST_BACKOFF_SECONDS
    assert backoff(1_000_000, LONGEST_PAUSE_SECONDS) <= LONGEST_PAUSE_SECONDS


def test_a_lease_outlasts_two_missed_renewals_and_the_longest_call() -> None:
    assert LEASE_SECONDS >= 2 * leases.RENEW_SECONDS + leases.CALL_SECONDS


@pytest.mark.parametrize(
    ("strings", "hosts"),
    [
        ({"standard": "mongodb://a.x:27017,b.x:27018/?ssl=true"}, [("a.x", "27017"), ("b.x", "27018")]),
        ({"standard": "mongodb://a.x/?ssl=true"}, [("a.x", "27017")]),
        ({"srv": "mongodb+srv://c.x.mongodb.net"}, [("c.x.mongodb.net", "27017")]),
        ({"standard": "no uri at all"}, []),
    ],
)
def test_endpoints_are_the_hosts_of_the_cluster_with_ports_as_text(
    strings: dict[str, str], hosts: list[tuple[str, str]]
) -> None:
    assert osb_endpoints(strings) == [{"host": host, "ports": [port], "protocol": "tcp"} for host, port in hosts]
