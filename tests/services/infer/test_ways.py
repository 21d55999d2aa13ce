from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from services.infer.ways import Copies, choose_way
from tests.networks import describe
from visionmesh.errors import Code, ConfigurationError
from visionmesh.models.record import StoredProgram, VersionRecord
from visionmesh.models.spec import Instance
from visionmesh.models.variants import Artifact, Choice, Precision, Variants

CPU = ("amx_bf16", "avx2")
INT8 = Artifact(file="int8.onnx", precision=Precision.INT8, scheme="u8s8", sha256="8", size_bytes=1)


def choice(**chosen: Any) -> Choice:
    return Choice.model_validate(
        {
            "engine": "openvino",
            "precision": "int8",
            "file": "int8.onnx",
            "threads": 1,
            "count": 4,
            "cores": 4,
            "cpu": CPU,
            "images_per_s": 200,
            "baseline_per_s": 50,
            **chosen,
        }
    )


def version_with(of: str = "f", **chosen: Any) -> VersionRecord:
    variants = Variants(of=of, artifacts=(INT8,), choice=choice(**chosen))
    return VersionRecord(
        sha256="f",
        size_bytes=1,
        pushed_at=datetime.now(UTC),
        input=describe().input,
        output=describe().output,
        batch=None,
        outputs=(),
        variants=variants,
    )


def test_a_version_runs_as_it_was_measured_to_be_fastest() -> None:
    way = choose_way(describe(), version_with(), features=CPU, cores=4)
    assert (way.engine, way.precision, way.sha256) == ("openvino", "int8", "8")
    assert [(copies.count, copies.instance.threads) for copies in way.copies] == [(4, 1)]
    assert not way.plain
    assert "200 images/s, against 50" in way.why


def test_bf16_runs_from_the_network_as_it_is() -> None:
    version = version_with(precision="bf16", file="model.onnx")
    way = choose_way(describe(), version, features=CPU, cores=4)
    assert (way.precision, way.sha256) == ("bf16", "f")


@pytest.mark.parametrize(
    ("threads", "count", "cores", "expected"),
    [
        (1, 4, 8, (8, 1)),
        (1, 4, 1, (1, 1)),
        (4, 1, 8, (2, 4)),
        (4, 1, 2, (1, 2)),
        (1, 2, 4, (2, 1)),
        (1, 96, 128, (128, 1)),
    ],
)
def test_more_cores_run_more_copies_and_fewer_run_fewer(
    threads: int, count: int, cores: int, expected: tuple[int, int]
) -> None:
    version = version_with(threads=threads, count=count)
    (copies,) = choose_way(describe(), version, features=CPU, cores=cores).copies
    assert (copies.count, copies.instance.threads) == expected


def test_instances_that_the_model_names_stay_what_they_are() -> None:
    spec = describe(instances=[{"count": 1, "threads": 2}])
    way = choose_way(spec, version_with(), features=CPU, cores=4)
    assert way.copies == (Copies(("openvino",), Instance(count=1, threads=2), 1),)


@pytest.mark.parametrize(
    ("version", "spec", "features", "why"),
    [
        (version_with().model_copy(update={"variants": None}), {}, CPU, "not tuned"),
        (
            version_with().model_copy(update={"variants": Variants(of="f", artifacts=(INT8,))}),
            {},
            CPU,
            "was not measured",
        ),
        (version_with(of="another"), {}, CPU, "another network"),
        (version_with(file="gone.onnx"), {}, CPU, "another network"),
        (version_with(), {}, ("avx2",), "another kind of CPU"),
        (version_with(cpu=()), {}, (), "another kind of CPU"),
    ],
)
def test_where_the_choice_does_not_hold_any_machine_s_way_is_gone(
    version: VersionRecord, spec: dict[str, Any], features: tuple[str, ...], why: str
) -> None:
    way = choose_way(describe(**spec), version, features=features, cores=4)
    assert (way.engine, way.precision, way.sha256) == ("onnxruntime", "fp32", "f")
    assert way.copies == (Copies(("onnxruntime",), Instance(), 4),)
    assert way.plain
    assert why in way.because


VNNI = ("avx2", "avx512_vnni")


def quantised(*artifacts: Artifact, of: str = "f") -> VersionRecord:
    """Return a version that was made smaller, and never tuned."""
    variants = Variants(of=of, artifacts=artifacts)
    return version_with().model_copy(update={"variants": variants})


FASTER = INT8.model_copy(update={"faster": 2.5, "right": True})
FOR_TENSORRT = FASTER.model_copy(update={"scheme": "s8s8", "sha256": "s", "file": "s8.onnx"})


def test_an_int8_network_that_was_faster_runs_in_the_form_for_cpus() -> None:
    version = quantised(FOR_TENSORRT, FASTER)
    way = choose_way(describe(), version, features=VNNI, cores=4)
    assert (way.engine, way.precision, way.sha256) == ("onnxruntime", "int8", "8")
    assert way.copies == (Copies(("onnxruntime",), Instance(), 4),)
    assert not way.plain
    assert way.why == "its INT8 network was 2.50 times as fast where it was made"


def tuned_elsewhere() -> VersionRecord:
    variants = Variants(of="f", artifacts=(FASTER,), choice=choice(cpu=("z80",)))
    return version_with().model_copy(update={"variants": variants})


