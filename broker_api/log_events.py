"""The closed list of log events of the broker, each with its meaning; ``docs/log-events.md`` is made from it.

A test compares the list with the calls of the loggers. Lines of libraries (Celery, gunicorn, Flower) have a sentence as
their event.
"""

EVENTS: dict[str, str] = {
    "announce_failed": "A defect: the announcement of a worker met an exception that it does not know.",
    "atlas_call": "A call of Atlas: endpoint, status and duration.",
    "binding_without_user": "The reconciliation found a binding whose database user Atlas does not have.",
    "certificate_loaded": "The API has read new files of its certificate, and uses them for new connections.",
    "certificate_not_loaded": "The API cannot use the new files of its certificate; the one before stays in use.",
    "circuit_closed": "Atlas answers again for this project; the operations that waited for it continue.",
    "circuit_not_shared": "The circuit breaker has opened in this process only, since MongoDB could not be written.",
    "circuit_opened": "Calls for this project fail, so one call every ten seconds is made until one succeeds.",
    "cluster_not_watched": "This worker could not poll a cluster; another worker, or a later job, continues.",
    "cluster_without_instance": "The reconciliation found a cluster of the broker in Atlas without an instance.",
    "connection_strings_read_again": "Something else has changed the stored connection strings; Atlas is asked again.",
    "consumer_failed": "The consumer of messages met an unknown error, and connects to Redis again.",
    "credentials_refused": "Atlas refuses the credentials of this worker for a project, so it does not become ready.",
    "databases_not_listed": "Atlas did not list the databases of a cluster, so an existing one counts as foreign.",
    "document_unreadable": "A document in MongoDB cannot be read; it is left as it is.",
    "encryption_keys_right": "The encryption keys of this process open the stored data again.",
    "encryption_keys_wrong": "The encryption keys of this process do not open the stored data; it runs no operation.",
    "hook_failed": "A hook of the operator's Config raised an exception.",
    "index_of_another_release": "An index has the name, but not the fields, that this release needs.",
    "instance_without_cluster": "The reconciliation found an instance whose cluster Atlas does not have.",
    "job_finished": "A job has ended: the operation has ended, waits, or is run by another worker.",
    "late_user_not_removed": "A user that was created after the lease had been lost could not be removed.",
    "late_user_removed": "A user that was created after the lease had been lost has been removed.",
    "lease_lost": "Another worker has taken over the operation, or a later request has replaced it.",
    "lease_not_renewed": "MongoDB could not be asked to extend a lease; the lease expires unless it answers soon.",
    "lease_taken_over": "The operation goes on here; the worker that ran it has died or lost MongoDB.",
    "login_failed": "A request had a wrong name or password. The name is logged only if there is such a user.",
    "message_dropped": "A message in Redis was none of the broker's, and is deleted. No operation is lost.",
    "mongo_uri_options_ignored": "Options of BROKER_MONGO_URI that the broker sets itself.",
    "mongodb_unavailable": "MongoDB does not answer at the start; the process tries again.",
    "operation_expired": "The operation has failed at its deadline; what it has made is removed.",
    "operation_failing": "The operation cannot succeed; what it has made is removed before it ends.",
    "operation_finished": "The operation has ended.",
    "operation_interrupted": "MongoDB failed while the operation ran; it goes on when the lease has expired.",
    "operation_not_claimable": "A message came for an operation that has ended, waits, or that another worker runs.",
    "operation_sent": "The sweeper has sent the job of an operation that is due and that no worker holds.",
    "operation_waits_long": "An operation is in progress for 2 or 10 minutes; each limit is logged once.",
    "operations_finished": "Some operations that waited on a cluster had changed meanwhile; a job looks at each.",
    "operations_not_counted": "The operations for the metrics could not be counted.",
    "operations_not_sent": "MongoDB failed when operations were to go on; the sweeper sends them.",
    "originating_identity_unreadable": "The header X-Broker-API-Originating-Identity of a request cannot be read.",
    "orphan_removed": "The reconciliation has removed a user without a binding.",
    "private_endpoint_not_chosen": "A cluster has several private endpoints and none was chosen; the first is used.",
    "project_nearly_full_of_users": "The project has nearly as many database users as Atlas allows.",
    "rate_limit_near": "The rate bucket of the project is nearly empty; calls are slowed down.",
    "rate_limited": "Atlas answered 429; no call is made for this project until the time that it names.",
    "reconcile_failed": "The users of a project could not be compared with its bindings.",
    "record_tampered": "Something other than the broker has changed a document in MongoDB; it is refused.",
    "redis_back": "Redis can be used again.",
    "redis_lost": "Redis cannot be used. Requests are accepted, and their jobs are sent later.",
    "repair_failed": "The reconciliation could not repair a difference.",
    "request_answered": "The API has answered a request.",
    "request_failed": "The API answered with a 5xx, for the reason given.",
    "request_met_unexpected_error": "A defect: the API met an exception that it does not know.",
    "restart_needed": "A file of a secret has changed that the process uses only when it starts.",
    "secrets_not_replaced": "A file of a secret has changed, and its new content cannot be used; the old one is kept.",
    "secrets_replaced": "Files of secrets have changed, and their contents are in force.",
    "secrets_watch_failed": "A defect: the watch of the files of secrets met an exception that it does not know.",
    "step_finished": "A step of an operation has ended; with the result Later the operation waits, for a reason.",
    "step_raised": "A defect: a step met an exception that it does not know. It is tried again.",
    "step_retried_later": "A step failed, for the reason given, and is tried again.",
    "sweep_failed": "A defect: a round of the sweeper met an exception that it does not know.",
    "sweep_lease_not_released": "MongoDB failed when the sweeper stopped; another one takes over after seconds.",
    "sweep_skipped": "MongoDB failed during a round of the sweeper.",
    "traces_not_sent": "OTEL_TRACES_EXPORTER asks for traces, but an exporter or atlas-broker[tracing] is missing.",
    "uncaught": "A defect: an exception has ended a thread or the process.",
    "user_limit_unknown": "Atlas did not tell how many users a project may have, so half of them is no quota.",
    "user_not_compared": "The reconciliation cannot use the record of a database user, so it leaves the user as it is.",
    "user_not_removed": "A database user is left in Atlas, since it was not made for the record that names it.",
    "user_restored": "The reconciliation has created the missing user of a binding again.",
    "user_without_binding": "The reconciliation found a user of the broker in Atlas without a binding.",
    "variable_ignored": "An environment variable of Celery or Flower that the broker does not use.",
    "watch_failed": "A defect: the watch of a cluster met an exception that it does not know.",
    "worker_stopping": "What a signal to stop does.",
}


def document() -> str:
    """Return the page ``docs/log-events.md``."""
    head = "# Log events\n\nThis page is made by `python -m broker_api.log_events > docs/log-events.md`.\n\n"
    return head + "| event | meaning |\n|---|---|\n" + "".join(f"| `{name}` | {EVENTS[name]} |\n" for name in EVENTS)


if __name__ == "__main__":
    print(document(), end="")  # noqa: T201 - the page
