# ruff: noqa: E501
"""Programs that attack the sandbox. Each prints ESCAPED where an attack worked; none may, and each has its verdict."""

from dataclasses import dataclass, field

from nemo_cascade.config.sandbox import Limits

# Short, so that the whole set takes seconds.
TIGHT = {"cpu_s": 1.0, "wall_s": 1.0, "memory_mib": 256, "output_kib": 64, "processes": 8, "files_mib": 4}
ERRORS = frozenset({"error"})
CONTAINED = frozenset({"ok"})


@dataclass(frozen=True)
class Hostile:
    name: str
    source: str
    verdicts: frozenset = CONTAINED
    language: str = "python"
    limits: Limits = field(default_factory=lambda: Limits(**TIGHT))
    prints: str | None = None


def hostile(name, verdicts, source, language="python", prints=None, **limits):
    expected = frozenset(verdicts.split("|"))
    # Time is short only where it is what must run out: the machine may be busy.
    patient = {"wall_s": 20.0, "cpu_s": 10.0} if "timeout" not in expected or "ok" in expected else {}
    return Hostile(name, source, expected, language, Limits(**{**TIGHT, **patient, **limits}), prints)


# Tries everything that is callable in a list; prints ESCAPED for each that works.
TRY = """
import os, sys
def attempt(what, call):
    try:
        result = call()
    except BaseException as error:
        print("refused", what, type(error).__name__)
    else:
        print("ESCAPED", what, repr(result)[:300])
"""
SYSCALL = (
    TRY
    + """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
def system_call(what, *args):
    def call():
        if libc.syscall(*args) < 0:
            raise OSError(ctypes.get_errno(), "refused")
    attempt(what, call)
"""
)

# A process that changed its user can't open its own /proc files until it says so.
UNDUMPABLE = "import ctypes\nctypes.CDLL(None).prctl(4, 1, 0, 0, 0)\n"

RESOURCES = [
    hostile("fork bomb", "error|timeout|killed|memory", "import os\nwhile True:\n    os.fork()"),
    hostile(
        "fork bomb that swallows errors",
        "timeout|killed|memory",
        "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
    ),
    hostile("fork bomb in C++", "timeout|killed|memory", "#include <unistd.h>\nint main(){for(;;) fork();}", "cpp"),
    hostile(
        "thread bomb",
        "error|timeout|memory",
        "import threading, time\nwhile True:\n    threading.Thread(target=time.sleep, args=(99,)).start()",
    ),
    hostile("memory bomb at once", "memory", "x = bytearray(1 << 34)"),
    hostile("memory bomb by and by", "memory", "x = []\nwhile True:\n    x.append(bytearray(1 << 20))"),
    hostile(
        "memory bomb in C++",
        "memory|error",
        "#include <vector>\nint main(){std::vector<long> v; for(;;) v.push_back(1);}",
        "cpp",
    ),
    hostile(
        "memory bomb of a family",
        "memory",
        """
import os, time
for _ in range(5):
    if os.fork() == 0:
        x = bytearray(120 << 20)
        time.sleep(60)
time.sleep(60)
""",
        wall_s=10.0,
    ),
    hostile("endless loop", "timeout", "while True: pass"),
    hostile("endless loop in C++", "timeout", "int main(){volatile int x=0; for(;;) x=x+1;}", "cpp"),
    hostile("sleep for ever", "timeout", "import time\ntime.sleep(10**6)"),
    hostile(
        "loop that ignores signals",
        "timeout",
        "import signal\nfor s in range(1, 65):\n    try: signal.signal(s, signal.SIG_IGN)\n    except (OSError, ValueError): pass\nwhile True: pass",
    ),
    hostile(
        "family that burns CPU", "timeout", "import os\nfor _ in range(3): os.fork()\nwhile True: pass", wall_s=5.0
    ),
    hostile("flood of output", "output", "while True: print('x' * 10000)"),
    hostile("flood of errors", "output", "import os\nwhile True: os.write(2, b'x' * 10000)"),
    hostile(
        "flood from C++",
        "output",
        '#include <cstdio>\nint main(){for(;;) puts("xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx");}',
        "cpp",
    ),
    hostile("deep recursion", "error", "def f(): return f()\nf()"),
    hostile(
        "deep recursion without a limit",
        "error|memory|timeout",
        "import sys\nsys.setrecursionlimit(10**9)\nclass A:\n    def __repr__(self): return repr([self])\nrepr(A())",
    ),
    hostile("catastrophic regular expression", "timeout", "import re\nre.match(r'(a+)+$', 'a' * 40 + 'b')"),
    hostile("huge power", "timeout|memory", "print(len(str(9 ** 9 ** 9)))"),
    hostile(
        "raise one's own limits",
        "memory",
        TRY
        + """
import resource
for kind in (resource.RLIMIT_AS, resource.RLIMIT_CPU, resource.RLIMIT_NPROC, resource.RLIMIT_FSIZE):
    attempt("limit", lambda: resource.setrlimit(kind, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)))
sys.stdout.flush()
x = bytearray(1 << 33)
""",
    ),
    hostile("descriptor exhaustion", "error", "import os\nkeep = []\nwhile True: keep.append(os.open('/dev/null', 0))"),
]

