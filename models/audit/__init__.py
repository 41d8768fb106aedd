"""Proofs, while the service runs, that the books are right."""
