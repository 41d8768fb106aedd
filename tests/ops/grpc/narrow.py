"""A process with one thread for orders as a rule, and one order at a time in it: ``python -m tests.ops.grpc.narrow``.

There may be more while it is held up, as many as TEST_MOST_THREADS says; by default there may not.
"""

import os
import sys

from ops.grpc import server
from ops.grpc.process import serve

if __name__ == "__main__":
    server.THREADS = server.TOGETHER = 1
    server.MOST_THREADS = int(os.environ.get("TEST_MOST_THREADS", "1"))
    sys.exit(serve())
