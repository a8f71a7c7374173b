"""Becomes a server that dies with its starter and, when started by root, runs as an ordinary user.

Run as a script by `aggregator.embedded`, it lays down root's power, asks the kernel for a signal at the death of
its parent, and then replaces itself by the server's program. The same steps in a `preexec_fn` would run Python
between fork and exec, where a lock held by any thread of the service stays locked for ever.

The order matters: the kernel forgets the wish for a signal when the user changes. This module needs the standard
library only, because it runs isolated from all other packages.
"""

import contextlib
import ctypes
import os
import sys

_PR_SET_PDEATHSIG = 1
_PR_SET_KEEPCAPS = 8
_PR_SET_SECUREBITS = 28
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2
_SECBIT_NO_SETUID_FIXUP = 1 << 2
_CAPABILITY_VERSION_3 = 0x20080522

EXIT_CODE = 126
"""Exit code when the server's program could not be reached; shells use it for "cannot execute"."""


class _CapabilityHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _CapabilitySet(ctypes.Structure):
    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


def become_user(uid: int, gid: int, capability: int) -> None:
    """Change to an ordinary user for good, keeping one capability across the coming exec.

    Parameters
    ----------
    uid, gid
        Whom to become; all further groups are dropped.
    capability
        Number of the only capability to keep, below 32.
    """
    _prctl("keep capabilities", _PR_SET_KEEPCAPS, 1)
    # Postgres asks access(2) whether its programs may be run, and that call forgets an ordinary user's capabilities
    # unless this bit is set. A root that may not set it can still start programs that everybody can reach.
    with contextlib.suppress(OSError):
        _prctl("let access(2) count capabilities", _PR_SET_SECUREBITS, _SECBIT_NO_SETUID_FIXUP)
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    header = _CapabilityHeader(version=_CAPABILITY_VERSION_3, pid=0)
    bit = 1 << capability
    sets = (_CapabilitySet * 2)(_CapabilitySet(effective=bit, permitted=bit, inheritable=bit))
    _check("set capabilities", _libc().capset(ctypes.byref(header), ctypes.byref(sets)))
    _prctl("keep a capability across exec", _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, capability)
    _prctl("renounce new privileges", _PR_SET_NO_NEW_PRIVS, 1)


def die_with_parent(parent_pid: int, signal_number: int) -> None:
    """Ask for a signal at the death of the parent; leave at once when it is already dead."""
    _prctl("ask for a signal at the parent's death", _PR_SET_PDEATHSIG, signal_number)
    if os.getppid() != parent_pid:
        sys.exit("the process that wanted this server has ended")


def main(arguments: list[str]) -> None:
    """Become ``arguments[5:]``; before it: parent's pid, signal, uid, gid, capability (uid 0: stay who we are)."""
    parent_pid, signal_number, uid, gid, capability = (int(argument) for argument in arguments[:5])
    command = arguments[5:]
    os.umask(0o077)
    try:
        if uid:
            become_user(uid, gid, capability)
        die_with_parent(parent_pid, signal_number)
        os.execv(command[0], command)  # noqa: S606 - no shell is what we want
    except OSError as error:
        sys.stderr.write(f"cannot start {command[0]}: {error}\n")
        sys.exit(EXIT_CODE)


def _prctl(what: str, option: int, *arguments: int) -> None:
    padded = [ctypes.c_ulong(argument) for argument in (*arguments, 0, 0, 0, 0)[:4]]
    _check(what, _libc().prctl(option, *padded))


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _check(what: str, result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


if __name__ == "__main__":
    main(sys.argv[1:])
