"""The RQ worker's entry: settings in, jobs out. Run as many as there are cores to spare."""

import config
import logs
from jobs.worker import work


def main() -> None:
    """Work until told to stop."""
    settings = config.load_or_exit(config.Settings)
    logs.configure(settings.log_level, service="worker")
    work(settings)


if __name__ == "__main__":
    main()
