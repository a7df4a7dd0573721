"""Ctrl-C and SIGTERM end the demo wherever it is."""

import asyncio
import signal
import weakref

import pytest

from kafkasaga.examples.order_system.demo.stop import Stop

BOTH = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])


@BOTH
def test_a_signal_raises_at_once(number: signal.Signals) -> None:
    with Stop(), pytest.raises(KeyboardInterrupt):
        signal.raise_signal(number)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@BOTH
def test_one_that_python_dropped_is_known(number: signal.Signals) -> None:
    with Stop() as stop:
        stop.check()
        lives = {1}
        watcher = weakref.ref(lives, lambda _: signal.raise_signal(number))
        del lives
        assert watcher() is None
        with pytest.raises(KeyboardInterrupt):
            stop.check()


@BOTH
def test_an_event_loop_is_interrupted_by_the_second_one_only(number: signal.Signals) -> None:
    known = False

    async def work() -> None:
        nonlocal known
        signal.raise_signal(number)
        try:
            stop.check()
        except KeyboardInterrupt:
            known = True
        signal.raise_signal(number)
        raise AssertionError("it was ignored")

    with Stop() as stop, pytest.raises(KeyboardInterrupt):
        asyncio.run(work())
    assert known, "the first one interrupted it"


def test_afterwards_all_is_as_before() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        interrupt = signal.getsignal(signal.SIGINT)
        with Stop():
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN, "who started it wants it to be ignored"
            assert signal.getsignal(signal.SIGINT) is not interrupt
        assert signal.getsignal(signal.SIGINT) is interrupt
    finally:
        signal.signal(signal.SIGTERM, before)
