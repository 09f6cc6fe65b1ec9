"""Which hosts a cluster's connection strings may name: those under the domain that Atlas itself gives the cluster."""

import pytest

from workers.atlas.client import Cluster, ConnectionStrings
from workers.atlas.models import PrivateEndpoint
from workers.clusters.connection_strings import why_unusable

SRV = "mongodb+srv://c0.ab1cd.mongodb.net"
STANDARD = "mongodb://c0-shard-00-00.ab1cd.mongodb.net:27017,c0-shard-00-01.ab1cd.mongodb.net:27017/?ssl=true"


def private(standard: str | None = None, srv: str | None = None) -> tuple[PrivateEndpoint, ...]:
    return (PrivateEndpoint(standard, srv, None, None, endpoint_ids=()),)


OWN = {
    "as Atlas gives them": ConnectionStrings(
        STANDARD,
        SRV,
        private="mongodb://c0-shard-00-00-pri.ab1cd.mongodb.net:27017/?ssl=true",
        private_srv="mongodb+srv://c0-pri.ab1cd.mongodb.net",
        private_endpoints=private(
            "mongodb://pl-0-us-east-1.ab1cd.mongodb.net:1024,pl-0-us-east-1.ab1cd.mongodb.net:1025/?ssl=true",
            "mongodb+srv://c0-pl-0.ab1cd.mongodb.net",
        ),
    ),
    "an older private endpoint": ConnectionStrings(
        STANDARD, SRV, private_endpoints=private("mongodb://pl-0-eastus2-ab1cd.mongodb.net:1024/")
    ),
    "without an SRV": ConnectionStrings(STANDARD),
    "only an SRV": ConnectionStrings(None, SRV),
    "none yet": ConnectionStrings(),
    "in capitals and with a dot at the end": ConnectionStrings("mongodb://C0.AB1CD.MongoDB.net.:27017/", SRV),
    "an emulator": ConnectionStrings("mongodb://127.0.0.1:27017/?authSource=admin", SRV),
    "an emulator by IPv6": ConnectionStrings("mongodb://[::1]:27017/", SRV),
    "a test set-up": ConnectionStrings("mongodb://localhost:27017,mongo-0:27017/", "mongodb+srv://mongo.local"),
    "an emulator in another container": ConnectionStrings("mongodb://172.17.0.2:27017/?authSource=admin", SRV),
    "a private endpoint by its address": ConnectionStrings(
        STANDARD, SRV, private_endpoints=private("mongodb://10.0.0.7/")
    ),
    "addresses only": ConnectionStrings("mongodb://10.0.0.5:27017,10.0.0.6:27017/"),
    "hosts without a domain": ConnectionStrings("mongodb://h1:27017,h2:27018/?ssl=true", SRV),
}
FOREIGN = {
    "evil.example": ConnectionStrings("mongodb://evil.example:27017/?tls=true", SRV),
    "c0.zzzzz.mongodb.net": ConnectionStrings("mongodb://c0.zzzzz.mongodb.net:27017/", SRV),
    "ab1cd.mongodb.net.evil.example": ConnectionStrings("mongodb://ab1cd.mongodb.net.evil.example/", SRV),
    "xab1cd.mongodb.net": ConnectionStrings("mongodb://xab1cd.mongodb.net/", SRV),
    "203.0.113.7": ConnectionStrings("mongodb://203.0.113.7:27017/", SRV),
    "second.example": ConnectionStrings(f"{STANDARD.partition('/?')[0]},second.example:27017/?ssl=true"),
    "private.example": ConnectionStrings(STANDARD, SRV, private_srv="mongodb+srv://private.example"),
    "endpoint.example": ConnectionStrings(
        STANDARD, SRV, private_endpoints=private(srv="mongodb+srv://endpoint.example")
    ),
    "behind-a-user.example": ConnectionStrings("mongodb://c0.ab1cd.mongodb.net:x@behind-a-user.example/", SRV),
}


def problem(strings: ConnectionStrings) -> str | None:
    return why_unusable(Cluster("c0", "IDLE", paused=False, kind="dedicated", connection_strings=strings, version=None))


@pytest.mark.parametrize("form", OWN)
def test_a_clusters_own_hosts_are_used(form: str) -> None:
    assert problem(OWN[form]) is None


@pytest.mark.parametrize("host", FOREIGN)
def test_a_host_outside_the_clusters_own_domain_makes_the_cluster_unusable(host: str) -> None:
    told = problem(FOREIGN[host]) or ""
    assert f"lead to {host}, which is not under the cluster's own domain ab1cd.mongodb.net" in told
