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


class GroupCommit:
    """Updates of a collection.

    Args:
        collection: The collection, with its write concern.
    """

    def __init__(self, collection: Collection[Document]) -> None:
        self._collection = collection
        self._updates = Combiner[Update, Document | None](self._send, timeout_of(collection))

    def apply(self, update: Update) -> bool:
        """Return whether an update was applied; if not, its filter matches no document, or a key exists already."""
        return self._updates.ask(update) is not None

    def apply_and_read(self, update: Update) -> Document | None:
        """Return the document after an update with ``reads``; None if it was not applied.

        Another process may have changed the document between the update and the read, but not its ``mark``.
        """
        return self._updates.ask(update)

    def _send(self, updates: Sequence[Update]) -> Sequence[Document | Exception | None]:
        """Return the document for each update that was applied, an empty one where it was not wanted; else None."""
        if len(updates) > 1:
            return self._send_together(updates)
        (update,) = updates
        if update.reads:
            after = ReturnDocument.AFTER
            return [self._collection.find_one_and_update(update.query, update.pipeline, return_document=after)]
        try:
            written = self._collection.update_one(update.query, update.pipeline, upsert=update.upsert)
        except DuplicateKeyError:
            return [None]
        return [{} if written.matched_count or written.did_upsert else None]

    def _send_together(self, updates: Sequence[Update]) -> Sequence[Document | Exception | None]:
        requests = [UpdateOne(update.query, update.pipeline, upsert=update.upsert) for update in updates]
        try:
            told: Mapping[str, Any] = self._collection.bulk_write(requests, ordered=False).bulk_api_result
        except BulkWriteError as error:
            told = error.details
            if told["writeConcernErrors"]:
                raise
        failures = {failure["index"]: failure for failure in told["writeErrors"]}
        all_known = told["nMatched"] + told["nUpserted"] + len(failures) == len(updates)
        looked_for = [update.query["_id"] for update in updates if update.reads or not all_known]
        query = {"_id": {"$in": looked_for}}
        documents = {found["_id"]: found for found in self._collection.find(query)} if looked_for else {}
        results: list[Document | Exception | None] = []
        for index, update in enumerate(updates):
            if failure := failures.get(index):
                is_duplicate = failure["code"] == _DUPLICATE_KEY
                results.append(None if is_duplicate else WriteError(failure["errmsg"], failure["code"], failure))
            elif update.reads or not all_known:
                document = documents.get(update.query["_id"])
                results.append(
                    (document if update.reads else {}) if document and _is_marked(document, update) else None
                )
            else:
                results.append({})
        return results


def _is_marked(document: Document, update: Update) -> bool:
    operation = document.get("operation")
    return isinstance(operation, Mapping) and all(operation.get(name) == value for name, value in update.mark.items())
