"""How the gRPC face is served: a process, its certificates, its turn to be replaced."""

import os

# Here, since it is heeded when gRPC is imported, and whoever serves comes by before. gRPC's core writes lines of its
# own to standard error, which are no JSON, and anybody can have it write any number of them: by a handshake that fails,
# by a head that cannot be read. What goes wrong in making a server is raised all the same.
os.environ["GRPC_VERBOSITY"] = "NONE"
