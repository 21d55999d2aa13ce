import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visionmesh.telemetry.context import (
    Context,
    format_traceparent,
    is_sampled,
    kept_tracestate,
    new_span_id,
    new_trace_id,
    parse_traceparent,
)

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"

trace_ids = st.integers(1, (1 << 128) - 1).map("{:032x}".format)
span_ids = st.integers(1, (1 << 64) - 1).map("{:016x}".format)
contexts = st.builds(Context, trace_id=trace_ids, span_id=span_ids, sampled=st.booleans())


@given(contexts)
def test_a_context_survives_its_header(context: Context) -> None:
    assert parse_traceparent(format_traceparent(context)) == context


@given(st.text(alphabet=string.printable, max_size=80))
def test_a_header_is_understood_only_if_it_has_the_form_of_one(header: str) -> None:
    context = parse_traceparent(header)
    if context is not None:
        assert header.split("-")[1:3] == [context.trace_id, context.span_id]


@given(contexts, st.integers(0, 54), st.characters(codec="ascii"))
def test_one_wrong_character_never_gives_an_invalid_context(
    context: Context, place: int, character: str
) -> None:
    header = format_traceparent(context)
    parsed = parse_traceparent(header[:place] + character + header[place + 1 :])
    if parsed is not None:
        assert int(parsed.trace_id, 16) > 0
        assert int(parsed.span_id, 16) > 0
        assert parsed.trace_id == parsed.trace_id.lower()
        assert (len(parsed.trace_id), len(parsed.span_id)) == (32, 16)


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-01-more",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE}-{SPAN}-01\n",
        f" 00-{TRACE}-{SPAN}-01",
        f"01-{TRACE}-{SPAN}-01more",
    ],
)
def test_an_invalid_header_is_no_context(header: str | None) -> None:
    assert parse_traceparent(header) is None


def test_a_later_version_is_read_as_far_as_it_is_known() -> None:
    assert parse_traceparent(f"cc-{TRACE}-{SPAN}-03-later") == Context(TRACE, SPAN, True)


def test_only_the_sampled_bit_of_the_flags_counts() -> None:
    assert parse_traceparent(f"00-{TRACE}-{SPAN}-02") == Context(TRACE, SPAN, False)


@given(trace_ids, st.floats(0, 1), st.floats(0, 1))
def test_a_trace_in_a_small_sample_is_in_every_larger_one(
    trace_id: str, one: float, other: float
) -> None:
    smaller, larger = sorted((one, other))
    assert is_sampled(trace_id, share=smaller) <= is_sampled(trace_id, share=larger)


@given(trace_ids)
def test_a_share_of_one_takes_all_and_of_zero_none(trace_id: str) -> None:
    assert is_sampled(trace_id, share=1.0)
    assert not is_sampled(trace_id, share=0.0)


def test_about_the_share_asked_for_is_sampled() -> None:
    taken = sum(is_sampled(new_trace_id(), share=0.25) for _ in range(4000))
    assert 800 < taken < 1200  # seven standard deviations


def test_new_ids_are_valid_and_differ() -> None:
    made = [Context(new_trace_id(), new_span_id(), True) for _ in range(1000)]
    assert [parse_traceparent(format_traceparent(context)) for context in made] == made
    assert len({context.trace_id for context in made}) == 1000
    assert len({context.span_id for context in made}) == 1000


@pytest.mark.parametrize("header", ["", "a=é", "a=1\r\nce-id: x", "a" * 513])
def test_a_tracestate_that_cannot_be_passed_on_is_dropped(header: str) -> None:
    assert kept_tracestate(header) is None
    assert kept_tracestate(None) is None


def test_a_tracestate_is_passed_on_as_it_is() -> None:
    for header in ("rojo=00f067aa0ba902b7, congo=t61\t", "a" * 512):
        assert kept_tracestate(header) == header
