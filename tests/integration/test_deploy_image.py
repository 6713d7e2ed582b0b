"""`deploy/docker`, done: the image's steps, each service's very command in it, the probe, a stop.

In containers that the tests make themselves (tests/support/box.py): there need be no engine. The services' commands
alone, without an image, are in tests/integration/test_deploy_commands.py.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import textwrap
import time
from typing import TYPE_CHECKING, Any

import pytest

from heavyq.bullmq.keys import QueueKey
from heavyq.config.units import parse_duration, parse_size
from heavyq.core.memory import in_words
from tests.support import box, deploy, dockerfile, procs
from tests.support.eventually import eventually
from tests.support.group import memory_group
from tests.support.jobs import Jobs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import redis

    from heavyq.store.client import Client
    from tests.support.group import MemoryGroup
    from tests.support.valkey import Valkey

# The image is built, with packages from an index.
pytestmark = [pytest.mark.long, pytest.mark.timeout(400)]

DOCKER = deploy.FOLDER / "docker"
SERVICES: dict[str, Any] = deploy.documents("docker", "docker-compose.yml")[0]["services"]
APP = """
from heavyq import Queue
q = Queue("q")
@q.processor
def work(job):
    return None
"""

WORKERS = {"worker-light": "thumbnails", "worker-heavy": "videos"}
JOBS: dict[str, dict[str, Any]] = {"thumbnails": {"title": "Cover"}, "videos": {"seconds": 0.2, "mib": 50}}
ANSWERS = {"thumbnails": "cover.webp", "videos": 50}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, box.Image]]:
    """The stages of the Dockerfile, made by their own steps. Packages come from an index, as in a real build."""
    if os.geteuid() != 0:
        pytest.skip("only root can make a container without an engine")
    folder = tmp_path_factory.mktemp("image")
    try:
        yield box.build(dockerfile.read(DOCKER / "Dockerfile"), deploy.FOLDER.parent, folder)
    except box.Failed as failed:
        index = os.environ.get("CI") != "true" and re.search("connection|resolution", str(failed))
        if index or re.search(
            "mount|unshare", str(failed)
        ):  # what the kernel does not let us do is no fault of the image
            pytest.skip(f"not on this machine: {failed}")
        raise
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def image(images: dict[str, box.Image]) -> box.Image:
    return images["example"]


class Service:
    """One service of the compose file, on the tests' own server."""

    def __init__(self, image: box.Image, name: str, valkey: Valkey, prefix: str, folder: Path) -> None:
        said = SERVICES[name]
        self.limit_bytes = parse_size(said["deploy"]["resources"]["limits"]["memory"] + "i")
        self.stop_s = parse_duration(said["stop_grace_period"])
        self.settings = deploy.settings_of(said["command"], said["environment"])
        self._image, self._argv = image, said["command"]
        url = said["environment"]["HEAVYQ_REDIS"].replace("valkey:6379", f"127.0.0.1:{valkey.port}")
        self._environment = {**said["environment"], "HEAVYQ_REDIS": url, "HEAVYQ_PREFIX": prefix}
        self._log = folder / f"{name}.log"
        self._tmp: str | Path = folder / "volume"
        for tmpfs in said.get("tmpfs", ()):
            self._tmp = tmpfs.partition(":")[2]
        if isinstance(self._tmp, type(folder)):
            self._tmp.mkdir()
            self._tmp.chmod(0o1777)  # as a new volume is: it takes the mode of the image's own /tmp

    def container(self, *more: str, group: MemoryGroup | None = None) -> box.Container:
        return box.Container(
            self._image, [*self._argv, *more], self._environment, tmp=self._tmp, log=self._log, group=group
        )


@pytest.fixture
def service(image: box.Image, valkey: Valkey, prefix: str, tmp_path: Path) -> Callable[[str], Service]:
    return lambda name: Service(image, name, valkey, prefix, tmp_path)


@pytest.fixture
def jobs_of(client: Client, raw: redis.Redis, prefix: str) -> Callable[[str], Jobs]:
    return lambda queue: Jobs(client, raw, QueueKey(prefix, queue))


def serves(container: box.Container) -> bool:
    assert container.pid
    assert "serving" in container.log, container.log
    return True


def status(pid: int) -> dict[str, str]:
    with open(f"/proc/{pid}/status") as f:
        return {name: value.strip() for name, _, value in (line.partition(":") for line in f)}


def supervisor_of(container: box.Container) -> procs.Proc:
    def look() -> list[procs.Proc]:
        return [p for p in procs.children(container.pid) if p.title.startswith("heavyq supervisor")]

    return eventually(look, 15, "a supervisor")[0]


def held_by_role(container: box.Container) -> dict[str, int]:
    """Anonymous memory, shared pages divided: what counts against the limit whatever the page cache does."""
    found: dict[str, int] = {}
    guard = procs.look(container.pid)
    for proc in [guard, *procs.tree(container.pid)] if guard else []:
        role = proc.title.split()[1]
        with open(f"/proc/{proc.pid}/smaps_rollup") as f:
            kib = next(int(line.split()[1]) for line in f if line.startswith("Pss_Anon:"))
        found[role] = found.get(role, 0) + kib * 1024
    return found


