"""`core.memory`: nobody gets past a limit unseen, nor is blamed for bytes of others, and what fits is what is left."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heavyq.core import memory
from heavyq.core.memory import GIB, MIB, Held, Holder, Reserved

SIZES = st.integers(0, 8 * GIB)


# ---- when to look


@given(st.lists(SIZES, min_size=1, max_size=8))
def test_nobody_can_pass_a_limit_between_two_looks(headroom):
    wait_s = memory.next_look_s(headroom)
    assert memory.LOOK_MIN_S <= wait_s <= memory.LOOK_MAX_S
    for left in headroom:
        assert wait_s * memory.FASTEST_BYTES_PER_S <= max(left, memory.LOOK_MIN_S * memory.FASTEST_BYTES_PER_S)


def test_a_job_over_its_limit_is_looked_at_most_often():
    assert memory.next_look_s([-5, 8 * GIB]) == memory.LOOK_MIN_S


@given(st.lists(st.tuples(st.floats(0, 30), SIZES), max_size=900))
def test_a_timeline_is_short_in_order_and_tells_the_peak(steps):
    line, at_s = memory.Timeline(), 0.0
    for step_s, charge in steps:
        at_s += step_s
        line.add(at_s, charge)
    points = line.points()
    assert len(points) <= memory.POINTS_MAX
    assert [p[0] for p in points] == sorted(p[0] for p in points)
    if steps and len(steps) <= memory.POINTS_MAX:
        assert max(p[1] for p in points) == max(charge for _, charge in steps)


def test_an_hour_of_samples_fits_and_spans_the_hour():
    line = memory.Timeline()
    for n in range(3600 * 4):
        line.add(n / 4, n)
    points = line.points()
    assert memory.POINTS_MAX / 2 <= len(points) <= memory.POINTS_MAX
    assert points[0][0] == 0.0
    assert points[-1][0] > 3500


# ---- whose bytes they are

ZYGOTE = GIB  # preloaded, and inherited by every child


def confirmed(charge, child, below=(), birth=ZYGOTE, lends=0, born=0):
    return memory.confirmed_bytes(
        charge_bytes=charge, birth_bytes=birth, child=child, below=below, lent_bytes=lends, born_bytes=born
    )


def divided(child, lends, born=0):
    return memory.divided_bytes(child, [], own_bytes=0, lent_bytes=lends, born_bytes=born)


def test_a_bomb_in_the_child_is_its_own_whatever_siblings_share_with_it():
    bomb = Held(anon_bytes=ZYGOTE + 600 * MIB, pss_bytes=ZYGOTE // 4 + 600 * MIB, lazy_free_bytes=0)
    assert confirmed(600 * MIB, bomb, lends=ZYGOTE * 3 // 4) == 600 * MIB


def test_a_pool_that_shares_its_parents_memory_is_counted_once():
    """A job of 300 MiB forks four workers: each seems to hold the zygote's gigabyte and the job's 300 MiB."""
    sharers = 6  # zygote, child, four workers
    one = Held(ZYGOTE + 300 * MIB, ZYGOTE // sharers + 300 * MIB // 5, 0)
    charge = 300 * MIB + 4 * (ZYGOTE + 300 * MIB)
    lends = ZYGOTE - ZYGOTE // sharers
    assert abs(confirmed(charge, one, [one] * 4, lends=lends) - 300 * MIB) < MIB


def test_a_subprocess_that_takes_memory_is_the_jobs():
    child, ffmpeg = Held(50 * MIB, 20 * MIB, 0), Held(900 * MIB, 900 * MIB, 0)
    assert confirmed(900 * MIB, child, [ffmpeg], birth=50 * MIB, lends=30 * MIB) >= 880 * MIB


def test_shared_memory_is_the_jobs_and_a_preloaded_one_is_not():
    mine = Held(50 * MIB, 25 * MIB + 700 * MIB, 0, shared_bytes=700 * MIB)
    assert confirmed(700 * MIB, mine, birth=50 * MIB, lends=25 * MIB) == 700 * MIB
    zygotes = Held(50 * MIB, 25 * MIB + 350 * MIB, 0, shared_bytes=700 * MIB)  # the zygote maps it too: half is its
    assert confirmed(700 * MIB, zygotes, birth=50 * MIB, lends=25 * MIB + 350 * MIB) == 0


def test_who_writes_over_the_zygotes_pages_is_known_when_read_exactly():
    """The quick meter sees nothing: the pages were resident before. Two siblings, one of which has written over all."""
    writer, reader = Held(ZYGOTE, ZYGOTE, 0), Held(ZYGOTE, ZYGOTE // 2, 0)
    lends = ZYGOTE - ZYGOTE // 2
    assert divided(writer, lends) == ZYGOTE  # its copies are shared with nobody
    assert divided(reader, lends) == 0


def test_what_a_child_has_made_before_any_job_is_no_jobs():
    spawned = Held(anon_bytes=180 * MIB, pss_bytes=175 * MIB, lazy_free_bytes=0)
    assert divided(spawned, lends=5 * MIB, born=150 * MIB) <= 25 * MIB


def test_a_program_that_a_job_starts_bears_nothing_of_the_zygote():
    """The zygote is large and many share it: what others bear of it is no excuse for who maps none of it."""
    child, program = Held(800 * MIB, 200 * MIB, 0), Held(600 * MIB, 600 * MIB, 0)
    assert confirmed(600 * MIB, child, [program], birth=800 * MIB, lends=600 * MIB) == 600 * MIB


def test_memory_that_was_given_back_lazily_does_not_count():
    child = Held(800 * MIB, 800 * MIB, 700 * MIB)
    assert confirmed(800 * MIB, child, birth=0) == 100 * MIB


@given(SIZES, SIZES, SIZES, SIZES)
def test_nobody_is_blamed_for_more_than_the_quick_meter_and_its_own_pages_say(charge, anon, pss, lends):
    held = Held(anon, pss, 0)
    assert confirmed(charge, held, birth=0, lends=lends) <= max(charge, anon)


def test_a_reprieve_ends_with_time_or_when_the_room_is_used_up():
    excuse = memory.reprieve(charge_bytes=900, confirmed=300, now_s=10.0)
    assert memory.still_excused(excuse, 900, 10.5) == excuse
    assert memory.headroom_bytes(900, 512, excuse) == 212
    assert memory.headroom_bytes(900 + 212, 512, excuse) == 0
    assert memory.still_excused(excuse, 900, 10.0 + memory.REPRIEVE_S) is None
    assert memory.headroom_bytes(512, 512, None) == 0


def test_an_excuse_is_no_credit_for_what_comes_after_the_forks_are_gone():
    excuse = memory.reprieve(charge_bytes=1600, confirmed=300, now_s=10.0)
    left = memory.still_excused(excuse, 310, 10.5)
    assert left is not None
    assert left.excused_bytes == 10
    grown = memory.still_excused(left, 900, 10.6)
    assert memory.headroom_bytes(900, 512, grown) <= 0


def test_a_job_that_stood_still_long_for_its_reading_is_read_the_less_often():
    excuse = memory.reprieve(charge_bytes=900, confirmed=300, now_s=10.0, took_s=0.5)
    assert memory.still_excused(excuse, 900, 19.0) is not None


# ---- the container


def busy(child, charge_mib, run_s, request_mib=None):
    return Holder(child, charge_mib * MIB, run_s, None if request_mib is None else request_mib * MIB)


@pytest.mark.parametrize(
    ("holders", "victim"),
    [
        ([], None),
        ([Holder(1, 900 * MIB, None, None), busy(2, 500, 1.0)], 1),
        ([Holder(1, 2 * MIB, None, None), busy(2, 500, 1.0)], 2),
        ([busy(1, 500, 3600.0), busy(2, 480, 5.0)], 2),
        ([busy(1, 900, 3600.0), busy(2, 20, 5.0)], 1),
        ([busy(1, 900, 5.0, request_mib=1000), busy(2, 500, 3600.0, request_mib=400)], 2),
        ([busy(1, 10, 5.0)], None),
    ],
    ids=["none", "idle first", "small idle", "least work", "only the large", "over its request", "nothing worth it"],
)
def test_the_cheapest_loss(holders, victim):
    assert memory.cheapest_loss(holders) == victim


def test_a_small_container_is_guarded_earlier():
    assert memory.mark_bytes(512 * MIB) == 512 * MIB * 8 // 10
    assert memory.mark_bytes(8 * GIB) == 8 * GIB * 9 // 10


# ---- what fits


def test_what_a_job_holds_counts_even_if_it_asked_for_less():
    assert memory.fits(400, 1000, [Reserved(300, 600)])
    assert not memory.fits(401, 1000, [Reserved(300, 600)])
    assert not memory.fits(401, 1000, [Reserved(600, 300)])


@given(st.integers(1, 1000), st.lists(st.tuples(st.integers(0, 400), st.integers(0, 400)), max_size=6))
def test_whatever_is_admitted_stays_within_the_budget(request_bytes, held):
    reserved = [Reserved(*one) for one in held]
    if memory.fits(request_bytes, 1000, reserved):
        assert request_bytes + sum(max(one) for one in held) <= 1000


def test_a_queue_that_has_waited_long_for_room_goes_first():
    assert memory.goes_first([None, 100.0, 90.0], 115.0) is None
    assert memory.goes_first([None, 100.0, 90.0], 120.0) == 2
    assert memory.goes_first([None, None], 1e9) is None


def test_default_number_of_children_follows_the_budget():
    assert memory.children_that_fit(400 * MIB, None) == 12
    assert memory.children_that_fit(400 * MIB, 150 * MIB) == 2
    assert memory.children_that_fit(0, None) == 1


def test_a_memory_limit_implies_when_a_child_that_keeps_memory_goes():
    assert memory.implied_recycle_bytes(GIB) == GIB // 8
    assert memory.implied_recycle_bytes(100 * MIB) == memory.RETAINED_MIN_BYTES
    assert memory.implied_recycle_bytes(16 * MIB) == 8 * MIB


@given(st.integers(16 * MIB, 64 * GIB), SIZES)
def test_the_watch_is_before_the_kernel_also_for_copies_of_the_zygotes_pages(limit, birth):
    assert memory.group_limit_bytes(limit, birth) > limit + birth


def test_a_full_container_teaches_and_what_goes_well_takes_it_back():
    need = memory.learnt_need_bytes(0, 150, 400, full=True)
    assert need == 150
    assert memory.learnt_need_bytes(need, 9000, 400, full=True) == 400, "one job can always run"
    assert memory.learnt_need_bytes(need, 140, 400, full=False) == 140, "it was right"
    assert memory.learnt_need_bytes(400, 20, 400, full=False) == 200


def test_a_leak_is_counted_per_run_and_never_below_nothing():
    leak = memory.Leak()
    assert leak.per_run_bytes == 0
    for grown in (30 * MIB, 10 * MIB, 20 * MIB):
        leak.note(grown)
    assert leak.per_run_bytes == 20 * MIB
    leak.note(-200 * MIB)
    assert leak.per_run_bytes == 0


def test_sizes_in_words():
    assert memory.in_words(40 * MIB) == "40 MiB"
    assert memory.in_words(1099511627) == "1.02 GiB"
