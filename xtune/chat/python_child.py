"""Runs the program on stdin, shut in: started by python_tool.py as a process of its own, with nothing of xtune.

    python -I python_child.py SECONDS BYTES_OF_MEMORY BYTES_OF_FILES PARENT

On Linux, where the kernel lets users have namespaces of their own: no network; every file read-only but in the working
directory, which is empty, in memory, and gone afterwards; processes that it starts end with it. Elsewhere an audit hook
refuses connections, other programs and ctypes, which is a fence and no wall: files of the user's can be written there.
"""

import ast
import ctypes
import os
import resource
import signal
import sys
import traceback

_NEW_USER, _NEW_NET, _NEW_PID, _NEW_MOUNTS = 0x10000000, 0x40000000, 0x20000000, 0x00020000
_MOUNT_SETATTR, _RECURSIVE, _READ_ONLY, _PRIVATE = 442, 0x8000, 1, 0x44000
_DIE_WITH_PARENT = 1
_NETWORK = ("socket.connect", "socket.bind", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo")
_PROGRAMS = ("subprocess.", "ctypes.", "os.exec", "os.fork", "os.posix_spawn", "os.system")


def main() -> None:
    seconds, memory, files, parent = map(int, sys.argv[1:])
    code = sys.stdin.read()
    refused = _NETWORK if _shut_in(files, parent) else _NETWORK + _PROGRAMS
    sys.addaudithook(lambda event, _: _refuse(event, refused))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_FSIZE, (files, files))
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        _run(code)
    except SystemExit as end:
        if end.code not in (None, 0):
            print("SystemExit:", end.code)
    except MemoryError:
        print(f"MemoryError: at most {memory >> 20} MiB")
    except BaseException as error:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == "<code>"]
        print("".join([*traceback.format_list(frames), *traceback.format_exception_only(error)]), end="")
    sys.stdout.flush()
    os._exit(0)  # whatever threads the program left


def _run(code: str) -> None:
    """As a notebook does: the value of a last line that is an expression is printed."""
    tree = ast.parse(code, "<code>")
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    names = {"__name__": "__main__"}
    exec(compile(tree, "<code>", "exec"), names)
    if last is not None:
        value = eval(compile(ast.Expression(last.value), "<code>", "eval"), names)
        if value is not None:
            print(repr(value))


def _shut_in(size: int, parent: int) -> bool:
    """Go on in namespaces of its own, as a new process; this one waits for it. False where the kernel refuses."""
    if sys.platform != "linux":
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before
        os._exit(1)
    user, group = os.getuid(), os.getgid()
    if libc.unshare(_NEW_USER | _NEW_NET | _NEW_PID | _NEW_MOUNTS) or not _as_same_user(user, group):
        return False
    child = os.fork()  # the first process of the new namespace: all others in it end with it
    if child:
        _, status = os.waitpid(child, 0)
        os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
    libc.prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    attributes = (ctypes.c_uint64 * 4)(
        _READ_ONLY
    )  # struct mount_attr: to set, to clear, propagation, user namespace
    folder = os.getcwd()
    failed = (
        libc.mount(None, b"/", None, _PRIVATE, None)
        or libc.syscall(_MOUNT_SETATTR, -100, b"/", _RECURSIVE, attributes, ctypes.sizeof(attributes))
        or libc.mount(
            b"tmpfs", folder.encode(), b"tmpfs", 6, f"size={size}".encode()
        )  # no devices, no setuid
    )
    libc.mount(b"tmpfs", b"/run", b"tmpfs", 6, b"size=0")  # where other programs' sockets lie
    os.chdir(folder)
    # Once more: what a namespace has from another is locked, so that the program cannot undo it.
    return not failed and not libc.unshare(_NEW_USER | _NEW_MOUNTS)


def _as_same_user(user: int, group: int) -> bool:
    """In a new user namespace, be who one was outside."""
    maps = {"setgroups": "deny", "uid_map": f"{user} {user} 1", "gid_map": f"{group} {group} 1"}
    try:
        for file, line in maps.items():
            with open(f"/proc/self/{file}", "w") as opened:
                opened.write(line)
    except OSError:
        return False
    return True


def _refuse(event: str, refused: tuple[str, ...]) -> None:
    if event.startswith(refused):
        raise PermissionError(f"not allowed here: {event}")


if __name__ == "__main__":
    main()