# ---- the fleet --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WORKERS)
def test_a_service_works_within_its_memory_and_drains_in_its_grace_period(
    name: str, service: Callable[[str], Service], jobs_of: Callable[[str], Jobs]
) -> None:
    one, queue = service(name), WORKERS[name]
    jobs, others = jobs_of(queue), jobs_of(next(q for q in JOBS if q != queue))
    not_ours = others.add("process", JOBS[others.q.name])
    with memory_group(one.limit_bytes) as group, one.container(group=group) as container:
        eventually(lambda: serves(container), 30)
        of_guard = status(container.pid)
        assert of_guard["NSpid"].split()[-1] == "1", "the guard is the first process"
        assert set(of_guard["Uid"].split()) == {"10001"}
        assert (int(of_guard["CapEff"], 16), of_guard["NoNewPrivs"]) == (0, "1")
        assert container.execute("heavyq-alive") == 0
        assert f"limit='{in_words(one.limit_bytes)}'" in container.log, "the limit that it found"
        assert "[warning" not in container.log, "such as: its jobs' limits do not fit together"

        if queue == "thumbnails":
            said = ("add", queue, "process", json.dumps(JOBS[queue]), "--wait")
            assert container.execute("heavyq", *said) == 0, "as the compose file says to try it"
        ids = jobs.add_all([("process", JOBS[queue])] * 12)
        assert [jobs.result(one_id, 60) for one_id in ids] == [ANSWERS[queue]] * 12
        held = held_by_role(container)
        print(f"measured: {name}: { ({role: f'{n / deploy.MIB:.1f} MiB' for role, n in held.items()}) }")
        assert held["guard"] + held["supervisor"] < deploy.WORKER_BYTES
        assert held["zygote"] < deploy.FEW_IMPORTS
        assert group.oom_kills() == 0

        began_s = time.monotonic()
        last = jobs.add("process", {**JOBS[queue], "seconds": 2.0} if queue == "videos" else JOBS[queue])
        if queue == "videos":
            jobs.wait(last, "active")
        os.kill(container.pid, signal.SIGTERM)
        assert container.wait(one.stop_s) == 0, container.log
        assert time.monotonic() - began_s < one.stop_s
        if queue == "videos":
            assert jobs.read(last).state == "completed", "what runs may end during the drain"
    assert others.read(not_ours).state == "waiting", "the other kind's job is left to the other kind"


def test_a_job_over_its_limit_fails_alone_and_says_why(
    service: Callable[[str], Service], jobs_of: Callable[[str], Jobs]
) -> None:
    one, jobs = service("worker-heavy"), jobs_of("videos")
    smaller = ("--memory-limit", "200Mi", "--memory-request", "200Mi")  # the last word on the line wins
    with memory_group(one.limit_bytes) as group, one.container(*smaller, group=group) as container:
        eventually(lambda: serves(container), 30)
        innocent = jobs.add("process", {"seconds": 2.0, "mib": 100})
        bomb = jobs.add("process", {"seconds": 30.0, "mib": 400}, attempts=3)
        failed = jobs.wait(bomb, timeout_s=30)
        assert failed.state == "failed", "an attempt more would end the same way"
        assert "memory_limit" in (failed.failed_reason or "")
        assert jobs.result(innocent) == 100
        assert container.execute("heavyq-alive") == 0
        assert group.oom_kills() == 0


def test_what_is_installed_is_the_wheel_and_who_runs_it_has_a_name(
    service: Callable[[str], Service], image: box.Image
) -> None:
    packages = next(image.at("/opt/heavyq").glob("lib/python*/site-packages"))
    assert (packages / "heavyq" / "bullmq" / "ops" / "common.lua").is_file()
    assert not (packages / "setuptools").exists()
    with service("worker-light").container() as container:
        eventually(lambda: serves(container), 30)
        assert container.execute("heavyq", "--version") == 0
        assert container.execute("python", "-c", "import getpass, pwd; pwd.getpwnam(getpass.getuser())") == 0
        assert container.execute("sh", "-c", "! touch /app/x /opt/heavyq/x && touch /tmp/x") == 0


def test_an_application_is_built_on_it_as_the_readme_says(
    images: dict[str, box.Image], tmp_path: Path, valkey: Valkey, prefix: str
) -> None:
    readme = (deploy.FOLDER / "README.md").read_text()
    block = re.search(r"(?:^    .*\n)*^    FROM heavyq:.*\n(?:^    .*\n)*", readme, re.MULTILINE)
    assert block
    context = tmp_path / "context"
    context.mkdir()
    (context / "Dockerfile").write_text(textwrap.dedent(block[0]))
    (context / "requirements.txt").write_text("redis\n")  # there already: no index is asked
    (context / "pyproject.toml").write_text('[tool.heavyq]\nmodules = ["app"]\n')
    (context / "app.py").write_text(APP)
    (stage,) = dockerfile.read(context / "Dockerfile")
    theirs = box.build([stage], context, tmp_path, known={stage.base: images["heavyq"]})[stage.name]
    environment = {"HEAVYQ_REDIS": valkey.url, "HEAVYQ_PREFIX": prefix}
    with box.Container(theirs, [], environment, tmp="size=32m", log=tmp_path / "theirs.log") as container:
        eventually(lambda: serves(container), 30)
        assert "queues=['q']" in container.log
        assert set(status(container.pid)["Uid"].split()) == {"10001"}
        assert theirs.at("__pycache__")


# ---- the probe --------------------------------------------------------------------------------------------


def test_a_worker_that_stands_still_is_not_alive_and_is_ended_by_its_guard(
    service: Callable[[str], Service],
) -> None:
    with service("worker-light").container("--failover-after", "2s") as container:
        eventually(lambda: serves(container), 30)
        os.kill(supervisor_of(container).pid, signal.SIGSTOP)
        assert container.execute("heavyq-alive") == 1
        assert container.wait(20) == 1
        assert "did not move" in container.log


def test_a_container_ends_with_its_supervisor(service: Callable[[str], Service]) -> None:
    with service("worker-light").container() as container:
        eventually(lambda: serves(container), 30)
        os.kill(supervisor_of(container).pid, signal.SIGKILL)
        assert container.wait(10) == 1
