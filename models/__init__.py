"""What is true: tables, the ledger, history, migrations. Knows neither HTTP nor queues."""
