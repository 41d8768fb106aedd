"""gunicorn as it serves the API: its configuration, and how connections reach a thread."""
