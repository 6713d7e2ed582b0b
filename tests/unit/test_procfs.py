"""Readings of /proc, of this process and of children made here: real memory, small amounts."""

from __future__ import annotations

import mmap
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING

import pytest

from heavyq.linux import procfs
from heavyq.linux.procfs import StatmFile
from tests.support import procs
from tests.support.eventually import eventually
from tests.support.group import on_disk

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 1 << 20
BLOCK = 64 * MIB
VAR_TMP = Path("/var/tmp")
NEAR = 6 * MIB  # the kernel's counters are per core and lag by some pages; Python allocates in between


def near(value: int, wanted: int) -> bool:
    return abs(value - wanted) < NEAR


def private(size: int = BLOCK) -> mmap.mmap:
    block = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    block.madvise(mmap.MADV_NOHUGEPAGE)
    return block


def touch(block: mmap.mmap) -> mmap.mmap:
    for at in range(0, len(block), mmap.PAGESIZE):
        block[at] = 1
    return block


def read_all(block: mmap.mmap) -> int:
    return sum(block[at] for at in range(0, len(block), mmap.PAGESIZE))


@pytest.fixture
def own() -> Iterator[StatmFile]:
    file = StatmFile(os.getpid())
    yield file
    file.close()


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    with procs.running("sleep", "600", preexec_fn=procs.term_when_we_die()) as process:
        yield process


def charge(file: StatmFile) -> int:
    now = file.read()
    return now.charge_bytes


# ---- StatmFile --------------------------------------------------------------------------------------------


def test_anonymous_memory_is_charged_once_it_is_touched(own: StatmFile) -> None:
    before = charge(own)
    with private() as block:
        assert near(charge(own), before)
        touch(block)
        assert near(charge(own), before + BLOCK)
    assert near(charge(own), before)


def test_a_mapped_file_is_resident_but_not_charged(own: StatmFile, tmp_path: Path) -> None:
    with TemporaryFile(dir=on_disk(tmp_path, VAR_TMP)) as file:
        file.truncate(BLOCK)
        before = own.read()
        assert before is not None
        with mmap.mmap(file.fileno(), BLOCK, prot=mmap.PROT_READ) as block:
            read_all(block)
            now = own.read()
            assert near(now.resident_bytes, before.resident_bytes + BLOCK)
            assert near(now.shared_bytes, before.shared_bytes + BLOCK)
            assert near(now.charge_bytes, before.charge_bytes)


def test_shared_memory_is_not_charged(own: StatmFile) -> None:
    before = charge(own)
    with mmap.mmap(-1, BLOCK) as block:
        touch(block)
        assert near(charge(own), before)


def test_the_kept_descriptor_and_the_opened_file_say_the_same(own: StatmFile) -> None:
    assert near(charge(own), procfs.charge_bytes(os.getpid()) or 0)


def test_a_process_that_was_never_there_reads_as_dead(child: subprocess.Popen[bytes]) -> None:
    child.kill()
    child.wait()
    file = StatmFile(child.pid)
    assert file.read() is None
    file.close()


def test_a_process_that_dies_reads_as_dead_before_it_is_reaped(child: subprocess.Popen[bytes]) -> None:
    file = StatmFile(child.pid)
    assert file.read() is not None
    child.kill()
    eventually(lambda: (seen := procs.look(child.pid)) is not None and seen.zombie, what="zombie")
    assert file.read() is None
    child.wait()
    assert file.read() is None
    file.close()


