"""The commands, on real servers: their answers, their faults, their exit statuses."""
