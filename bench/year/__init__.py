"""How a year of transfers wears: what they take, and what the service does on them beside an empty database."""
