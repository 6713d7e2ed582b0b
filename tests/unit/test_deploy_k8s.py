"""`deploy/k8s`: every document against Kubernetes' own schemas, and the numbers against the worker's."""

from __future__ import annotations

from typing import Any

import kubernetes_validate
import pytest

from heavyq.config.units import parse_size
from heavyq.job.canary import LIMIT_S
from tests.support import deploy
from tests.unit.test_deploy_docker import STAGES, services

K8S = deploy.FOLDER / "k8s"
OLDEST, NEWEST = "1.28", "1.37"  # from the first that kills containers whole on an OOM
WORKERS = ("worker-light", "worker-heavy")
IMPORTS_S = {"worker-light": 30.0, "worker-heavy": 90.0}  # on a cold, busy node
IMAGE = next(stage for stage in STAGES if stage.name == "heavyq")
(KUSTOMIZATION,) = deploy.documents("k8s", "kustomization.yaml")
DOCUMENTS = {
    f"{document['kind']}/{document['metadata']['name']}": document
    for file in KUSTOMIZATION["resources"]
    for document in deploy.documents("k8s", file)
}


def pod(name: str, kind: str = "Deployment") -> dict[str, Any]:
    found: dict[str, Any] = DOCUMENTS[f"{kind}/{name}"]["spec"]["template"]["spec"]
    return found


def container(name: str, kind: str = "Deployment") -> dict[str, Any]:
    (one,) = pod(name, kind)["containers"]
    found: dict[str, Any] = one
    return found


def environment(name: str) -> dict[str, str]:
    return {variable["name"]: variable["value"] for variable in container(name)["env"]}


def test_every_file_is_applied() -> None:
    assert {path.name for path in K8S.glob("*.yaml")} == {"kustomization.yaml", *KUSTOMIZATION["resources"]}


@pytest.mark.parametrize("release", [OLDEST, NEWEST])
@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_document_fits_the_api(name: str, release: str) -> None:
    kubernetes_validate.validate(DOCUMENTS[name], release, strict=True)


def test_the_api_is_really_looked_at() -> None:
    document = dict(DOCUMENTS["Deployment/worker-light"])
    document["spec"] = {**document["spec"], "minReadySecond": 15}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(document, NEWEST, strict=True)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_labels_meet_their_selectors(name: str) -> None:
    document = DOCUMENTS[name]
    if document["kind"] == "Service":
        wanted, labels = document["spec"]["selector"], DOCUMENTS["StatefulSet/valkey"]["spec"]["template"]["metadata"]
    else:
        wanted, labels = document["spec"]["selector"]["matchLabels"], document["spec"]["template"]["metadata"]
    assert wanted.items() <= labels["labels"].items()


def test_the_two_kinds_do_not_share_a_selector() -> None:
    first, second = (DOCUMENTS[f"Deployment/{name}"]["spec"]["selector"]["matchLabels"] for name in WORKERS)
    assert first != second


@pytest.mark.parametrize("name", WORKERS)
def test_a_pod_is_given_longer_than_a_drain_takes(name: str) -> None:
    settings = deploy.settings_of(container(name)["args"], environment(name))
    assert pod(name)["terminationGracePeriodSeconds"] >= deploy.stop_s(settings)


@pytest.mark.parametrize("name", WORKERS)
def test_a_rollout_waits_for_longer_than_a_worker_that_cannot_serve_lives(name: str) -> None:
    settings = deploy.settings_of(container(name)["args"], environment(name))
    spec = DOCUMENTS[f"Deployment/{name}"]["spec"]
    assert spec["minReadySeconds"] >= IMPORTS_S[name] + LIMIT_S + settings.connect_timeout_s
    deadline_s = spec.get("progressDeadlineSeconds", 600)
    assert deadline_s >= 2 * spec["minReadySeconds"], "one that is only slow to start has not failed"


