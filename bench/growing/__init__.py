"""What a transfer costs, and what follows from that for many more: ``python -m bench.growing``."""
