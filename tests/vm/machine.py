"""The virtual machine: Debian's kernel under Debian's qemu, with the host's own tree, read-only, as its root.

Owns the cache folder (kernel, modules, busybox, the initramfs) and the qemu process that it starts. Installs
nothing and needs no root. Never lets the guest write to the host, but for one folder in the cache.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tests.support import procs

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
CACHE = REPOSITORY / ".vm"
SHARE = CACHE / "share"
# What the guest needs beyond what is built into Debian's kernel; each is loaded after what it depends on.
_MODULES = ("virtio_pci", "9pnet_virtio", "9p", "virtio-rng", "virtio_blk", "crc32c_generic", "ext4")
_KERNEL = "linux-image-amd64"  # not the cloud flavour: that one has no 9p
_BUSYBOX = "busybox-static"
_DISK_BYTES = 4 << 30  # sparse: the host stores what the guest writes


class Unable(Exception):  # noqa: N818 - says what is missing, in one line, for whoever typed `make vm`
    """This machine cannot run the virtual machine."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What a boot needs, all in the cache folder."""

    kernel: Path
    initramfs: Path
    release: str


def prepare() -> Parts:
    """Fetch kernel and busybox, unless they are in the cache, and pack the initramfs anew."""
    if os.uname().machine != "x86_64":
        raise Unable("the virtual machine is for x86_64")
    if shutil.which("qemu-system-x86_64") is None:
        raise Unable("no qemu: apt install qemu-system-x86")
    tree = CACHE / "tree"
    if not tree.is_dir():
        _fetch(tree)
    kernel = next((tree / "boot").glob("vmlinuz-*"))
    release = kernel.name.partition("-")[2]
    initramfs = CACHE / "initramfs.gz"
    modules = _in_order(tree / "lib/modules" / release)
    _pack(initramfs, tree / "bin/busybox", modules)
    return Parts(kernel, initramfs, release)


def boot(parts: Parts, command: str, *, memory: str, accel: str, timeout_s: float) -> int:
    """Boot, run `command` by sh in the host's tree, show what it prints, power off; return its exit code.

    The command finds the folder SHARE at /tmp/share, and may write to it; the rest of /tmp, and /run, are its own.
    Raises Unable if the machine ended, or was ended after `timeout_s`, without one.
    """
    SHARE.mkdir(parents=True, exist_ok=True)
    (SHARE / "command").write_text(command)
    code = SHARE / "code"
    code.unlink(missing_ok=True)
    disk = CACHE / "disk"
    disk.write_bytes(b"")
    os.truncate(disk, _DISK_BYTES)
    process = subprocess.Popen(
        _qemu(parts, disk, memory, accel),
        stdin=subprocess.DEVNULL,
        preexec_fn=procs.term_when_we_die(),  # noqa: PLW1509 - one prctl, takes no lock
    )
    try:
        process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        raise Unable(f"the virtual machine was not done within {timeout_s:g} s") from None
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.wait()
        disk.unlink()
    if not code.exists():
        raise Unable("the virtual machine ended without an exit code: see what it printed above")
    return int(code.read_text())


def _qemu(parts: Parts, disk: Path, memory: str, accel: str) -> list[str]:
    shares = {"host": ("/", "readonly=on,multidevs=remap"), "share": (str(SHARE), "readonly=off")}
    shared = [
        word
        for tag, (path, how) in shares.items()
        for word in (
            *("-fsdev", f"local,id={tag},path={path},security_model=none,{how}"),
            *("-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}"),
        )
    ]
    return [
        *("qemu-system-x86_64", "-nodefaults", "-no-user-config", "-no-reboot"),
        *("-accel", accel, "-cpu", "host" if accel == "kvm" else "max"),
        *("-smp", "2", "-m", memory, "-display", "none", "-serial", "stdio", "-device", "virtio-rng-pci"),
        *shared,
        *("-drive", f"file={disk},if=virtio,format=raw,cache=unsafe"),
        *("-kernel", str(parts.kernel), "-initrd", str(parts.initramfs)),
        *("-append", "console=ttyS0 quiet loglevel=3 panic=-1 mitigations=off heavyq-vm"),
    ]


# ---- kernel and busybox ----------------------------------------------------------------------------------------


def _fetch(tree: Path) -> None:
    """Unpack Debian's kernel and busybox into `tree`; apt checks their signatures."""
    if shutil.which("apt-get") is None:
        raise Unable("the kernel comes from Debian's archive, and there is no apt-get here")
    shutil.rmtree(CACHE, ignore_errors=True)
    downloads = CACHE / "downloads"
    downloads.mkdir(parents=True)
    packages = (_newest_kernel(), _BUSYBOX)
    print(f"fetching {' and '.join(packages)}", flush=True)
    _run("apt-get", "download", "-qq", *packages, cwd=downloads)
    half = CACHE / "half"
    for package in downloads.glob("*.deb"):
        _run("dpkg", "-x", str(package), str(half), cwd=CACHE)
    shutil.rmtree(downloads)
    half.rename(tree)  # so that a tree that is there is whole


def _newest_kernel() -> str:
    text = _run("apt-cache", "depends", _KERNEL, cwd=CACHE)
    found = re.search(r"Depends: (linux-image-\S+)", text)
    if found is None:
        raise Unable(f"apt knows no package {_KERNEL}: apt-get update?")
    return found[1]


def _run(*argv: str, cwd: Path) -> str:
    done = subprocess.run(argv, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Unable(f"{' '.join(argv)}: {(done.stderr.strip() or 'failed').splitlines()[-1]}")
    return done.stdout


def _in_order(folder: Path) -> list[Path]:
    """Return the modules and what they need, what is needed first. Modules that are built in have no file."""
    files = {path.stem.replace("-", "_"): path for path in folder.rglob("*.ko")}
    found: list[Path] = []

    def need(name: str) -> None:
        path = files.get(name.replace("-", "_"))
        if path is None or path in found:
            return
        info = re.search(rb"\0depends=([^\0]*)\0", path.read_bytes())
        for other in info[1].decode().split(",") if info else ():
            need(other)
        found.append(path)

    for name in _MODULES:
        need(name)
    return found


# ---- the initramfs ---------------------------------------------------------------------------------------------


def _pack(initramfs: Path, busybox: Path, modules: list[Path]) -> None:
    """Write a cpio archive ("newc"): busybox, the modules with their order, our init."""
    order = "".join(f"{path.name}\n" for path in modules).encode()
    with gzip.open(initramfs, "wb", compresslevel=1) as out:
        for folder in ("bin", "modules", "proc", "host"):
            _entry(out, folder, 0o040755)
        _entry(out, "bin/busybox", 0o100755, busybox.read_bytes())
        _entry(out, "init", 0o100755, (HERE / "init.sh").read_bytes())
        _entry(out, "modules/order", 0o100644, order)
        for path in modules:
            _entry(out, f"modules/{path.name}", 0o100644, path.read_bytes())
        _entry(out, "TRAILER!!!", 0)


def _entry(out: IO[bytes], name: str, mode: int, body: bytes = b"") -> None:
    raw = name.encode() + b"\0"
    # inode, mode, uid, gid, links, mtime, size, device (2), rdevice (2), length of the name, check
    numbers = (0, mode, 0, 0, 1, 0, len(body), 0, 0, 0, 0, len(raw), 0)
    head = b"070701" + b"".join(b"%08X" % number for number in numbers) + raw
    out.write(head + bytes(-len(head) % 4) + body + bytes(-len(body) % 4))
