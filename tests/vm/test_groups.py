"""Groups for children on cgroup v2: had where the worker is alone in a delegated group, else one line says why not."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import pytest

from tests.support import procs
from tests.vm.pod import CONTAINED, MIB, READ_ONLY, ROOT, Pod, python

if TYPE_CHECKING:
    from collections.abc import Callable

    MakePod = Callable[..., Pod]

# A worker in small: a parent and two helpers, as guard, supervisor and zygote.
OPEN = """
import json, os, subprocess, sys, time
from heavyq.linux import groups

quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}  # our pipe would wait for them
helpers = [subprocess.Popen(["sleep", "600"], **quiet) for _ in range(2)]
tree = [os.getpid(), *(helper.pid for helper in helpers)]

def words(path):
    with open(path) as f:
        return f.read().split()

def tell(**more):
    print(json.dumps({"tree": tree, **more}))

def end():
    for helper in helpers:
        helper.kill()
        helper.wait()

opened = groups.Groups.open(tree, "w1")
"""
REFUSED = OPEN + "end(); tell(why=str(opened), own=words('/proc/self/cgroup'))"


def refusal(pod: Pod, argv: list[str], script: str = REFUSED) -> str:
    """Try to open groups; return the reason, after a look that nothing was changed."""
    before = sorted(pod.pids())
    why = python(argv, script)["why"]
    assert isinstance(why, str)
    print(why)
    assert "\n" not in why
    assert len(why) < 200
    assert sorted(pod.pids()) == before, "only the script was here, and it has ended"
    assert pod.groups() == {}, "no folder is left"
    assert pod.read("cgroup.subtree_control") == "\n" or "memory" not in pod.read("cgroup.subtree_control")
    return why


# ---- where groups can be had ------------------------------------------------------------------------------

ALL = (
    OPEN
    + """
assert isinstance(opened, groups.Groups), opened
inside = [words(f"{opened.own}/cgroup.procs"), words(f"{opened.own}/w1-worker/cgroup.procs"), os.listdir(opened.own)]
control = words(f"{opened.own}/cgroup.subtree_control")

