"""What is counted on the way to PostgreSQL: waits for a connection, and statements that gave up on a lock."""

from psycopg2.errors import LockNotAvailable
from sqlalchemy import ExceptionContext, PoolProxiedConnection, QueuePool

from observe import metrics


class CountedPool(QueuePool):
    """A pool that counts who found no connection free."""

    def connect(self) -> PoolProxiedConnection:
        """Hand out a connection, as soon as there is one."""
        if self.checkedout() >= self.size():
            metrics.db_pool_waits.inc()
        return super().connect()


def count_lock_timeout(context: ExceptionContext) -> None:
    """Look at an error on its way out of an engine."""
    if isinstance(context.original_exception, LockNotAvailable):
        metrics.db_lock_timeouts.inc()
