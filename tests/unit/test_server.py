import socket

import pytest

from broker_api.server import listen


@pytest.mark.parametrize("host", ["::", "[::]"])
def test_on_a_machine_without_ipv6_every_address_is_every_address_of_ipv4(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
    with listen(host, 0) as listener:
        assert (listener.family, listener.getsockname()[0]) == (socket.AF_INET, "0.0.0.0")


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
def test_every_address_of_ipv6_is_every_address_of_ipv4_too() -> None:
    with listen("::", 0) as listener:
        assert listener.family == socket.AF_INET6
        assert listener.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 0


@pytest.mark.parametrize(("host", "port"), [("no-such-name.invalid", 5000), ("a..b", 5000), ("127.0.0.1", 70_000)])
def test_an_address_that_cannot_be_is_a_sentence(host: str, port: int) -> None:
    with pytest.raises(SystemExit, match=rf"^atlas-broker: Cannot listen on '{host}' port {port}: .*\.$"):
        listen(host, port)
