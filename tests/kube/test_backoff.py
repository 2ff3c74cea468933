import math

from runner.kube.backoff import Backoff, delay


def test_a_delay_doubles_up_to_its_last() -> None:
    assert [delay(failures, 0.5, 3) for failures in range(1, 6)] == [0.5, 1, 2, 3, 3]
    assert math.isfinite(delay(10**6, 0.005))


def test_pauses_grow_until_a_success() -> None:
    backoff = Backoff(1, 4, jitter=0)
    assert [backoff.next() for _ in range(4)] == [1, 2, 4, 4]
    backoff.reset()
    assert (backoff.seconds, backoff.next(), backoff.seconds) == (1, 1, 2)


def test_jitter_makes_a_pause_shorter_or_longer() -> None:
    assert all(0.5 <= Backoff(1, jitter=0.5).next() <= 1.5 for _ in range(100))
