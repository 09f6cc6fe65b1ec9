"""Celery's configuration for the workers: a plain module, each setting with its reason.

The broker's URL is not here: it is a setting of the deployment (BROKER_REDIS_URL).
"""

from kombu import Exchange, Queue

# MongoDB holds what has become of a job; a result in Redis would be a second truth, and grow.
task_ignore_result = True
result_backend = None
task_store_errors_even_if_ignored = False

# Arguments are ids only, so JSON is enough, and nothing else is ever unpacked.
task_serializer = "json"
accept_content = ["json"]

# Each kind of work has its queue, so that each can have worker pods of its own.
task_queues = [Queue(name, Exchange(name), routing_key=name) for name in ("instances", "bindings", "maintenance")]
task_default_queue = "maintenance"
task_create_missing_queues = False
task_routes = {
    "atlas.provision": {"queue": "instances"},
    "atlas.update": {"queue": "instances"},
    "atlas.deprovision": {"queue": "instances"},
    "atlas.bind": {"queue": "bindings"},
    "atlas.unbind": {"queue": "bindings"},
    "maintenance.reconcile": {"queue": "maintenance"},
}

# Acknowledged before it runs: delivery is the sweep's business, the lease in MongoDB guards against doing it twice.
# Late acknowledgement would run each running job a second time after every interruption of Redis.
task_acks_late = False
task_reject_on_worker_lost = False

# Jobs wait for the network, so threads serve them best: 32 slots cost 60 MB, as processes they would cost 1.3 GB.
worker_pool = "threads"
worker_concurrency = 32

# A message that a slot does not work on yet is better taken by another worker.
worker_prefetch_multiplier = 1

# Redis may be away at the start and for as long as it likes; the worker stays and finds it again.
broker_connection_retry_on_startup = True
broker_connection_max_retries = None
worker_cancel_long_running_tasks_on_connection_loss = False
broker_connection_timeout = 3
worker_consumer = "workers.transport:Consumer"

broker_transport_options = {
    # Longer than any step; no countdown or retry is ever longer, since waiting is a date in MongoDB.
    "visibility_timeout": 300,
    # A Redis that accepts and never answers is found out by these.
    "socket_timeout": 5,
    "socket_connect_timeout": 3,
    "socket_keepalive": True,
    "health_check_interval": 10,
    "unacked_restore_interval": 10,
    # No retry at this level, which SIGTERM does not interrupt: the consumer reconnects.
    "max_retries": 0,
    "interval_start": 0,
    "interval_step": 0,
    "interval_max": 0,
}

# Flower lives on events; the root logger is ours.
worker_send_task_events = True
task_send_sent_event = False
worker_hijack_root_logger = False
