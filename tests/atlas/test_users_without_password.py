"""Users that log in as an AWS IAM role or with a certificate: in Atlas, in the credentials, and at the unbind."""

from datetime import UTC, datetime

import pytest
from pymongo import MongoClient
from pymongo.uri_parser import parse_uri

from broker_api.authentication import EXTERNAL
from tests.atlas.broker import Broker, new_id
from tests.dev.services import Mongod
from tests.osb_client import Json
from workers.clusters.database_client import LOG_IN_REFUSED, log_in

ROLE = "arn:aws:iam::123456789012:role/apps/shop-{}"


@pytest.fixture(scope="module")
def instance(_broker: Broker) -> str:
    return _broker.instance(_broker.cluster(), database=f"shop-{new_id()}")


def bound(broker: Broker, instance: str, **parameters: object) -> tuple[str, Json]:
    binding = broker.start_bind(instance, parameters)
    return binding, broker.credentials(instance, binding)


@pytest.mark.parametrize(
    ("parameters", "complaint"),
    [
        ({"auth": "ldap"}, "parameters.auth must be one of password, aws-iam, x509"),
        ({"auth": "aws-iam"}, "parameters.arn is required with auth aws-iam."),
        ({"auth": "aws-iam", "arn": "arn:aws:iam::1:role/x"}, "parameters.arn is not allowed."),
        ({"auth": "aws-iam", "arn": ROLE + "\n"}, "parameters.arn is not allowed."),
        ({"arn": ROLE.format(1)}, "parameters.arn is allowed with auth aws-iam only."),
        ({"expires_in_months": 1}, "parameters.expires_in_months is allowed with auth x509 only."),
        ({"auth": "x509", "expires_in": 600}, "parameters.expires_in is not allowed with auth x509;"),
        ({"auth": "x509", "expires_in_months": 25}, "parameters.expires_in_months must be at most 24."),
        ({"auth": "x509", "expires_in_months": True}, "parameters.expires_in_months must be of the type integer."),
    ],
)
def test_parameters_that_do_not_fit_are_400(broker: Broker, instance: str, parameters: Json, complaint: str) -> None:
    answer = broker.client.bind(instance, new_id(), parameters)
    assert (answer.status, complaint in answer.description) == (400, True), answer.text


@pytest.mark.parametrize(("kind", "of_iam"), [("role", "ROLE"), ("user", "USER")])
def test_an_iam_role_is_a_user_without_a_password(broker: Broker, instance: str, kind: str, of_iam: str) -> None:
    arn = ROLE.format(new_id()).replace(":role/", f":{kind}/")
    binding, credentials = bound(broker, instance, auth="aws-iam", arn=arn)
    assert credentials.keys() - {"connectionString"} == {"username", "database", "uri", "type", "provider"}
    assert credentials["username"] == arn
    assert "authMechanism=MONGODB-AWS&authSource=%24external" in credentials["uri"]
    parsed = parse_uri(credentials["uri"], warn=False)
    assert (parsed["username"], parsed["options"]["authSource"]) == (None, EXTERNAL)
    assert parsed["database"] == credentials["database"]
    user = broker.user(arn)
    assert user
    assert (user["databaseName"], user["awsIAMType"]) == (EXTERNAL, of_iam)
    assert broker.client.bind(instance, binding, {"auth": "aws-iam", "arn": arn}).status == 200
    assert broker.client.bind(instance, binding, {"auth": "aws-iam", "arn": arn + "x"}).status == 409
    rotated = broker.client.rotate(instance, new_id(), binding)
    assert (rotated.status, "could be rotated" in rotated.description) == (400, True)
    sentence = broker.failed_bind(instance, {"auth": "aws-iam", "arn": arn})
    assert sentence.startswith(f"{arn} is a database user of the Atlas project already, for another binding")
    broker.unbind(instance, binding)
    assert broker.user(arn) is None
    again, _ = bound(broker, instance, auth="aws-iam", arn=arn)
    broker.unbind(instance, again)


