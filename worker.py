"""The RQ worker's entry: settings in, jobs out. Run as many as there are cores to spare."""

import config
from jobs.work import work
from observe import logs, metrics_files


def main() -> None:
    """Work until told to stop."""
    settings = config.load_or_exit(config.Settings)
    logs.configure(settings.log_level, service="worker")
    # Here and not only when they are read: a worker that keeps dying would leave ever more files behind.
    metrics_files.tidy()
    work(settings)


if __name__ == "__main__":
    main()
