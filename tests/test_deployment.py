"""The containers fit together: what each file says, the others know."""

from __future__ import annotations

import re
import shutil
import subprocess
import sysconfig
import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from pydantic import BaseModel

from visionmesh.settings import MEBIBYTE, Settings, load_settings

ROOT = Path(__file__).parent.parent
STAGES = ("ingest", "preprocess", "infer", "postprocess")


def read_yaml(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text())


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    found = read_yaml("docker-compose.yml")
    assert isinstance(found, dict)
    return found


@pytest.fixture(scope="module")
def on_gpus() -> dict[str, Any]:
    """Return what docker-compose.gpu.yml says of the services."""
    found = read_yaml("docker-compose.gpu.yml")["services"]
    assert isinstance(found, dict)
    return found


@pytest.fixture(scope="module")
def dockerfile() -> str:
    return (ROOT / "Dockerfile").read_text()


@pytest.fixture(scope="module")
def stages_of_build(dockerfile: str) -> dict[str, tuple[str, str]]:
    """Return what each stage of the Dockerfile is built from, and its instructions."""
    parts = re.split(r"^FROM (\S+) AS (\S+)$", dockerfile, flags=re.MULTILINE)[1:]
    return {
        name: (base, text)
        for base, name, text in zip(parts[::3], parts[1::3], parts[2::3], strict=True)
    }


@pytest.fixture(scope="module")
def extras() -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return set(project["optional-dependencies"])


def is_setting(variable: str) -> bool:
    model: Any = Settings
    for part in variable.removeprefix("VISIONMESH_").lower().split("__"):
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            return False
        if part not in model.model_fields:
            return False
        model = model.model_fields[part].annotation
    return True


def test_what_is_installed_is_pinned_without_naming_where_it_comes_from() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = [line for line in lines if line and not line.startswith("#")]
    assert len(pinned) > 100
    assert all(re.fullmatch(r"[\w.-]+==[\w.+-]+( *;.*)?", line) for line in pinned)


