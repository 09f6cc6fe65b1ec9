"""What ``messages.rebuild`` takes from Redis, and what it refuses."""

import base64
import json

import pytest

from tests.messages import MESSAGE, all_wrong, encoded
from workers.messages import MalformedError, rebuild


@pytest.mark.parametrize("parent", [None, "the job that has sent it"])
def test_a_message_of_celery_is_rebuilt_with_its_job_and_ids(parent: str | None) -> None:
    headers = {**MESSAGE["headers"], "parent_id": parent, "root_id": parent or "1"}
    rebuilt = json.loads(rebuild(encoded({**MESSAGE, "headers": headers})))
    assert (rebuilt["headers"]["task"], rebuilt["headers"]["id"]) == ("atlas.bind", "1")
    assert json.loads(base64.b64decode(rebuilt["body"])) == [["i", "b", "o"], {}, {}]
    assert "the job" not in json.dumps(rebuilt)


def test_messages_with_the_same_id_have_tags_of_their_own() -> None:
    """Celery counts by tag the messages that a worker has received and not finished."""
    tags = {json.loads(rebuild(encoded(MESSAGE)))["properties"]["delivery_tag"] for _ in range(2)}
    assert len(tags) == 2


@pytest.mark.parametrize("written", all_wrong(), ids=lambda written: repr(written[:60]))
def test_a_wrong_message_is_refused(written: bytes) -> None:
    with pytest.raises(MalformedError):
        rebuild(written)
