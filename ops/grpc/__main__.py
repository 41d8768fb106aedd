"""The entry of gRPC: ``python -m ops.grpc [FOLDER]``."""

import sys

from ops.grpc.master import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