def test_roles_that_follow_from_an_update_reach_users_without_a_password(broker: Broker, instance: str) -> None:
    arn = ROLE.format(new_id())
    binding, _ = bound(broker, instance, auth="aws-iam", arn=arn)
    for level, count in (("reading", 1), ("writing", 2)):
        assert broker.client.update(instance, {"level": level}).status == 202
        assert broker.client.wait(instance).state == "succeeded"
        user = broker.user(arn)
        assert user
        assert len(user["roles"]) == count
    broker.unbind(instance, binding)


@pytest.fixture(scope="module")
def encrypted(_broker: Broker, cluster_mongod: Mongod) -> str:
    """An instance on a cluster whose connection string names the authority of the emulated Atlas."""
    strings = {
        "standard": f"mongodb://{cluster_mongod.address}/?ssl=true&authSource=admin&tlsCAFile={cluster_mongod.authority.file}"
    }
    return _broker.instance(_broker.cluster(connection_strings=strings), database=f"shop-{new_id()}")


def pem(credentials: Json) -> str:
    return str(credentials["certificate"] + credentials["private-key"])


def test_a_certificate_logs_in_until_the_unbind(broker: Broker, encrypted: str) -> None:
    binding, credentials = bound(broker, encrypted, auth="x509", expires_in_months=2)
    assert credentials["username"] == f"CN={binding}"
    assert "password" not in credentials
    assert "ssl=" not in credentials["uri"]
    assert credentials["uri"].endswith("&authMechanism=MONGODB-X509&authSource=%24external&tls=true")
    assert log_in(credentials["uri"], pem(credentials)) is None
    fetched = broker.client.binding(encrypted, binding).json
    days = (datetime.fromisoformat(fetched["metadata"]["expires_at"]) - datetime.now(UTC)).days
    assert 55 < days < 65
    again = broker.client.bind(encrypted, binding, {"auth": "x509", "expires_in_months": 2})
    assert again.json["credentials"] == fetched["credentials"]
    rotated = new_id()
    assert broker.client.rotate(encrypted, rotated, binding).status == 202
    new = broker.credentials(encrypted, rotated)
    assert new["certificate"] != credentials["certificate"]
    assert log_in(new["uri"], pem(new)) is None
    with MongoClient[Json](broker.stack.state.uri) as client:
        documents = str(list(client[broker.stack.database]["instances"].find({"instance_id": encrypted})))
    for line in pem(new).splitlines()[1:-1]:
        assert line not in documents
        assert line not in broker.logs()
    broker.unbind(encrypted, binding)
    assert log_in(credentials["uri"], pem(credentials)) == LOG_IN_REFUSED
    broker.unbind(encrypted, rotated)
    assert broker.user(rotated) is None


def test_a_certificate_whose_answer_is_lost_is_made_again_and_a_refusal_leaves_no_user(
    broker: Broker, encrypted: str
) -> None:
    broker.atlas.drop("POST", "/certs", when="after")
    since = broker.mark()
    binding, credentials = bound(broker, encrypted, auth="x509")
    assert log_in(credentials["uri"], pem(credentials)) is None
    posts = [call for call in broker.calls(since) if call["method"] == "POST" and call["template"].endswith("/certs")]
    assert len(posts) == 2
    broker.unbind(encrypted, binding)
    broker.atlas.fail("POST", "/certs", status=400, error_code="USER_NOT_MANAGED_X509")
    assert "USER_NOT_MANAGED_X509" in broker.failed_bind(encrypted, {"auth": "x509"}, binding)
    assert broker.user(binding) is None


def test_the_name_of_an_x509_user_fits_into_a_certificate(broker: Broker, encrypted: str) -> None:
    long = f"{new_id()}-{'x' * 60}"
    binding = broker.start_bind(encrypted, {"auth": "x509"}, long)
    name = broker.credentials(encrypted, binding)["username"].removeprefix("CN=")
    assert (len(name), name[:20]) == (64, long[:20])
    broker.unbind(encrypted, binding)
    sentence = broker.failed_bind(encrypted, {"auth": "x509", "name": "a,CN=b"})
    assert sentence.startswith("The name 'a,CN=b' of an X.509 user may have letters")
