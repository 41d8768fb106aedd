"""The workers' entry: settings in, jobs out. Run as many as there are cores to spare.

``python worker.py`` settles transfers, ``python worker.py webhooks`` sends webhooks: of these one is enough.
"""

import importlib
import sys

import config
from observe import logs, metrics_files

# What each imports is for it alone.
KINDS = {"": ("worker", "jobs.work"), "webhooks": ("webhooks", "jobs.webhook_work")}


def main(kind: str = "") -> None:
    """Work until told to stop."""
    if kind not in KINDS:
        sys.exit("usage: python worker.py [webhooks]")
    service, room = KINDS[kind]
    settings = config.load_or_exit(config.Settings)
    logs.configure(settings.log_level, service=service)
    # Here and not only when they are read: a worker that keeps dying would leave ever more files behind.
    metrics_files.tidy()
    importlib.import_module(room).work(settings)


if __name__ == "__main__":
    main(" ".join(sys.argv[1:]))
