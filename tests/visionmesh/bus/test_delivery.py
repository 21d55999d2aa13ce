from visionmesh.bus import origin


def test_reads_short_ack_subjects() -> None:
    found = origin("$JS.ACK.EVENTS.ingest_m.2.17.5.1700000000000000000.3")
    assert (found.stream, found.consumer, found.attempt) == ("EVENTS", "ingest_m", 2)
    assert (found.sequence, found.stored_ns, found.pending) == (17, 1_700_000_000_000_000_000, 3)


def test_reads_long_ack_subjects() -> None:
    short = "$JS.ACK.EVENTS.ingest_m.2.17.5.1700000000000000000.3"
    long = "$JS.ACK._.AbCdEf.EVENTS.ingest_m.2.17.5.1700000000000000000.3.token"
    assert origin(long) == origin(short)