@pytest.mark.parametrize("files", [(), ("docker-compose.yml", "docker-compose.gpu.yml")])
def test_compose_accepts_the_files(files: tuple[str, ...]) -> None:
    command = next(
        (
            found
            for found in (["docker", "compose"], ["docker-compose"])
            if shutil.which(found[0])
            and subprocess.run([*found, "version"], capture_output=True, check=False).returncode
            == 0
        ),
        None,
    )
    if command is None:
        pytest.skip("neither `docker compose` nor docker-compose is installed")
    chosen = [word for name in files for word in ("-f", name)]
    checked = subprocess.run(
        [*command, *chosen, "config", "--quiet"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stderr
    assert "level=warning" not in checked.stderr


def test_everything_that_a_mesh_needs_is_there(compose: dict[str, Any]) -> None:
    wanted = {"nats", "redis", *STAGES, "otel-collector", "jaeger", "producer"}
    assert wanted <= compose["services"].keys()


def test_images_are_pinned_or_built_here(
    compose: dict[str, Any], stages_of_build: dict[str, tuple[str, str]]
) -> None:
    for name, service in compose["services"].items():
        if "build" in service:
            assert service["build"]["target"] == name
            assert name in stages_of_build
        else:
            assert re.search(r":v?\d+\.\d+\.\d+(-\w+)?$", service["image"]), name


@pytest.mark.parametrize("stage", STAGES)
def test_a_service_reads_its_environment_as_it_is_meant(
    compose: dict[str, Any], stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = compose["services"][stage]["environment"]
    for variable, value in environment.items():
        if variable.startswith("VISIONMESH_"):
            assert is_setting(variable), variable
            monkeypatch.setenv(variable, value)
    settings = load_settings()
    assert settings.host == "0.0.0.0"
    assert getattr(settings, stage).port == 8000
    assert settings.tracing.keep_bytes == 0
    for url in (settings.nats_url, settings.redis_url, environment["OTEL_EXPORTER_OTLP_ENDPOINT"]):
        assert urlsplit(url).hostname in compose["services"]


def test_the_services_share_memory_as_one_node(compose: dict[str, Any]) -> None:
    services = [compose["services"][stage] for stage in STAGES]
    assert len({service["environment"]["VISIONMESH_NODE"] for service in services}) == 1
    folder = services[0]["environment"]["VISIONMESH_SHM_DIR"]
    for service in services:
        assert service["environment"]["VISIONMESH_SHM_DIR"] == folder
        assert f"shm:{folder}" in service["volumes"]
        assert "user" not in service  # slabs are readable by the image's one user only
    volume = compose["volumes"]["shm"]["driver_opts"]
    assert volume["type"] == "tmpfs"
    size = re.search(r"size=(\d+)g", volume["o"])
    assert size is not None
    arenas = sum(getattr(Settings(), stage).arena_bytes for stage in STAGES)
    assert int(size[1]) * 1024 * MEBIBYTE >= 2 * arenas  # a successor before the orphan goes


def test_with_gpus_a_service_computes_there_and_shares_the_memory(
    on_gpus: dict[str, Any], stages_of_build: dict[str, tuple[str, str]], extras: set[str]
) -> None:
    holder, *others = on_gpus
    assert set(others) == {"preprocess", "infer", "postprocess"}
    assert on_gpus[holder]["build"]["target"] in stages_of_build
    assert on_gpus[holder]["ipc"] == "shareable"
    for name in others:
        service = on_gpus[name]
        assert service["ipc"] == service["pid"] == f"service:{holder}"
        (gpus,) = service["deploy"]["resources"]["reservations"]["devices"]
        assert gpus["driver"] == "nvidia"
        chosen = set(service["build"]["args"]["EXTRAS"].split(","))
        assert chosen == {"gpu"} | ({name} - {"infer"})
        assert chosen <= extras
        for variable, value in service.get("environment", {}).items():
            assert is_setting(variable)
            assert value == "cuda"


def test_a_service_has_the_time_to_drain_and_no_rights_to_spare(compose: dict[str, Any]) -> None:
    for name in (*STAGES, "producer"):
        service = compose["services"][name]
        assert service["cap_drop"] == ["ALL"]
        assert service["read_only"] is True
    for stage in STAGES:
        service = compose["services"][stage]
        assert service["restart"] == "unless-stopped"
        assert int(service["stop_grace_period"].removesuffix("s")) >= 30


def test_only_this_host_reaches_the_published_ports(compose: dict[str, Any]) -> None:
    published = [port for each in compose["services"].values() for port in each.get("ports", ())]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_whoever_is_waited_for_has_a_health_check(
    compose: dict[str, Any], stages_of_build: dict[str, tuple[str, str]]
) -> None:
    def has_check(name: str) -> bool:
        service = compose["services"][name]
        if "healthcheck" in service:
            return True
        stage = service.get("build", {}).get("target")
        while stage in stages_of_build:
            stage, text = stages_of_build[stage]
            if "HEALTHCHECK" in text:
                return True
        return False

    awaited = {name for each in compose["services"].values() for name in each.get("depends_on", ())}
    assert awaited >= {"nats", "redis", "ingest"}
    assert {name for name in awaited if not has_check(name)} == set()


@pytest.mark.parametrize("stage", STAGES)
def test_an_image_holds_the_packages_of_its_role_and_runs_as_nobody_special(
    dockerfile: str, stages_of_build: dict[str, tuple[str, str]], stage: str
) -> None:
    base, text = stages_of_build[stage]
    assert f'"serve", "{stage}"' in text
    assert f"COPY --from={stage}-environment" in text
    assert f"VISIONMESH_{stage.upper()}__PORT=8000" in text
    _, environment = stages_of_build[f"{stage}-environment"]
    assert "-c /constraints.txt" in environment
    assert re.findall(r"^ARG EXTRAS=(\w+)$", environment, flags=re.MULTILINE) == [stage]
    assert '[$EXTRAS]"' in environment
    while base in stages_of_build:
        base, above = stages_of_build[base]
        text = above + text
    assert re.findall(r"^USER (\d+)", text, flags=re.MULTILINE) == ["10001"]
    assert re.search(r"^python:\d+\.\d+\.\d+-slim", base)


def test_the_dockerfile_names_extras_settings_and_files_that_exist(
    dockerfile: str, extras: set[str]
) -> None:
    assert set(re.findall(r"(?:\[|EXTRAS=)(\w+)", dockerfile)) <= extras
    for variable in re.findall(r"VISIONMESH_\w+", dockerfile):
        assert is_setting(variable), variable
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", dockerfile, flags=re.MULTILINE)
    allowed = (ROOT / ".dockerignore").read_text().splitlines()
    for name in " ".join(copied).split():
        assert (ROOT / name).exists(), name
        assert f"!{name}" in allowed


def test_mounted_files_exist(compose: dict[str, Any]) -> None:
    volumes = [
        each for service in compose["services"].values() for each in service.get("volumes", ())
    ]
    files = [each.split(":")[0] for each in volumes if each.startswith("./")]
    assert {"./deploy/nats.conf", "./observability/otel-collector.yaml"} <= set(files)
    assert [name for name in files if not (ROOT / name).exists()] == []


def test_the_nats_server_accepts_its_configuration(tmp_path: Path) -> None:
    text = (ROOT / "deploy/nats.conf").read_text()
    path = tmp_path / "nats.conf"
    path.write_text(text.replace("/data", str(tmp_path)))
    server = Path(sysconfig.get_path("scripts")) / "nats-server"
    checked = subprocess.run(
        [server, "-t", "-c", path], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr
    payload = re.search(r"^max_payload: (\d+)$", text, flags=re.MULTILINE)
    assert payload is not None
    assert Settings().ingest.max_image_bytes < int(payload[1]) < 32 * MEBIBYTE


def test_spans_find_their_way_to_jaeger(compose: dict[str, Any]) -> None:
    collector = read_yaml("observability/otel-collector.yaml")
    endpoint = compose["services"]["ingest"]["environment"]["OTEL_EXPORTER_OTLP_ENDPOINT"]
    receiver = collector["receivers"]["otlp"]["protocols"]["http"]["endpoint"]
    assert urlsplit(endpoint).port == int(receiver.rpartition(":")[2])
    pipeline = collector["service"]["pipelines"]["traces"]
    for kind in ("receivers", "processors", "exporters"):
        assert set(pipeline[kind]) <= collector[kind].keys()
    (exporter,) = pipeline["exporters"]
    assert collector["exporters"][exporter]["endpoint"].split(":")[0] in compose["services"]


def test_prometheus_scrapes_every_service_where_it_answers(compose: dict[str, Any]) -> None:
    prometheus = read_yaml("observability/prometheus.yml")
    targets = {
        tuple(target.split(":"))
        for job in prometheus["scrape_configs"]
        for static in job["static_configs"]
        for target in static["targets"]
    }
    assert {(stage, "8000") for stage in STAGES} <= targets
    assert {host for host, _ in targets} <= compose["services"].keys()
