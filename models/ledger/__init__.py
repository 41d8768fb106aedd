"""Where money moves: orders become transfers, transfers are posted as entries, and entries are read."""