@pytest.mark.parametrize("name", WORKERS)
def test_the_same_fleet_as_in_compose(name: str) -> None:
    service = services()[name]
    assert container(name)["image"] == service["image"]
    assert container(name)["args"] == service["command"]
    assert service["environment"].items() <= environment(name).items()
    spec = DOCUMENTS[f"Deployment/{name}"]["spec"]
    assert spec["replicas"] == service["deploy"]["replicas"]
    limit = parse_size(container(name)["resources"]["limits"]["memory"])
    assert limit == parse_size(service["deploy"]["resources"]["limits"]["memory"] + "i")


def test_the_same_server_as_in_compose() -> None:
    assert container("valkey", "StatefulSet")["args"] == services()["valkey"]["command"]
    assert container("valkey", "StatefulSet")["image"] == services()["valkey"]["image"]
    (mount,) = container("valkey", "StatefulSet")["volumeMounts"]
    (claim,) = DOCUMENTS["StatefulSet/valkey"]["spec"]["volumeClaimTemplates"]
    assert (mount["mountPath"], mount["name"]) == ("/data", claim["metadata"]["name"])


@pytest.mark.parametrize("name", WORKERS)
def test_the_options_that_it_names_are_heavyqs(name: str) -> None:
    settings = deploy.settings_of(container(name)["args"], environment(name))
    assert settings.warnings == ()
    assert settings.worker_type == (name.removeprefix("worker-"),)


@pytest.mark.parametrize(
    ("name", "imports"), [("worker-light", deploy.FEW_IMPORTS), ("worker-heavy", deploy.MANY_IMPORTS)]
)
def test_all_jobs_at_their_limit_leave_room_for_the_imports(name: str, imports: int) -> None:
    settings = deploy.settings_of(container(name)["args"], environment(name))
    limit = parse_size(container(name)["resources"]["limits"]["memory"])
    assert deploy.room_left(settings, limit) >= imports


@pytest.mark.parametrize("name", WORKERS)
def test_the_node_promises_what_it_has(name: str) -> None:
    resources = container(name)["resources"]
    assert resources["requests"]["memory"] == resources["limits"]["memory"]
    assert "cpu" in resources["limits"], "threads are divided by the quota"
    (volume,) = pod(name)["volumes"]
    disk = parse_size(resources["requests"]["ephemeral-storage"])
    assert disk >= parse_size(volume["emptyDir"]["sizeLimit"]), "what /tmp may take"


@pytest.mark.parametrize("name", WORKERS)
def test_a_pod_can_write_below_tmp_only_and_has_no_privileges(name: str) -> None:
    one, whole = container(name), pod(name)
    assert f"{whole['securityContext']['runAsUser']}:{whole['securityContext']['runAsGroup']}" == IMAGE.all("USER")[0]
    assert whole["securityContext"]["runAsNonRoot"] is True
    assert one["securityContext"]["readOnlyRootFilesystem"] is True
    assert one["securityContext"]["allowPrivilegeEscalation"] is False
    assert one["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    ((mount,), (volume,)) = one["volumeMounts"], whole["volumes"]
    assert (mount["mountPath"], mount["name"]) == ("/tmp", volume["name"])
    assert "medium" not in volume["emptyDir"], "memory of the container"


@pytest.mark.parametrize("name", WORKERS)
def test_the_probes_ask_what_the_image_can_answer(name: str) -> None:
    one = container(name)
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert one[probe]["exec"]["command"] == ["heavyq-alive"]
    assert "command" not in one, "the image's ENTRYPOINT is what makes the guard PID 1"


@pytest.mark.parametrize("name", WORKERS)
def test_the_guard_acts_before_the_liveness_probe_does(name: str) -> None:
    settings = deploy.settings_of(container(name)["args"], environment(name))
    probe = container(name)["livenessProbe"]
    assert settings.failover_after_s is not None
    assert probe["periodSeconds"] * (probe["failureThreshold"] - 1) > settings.failover_after_s