FILES = [
    hostile(
        "fill /tmp",
        "ok",
        TRY
        + """
def fill(folder):
    total = 0
    for i in range(64):
        with open(f"{folder}/fill{i}", "wb") as f: total += f.write(bytes(1 << 20))
    return total
attempt("/tmp", lambda: fill("/tmp"))
attempt("/dev/shm", lambda: fill("/dev/shm"))
""",
    ),
    hostile("inode exhaustion", "error", "for i in range(10**6): open(f'f{i}', 'w').close()"),
    hostile(
        "zip bomb on disk",
        "ok",
        TRY
        + """
import io, zipfile
store = io.BytesIO()
with zipfile.ZipFile(store, "w", zipfile.ZIP_DEFLATED) as z: z.writestr("bomb", bytes(100 << 20))
attempt("unpack", lambda: zipfile.ZipFile(store).extractall("."))
""",
        memory_mib=512,
    ),
    hostile(
        "zip bomb in memory",
        "memory",
        "import zlib\nd = zlib.compress(bytes(8 << 20))\nx = b''.join(zlib.decompress(d) for _ in range(100))",
    ),
    hostile(
        "sparse file",
        "ok",
        TRY + "attempt('truncate', lambda: os.truncate(os.open('s', os.O_CREAT | os.O_RDWR), 1 << 40))",
    ),
    hostile(
        "write outside",
        "ok",
        TRY
        + """
for path in ("/MARK", "/usr/bin/MARK", "/usr/lib/MARK", "/etc/MARK", "/opt/MARK", "/opt/sandbox/inside/MARK", "/dev/MARK", "/proc/MARK",
             "/opt/packages/MARK", "/opt/packages/numpy/MARK", "/opt/python/lib/python3.11/site-packages/MARK", "/var/tmp/MARK", "/root/MARK", "/home/MARK"):
    attempt(path, lambda: open(path, "w").write("x"))
attempt("own interpreter", lambda: open("/proc/self/exe", "r+b"))
attempt("remove", lambda: os.remove("/opt/sandbox/inside/zygote.py"))
attempt("chmod", lambda: os.chmod("/usr/bin", 0o777))
""",
    ),
    hostile(
        "read accounts and homes",
        "ok",
        TRY
        + """
for path in ("/etc/shadow", "/etc/passwd", "/root", "/home", "/work", "/var", "/run", "/sys", "/boot", "/etc/hostname", "/etc/ssh", "/dev/mem", "/dev/kmsg", "/proc/kcore", "HOST_FILE"):
    attempt(path, lambda: os.listdir(path) if os.path.isdir(path) else open(path, "rb").read(1) and path)
""",
    ),
    hostile(
        "symlink and hard link tricks",
        "ok",
        TRY
        + """
for target in ("/etc/shadow", "/proc/1/root/etc/shadow", "/proc/self/cwd/../etc/shadow", "HOST_FILE", "/proc/1/root/../../etc/shadow"):
    try: os.unlink("link")
    except OSError: pass
    os.symlink(target, "link")
    attempt(target, lambda: open("link").read())
attempt("link", lambda: os.link("/usr/bin/env", "hard"))
attempt("follow", lambda: open("/proc/1/cwd/../../../../../HOST_FILE").read())
""",
    ),
    hostile(
        "proc tricks",
        "ok",
        TRY
        + """
for path in ("/proc/sys/kernel/core_pattern", "/proc/sys/kernel/hostname", "/proc/sys/vm/overcommit_memory", "/proc/sysrq-trigger", "/proc/sys/kernel/ns_last_pid",
             "/proc/self/uid_map", "/proc/self/oom_score_adj_", "/proc/1/attr/current_"):
    attempt(path, lambda: os.write(os.open(path, os.O_WRONLY), b"1"))
attempt("oom", lambda: os.write(os.open("/proc/self/oom_score_adj", os.O_WRONLY), b"-1000"))
attempt("root of others", lambda: [p for p in os.listdir("/proc") if p.isdigit() and p != "1"][0])
""",
    ),
]

