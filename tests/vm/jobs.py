"""The module whose jobs the worker tests of this folder run: small, for the machine is slow."""

APP = """
    import ctypes
    import mmap
    import os
    import subprocess
    import sys
    import time
    from pathlib import Path

    from heavyq import Queue

    q = Queue("q")
    MIB = 2**20
    POPULATE_WRITE = 23
    GROW = "import sys, time; [time.sleep(float(sys.argv[2])) for held in [[]] for n in range(int(sys.argv[1])) "
    GROW += "if not held.append(b'x' * 2**20)]"


    def wait_for(path):
        while not Path(path).exists():
            time.sleep(0.01)


    @q.processor("pid")
    def pid(job):
        return os.getpid()


    @q.processor("keep")
    def keep(job):  # holds memory until it is told to go
        mine = b"x" * (job.data["mib"] * MIB)
        Path(job.data["mark"]).write_text(str(os.getpid()))
        wait_for(job.data["go"])
        return os.getpid()


    @q.processor("one-call")
    def one_call(job):  # all pages in one system call: nothing but the kernel can stop it in between
        Path(job.data["mark"]).write_text(str(os.getpid()))
        wait_for(job.data["go"])
        mine = mmap.mmap(-1, job.data["mib"] * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        mine.madvise(POPULATE_WRITE)
        return "not stopped"


    @q.processor("fast")
    def fast(job):  # page after page, with no Python in between
        mine = mmap.mmap(-1, job.data["mib"] * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        ctypes.memset(ctypes.addressof(ctypes.c_char.from_buffer(mine)), 1, len(mine))
        return "not stopped"


    @q.processor("family")
    def family(job):  # three that have left its session, and one that grows
        for _ in range(3):
            subprocess.Popen(["setsid", "sleep", job.data["marker"]])
        subprocess.run([sys.executable, "-c", GROW, str(job.data["mib"]), "0.02"])
        return "not stopped"


    @q.processor("write-file")
    def write_file(job):
        with open(f"written-{job.id}", "wb") as out:
            for _ in range(job.data["mib"]):
                out.write(bytes(MIB))
            size = out.tell()
        os.remove(out.name)
        return size
"""
