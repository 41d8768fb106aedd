"""How long a test waits for what has to come. What never comes costs it once; a machine may be slow at any time."""

PATIENCE_S = 120.0
