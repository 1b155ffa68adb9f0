import threading
from contextlib import closing

import pytest

from cmfr.utils.threads import Behind, ahead


def test_ahead_gives_the_same_items_and_the_error_in_its_place():
    def items():
        yield from (1, None, 3)
        raise ValueError("broken")

    given = []
    with pytest.raises(ValueError, match="broken"), closing(ahead(items())) as made:
        for item in made:
            given.append(item)
    assert given == [1, None, 3]


def test_ahead_makes_one_item_before_it_is_asked_for():
    made = [threading.Event() for _ in range(4)]

    def items():
        for number, event in enumerate(made):
            event.set()
            yield number

    with closing(ahead(items())) as coming:
        assert next(coming) == 0
        assert made[1].wait(10) and not made[2].is_set()
    assert not made[3].is_set()


def test_behind_keeps_the_order_and_passes_errors_on():
    done = []
    with Behind[int]() as behind:
        given = [result for n in range(5) for result in behind(lambda n=n: done.append(n) or n)]
        given += behind.last()
    assert done == given == list(range(5))

    def fail():
        raise OSError("no room")

    with Behind[None]() as behind:
        assert behind(fail) == []
        with pytest.raises(OSError, match="no room"):
            behind(lambda: None)
        assert behind.last() == []


def test_behind_works_beside_the_caller():
    go_on = threading.Event()
    with Behind[bool]() as behind:
        assert behind(lambda: go_on.wait(10)) == []
        go_on.set()  # the call above has returned while its function waits
        assert behind.last() == [True]


def test_behind_has_ended_what_it_began_when_the_block_fails():
    ended = []
    with pytest.raises(KeyError), Behind[None]() as behind:
        behind(lambda: ended.append(1))
        raise KeyError
    assert ended == [1]
