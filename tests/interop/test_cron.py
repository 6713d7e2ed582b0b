"""The cron engine against the cron-parser that BullMQ carries, asked as a black box: one next moment for each case.

Each case is asked afresh, as BullMQ does for each job. Where the two generations disagree the newer is followed, but
for its faults: what differs on purpose stands in tests/unit/test_cron.py.
"""

from __future__ import annotations

import itertools
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from heavyq.bullmq.schedule import next_cron_ms
from heavyq.errors import BadValue

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.interop.node import Node

Case = tuple[str, str | None, int]

# Patterns that both generations read alike.
PATTERNS = """
* * * * *           |*/5 * * * *          |0 * * * *            |30 2 * * *          |59 23 * * *
*/20 1-3 * * *      |0 1,2,3 * * *        |0 */2 * * *          |45 */7 * * *        |0 0 1 * *
0 0 31 * *          |0 0 29 2 *           |0 0 L * *            |0 12 L 2 *          |0 0 * * 1
0 0 * * 0           |0 0 * * 7            |0 0 * * SUN          |0 0 * * MON-FRI     |0 0 * * mon,wed,fri
0 0 * JAN *         |0 0 1 jan-mar *      |0 0 1 */2 *          |0 0 1 DEC,jun *     |0 0 13 * 5
0 0 1,15 * 3        |0 0 */10 * 1         |0 0 * * 5L           |0 0 * * 1L,3L       |0 0 * * 1,3L
0 0 1 * 5L          |0 0 ? * 1            |0 0 1 * ?            |0 0 ? * ?           |0 0 28,30 2 *
*/10 * * * * *      |0 0 0 * * *          |30 30 2 * * *        |0-5 * * * * *       |1-59/7 */13 2-4 * * *
10/20 * * * * *     |5/15 * * * *         |0 9-17/2 * * 1-5     |0 0 * * 5-7         |0 0 * * 0-7
7 7 7 7 7           |0 0 * * 1#2          |0 0 * * 5#5          |0 0 * * MON#1       |0 0 * * MONL
0 0 L,15 * *        |0 0 15,L * 1         |0 0 L * 5L           |0 0 1 * */2         |0 0 */2 * 1
*/7 */5 */3 */4 */2 |0 5/5 * * *          |3-59/15 2,6-12 * * * |59 59 23 31 12 *    |0 0 * * 1/2
00 09 * * *         |@hourly              |@daily               |@weekly             |@monthly
@yearly             |5 4                  |5 4 3                |* * *               |0 0 * * mon-fri/2
1-5/2,30-40/5 0 * * *|0 0 31 4,6 1L       |0 0 29 2 0           |0 0 */31 2 *        |0 0-23 * * *
""".replace("\n", "|")
# Those that only the newer generation reads, or reads so.
NEWER = """
? ? ? ? ?|0 ? * * *|0 0 * ? *|@annually|@minutely|@secondly|@weekdays|@weekends|0 0 31 2 5|0 0 1-31 * 1|0 0 1 * 1-7
0 0 */1 * 1|0 0 1 * 1#2|0 0 30 2 1
""".replace("\n", "|")
REFUSED = """
60 * * * *|* 24 * * *|* * 0 * *|* * 32 * *|* * * 0 *|* * * 13 *|* * * * 8|*/0 * * * *|1/0 * * * *|a * * * *
* * * * * * *|1,2, * * * *|,1 * * * *|1,,2 * * * *|1- * * * *|-1 * * * *|*/ * * * *|1/2/3 * * * *|L * * * *
0 0 L-3 * *|0 0 LW * *|0 0 15W * *|0 0 * * 1#6|0 0 * * 1#0|0 0 * * 1#1,1#3|0 0 * * 1#2,3|0 0 * * 1-5#2|0 0 * * L
0 0 * * monday|0 0 * january *|0 0 * * 6-0|0 0 * * fri-sun|0 22-2 * * *|0 0 30 2 *|0 0 31 4 *|0 0 31 2,4 *|@reboot
@midnight|@DAILY|@every 5m|1.5 * * * *|+1 * * * *|0x5 * * * *|0 0 0/5 * *|60/5 * * * *|0 0 28-L * *|** * * * *
0 0 l * *|1\u20135 0 * * *
""".replace("\n", "|")
ZONES = ("UTC", "Europe/Paris", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata")
# No change of a clock is near: Lord Howe's are on 4 Oct 2026 and 4 Apr 2027.
MOMENTS = (
    "2026-11-24T15:41:25.250",
    "2026-12-31T23:59:59.999",
    "2027-02-28T23:59:59",
    "2028-02-28T23:59:59",
    "2028-01-31T12:00:00",
    "2026-08-30T23:59:00",
)
CHANGES = {
    "Europe/Paris": ("2027-03-28T01:00", "2026-10-25T01:00"),
    "America/New_York": ("2027-03-14T07:00", "2026-11-01T06:00"),
}
AT_CHANGES = """
* * * * *|*/15 * * * *|0 * * * *|15 1 * * *|30 1 * * *|0 2 * * *|30 2 * * *|0 3 * * *|0 2,3 * * *|15 1-3 * * *
*/20 1-3 * * *|*/15 2 * * *|0 */2 * * *|0 1-23 * * *|0 0-23 * * *|0 0 * * *|30 30 2 * * *|30 2 * * 0
*/20 59 1 * * *|5-59/25 * * * *
""".replace("\n", "|")


def patterns(table: str) -> list[str]:
    return [pattern for each in table.split("|") if (pattern := each.strip())]


def ms(moment: str) -> int:
    return int(datetime.fromisoformat(moment).replace(tzinfo=UTC).timestamp() * 1000)


def ours(case: Case) -> int | None:
    try:
        return next_cron_ms(*case)
    except BadValue:
        return None


def agree(node: Node, cases: Iterable[Case]) -> None:
    cases = list(cases)
    theirs = node.call("nextCrons", cases=cases, timeout_s=60)
    differ = [
        f"{case}: {mine}, BullMQ's {told}"
        for case, told in zip(cases, theirs, strict=True)
        if (mine := ours(case)) != (told if isinstance(told, int) else None)
    ]
    assert not differ, f"{len(differ)} of {len(cases)} cases:\n" + "\n".join(differ[:20])


def test_next_moment(node: Node) -> None:
    # conformance: C-147
    agree(node, itertools.product(patterns(PATTERNS), ZONES, map(ms, MOMENTS)))


def test_next_moment_as_the_newer_has_it(node: Node) -> None:
    if node.generation == "5":
        pytest.skip("the newer generation is followed")
    agree(node, itertools.product(patterns(NEWER), ZONES, map(ms, MOMENTS)))


def test_refused_patterns(node: Node) -> None:
    agree(node, ((pattern, "UTC", ms(MOMENTS[0])) for pattern in patterns(REFUSED)))
    assert all(ours((pattern, "UTC", ms(MOMENTS[0]))) is None for pattern in patterns(REFUSED))


@pytest.mark.parametrize(("zone", "moment"), [(zone, each) for zone, pair in CHANGES.items() for each in pair])
def test_next_moment_around_a_change_of_the_clock(node: Node, zone: str, moment: str) -> None:
    # conformance: C-147
    change = ms(moment)
    starts = [change + minutes * 60_000 - ahead for minutes in range(-255, 256, 15) for ahead in (0, 7000)]
    agree(node, itertools.product(patterns(AT_CHANGES), [zone], starts))


def test_every_day_at_a_time_over_two_years(node: Node) -> None:
    days = [ms("2026-01-01T12:00") + day * 86_400_000 for day in range(730)]
    agree(node, itertools.product(["30 2 * * *"], ["Europe/Paris", "America/New_York"], days))


@pytest.mark.parametrize("zone", ["utc", "europe/paris", "UTC+2", "UTC-05:30", "EST", "Etc/GMT+5", "Asia/Calcutta"])
def test_zones(node: Node, zone: str) -> None:
    agree(node, [("0 0 * * *", zone, ms(moment)) for moment in MOMENTS])


@pytest.mark.parametrize("zone", ["Foo/Bar", "+02:00", "Z", "GMT+2", "Europe/Paris ", "5"])
def test_zones_that_are_none(node: Node, zone: str) -> None:
    agree(node, [("0 0 * * *", zone, ms(MOMENTS[0]))])
    assert ours(("0 0 * * *", zone, ms(MOMENTS[0]))) is None


def test_this_machines_zone(node: Node) -> None:
    agree(node, [("0 3 * * *", None, ms(moment)) for moment in MOMENTS])
