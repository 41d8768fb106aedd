"""Tests of Kafka as the carrier, on a real broker."""
