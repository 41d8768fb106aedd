"""The pure parts of the benchmark: what is computed from the rounds, and how it is shown."""