def test_an_exec_does_not_read_as_death() -> None:
    shell_script = "echo; read go; exec sleep 600"
    with procs.running("sh", "-c", shell_script, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as shell:
        shell.stdout.readline()
        file = StatmFile(shell.pid)
        shell.stdin.write(b"\n")
        shell.stdin.flush()
        eventually(lambda: procfs.comm(shell.pid) == "sleep")
        assert file.read() is not None
        file.close()


def test_a_pid_that_another_process_has_taken_reads_as_dead(child: subprocess.Popen[bytes]) -> None:
    last_pid = Path("/proc/sys/kernel/ns_last_pid")
    file = StatmFile(child.pid)
    child.kill()
    child.wait()
    for _ in range(50):  # others fork too
        try:
            last_pid.write_text(str(child.pid - 1))
        except OSError as error:
            pytest.skip(f"only root may choose the next pid: {error}")
        with procs.running("sleep", "600") as other:
            taken = other.pid == child.pid
            seen, anew = file.read(), StatmFile(other.pid)
            living = anew.read()
            anew.close()
        if taken:
            break
    else:
        pytest.skip("the pid could not be had again")
    assert living is not None
    assert seen is None
    file.close()


def test_a_closed_file_reads_nothing_and_no_descriptor_is_left() -> None:
    before = procs.fds()
    file = StatmFile(os.getpid())
    assert len(procs.fds()) == len(before) + 1
    file.close()
    file.close()
    assert file.read() is None
    assert len(procs.fds()) == len(before)


def test_without_descriptors_no_process_is_called_dead() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            StatmFile(os.getpid())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# ---- one address space ------------------------------------------------------------------------------------

# posix_spawn forks with the parent's memory, and its child waits here for a writer of the pipe before its exec.
VFORK = """
import mmap, os, sys
block = mmap.mmap(-1, 64 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for at in range(0, len(block), mmap.PAGESIZE):
    block[at] = 1
os.posix_spawn("/bin/sleep", ["sleep", "600"], {}, file_actions=[(os.POSIX_SPAWN_OPEN, 9, sys.argv[1], os.O_RDONLY, 0)])
"""


@pytest.mark.parametrize("kcmp", [True, False], ids=["kcmp", "without kcmp"])
def test_a_vfork_child_reads_as_large_as_its_parent_and_is_told_to_be_it(
    kcmp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not kcmp:
        monkeypatch.setattr(procfs, "_KCMP", 100_000)  # ENOSYS
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with procs.running(sys.executable, "-c", VFORK, str(pipe)) as parent:
        below = eventually(lambda: procs.children(parent.pid))[0].pid
        assert (procfs.charge_bytes(below) or 0) >= BLOCK, "else there is no need for all this"
        assert procfs.shares_memory(below, parent.pid)
        assert not procfs.shares_memory(below, os.getpid())
        os.close(os.open(pipe, os.O_WRONLY))
        eventually(lambda: procfs.comm(below) == "sleep")
        assert not procfs.shares_memory(below, parent.pid)
        assert (procfs.charge_bytes(below) or 0) < BLOCK


@pytest.mark.parametrize("kcmp", [True, False], ids=["kcmp", "without kcmp"])
def test_a_plain_child_and_the_dead_are_not_the_same_memory(
    kcmp, child: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    if not kcmp:
        monkeypatch.setattr(procfs, "_KCMP", None)
    eventually(lambda: procfs.comm(child.pid) == "sleep")
    assert not procfs.shares_memory(child.pid, os.getpid())
    child.kill()
    eventually(lambda: (seen := procs.look(child.pid)) is not None and seen.zombie)
    assert not procfs.shares_memory(child.pid, os.getpid())
    child.wait()
    assert not procfs.shares_memory(child.pid, os.getpid())
    assert not procfs.shares_memory(child.pid, child.pid)


# ---- by kind ----------------------------------------------------------------------------------------------


def test_each_kind_of_memory_is_told_apart(tmp_path: Path) -> None:
    before = procfs.rss_split(os.getpid())
    assert before is not None
    with TemporaryFile(dir=on_disk(tmp_path, VAR_TMP)) as file:
        file.truncate(BLOCK // 4)
        with (
            private(BLOCK) as anon,
            mmap.mmap(-1, BLOCK // 2) as shared,
            mmap.mmap(file.fileno(), BLOCK // 4, prot=mmap.PROT_READ) as mapped,
        ):
            touch(anon), touch(shared), read_all(mapped)
            now = procfs.rss_split(os.getpid())
    assert near(now.anon_bytes - before.anon_bytes, BLOCK)
    assert near(now.shmem_bytes - before.shmem_bytes, BLOCK // 2)
    assert near(now.file_bytes - before.file_bytes, BLOCK // 4)


def test_what_a_fork_shares_is_the_childs_own_and_counts_half_in_pss() -> None:
    go_r, go_w = os.pipe()
    with private() as anon, mmap.mmap(-1, BLOCK) as shared:
        touch(anon), touch(shared)
        pid = os.fork()
        if pid == 0:
            os.close(go_w)
            read_all(shared)  # a fork does not copy the mappings of shared memory: the child maps them as it reads
            os.read(go_r, 1)
            os._exit(0)
        try:
            split = eventually(lambda: (s := procfs.rss_split(pid)) and near(s.shmem_bytes, BLOCK) and s)
            seen = procfs.rollup(pid)
        finally:
            os.close(go_w)
            os.close(go_r)
            os.waitpid(pid, 0)
    assert seen is not None
    assert seen.anon_bytes >= BLOCK
    assert seen.anon_bytes / 2 - NEAR < seen.pss_anon_bytes < seen.anon_bytes / 2 + NEAR
    assert near(seen.shmem_bytes, BLOCK)
    assert near(seen.pss_shmem_bytes, BLOCK // 2)
    assert near(seen.rss_bytes, split.anon_bytes + split.file_bytes + split.shmem_bytes)
    assert seen.lazy_free_bytes == 0


def test_memory_given_back_lazily_is_told() -> None:
    with private() as block:
        touch(block)
        block.madvise(mmap.MADV_FREE)
        now = procfs.rollup(os.getpid())
        assert near(now.lazy_free_bytes, BLOCK)
        assert now.anon_bytes >= BLOCK  # it is still counted there: the reader takes it off


@pytest.mark.parametrize("read", [procfs.rollup, procfs.rss_split])
def test_the_dead_and_zombies_have_no_kinds_of_memory(read, child: subprocess.Popen[bytes]) -> None:
    assert read(child.pid) is not None
    os.kill(child.pid, signal.SIGKILL)
    eventually(lambda: (seen := procs.look(child.pid)) is not None and seen.zombie, what="zombie")
    assert read(child.pid) is None
    child.wait()
    assert read(child.pid) is None


def test_a_stopped_process_is_measured_all_the_same(child: subprocess.Popen[bytes]) -> None:
    os.kill(child.pid, signal.SIGSTOP)
    eventually(lambda: (seen := procs.look(child.pid)) is not None and seen.state == "T")
    assert procfs.rollup(child.pid) is not None


# ---- names, limits ----------------------------------------------------------------------------------------


def test_a_name_that_is_no_text_is_still_a_name() -> None:
    script = r"open('/proc/self/comm', 'wb').write(b'a) \xff b'); print(flush=True); input()"
    with procs.running(sys.executable, "-c", script, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        assert procfs.comm(process.pid) == "a) \ufffd b"
    assert procfs.comm(process.pid) == ""


def test_data_is_what_rlimit_data_counts_touched_or_not() -> None:
    before = procfs.data_bytes()
    with private():
        assert near(procfs.data_bytes(), before + BLOCK)
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (procfs.data_bytes() + BLOCK, hard))
    try:
        with private(BLOCK // 2):
            pass
        with pytest.raises(OSError, match="allocate"):
            private(BLOCK * 2)
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def test_the_peak_is_that_since_it_was_reset() -> None:
    found = procfs.statm(os.getpid())
    assert found is not None
    now = found.resident_bytes
    with private() as block:
        touch(block)
    assert procfs.peak_rss_bytes() > now + BLOCK - NEAR
    procfs.reset_peak()
    assert near(procfs.peak_rss_bytes(), now)


def test_the_machines_memory_is_all_of_it() -> None:
    assert procfs.mem_total_bytes() == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
