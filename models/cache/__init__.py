"""Reads of wallets, kept in Redis: never older than what a caller was told."""
