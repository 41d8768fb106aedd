"""How many descriptors a process may have open."""

import resource


def allow_connections(most: int) -> None:
    """Have descriptors for all that may connect, and for what a process needs besides, as far as that is allowed.

    Args:
        most: connections at a time; each is a descriptor.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * most if hard == resource.RLIM_INFINITY else min(hard, 2 * most)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
