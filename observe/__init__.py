"""What is told of the running service: log lines and metrics. Knows no other room, so that all may use it."""
