"""The way to PostgreSQL: every wait is bounded, and every fault has somebody to blame."""
