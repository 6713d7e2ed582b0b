"""What `deploy/` says, done on this machine: each service's very command, the probe, the server's command.

Without the image, which tests/integration/test_deploy_image.py builds and runs.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest

from heavyq.bullmq.keys import QueueKey
from heavyq.config.units import parse_duration, parse_size
from heavyq.core.memory import in_words
from tests.support import deploy
from tests.support.eventually import eventually
from tests.support.group import memory_group
from tests.support.jobs import Jobs
from tests.support.valkey import server_binary
from tests.support.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.valkey import Valkey

DOCKER = deploy.FOLDER / "docker"
ALIVE = DOCKER / "heavyq-alive"
SERVICES: dict[str, Any] = deploy.documents("docker", "docker-compose.yml")[0]["services"]
APP = """
from heavyq import Queue
q = Queue("q")
@q.processor
def work(job):
    return None
"""


# ---- the fleet --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "queue", "data", "answer"),
    [
        ("worker-light", "thumbnails", {"title": "Cover"}, "cover.webp"),
        ("worker-heavy", "videos", {"seconds": 0.2, "mib": 50}, 50),
    ],
    ids=["light", "heavy"],
)
def test_a_services_command_works_within_its_memory_and_ends_in_its_grace_period(
    name: str, queue: str, data: Any, answer: Any, valkey: Valkey, jobs: Jobs, tmp_path: Path
) -> None:
    said, prefix = SERVICES[name], jobs.q.prefix
    run, *argv = said["command"]
    assert run == "run"
    url = said["environment"]["HEAVYQ_REDIS"].replace("valkey:6379", f"127.0.0.1:{valkey.port}")
    environment = {**said["environment"], "HEAVYQ_REDIS": url, "HEAVYQ_PREFIX": prefix}
    shutil.copytree(DOCKER / "example", tmp_path, dirs_exist_ok=True)
    jobs = Jobs(jobs.client, jobs.raw, QueueKey(prefix, queue))
    limit = parse_size(said["deploy"]["resources"]["limits"]["memory"] + "i")
    with memory_group(limit) as group, Worker(tmp_path, argv, env=environment, group=group) as worker:
        worker.wait_log("serving", 30)
        assert alive(worker.pid) == 0
        ids = jobs.add_all([("process", data)] * 4)
        assert [jobs.result(one_id, 30) for one_id in ids] == [answer] * 4
        assert f"limit='{in_words(limit)}'" in worker.log, "the limit that it found"
        assert "[warning" not in worker.log, "such as: its jobs' limits do not fit together"
        assert group.oom_kills() == 0
        assert worker.stop(parse_duration(said["stop_grace_period"])) == 0


# ---- the probe --------------------------------------------------------------------------------------------


def alive(pid: int) -> int:
    return subprocess.run([ALIVE, str(pid)], capture_output=True, check=False).returncode


def test_the_probe_tells_a_living_worker_from_a_stopped_one(run_worker: Callable[..., Worker]) -> None:
    worker = run_worker(APP)
    worker.wait_log("serving")
    began_s = time.monotonic()
    assert alive(worker.pid) == 0
    print(f"measured: one probe, with the start of sh: {(time.monotonic() - began_s) * 1e3:.1f} ms")
    for role in ("supervisor", "guard"):
        worker.kill(role, signal.SIGSTOP)
        eventually(lambda: alive(worker.pid) == 1, 2, f"not alive while its {role} is stopped")
        worker.kill(role, signal.SIGCONT)
        eventually(lambda: alive(worker.pid) == 0, 2, "alive again")


def test_the_probe_takes_no_other_process_for_a_worker(run_worker: Callable[..., Worker]) -> None:
    worker = run_worker(APP)
    worker.wait_log("serving")
    assert alive(os.getpid()) == 1, "a guard is needed"
    assert alive(worker.find("supervisor").pid) == 1, "its children are no supervisors"
    guard = worker.pid
    worker.kill("supervisor")
    worker.wait()
    assert alive(guard) == 1, "nobody is there"


# ---- the server -------------------------------------------------------------------------------------------


def test_the_servers_own_command_evicts_nothing_and_keeps_all(own_valkey: Callable[..., Valkey]) -> None:
    name, *words = SERVICES["valkey"]["command"]
    binary = server_binary()
    assert binary is not None
    assert name == binary.name
    said = {flag.removeprefix("--"): value for flag, value in zip(words[::2], words[1::2], strict=True)}
    server = own_valkey(config=said)
    with server.redis() as connected:
        assert list(connected.config_get("maxmemory-policy").values()) in (["noeviction"], [b"noeviction"])
        connected.set("kept", "yes")
        connected.waitaof(1, 0, 5000)  # appendfsync everysec: until then a power cut may lose it
    server.restart(kill=True)
    with server.redis() as connected:
        assert connected.get("kept") == b"yes"