SECRETS = [
    hostile(
        "environment",
        "ok",
        TRY
        + "print(dict(os.environ))\nattempt('environ', lambda: open('/proc/self/environ').read())\nattempt('of the first', lambda: open('/proc/1/environ').read())",
    ),
    hostile(
        "memory and files of other processes",
        "ok",
        TRY
        + """
for pid in [*range(2, 40), os.getppid()]:
    for name in ("mem", "environ", "maps", "cmdline", "fd", "root"):
        attempt(f"{pid} {name}", lambda: os.listdir(f"/proc/{pid}/{name}") if name in ("fd", "root") else open(f"/proc/{pid}/{name}", "rb").read(64))
""",
    ),
    hostile(
        "own memory holds nobody's secret",
        "ok",
        """
import ctypes, fcntl, os
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_size_t
# What is looked for never stands in this program's own memory, whatever is copied here: it is compared shifted.
SHIFT = bytes((i + 85) % 256 for i in range(256))
needle = bytes(SHIFT[c] for c in reversed(b"terces-KRAM"))
PAGE, MOST = 4096, 32 << 20
out, into = os.pipe()
fcntl.fcntl(into, 1031, 1 << 20)
os.set_blocking(into, False)
local = ctypes.c_int()
anchors = [id(object()), id(needle), libc.malloc(16), libc.malloc(100000), libc.malloc(1 << 20), ctypes.addressof(local)]
anchors += [ctypes.cast(libc.getpid, ctypes.c_void_p).value, id(os.__dict__), id(bytearray(3000))]
seen = set()
def look(page):
    # What isn't mapped can't be written from; the kernel says so, and nothing is hurt.
    count = libc.write(into, ctypes.c_void_p(page), PAGE)
    if count > 0 and needle in os.read(out, count).translate(SHIFT):
        print("ESCAPED", hex(page))
    seen.add(page)
    return count > 0
for anchor in anchors:
    for step in (PAGE, -PAGE):
        page = anchor // PAGE * PAGE
        while abs(page - anchor) < MOST and (page in seen or look(page)):
            page += step
print("looked through it" if len(seen) > 256 else f"saw {len(seen)} pages")
""",
        memory_mib=512,
        prints="looked through it\n",
    ),
    hostile(
        "inherited descriptors",
        "ok",
        TRY
        + """
for fd in range(3, 1024):
    attempt(f"read {fd}", lambda: os.read(fd, 1))
    attempt(f"write {fd}", lambda: os.write(fd, b"x"))
attempt("input", lambda: os.write(0, b"x"))
attempt("input again", lambda: os.open("/proc/self/fd/0", os.O_RDWR) and os.write(os.open("/proc/self/fd/0", os.O_RDWR), b"x"))
""",
    ),
    hostile("close all descriptors and go on", "timeout", "import os\nos.closerange(0, 4096)\nwhile True: pass"),
    hostile("close all descriptors and end", "ok|error", "import os\nos.closerange(0, 4096)"),
]

