"""What is true: schema, ledger, cache, audit. Knows neither HTTP nor queues nor settings."""
