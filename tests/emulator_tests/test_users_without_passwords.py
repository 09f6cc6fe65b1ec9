"""Users on `$external`: those of AWS, and those who log in with a certificate that Atlas has made."""

from pathlib import Path

import pytest
from pymongo import MongoClient
from pymongo.errors import OperationFailure

from tests.dev.services import Mongod
from tests.emulator.model import Json
from tests.emulator_tests.conftest import FIRST, Api
from tests.emulator_tests.test_wire import USER_KEYS, assert_answer, assert_refusal

ARN = "arn:aws:iam::123456789012:role/shop/reader"


def post(api: Api, name: str, **more: object) -> Json:
    response = api.post_user(name, databaseName="$external", password=None, **more)
    assert response.status_code == 201, response.text
    return dict(response.json())


def certificate(api: Api, name: str, tmp_path: Path, **body: object) -> Path:
    response = api("POST", f"/databaseUsers/{name}/certs", json=body)
    assert_answer(response, 201, FIRST, "ApiAtlasV2DatabaseUsersResource::generateCert", 1200)
    assert response.text.startswith("-----BEGIN CERTIFICATE-----")
    file = tmp_path / "user.pem"
    file.write_text(response.text)
    return file


def test_a_certificate_logs_in_until_its_user_is_gone(
    api: Api, name: str, cluster_mongod: Mongod, tmp_path: Path
) -> None:
    user = post(api, name, x509Type="MANAGED", scopes=[{"name": "cluster-dev", "type": "CLUSTER"}])
    assert user.keys() == USER_KEYS
    assert user["links"][0]["href"].endswith(f"/databaseUsers/$external/{name}")
    file = certificate(api, name, tmp_path, monthsUntilExpiration=1)
    with MongoClient[Json](
        f"mongodb://{cluster_mongod.address}/?authMechanism=MONGODB-X509&authSource=$external&tls=true",
        tlsCAFile=str(cluster_mongod.authority.file),
        tlsCertificateKeyFile=str(file),
    ) as client:
        client["shop"]["x509"].insert_one({})
        assert api("DELETE", f"/databaseUsers/$external/{name}").status_code == 204
        with pytest.raises(OperationFailure):
            client["shop"]["x509"].insert_one({})


def test_certificates_are_listed_as_recorded(api: Api, name: str, tmp_path: Path) -> None:
    post(api, name, x509Type="MANAGED")
    certificate(api, name, tmp_path)
    listed = api("GET", f"/databaseUsers/{name}/certs")
    assert_answer(listed, 200, FIRST, "ApiAtlasV2DatabaseUsersResource::getValidCertsByUsername", 1200)
    (one,) = listed.json()["results"]
    assert one.keys() == {"_id", "createdAt", "groupId", "notAfter", "subject"}
    assert one["subject"] == f"CN={name}"


def test_certificates_are_refused_for(api: Api, name: str) -> None:
    path = f"/databaseUsers/{name}/certs"
    assert_refusal(api("POST", path, json={}), 404, "USERNAME_NOT_FOUND", [name])
    post(api, name, x509Type="MANAGED")
    refused = api("POST", path, json={"monthsUntilExpiration": 25})
    assert_refusal(refused, 400, "CERT_EXPIRY_CANNOT_EXCEED_TWO_YEARS")
    post(api, f"CN={name}", x509Type="CUSTOMER")
    assert_refusal(api("POST", f"/databaseUsers/CN%3D{name}/certs", json={}), 400, "USER_NOT_MANAGED_X509")


def test_a_user_of_aws_is_named_by_its_arn(api: Api) -> None:
    assert post(api, ARN, awsIAMType="ROLE")["awsIAMType"] == "ROLE"
    assert api.status() == "APPLIED"
    refused = api.post_user(ARN, databaseName="$external", awsIAMType="USER")
    assert_refusal(refused, 400, "ATLAS_INVALID_USERNAME", [ARN])
    assert_refusal(api.post_user(ARN, databaseName="$external", awsIAMType="ROLE"), 409, "USER_ALREADY_EXISTS", [ARN])