@pytest.mark.parametrize(
    ("version", "features", "why"),
    [
        (quantised(INT8), VNNI, "speed of its INT8 network was not measured"),
        (quantised(FASTER.model_copy(update={"faster": 1.05})), VNNI, "only 1.05 times as fast"),
        (quantised(FASTER.model_copy(update={"right": False})), VNNI, "not found right"),
        (quantised(FASTER), ("avx2",), "does not multiply the bytes"),
        (quantised(FASTER, of="another"), VNNI, "not tuned"),
        (quantised(FOR_TENSORRT), VNNI, "not tuned"),
        (tuned_elsewhere(), VNNI, "another kind of CPU"),
    ],
)
def test_an_int8_network_is_not_run_where_that_may_be_slower_or_wrong(
    version: VersionRecord, features: tuple[str, ...], why: str
) -> None:
    way = choose_way(describe(), version, features=features, cores=4)
    assert (way.precision, way.sha256, way.plain) == ("fp32", "f", True)
    assert why in way.because


def test_the_engine_for_programs_runs_the_program_and_others_the_network() -> None:
    spec = describe(instances=[{"engines": ["torch", "openvino"]}])
    version = version_with().model_copy(
        update={"program": StoredProgram(sha256="p", size_bytes=1), "variants": None}
    )
    way = choose_way(spec, version, features=CPU, cores=4)
    assert (way.file_of("torch"), way.file_of("openvino")) == ("p", "f")
    assert way.files == {"p", "f"}


def test_without_a_program_the_engine_for_programs_says_so() -> None:
    spec = describe(instances=[{"engines": ["torch", "openvino"]}])
    way = choose_way(spec, version_with(), features=CPU, cores=4)
    assert way.files == {"f"}
    with pytest.raises(
        ConfigurationError, match=r"runs model\.pt2, and the version has none"
    ) as raised:
        way.file_of("torch")
    assert raised.value.code is Code.MODEL_INVALID


def test_a_device_that_nothing_serves_is_refused() -> None:
    spec = describe(instances=[{"device": "abacus"}])
    with pytest.raises(ConfigurationError, match="abacus") as raised:
        choose_way(spec, version_with(), features=CPU, cores=4)
    assert raised.value.code is Code.MODEL_INVALID


def made(precision: Precision, *, right: bool = True) -> Artifact:
    return Artifact(
        file=f"{precision}.onnx",
        precision=precision,
        scheme="fp16" if precision is Precision.FP16 else "s8s8",
        sha256=f"of {precision}",
        size_bytes=1,
        right=right,
    )


def version_of(*artifacts: Artifact, of: str = "f") -> VersionRecord:
    variants = Variants(of=of, artifacts=(INT8, *artifacts))
    return version_with().model_copy(update={"variants": variants})


ON_GPU = {"device": "cuda", "engines": ["tensorrt", "onnxruntime"]}


@pytest.mark.parametrize(
    ("artifacts", "options", "file", "precision"),
    [
        ((), {}, "f", "fp32"),
        ((made(Precision.FP16),), {}, "of fp16", "fp16"),
        ((made(Precision.FP16), made(Precision.INT8)), {}, "of int8", "int8"),
        ((made(Precision.FP16), made(Precision.INT8, right=False)), {}, "of fp16", "fp16"),
        ((made(Precision.FP16), made(Precision.INT8)), {"precision": "fp16"}, "of fp16", "fp16"),
        ((made(Precision.FP16),), {"precision": "fp32"}, "f", "fp32"),
        ((made(Precision.INT8, right=False),), {"precision": "int8"}, "of int8", "int8"),
    ],
)
def test_tensorrt_runs_the_smallest_network_that_was_found_right(
    artifacts: tuple[Artifact, ...], options: dict[str, str], file: str, precision: str
) -> None:
    spec = describe(instances=[{**ON_GPU, "options": options}])
    way = choose_way(spec, version_of(*artifacts), features=CPU, cores=4)
    assert (way.file_of("tensorrt"), way.precision_of("tensorrt")) == (file, precision)
    assert (way.file_of("onnxruntime"), way.precision_of("onnxruntime")) == ("f", "fp32")
    assert way.files == {"f", file}
    assert way.plain == (file == "f")
    assert way.running(way.copies).precision == precision
    (copies,) = way.copies
    other = way.running([Copies(("onnxruntime",), copies.instance, 1)])
    assert other.precision is Precision.FP32


def test_what_was_made_of_another_network_is_not_for_tensorrt() -> None:
    way = choose_way(
        describe(instances=[ON_GPU]),
        version_of(made(Precision.INT8), of="another"),
        features=CPU,
        cores=4,
    )
    assert way.file_of("tensorrt") == "f"


def test_where_tensorrt_is_not_asked_for_it_has_no_network() -> None:
    for instances in ([{"device": "cpu"}], [{"device": "cuda", "engines": ["onnxruntime"]}]):
        spec = describe(instances=instances)
        way = choose_way(spec, version_of(made(Precision.INT8)), features=CPU, cores=4)
        assert way.tensorrt is None


def test_a_precision_that_the_version_lacks_is_asked_for() -> None:
    spec = describe(instances=[{**ON_GPU, "options": {"precision": "fp16"}}])
    with pytest.raises(ConfigurationError, match="visionmesh optimize trees --precision fp16"):
        choose_way(spec, version_of(), features=CPU, cores=4)


def test_two_precisions_of_one_version_are_refused() -> None:
    instances = [{**ON_GPU, "options": {"precision": name}} for name in ("fp32", "fp16")]
    with pytest.raises(ConfigurationError, match="fp16, fp32: all instances"):
        choose_way(describe(instances=instances), version_of(), features=CPU, cores=4)
