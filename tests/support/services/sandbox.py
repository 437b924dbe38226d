"""Run a command under the restrictions of a systemd unit that can break a program: `python sandbox.py UNIT command …`.

systemd can only apply them as process 1. This module applies the unit's system call filter, its address families and
its MemoryDenyWriteExecute as systemd does, with seccomp and prctl.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import subprocess
import sys
from pathlib import Path

PR_SET_NO_NEW_PRIVS, PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN = 38, 65, 1  # linux/prctl.h
SCMP_ACT_ALLOW, SCMP_ACT_ERRNO, SCMP_CMP_EQ = 0x7FFF0000, 0x00050000, 4  # seccomp.h


class Comparison(ctypes.Structure):
    """A condition on an argument of a system call; scmp_arg_cmp in C."""

    _fields_ = [("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64)]


def directives(unit: Path) -> dict[str, list[str]]:
    """Return the unit's directives, each with its values in order."""
    found: dict[str, list[str]] = {}
    for line in unit.read_text().splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    return found


def system_calls(names: list[str]) -> set[str]:
    """Return the system calls with these names, and those in systemd's sets such as `@system-service`."""
    calls: set[str] = set()
    for name in names:
        if not name.startswith("@"):
            calls.add(name)
            continue
        listed = subprocess.run(["systemd-analyze", "syscall-filter", name], check=True, capture_output=True, text=True)
        lines = [line.strip() for line in listed.stdout.splitlines()[1:]]
        calls |= system_calls([line for line in lines if line and not line.startswith("#")])
    return calls


def allowed_calls(unit: Path) -> set[str]:
    allowed: set[str] = set()
    for value in directives(unit)["SystemCallFilter"]:
        calls = system_calls(value.removeprefix("~").split())
        allowed = allowed - calls if value.startswith("~") else allowed | calls
    return allowed


def restrict(unit: Path) -> None:
    """Restrict this process and its children as the unit does."""
    libc, seccomp = ctypes.CDLL(None, use_errno=True), ctypes.CDLL("libseccomp.so.2")
    seccomp.seccomp_init.restype = ctypes.c_void_p
    calls = allowed_calls(unit)
    families = {getattr(socket, name) for name in directives(unit)["RestrictAddressFamilies"][0].split()}

    context = ctypes.c_void_p(seccomp.seccomp_init(SCMP_ACT_ERRNO | errno.EPERM))
    for name in sorted(calls - {"socket"}):
        number = seccomp.seccomp_syscall_resolve_name(name.encode())
        if number >= 0:  # a call of another architecture has no number here
            assert seccomp.seccomp_rule_add(context, SCMP_ACT_ALLOW, number, 0) == 0, name
    number = seccomp.seccomp_syscall_resolve_name(b"socket")
    for family in families:
        equal = Comparison(arg=0, op=SCMP_CMP_EQ, a=family)
        assert seccomp.seccomp_rule_add_array(context, SCMP_ACT_ALLOW, number, 1, ctypes.byref(equal)) == 0

    assert libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
    if directives(unit)["MemoryDenyWriteExecute"] == ["yes"]:
        assert libc.prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0) == 0
    assert seccomp.seccomp_load(context) == 0


if __name__ == "__main__":
    restrict(Path(sys.argv[1]))
    os.execv(sys.argv[2], sys.argv[2:])
