"""Run as a script, never imported: becomes another program that cannot outlive the process that asked for it.

    python -I -S launch.py PARENT_PID DEATH_SIGNAL keep|nobody|namespace PROGRAM [ARGUMENT ...]

The pid stays the same through all of it. This is a program of its own, rather than a ``preexec_fn``, because the
supervisor has threads, and Python code between fork and exec may then hang on a lock that no thread holds any more.
"""

import ctypes
import os
import pwd
import signal
import sys
from pathlib import Path

PR_SET_PDEATHSIG = 1  # linux/prctl.h
CLONE_NEWUSER = 0x10000000  # linux/sched.h
NOBODY = 65534


def become_nobody() -> None:
    """Give up root for good: PostgreSQL refuses to run as root."""
    nobody = pwd.getpwnam("nobody")
    os.setgroups([])
    os.setgid(nobody.pw_gid)
    os.setuid(nobody.pw_uid)


def enter_namespace() -> None:
    """Give up root's powers but keep its files: in a user namespace of its own, root is called nobody.

    For data below a folder that the real nobody may not enter (a home with mode 0700).
    """
    uid, gid = os.getuid(), os.getgid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWUSER) != 0:
        raise OSError(ctypes.get_errno(), "user namespaces are not available")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{NOBODY} {uid} 1")
    Path("/proc/self/gid_map").write_text(f"{NOBODY} {gid} 1")


def die_with_parent(parent: int, death_signal: int) -> None:
    """Ask the kernel for a signal when the parent dies (Linux; elsewhere the next start cleans up by pid file).

    Comes after any change of user, which would reset it.
    """
    if sys.platform == "linux" and death_signal:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, death_signal, 0, 0, 0)
    if os.getppid() != parent:  # it died before the line above
        sys.exit(1)


def main(arguments: list[str]) -> None:
    """Change user, tie this process to its parent, become the program."""
    parent, death_signal, identity, *program = arguments
    # A shell that starts a job in the background has it ignore Ctrl-C, and that would be inherited.
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD, signal.SIGPIPE):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    try:
        {"keep": lambda: None, "nobody": become_nobody, "namespace": enter_namespace}[identity]()
        die_with_parent(int(parent), int(death_signal))
        os.execv(program[0], program)  # noqa: S606
    except OSError as error:
        sys.exit(f"cannot start {program[0]}: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
