"""Tests of the queue: whatever is killed, paused, repeated or answered too late, a transfer has one effect or none."""
