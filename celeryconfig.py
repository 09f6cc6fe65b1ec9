"""Celery's configuration for the workers, each setting with its reason.

The URL of Redis is not here, since it is a setting of the deployment (BROKER_REDIS_URL).
"""

from kombu import Exchange, Queue

from broker_api.jobs.queue import QUEUES, RECONCILE

# MongoDB holds the state of each operation; results in Redis would be a second copy that only grows.
task_ignore_result = True
result_backend = None
task_store_errors_even_if_ignored = False

# Arguments are ids only, so JSON is enough; no other format is accepted.
task_serializer = "json"
accept_content = ["json"]

# Each kind of work has its own queue, so that it can have its own worker pods.
task_queues = [Queue(name, Exchange(name), routing_key=name) for name in dict.fromkeys(QUEUES.values())]
task_default_queue = QUEUES[RECONCILE]
task_create_missing_queues = False
task_routes = {job: {"queue": queue} for job, queue in QUEUES.items()}

# Messages are acknowledged before the job runs: the sweeper sends lost jobs again, and the lease in MongoDB prevents
# two workers from running the same operation. With late acknowledgement each running job would run a second time after
# an interruption of Redis.
task_acks_late = False
task_reject_on_worker_lost = False

# Jobs wait for the network most of the time, so threads fit: 64 threads add a few MB to a process of 100 MB. With 32 of
# them, all waited for Atlas in a burst of binds, while the worker had CPU left. At an Atlas that answers after 500 ms,
# 96 do a fifth more binds, but binds wait longer when the answers to so many slow provisions come together.
worker_pool = "threads"
worker_concurrency = 64

# A worker fetches a message only when it has a free thread: another worker can take the message meanwhile, and a bind
# does not wait behind provisions that a worker has fetched before it.
worker_prefetch_multiplier = 1
worker_disable_prefetch = True

# Redis may be unavailable at the start or later, for any length of time; the worker reconnects.
broker_connection_retry_on_startup = True
broker_connection_max_retries = None
worker_cancel_long_running_tasks_on_connection_loss = False
broker_connection_timeout = 3
worker_consumer = "workers.transport:Consumer"

broker_transport_options = {
    # Messages that a worker has taken are not kept in Redis: the sweeper sends the jobs of a lost worker again.
    "ack_emulation": False,
    # Jobs of other queues leave a quarter of the threads to binds and unbinds.
    "queue_order_strategy": "workers.queue_order:QueueOrder",
    # These detect a Redis that accepts connections and never answers.
    "socket_timeout": 5,
    "socket_connect_timeout": 3,
}

# Any client of Redis can broadcast a command, which could stop all workers or all work.
worker_enable_remote_control = False

# Flower needs events. The broker configures the root logger itself.
worker_send_task_events = True
task_send_sent_event = False
worker_hijack_root_logger = False
