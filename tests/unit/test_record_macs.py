"""The MACs that are stored fit for ever: those of the build that first wrote MACs are kept here."""

from datetime import UTC, datetime, timedelta

import pytest

from broker_api.errors import TamperedError
from broker_api.state.encryption import Vault
from broker_api.state.record_macs import OPERATION, RecordMacs
from broker_api.state.records import Binding

MACS = RecordMacs(Vault(("Zm9yLXRlc3RzLW9ubHktZm9yLXRlc3RzLW9ubHktMDA=",)))
EXPIRES = datetime(2026, 11, 28, 22, 5, 58, 123_456, tzinfo=UTC)
OF_OPERATION = "5305a46f.d2c923de79ee877ecb2056470f5e39412bd57e463db81fdf266dedfb4d5a5c53"
STORED = Binding.read(
    {
        "_id": "binding/i/b",
        "instance_id": "i",
        "binding_id": "b",
        "phase": "ready",
        "parameters": '{"expires_in":60,"ä":[null,1.5,true]}',
        "username": "b",
        "roles": '[{"database":"d","name":"readWrite"}]',
        "expires": EXPIRES,
        "operation": {"id": "bind-1", "kind": "bind", "mac": OF_OPERATION},
        "request_mac": "5305a46f.93db923d586ebe7f28c1b444515d87413bcac71cc92d45a55bb504f97231eb1f",
        "settled_mac": "5305a46f.1fab4cc42abd71f2831cdd09747f7b8f92a6a1a237fed4c22cae5bcda13bd89b",
    }
)


def test_a_stored_mac_is_made_again_the_same() -> None:
    MACS.checked(STORED, runs=True)
    made = {"request_mac": STORED.request_mac, "settled_mac": STORED.settled_mac}
    assert MACS.of_new(STORED.key, vars(STORED)) == made
    assert MACS.of_new(STORED.key, vars(STORED), STORED.operation) == made | {OPERATION: OF_OPERATION}


def test_a_moment_is_in_the_mac_with_the_milliseconds_that_mongodb_keeps() -> None:
    MACS.checked(STORED.model_copy(update={"expires": EXPIRES.replace(microsecond=123_000)}))
    with pytest.raises(TamperedError):
        MACS.checked(STORED.model_copy(update={"expires": EXPIRES + timedelta(milliseconds=1)}))
