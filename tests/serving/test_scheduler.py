"""The scheduler and its queues, on a clock that only the tests move."""

from __future__ import annotations

import pytest

from minit2i_deploy.serving.scheduling.costs import CostModel
from minit2i_deploy.serving.scheduling.embed_queue import EmbedJob, EmbedQueue, TextShare
from minit2i_deploy.serving.scheduling.job import JobState
from minit2i_deploy.serving.scheduling.scheduler import (
    PATIENCE,
    QueueFull,
    Scheduler,
    SchedulerLimits,
)
from tests.helpers.serving_runs import Clock, job


def scheduler(clock: Clock, *, max_batch: int = 8, max_queue: int = 64) -> Scheduler:
    return Scheduler(SchedulerLimits(max_batch=max_batch, max_queue=max_queue), clock)


def learned(each: Scheduler, *, per_call_s: float, per_sequence_s: float) -> Scheduler:
    """One that has seen enough calls of every size."""
    for size in (1, 2, 4, 8, 16) * 3:
        for model in ("base", "student"):
            each.costs.learn((model, None), size, per_call_s + per_sequence_s * size)
    return each


def test_images_of_two_sizes_share_no_call() -> None:
    each = learned(scheduler(Clock()), per_call_s=1.0, per_sequence_s=0.0)
    own, wide = [job(), job()], [job(), job()]
    for one in wide:
        one.size = (48, 24)
    each.submit([own[0], wide[0], own[1], wide[1]])
    calls = []
    while batch := each.plan():
        calls.append({one.size for one in batch.jobs})
        assert len(calls[-1]) == 1
        for one in batch.jobs:
            each.cancel(one)
    # What a call of the other size costs has not been seen yet, so its first ones are small.
    assert sorted(calls, key=str) == [{(48, 24)}, {(48, 24)}, {None}]


def test_images_share_a_call_at_different_rows() -> None:
    each = learned(scheduler(Clock()), per_call_s=1.0, per_sequence_s=0.0)
    first, second = job(rows=3), job(rows=3)
    each.submit([first])
    batch = each.plan()
    assert batch is not None and batch.jobs == (first,)
    assert each.finish(batch, 1.0) == []
    each.submit([second])
    batch = each.plan()
    assert batch is not None and set(batch.jobs) == {first, second}
    assert (first.rows_done, second.rows_done) == (1, 0)


def test_an_image_runs_each_of_its_rows_once_and_ends() -> None:
    each = scheduler(Clock())
    only = job(rows=5, branches=2)
    each.submit([only])
    calls = 0
    while batch := each.plan():
        calls += 1
        each.finish(batch, 0.1)
    assert (calls, only.rows_done, only.state) == (5, 5, JobState.DONE)
    assert each.num_live == 0


def test_a_short_image_waits_for_one_row_of_a_long_one() -> None:
    each = learned(scheduler(Clock()), per_call_s=0.0, per_sequence_s=0.01)
    long, short = job("base", rows=100, branches=2), job("student", rows=4)
    each.submit([long])
    batch = each.plan()
    assert batch is not None
    each.submit([short])
    each.finish(batch, 0.02)
    for _ in range(4):
        batch = each.plan()
        assert batch is not None and batch.jobs == (short,)
        each.finish(batch, 0.01)
    assert short.state is JobState.DONE


def test_a_long_image_is_not_starved_by_short_ones() -> None:
    """It leads at the latest when what it has waited makes up for what is ahead of it."""
    clock = Clock()
    each = learned(scheduler(clock), per_call_s=0.0, per_sequence_s=0.01)
    long = job("base", rows=100)
    each.submit([long])
    while long.rows_done == 0:
        each.submit([job("student", rows=1)])
        batch = each.plan()
        assert batch is not None
        clock.now += 0.01
        each.finish(batch, 0.01)
    assert clock.now <= 100 * 0.01 / PATIENCE + 0.1


def test_a_call_grows_where_more_images_cost_no_more() -> None:
    each = learned(scheduler(Clock()), per_call_s=1.0, per_sequence_s=0.001)
    each.submit([job(branches=2) for _ in range(10)])
    batch = each.plan()
    assert batch is not None and (len(batch.jobs), batch.num_sequences) == (8, 16)