NETWORK = [
    hostile(
        "TCP",
        "ok",
        TRY + "import socket\nattempt('tcp', lambda: socket.create_connection(('127.0.0.1', TCP_PORT), 0.5))",
    ),
    hostile(
        "UDP",
        "ok",
        TRY
        + "import socket\nattempt('udp', lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', UDP_PORT)))",
    ),
    hostile(
        "unix sockets",
        "ok",
        TRY
        + """
import socket
attempt("path", lambda: socket.socket(socket.AF_UNIX).connect("UNIX_PATH"))
attempt("abstract", lambda: socket.socket(socket.AF_UNIX).connect("\\0UNIX_ABSTRACT"))
attempt("pair", lambda: socket.socketpair(socket.AF_INET))
left, right = socket.socketpair()
attempt("from pair", lambda: left.connect("\\0UNIX_ABSTRACT"))
""",
    ),
    hostile(
        "other socket families",
        "ok",
        TRY
        + "import socket\nfor family in range(1, 46):\n    for kind in (1, 2, 3):\n        attempt(family, lambda: socket.socket(family, kind))",
    ),
    hostile(
        "TCP from C++",
        "ok",
        """
#include <arpa/inet.h>
#include <cstdio>
#include <sys/socket.h>
int main() {
    int s = socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in a{}; a.sin_family = AF_INET; a.sin_port = htons(TCP_PORT); inet_aton("127.0.0.1", &a.sin_addr);
    puts(s >= 0 && connect(s, (sockaddr*)&a, sizeof a) == 0 ? "ESCAPED" : "refused");
}
""",
        "cpp",
    ),
]

KERNEL = [
    hostile(
        "trace",
        "ok",
        SYSCALL
        + "for pid in (1, 2, os.getppid()):\n    system_call('ptrace', 101, 16, pid, 0, 0)\nsystem_call('traceme', 101, 0, 0, 0, 0)\nsystem_call('vm_readv', 310, 1, 0, 0, 0, 0, 0)\nsystem_call('kcmp', 312, 1, 1, 0, 0, 0)",
    ),
    hostile(
        "signals to others",
        "ok",
        TRY
        + """
import signal
for pid in (0x7fff, 2, 3, os.getppid() or 2, HOST_PID):
    attempt(pid, lambda: os.kill(pid, signal.SIGKILL))
attempt("everybody", lambda: os.kill(-1, signal.SIGKILL))
""",
    ),
    hostile(
        "namespaces and mounts",
        "ok",
        SYSCALL
        + """
for flag in (0x10000000, 0x20000, 0x20000000, 0x40000000, 0x8000000, 0x4000000, 0x2000000, 0x80):
    system_call("unshare", 272, flag)
    system_call("clone", 56, flag | 17, 0, 0, 0, 0)
    system_call("clone3", 435, 0, 64)
for name, number in dict(mount=165, umount=166, pivot_root=155, chroot=161, setns=308, open_tree=428, move_mount=429, fsopen=430, fsmount=432, mount_setattr=442).items():
    system_call(name, number, b"/", b"/", 0, 0, 0)
""",
    ),
    hostile(
        "kernel interfaces",
        "ok",
        SYSCALL
        + """
for name, number in dict(bpf=321, keyctl=250, add_key=248, request_key=249, perf=298, userfaultfd=323, io_uring=425, memfd=319, init_module=175, kexec=246, reboot=169, swapon=167,
                         sethostname=170, settimeofday=164, clock_settime=227, iopl=172, ioperm=173, quotactl=179, syslog=103, personality=135, seccomp=317,
                         name_to_handle=303, open_by_handle=304, fanotify=300, pidfd_getfd=438, shmget=29, msgget=68, semget=64, mq_open=240, x32=0x40000027).items():
    system_call(name, number, 1, 1, 1, 1, 1)
""",
    ),
    hostile(
        "regain rights",
        "ok",
        SYSCALL
        + """
attempt("setuid", lambda: os.setuid(0))
attempt("setgid", lambda: os.setgid(0))
attempt("setgroups", lambda: os.setgroups([0]))
attempt("chown", lambda: os.chown(".", 0, 0))
attempt("mknod", lambda: os.mknod("disk", 0o60666, os.makedev(254, 0)))
import subprocess
for tool in ("su", "mount", "newgrp", "passwd", "sudo"):
    attempt(tool, lambda: subprocess.run([f"/usr/bin/{tool}", "root"], stdin=0, capture_output=True, check=True))
""",
    ),
    hostile("crash by ctypes", "error", "import ctypes\nctypes.string_at(0)"),
    hostile("crash by C++", "error", "#include <cstdlib>\nint main(){abort();}", "cpp"),
]

