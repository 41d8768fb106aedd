"""How the gRPC face is served: a process, its certificates, its turn to be replaced."""
