"""When and again: the queue, the worker, retries. The only place that knows RQ."""
