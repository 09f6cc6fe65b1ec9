"""Group commit: updates that several threads make at the same time go to MongoDB in one command."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pymongo import ReturnDocument, UpdateOne
from pymongo.collection import Collection
from pymongo.errors import BulkWriteError, DuplicateKeyError, WriteError

from broker_api.state.combiner import Combiner
from broker_api.state.mongo import Document, timeout_of

_DUPLICATE_KEY = 11000


@dataclass(frozen=True)
class Update:
    """An update of the document of an instance or binding.

    Attributes:
        query: The filter, with the ``_id``.
        pipeline: The stages.
        mark: Fields of the operation that have these values after the update and only then, until another process
            changes them: MongoDB counts the updates of a command that were applied, and does not tell which.
        upsert: Write a new document if none matches.
        reads: The document is wanted as it is after the update.
    """

    query: Document
    pipeline: list[Document]
    mark: Mapping[str, object]
    upsert: bool = False
    reads: bool = False


def group_commit(collection: Collection[Document]) -> Combiner[Update, Document | None]:
    """Return what applies updates, those of several threads at the same time by one command.

    Its answer to an update is the document after it, or an empty one if that is not wanted; None if the update was not
    applied, since its filter matches no document or a key exists already. Another process may have changed the document
    between the update and the read, but not its ``mark``.

    Args:
        collection: The collection, with its write concern.
    """

    def apply(updates: Sequence[Update]) -> Sequence[Document | Exception | None]:
        if len(updates) > 1:
            return _apply_together(collection, updates)
        (update,) = updates
        if update.reads:
            after = ReturnDocument.AFTER
            return [collection.find_one_and_update(update.query, update.pipeline, return_document=after)]
        try:
            written = collection.update_one(update.query, update.pipeline, upsert=update.upsert)
        except DuplicateKeyError:
            return [None]
        return [{} if written.matched_count or written.did_upsert else None]

    return Combiner(apply, timeout_of(collection))


def _apply_together(
    collection: Collection[Document], updates: Sequence[Update]
) -> Sequence[Document | Exception | None]:
    requests = [UpdateOne(update.query, update.pipeline, upsert=update.upsert) for update in updates]
    try:
        told: Mapping[str, Any] = collection.bulk_write(requests, ordered=False).bulk_api_result
    except BulkWriteError as error:
        told = error.details
        if told["writeConcernErrors"]:
            raise
    failures = {failure["index"]: failure for failure in told["writeErrors"]}
    all_known = told["nMatched"] + told["nUpserted"] + len(failures) == len(updates)
    looked_for = [update.query["_id"] for update in updates if update.reads or not all_known]
    found = collection.find({"_id": {"$in": looked_for}}) if looked_for else ()
    documents = {document["_id"]: document for document in found}
    results: list[Document | Exception | None] = []
    for index, update in enumerate(updates):
        document = documents.get(update.query["_id"]) if update.reads or not all_known else {}
        if failure := failures.get(index):
            is_duplicate = failure["code"] == _DUPLICATE_KEY
            results.append(None if is_duplicate else WriteError(failure["errmsg"], failure["code"], failure))
        elif document and not _is_marked(document, update):
            results.append(None)
        else:
            results.append({} if document and not update.reads else document)
    return results


def _is_marked(document: Document, update: Update) -> bool:
    operation = document.get("operation")
    return isinstance(operation, Mapping) and all(operation.get(name) == value for name, value in update.mark.items())
