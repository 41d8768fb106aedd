"""A process that has one thread for all orders, and one order at a time in it: ``python -m tests.ops.grpc.narrow``."""

import sys

from ops.grpc import server
from ops.grpc.process import serve

if __name__ == "__main__":
    server.THREADS = server.MOST_THREADS = server.TOGETHER = 1
    sys.exit(serve())
