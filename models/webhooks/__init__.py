"""Webhooks: who is told of events, what is on its way to them, and how it went."""