group = opened.make("w1-c1")
group.set_limit(48 << 20)
# A job with two processes: one of them fills the group, and both must go; the parent must not.
job = subprocess.Popen(
    [sys.executable, "-c", '''
import os, subprocess, sys
from heavyq.linux import groups
groups.enter(sys.argv[1])
child = subprocess.Popen(["sleep", "600"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print(child.pid, flush=True)
input()
held = b"x" * (128 << 20)
''', group.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
child = int(job.stdout.readline())
in_group = words(f"{group.path}/cgroup.procs")
remove_early = group.remove()
kills_before = group.oom_kills()
job.stdin.write(b"\\n"); job.stdin.flush()
code = job.wait()
deadline = time.monotonic() + 60
while words(f"{group.path}/cgroup.procs") and time.monotonic() < deadline:
    time.sleep(0.01)
kills = group.oom_kills()
removed = group.remove()
left = os.path.isdir(group.path)
after_removal = group.oom_kills(), group.remove()
opened.close()
end()
tell(inside=inside, control=control, job=job.pid, child=child, in_group=in_group, remove_early=remove_early,
     kills=[kills_before, kills], code=code, removed=removed, left=left, after_removal=after_removal,
     after=[os.listdir(opened.own), words(f"{opened.own}/cgroup.subtree_control"), words("/proc/self/cgroup")])
"""
)


@pytest.mark.parametrize("contained", [False, True], ids=["systemd", "namespace"])
def test_alone_in_a_delegated_group_a_child_has_one_and_dies_alone_in_it(make_pod: MakePod, contained: bool) -> None:
    pod = make_pod(512 * MIB, oom_group=True)
    saw = python(pod.inside(*(CONTAINED if contained else ())), ALL)
    own, worker, names = saw["inside"]
    assert own == []
    assert sorted(map(int, worker)) == sorted(saw["tree"])
    assert "w1-worker-probe" not in names
    assert saw["control"] == ["memory"]
    assert sorted(map(int, saw["in_group"])) == sorted([saw["job"], saw["child"]])
    assert saw["remove_early"] is False
    before, after = saw["kills"]
    assert before == 0
    assert after >= 1, "the group's own counter tells of the kill"
    assert saw["code"] == -9
    assert saw["removed"] is True
    assert saw["left"] is False
    assert saw["after_removal"] == [0, True]
    folders, control, place = saw["after"]
    assert not [name for name in folders if name.startswith("w1")]
    assert control == []
    assert place == (["0::/"] if contained else [f"0::/{pod.path.name}"])
    assert not procs.alive(saw["child"])


def test_what_was_delegated_before_stays_so(make_pod: MakePod) -> None:
    # PID 1 of the container has sub-groups on already: then our group can hold no process at all, so we start in a leaf
    # of our own, as a service of systemd does whose unit has Delegate= and a leaf for its main process.
    pod = make_pod(512 * MIB)
    pod.write("cgroup.subtree_control", "+memory +pids")
    leaf = make_pod(parent=pod.path)
    saw = python(leaf.inside(), ALL)
    assert saw["control"] == ["memory"]
    assert set(pod.read("cgroup.subtree_control").split()) == {"memory", "pids"}
    assert leaf.read("cgroup.subtree_control").split() == []


HITS = (
    OPEN
    + """
def hits_and_kills(limit):
    group = opened.make(f"w1-c{limit}")
    group.set_limit(limit)
    pid = os.fork()
    if pid == 0:
        groups.enter(group.path)
        held = b"x" * (256 << 20)
        os._exit(0)
    os.waitpid(pid, 0)
    return group.limit_hits(), group.oom_kills()

found = [hits_and_kills(48 << 20), hits_and_kills(512 << 20)]
end()
tell(found=found)
"""
)


def test_a_group_tells_its_own_limit_from_that_of_the_container(make_pod: MakePod) -> None:
    (own_hits, own_kills), (other_hits, other_kills) = python(make_pod(128 * MIB).inside(), HITS)["found"]
    assert own_hits >= 1
    assert own_kills >= 1
    assert other_hits == 0, "the container was full, and the group was not"
    assert other_kills >= 1


KILL = (
    OPEN
    + """
group = opened.make("w1-c1")
script = '''
import os, subprocess, sys
from heavyq.linux import groups
groups.enter(sys.argv[1])
for n in range(5):
    subprocess.Popen(["setsid", "sleep", "600"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print("ready", flush=True)
os.mkdir(sys.argv[1] + "/below")
open(sys.argv[1] + "/below/cgroup.procs", "w").write("0")
input()
'''
job = subprocess.Popen([sys.executable, "-c", script, group.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
job.stdout.readline()
deadline = time.monotonic() + 60
while words(f"{group.path}/cgroup.procs").__len__() != 5 and time.monotonic() < deadline:
    time.sleep(0.01)
members = words(f"{group.path}/cgroup.procs")
group.kill()
code = job.wait()
while words(f"{group.path}/cgroup.procs") and time.monotonic() < deadline:
    time.sleep(0.01)
left = words(f"{group.path}/cgroup.procs")
removed = group.remove()
kills = opened.make("w1-c2").oom_kills()
end()
tell(members=members, code=code, left=left, removed=removed, kills=kills)
"""
)


def test_kill_takes_the_whole_group_and_the_groups_below_it(make_pod: MakePod) -> None:
    saw = python(make_pod(512 * MIB).inside(), KILL)
    assert len(saw["members"]) == 5
    assert saw["code"] == -9
    assert saw["left"] == []
    assert saw["removed"] is True
    assert saw["kills"] == 0, "a kill by us is no kernel kill"


# By fork, not by exec: an interpreter in a folder of root's cannot be started by others.
FORKED = """
import json, os
from heavyq.linux import cgroup, groups, procfs
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
opened = groups.Groups.open([os.getpid()], "w1")
assert isinstance(opened, groups.Groups), opened
with open(f"{opened.own}/cgroup.subtree_control") as f:
    enabled = f.read().split()
group = opened.make("w1-c1")
group.set_limit(48 << 20)
before = group.oom_kills()
pid = os.fork()
if pid == 0:
    groups.enter(group.path)
    held = b"x" * (128 << 20)
    os._exit(0)
_, status = os.waitpid(pid, 0)
kills = [before, group.oom_kills()]
removed = group.remove()
opened.close()
print(json.dumps({"enabled": enabled, "code": status, "kills": kills, "removed": removed}))
"""


def test_a_group_delegated_to_an_unprivileged_user_is_enough(make_pod: MakePod) -> None:
    # What systemd's Delegate= gives to a user: the folder and these three files, not the limits.
    pod = make_pod(512 * MIB)
    for path in (pod.path, *(pod.path / f"cgroup.{name}" for name in ("procs", "subtree_control", "threads"))):
        os.chown(path, 65534, 65534)
    saw = python(pod.inside(), FORKED)
    assert saw["enabled"] == ["memory"]
    assert saw["code"] == 9
    before, after = saw["kills"]
    assert before == 0
    assert after >= 1, "memory.oom.group counts its victim twice, so not just 1"
    assert saw["removed"] is True


# ---- where they cannot ------------------------------------------------------------------------------------


def test_other_processes_in_the_group_are_named(make_pod: MakePod) -> None:
    pod = make_pod(512 * MIB)
    with pod.stranger() as stranger:
        why = refusal(pod, pod.inside())
    assert why == f"{pod.path} holds other processes: sleep ({stranger})"


def test_a_read_only_mount_is_said_so(make_pod: MakePod) -> None:
    pod = make_pod(512 * MIB)
    why = refusal(pod, pod.inside(*READ_ONLY))
    assert "Read-only file system" in why
    assert str(pod.path) in why
    why = refusal(pod, pod.inside(*CONTAINED, *READ_ONLY))
    assert why == f"{ROOT}/w1-worker: Read-only file system"


def test_a_controller_that_is_not_delegated_is_said_so(make_pod: MakePod) -> None:
    pod = make_pod(512 * MIB)
    bare = make_pod(parent=pod.path)  # pod hands nothing down
    why = refusal(bare, bare.inside())
    assert why == f"the memory controller is not delegated to {bare.path}"


def test_a_user_without_the_right_to_write_is_said_so(make_pod: MakePod) -> None:
    pod = make_pod(512 * MIB)
    script = """
import json, os
from heavyq.linux import cgroup, groups, procfs
os.setresuid(65534, 65534, 65534)
print(json.dumps({"why": str(groups.Groups.open([os.getpid()], "w1"))}))
"""
    why = refusal(pod, pod.inside(), script)
    assert re.search("Permission denied$", why)
    assert str(pod.path) in why
