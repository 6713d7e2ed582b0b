"""LineCutter: lines whole and in order, a flood kept to its quota, its last lines kept."""

from __future__ import annotations

from heavyq.worker.lines import BURST, LAST_KEPT, LINE_MAX, LINES_PER_S, LineCutter


def numbered(start: int, stop: int) -> bytes:
    return b"".join(b"%d\n" % n for n in range(start, stop))


def test_lines_come_whole_and_in_order_however_they_are_read():
    cutter = LineCutter(0.0)
    text = "one\n\nzwölf\r\nthree".encode()
    found = [line for at in range(len(text)) for line in cutter.feed(text[at : at + 1], 0.0)]
    assert found == ["one", "zwölf"]
    assert cutter.end() == ["three"]
    assert cutter.end() == []


def test_line_without_an_end_is_cut():
    cutter = LineCutter(0.0)
    (line,) = cutter.feed(b"x" * (3 * LINE_MAX), 0.0)
    assert line == "x" * LINE_MAX
    assert cutter.end() == []


def test_burst_passes_and_a_flood_does_not():
    cutter = LineCutter(0.0)
    assert cutter.feed(numbered(0, BURST), 0.0) == [str(n) for n in range(BURST)]
    assert cutter.feed(numbered(BURST, 100_000), 0.0) == []
    assert cutter.feed(numbered(100_000, 100_001), 0.001) == [], "not one by one"
    told = cutter.end()
    dropped = 100_001 - BURST - LAST_KEPT
    assert told[0] == f"(heavyq: {dropped} lines were dropped: more than {LINES_PER_S} a second)"
    assert told[1:] == [str(n) for n in range(100_001 - LAST_KEPT, 100_001)]


def test_after_a_flood_all_goes_through_again():
    cutter = LineCutter(0.0)
    cutter.feed(numbered(0, BURST + 100), 0.0)
    assert cutter.release(0.1) == []
    held = cutter.release(1.0)
    assert held[0].startswith("(heavyq: 80 lines were dropped")
    assert held[1:] == [str(n) for n in range(BURST + 80, BURST + 100)]
    assert cutter.feed(b"next\n", 1.0) == ["next"]
    assert cutter.release(10.0) == []


def test_steady_flood_is_kept_to_the_quota():
    cutter = LineCutter(0.0)
    passed = [line for ms in range(1, 10_001) for line in cutter.feed(numbered(ms * 100, ms * 100 + 100), ms / 1000)]
    assert BURST + 9 * LINES_PER_S < len(passed) <= BURST + 10 * LINES_PER_S
    notes = [line for line in passed if line.startswith("(heavyq")]
    assert len(notes) <= 20
    told = sum(int(note.split()[1]) for note in notes) + len(passed) - len(notes)
    rest = cutter.end()
    told += int(rest[0].split()[1]) + len(rest) - 1
    assert told == 1_000_000, "every line is passed on or counted"
