"""How it is run: the local stack, gunicorn's configuration, monitoring."""