def test_a_call_stays_small_where_each_image_costs_the_same() -> None:
    each = learned(scheduler(Clock()), per_call_s=0.0, per_sequence_s=1.0)
    each.submit([job() for _ in range(8)])
    batch = each.plan()
    assert batch is not None and len(batch.jobs) == 1


def test_a_crowd_gets_the_cheapest_calls() -> None:
    each = learned(scheduler(Clock(), max_batch=4), per_call_s=0.02, per_sequence_s=1.0)
    each.submit([job() for _ in range(4)])
    batch = each.plan()
    assert batch is not None and len(batch.jobs) == 1
    each.submit([job()])
    batch = each.plan()
    assert batch is not None and len(batch.jobs) == 4


def test_costs_try_the_next_size_until_it_is_no_better() -> None:
    costs = CostModel()
    sizes = []
    for _ in range(16):
        size = costs.efficient_size("base")
        sizes.append(size)
        # Cheaper up to 4 sequences, then as dear as they are.
        costs.learn("base", size, max(size, 4) * 0.25)
    assert sizes == [1, 1, 1, 2, 2, 2, 4, 4, 4, 8, 8, 8, 4, 4, 4, 4]
    assert costs.sequence_s("base") == pytest.approx(0.25)


def test_a_slow_first_call_does_not_rule_a_size_out() -> None:
    """It allocates: a student's calls of four stayed at two."""
    costs = CostModel()
    for index in range(12):
        size = costs.efficient_size("student")
        costs.learn("student", size, (1 + size) * (1.5 if index % 3 == 0 else 1.0))
    assert costs.efficient_size("student") == 16


def test_one_call_of_a_large_size_is_not_followed_by_others() -> None:
    """A crowd may end with it, and sizes that no crowd asks for stay small."""
    costs = CostModel()
    for size in (1, 2, 4, 8) * 3:
        costs.learn("base", size, float(size))
    costs.learn("base", 16, 160.0)
    assert costs.efficient_size("base") == 1


def test_a_call_that_failed_says_nothing_of_costs() -> None:
    each = learned(scheduler(Clock()), per_call_s=1.0, per_sequence_s=0.1)
    each.submit([job(), job()])
    before = each.costs.efficient_size(("base", None))
    for _ in range(3):
        batch = each.plan()
        assert batch is not None
        each.finish(batch, None)
    assert each.costs.efficient_size(("base", None)) == before
    assert {one.rows_done for one in batch.jobs} == {3}


def test_a_crowd_takes_the_largest_size_that_is_as_cheap() -> None:
    costs = CostModel()
    for _ in range(3):
        for size, seconds in ((2, 2.02), (4, 4.0), (8, 8.12), (16, 17.0)):
            costs.learn("base", size, seconds)
    assert costs.efficient_size("base") == 2
    assert costs.efficient_size("base", crowded=True) == 8


def test_a_crowd_tries_a_larger_size_again() -> None:
    """What made it slow may be over."""
    costs = CostModel()
    sizes = []
    for index in range(160):
        size = costs.efficient_size("base", crowded=True)
        sizes.append(size)
        slowed = 2 if size == 4 and index < 20 else 1
        costs.learn("base", size, slowed * (0.1 + size))
    assert set(sizes[10:30]) == {2} and 8 in sizes


def test_calls_that_other_work_slowed_do_not_change_the_size() -> None:
    costs = CostModel()
    for index in range(40):
        for size, seconds in ((1, 1.0), (2, 1.8), (4, 3.6)):
            # Every second call of the cheapest sizes takes three times as long.
            slowed = 3 if index % 2 and size > 1 else 1
            costs.learn("base", size, slowed * seconds)
    assert costs.efficient_size("base") == 2
    # Who waits is told of the time that calls really take.
    assert costs.sequence_s("base") == pytest.approx(1.0)


def test_sizes_are_compared_by_as_many_calls_of_each() -> None:
    """The fast quarter of many calls may be faster than that of few: both cost the same here."""
    costs = CostModel()
    for index in range(24):
        costs.learn("base", 4, 4.0 * (0.9 if index % 8 < 4 else 1.0))
    for _ in range(3):
        costs.learn("base", 8, 8.0)
    assert costs.efficient_size("base", crowded=True) == 16