LEFTOVERS = [
    hostile(
        "daemon",
        "ok",
        """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execv("/usr/bin/sleep", ["/usr/bin/sleep", "SLEEP_MARK"])
    os._exit(0)
time.sleep(0.2)
print("left")
""",
        prints="left\n",
    ),
    hostile(
        "daemon that holds the output open",
        "ok",
        "import os, time\nif os.fork() == 0:\n    time.sleep(1000)\nprint('left')",
        prints="left\n",
    ),
    hostile(
        "daemon that writes on",
        "ok",
        "import os\nprint('first', flush=True)\nif os.fork() == 0:\n    while True: os.write(1, b'')\nos._exit(0)",
        prints="first\n",
    ),
    hostile(
        "modules tampered with",
        "ok",
        """
import builtins, json, os, sys, zlib
builtins.print = lambda *a, **k: None
builtins.exec = builtins.compile = None
os._exit, json.loads = None, None
sys.modules.clear()
for name in ("inside", "job", "seccomp"): sys.modules[name] = None
""",
        prints="",
    ),
    hostile("exit status of success", "ok", "import os\nos._exit(0)", prints=""),
    hostile(
        "stop oneself",
        "ok|timeout|error",
        "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)\nos.kill(os.getpid(), signal.SIGKILL)",
    ),
    hostile(
        "files for the next run",
        "ok",
        "import os\nprint(sorted(os.listdir('/tmp')))\nopen('/tmp/next', 'w').write('x')\nopen('/dev/shm/next', 'w').write('x')",
        prints="[]\n",
    ),
    hostile(
        "files of the last run",
        "ok",
        "import os\nprint(sorted(os.listdir('/tmp')))\nopen('/tmp/next', 'w').write('x')",
        prints="[]\n",
    ),
]

COMPILER = [
    hostile("template bomb", "compile_error", "template<int N> struct A { A<N-1> a; A<N-2> b; static constexpr long v = A<N-1>::v * 3 + A<N+1>::v; };\nint main(){ return A<900>::v; }", "cpp"),
    hostile("template bomb that grows", "compile_error|error", "template<class A, class B> struct P {}; template<int N, class T> struct X { typedef typename X<N-1, P<T,T>>::t t; }; template<class T> struct X<0,T> { typedef T t; };\nint main(){ typedef X<400,int>::t t; t x; (void)x; throw x; }", "cpp"),
    hostile("endless compile-time loop", "compile_error", "constexpr long f(){ long s=0; for(long i=0;i<(1L<<40);++i) s+=i; return s; }\nstatic_assert(f()==1);\nint main(){}", "cpp"),
    hostile("huge binary", "compile_error", "int a[1<<28]={1};\nint main(){return a[5];}", "cpp"),
    hostile("include itself", "compile_error", '#include "main.cpp"\n#include "main.cpp"\nint main(){}', "cpp"),
    hostile("include an endless file", "compile_error", '#include "/dev/zero"\nint main(){}', "cpp"),
    hostile("include accounts", "compile_error", '#include "/etc/shadow"\nint main(){}', "cpp"),
    hostile("Python compile bomb by depth", "error|memory|output", "(" * 100000),
    hostile("Python compile bomb by size", "ok|memory|timeout|error", "x = (" + "1," * 300000 + ")"),
    hostile("Python compile bomb by constants", "ok|memory|timeout|error", "x = ((((" + "'a' * 4000, " * 2000 + "))))"),
    hostile("null bytes in the source", "error", "print(1)\0"),
]  # fmt: skip

ALL = [*RESOURCES, *FILES, *SECRETS, *NETWORK, *KERNEL, *LEFTOVERS, *COMPILER]
