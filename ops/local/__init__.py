"""``make run``: the whole service on one machine, its servers included, watched over by one process."""