def test_a_full_queue_takes_all_images_of_a_request_or_none() -> None:
    each = learned(scheduler(Clock(), max_queue=4), per_call_s=0.0, per_sequence_s=2.0)
    each.submit([job() for _ in range(3)])
    with pytest.raises(QueueFull, match=r"3 images of at most 4 are ahead, and 2 came") as caught:
        each.submit([job(), job()])
    # Three images of four rows at two seconds.
    assert caught.value.retry_after_s == 24
    each.submit([job()])
    assert each.num_live == 4


def test_a_cancelled_image_is_out_before_the_next_row() -> None:
    each = learned(scheduler(Clock()), per_call_s=1.0, per_sequence_s=0.0)
    stays, leaves = job(), job()
    each.submit([stays, leaves])
    batch = each.plan()
    each.cancel(leaves)
    assert batch is not None
    each.finish(batch, 1.0)
    assert (stays.rows_done, leaves.rows_done, leaves.state) == (1, 0, JobState.CANCELLED)
    batch = each.plan()
    assert batch is not None and batch.jobs == (stays,)
    each.cancel(leaves)
    assert leaves.state is JobState.CANCELLED


def test_an_image_expires_at_its_deadline() -> None:
    clock = Clock()
    each = scheduler(clock)
    late, fine = job(deadline_s=5.0), job()
    each.submit([late, fine])
    clock.now = 4.9
    assert each.expire() == []
    clock.now = 5.0
    assert each.expire() == [late]
    assert (late.state, each.num_live) == (JobState.EXPIRED, 1)


def embed_queue(clock: Clock) -> EmbedQueue:
    return EmbedQueue(max_texts=10, max_batch=4, clock=clock)


def texts(count: int, model: str = "base", deadline_s: float = 9.0) -> EmbedJob:
    return EmbedJob(model=model, num_texts=count, deadline_s=deadline_s)


def jobs_of(shares: list[TextShare]) -> list[EmbedJob]:
    assert all((share.first, share.count) == (0, share.job.num_texts) for share in shares)
    return [share.job for share in shares]


def test_texts_of_several_requests_share_a_call() -> None:
    each = embed_queue(Clock())
    jobs = [texts(1), texts(2), texts(2), texts(1, "other")]
    for item in jobs:
        each.submit(item)
    assert jobs_of(each.take()) == jobs[:2]
    assert jobs_of(each.take()) == jobs[2:3]
    assert jobs_of(each.take()) == jobs[3:]
    assert each.take() == []


def test_a_large_request_takes_several_calls_and_others_are_refused_meanwhile() -> None:
    each = embed_queue(Clock())
    large = texts(50)
    each.submit(large)
    with pytest.raises(QueueFull, match="50 texts of at most 10 are ahead, and 1 came"):
        each.submit(texts(1))
    shares = [share for _ in range(11) for share in each.take()]
    assert [(share.job, share.first, share.count) for share in shares] == [
        (large, first, 4) for first in range(0, 44, 4)
    ]
    assert each.num_texts == 6
    each.submit(texts(1))


def test_others_come_between_the_calls_of_a_large_request() -> None:
    each = embed_queue(Clock())
    large, small = texts(9), texts(1)
    each.submit(large)
    each.submit(small)
    calls = []
    while shares := each.take():
        calls.append([(share.job is large, share.first, share.count) for share in shares])
    # The small one fits beside what is left of the large one only where it leads.
    assert calls == [[(True, 0, 4)], [(False, 0, 1)], [(True, 4, 4)], [(True, 8, 1)]]


def test_what_remains_of_a_request_that_nobody_waits_for_is_dropped() -> None:
    each = embed_queue(Clock())
    large, other = texts(9), texts(1)
    each.submit(large)
    each.submit(other)
    each.take()
    large.is_cancelled = True
    assert jobs_of(each.take()) == [other]
    assert each.take() == [] and each.clear() == []


def test_texts_that_nobody_waits_for_are_not_encoded() -> None:
    clock = Clock()
    each = embed_queue(clock)
    left, late, fine = texts(1), texts(1, deadline_s=1.0), texts(1)
    for item in (left, late, fine):
        each.submit(item)
    left.is_cancelled = True
    clock.now = 2.0
    assert each.expire() == [late]
    assert jobs_of(each.take()) == [fine]
