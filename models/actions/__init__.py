"""What administrators did: written down before it is begun, and once more when it has ended."""
