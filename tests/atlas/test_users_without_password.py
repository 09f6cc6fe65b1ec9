"""Users that log in as an AWS IAM role or with a certificate: in Atlas, in the credentials, and at the unbind."""

import pytest
from pymongo.uri_parser import parse_uri

from broker_api.authentication import EXTERNAL
from tests.atlas.broker import Broker, new_id
from tests.osb_client import Json

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
