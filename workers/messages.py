"""Messages from Redis, which any client of Redis may have written.

Celery and kombu believe each part of a message (github.com/celery/celery/issues/7975). Therefore they receive none as
it was written: a message is checked, and written anew from its job and ids.
"""

import base64
import json
from typing import Annotated, Any, Literal
from uuid import uuid4

from pydantic import AfterValidator, Base64Bytes, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from broker_api.jobs.queue import QUEUES, RECONCILE

LONGEST_MESSAGE = 65_536
"""The bytes of the longest message that is decoded; one with three of the longest ids has a third of them."""
LONGEST_ID = 1000

_STRICT = ConfigDict(strict=True, hide_input_in_errors=True)


def _known(job: str) -> str:
    if job not in QUEUES:
        raise ValueError
    return job


class _Part(BaseModel):
    """A part of a message. Fields that are not declared may come from a newer Celery; they are left out."""

    model_config = _STRICT


_Id = Annotated[str, Field(min_length=1, max_length=LONGEST_ID)]


class _Headers(_Part):
    task: Annotated[str, AfterValidator(_known)]
    id: _Id
    eta: None = None
    expires: None = None
    compression: None = None
    retries: Literal[0] = 0
    timelimit: tuple[None, None] = (None, None)
    group: None = None


class _DeliveryInfo(_Part):
    exchange: str
    routing_key: str


class _Properties(_Part):
    delivery_info: _DeliveryInfo
    body_encoding: Literal["base64"]


class _Message(_Part):
    body: Base64Bytes
    content_type: Literal["application/json"] = Field(alias="content-type")
    content_encoding: Literal["utf-8"] = Field(alias="content-encoding")
    headers: _Headers
    properties: _Properties


_BODY = TypeAdapter(tuple[list[Any], dict[str, Any], dict[str, Any]], config=_STRICT)
_OPERATION_IDS = TypeAdapter(tuple[_Id, _Id | None, _Id], config=_STRICT)
_RUN_ID = TypeAdapter(tuple[_Id], config=_STRICT)


class MalformedError(ValueError):
    """A message is none of the broker's; the text says why, with nothing of the message in it."""


def rebuild(written: bytes) -> bytes:
    """Return a message with the job, its ids, and nothing else of what was written.

    Further arguments, which a newer release may send, are left out.

    Args:
        written: The message as it is in Redis.

    Raises:
        MalformedError: It is too long, compressed, or to be run at another time, its arguments are no ids, or a part of
            it has another type than Celery gives it.
    """
    if len(written) > LONGEST_MESSAGE:
        raise MalformedError(f"longer than {LONGEST_MESSAGE} bytes")
    try:
        message = _Message.model_validate_json(written)
        arguments, *_ = _BODY.validate_json(message.body)
        ids: tuple[str | None, ...]
        if message.headers.task == RECONCILE:
            ids = _RUN_ID.validate_python(tuple(arguments[:1]))
        else:
            ids = _OPERATION_IDS.validate_python(tuple(arguments[:3]))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise MalformedError(f"{place or 'message'}: {first['type']}") from None
    return _message(message.headers.task, message.headers.id, ids)


def _message(job: str, message_id: str, ids: tuple[str | None, ...]) -> bytes:
    body = json.dumps([ids, {}, {}]).encode()
    made = {
        "body": base64.b64encode(body).decode(),
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {
            "lang": "py",
            "task": job,
            "id": message_id,
            "root_id": message_id,
            "argsrepr": repr(list(ids)),
            "kwargsrepr": "{}",
            "ignore_result": True,
        },
        "properties": {
            "correlation_id": message_id,
            "delivery_tag": uuid4().hex,  # kombu counts the messages in work by it
            "delivery_info": {"exchange": "", "routing_key": QUEUES[job]},
            "body_encoding": "base64",
        },
    }
    return json.dumps(made).encode()
