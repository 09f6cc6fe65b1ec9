import socket
import sys

import pytest

from broker_api.server import listen
from tests.dev.processes import run_to_end

WITHOUT_IPV6 = """
import errno, socket, sys

def refuse(event, arguments):
    if event == "socket.__new__" and arguments[1] == socket.AF_INET6:
        raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")

sys.addaudithook(refuse)  # as a kernel without IPv6 does, for this process
from broker_api.server import listen
for host in ("::", "[::]"):
    with listen(host, 0) as listener:
        print(listener.family.name, listener.getsockname()[0])
"""


def test_on_a_machine_without_ipv6_every_address_is_every_address_of_ipv4() -> None:
    ended = run_to_end([sys.executable, "-c", WITHOUT_IPV6])
    assert (ended.stdout, ended.stderr) == ("AF_INET 0.0.0.0\n" * 2, "")


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
def test_every_address_of_ipv6_is_every_address_of_ipv4_too() -> None:
    with listen("::", 0) as listener:
        assert listener.family == socket.AF_INET6
        assert listener.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 0


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
@pytest.mark.parametrize(
    ("host", "answering", "silent"),
    [
        ("::", ["::1", "127.0.0.1"], []),
        ("[::1]", ["::1"], ["127.0.0.1"]),
        ("0.0.0.0", ["127.0.0.1"], ["::1"]),
        ("localhost", ["127.0.0.1"], []),
    ],
)
def test_it_listens_on_the_address_that_it_is_given(host: str, answering: list[str], silent: list[str]) -> None:
    with listen(host, 0) as listener:
        port = listener.getsockname()[1]
        for each in answering:
            socket.create_connection((each, port), timeout=5).close()
        for each in silent:
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection((each, port), timeout=5)


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        ("127.0.0.1", "Address already in use"),
        ("::", "Address already in use"),
        ("192.0.2.99", "Cannot assign requested address"),
        ("127.0.0.1:80", "not known"),
    ],
)
def test_an_address_that_cannot_be_had_is_one_line(host: str, reason: str) -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SystemExit, match=rf"^atlas-broker: Cannot listen on '{host}' port {port}: .*{reason}.*$"):
            listen(host, port)


@pytest.mark.parametrize(("host", "port"), [("no-such-name.invalid", 5000), ("a..b", 5000), ("127.0.0.1", 70_000)])
def test_an_address_that_cannot_be_is_a_sentence(host: str, port: int) -> None:
    with pytest.raises(SystemExit, match=rf"^atlas-broker: Cannot listen on '{host}' port {port}: .*\.$"):
        listen(host, port)
