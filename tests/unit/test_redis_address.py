from ssl import CERT_NONE, CERT_REQUIRED, VerifyMode

import pytest
from kombu.utils.url import parse_url

from broker_api.queue import address


@pytest.mark.parametrize(
    ("url", "checks"),
    [
        ("rediss://h", CERT_REQUIRED),
        ("rediss://h:6380/1?ssl_ca_certs=/ca.pem", CERT_REQUIRED),
        ("rediss://h?ssl_cert_reqs=required", CERT_REQUIRED),
        ("rediss://h?ssl_cert_reqs=none", CERT_NONE),
    ],
)
def test_the_certificate_of_redis_is_checked_unless_one_says_not_to(url: str, checks: VerifyMode) -> None:
    assert parse_url(address(url))["ssl"]["ssl_cert_reqs"] == checks


@pytest.mark.parametrize(
    ("url", "given"),
    [
        ("redis://h:6379/0", "redis://h:6379/0"),
        ("sentinel://h:1;sentinel://h:2/0?master_name=m", "sentinel://h:1;sentinel://h:2/0"),
    ],
)
def test_other_addresses_are_given_without_what_the_transport_does_not_know(url: str, given: str) -> None:
    assert address(url) == given
