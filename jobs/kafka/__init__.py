"""Kafka as the carrier of transfers: topics, clients, consumer, and what has been lost. Nobody else knows it."""
