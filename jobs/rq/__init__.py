"""RQ as the dispatcher of transfers: its private keys, its queue, its worker, its dashboard. Nobody else knows it."""
