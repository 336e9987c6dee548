import numpy as np
import pytest

from d2_seesaw.data.annotations.shared_numbers import SharedNumbers


def numbers_of(*odd):
    numbers = np.round(np.random.default_rng(0).uniform(0, 5, 4000), 2)
    numbers[100 : 100 + len(odd)] = odd
    return numbers


@pytest.mark.parametrize("odd", [(), (0.123,), (-3.5, 1e6), (1e300, 20_000.25), (1 / 3,)])
@pytest.mark.parametrize("share", [True, False])
def test_lists_equal_those_of_numpy(odd, share):
    numbers = numbers_of(*odd)
    shared = SharedNumbers(numbers, share=share)
    for start, stop in ((0, 4000), (90, 100), (90, 101), (100, 101), (101, 110), (7, 7)):
        assert shared.slice(start, stop) == numbers[start:stop].tolist()
    assert shared.rows(4) == numbers.reshape(-1, 4).tolist()
    assert all(type(n) is float for row in [*shared.rows(4), shared.slice(0, 4000)] for n in row)


def test_numbers_beyond_the_table_stand_beside_those_in_it(monkeypatch):
    monkeypatch.setattr("d2_seesaw.data.annotations.shared_numbers._MOST_PIXELS", 5)
    numbers = numbers_of(-20.5, 1e6, 7.25)
    shared = SharedNumbers(numbers)
    assert shared.is_shared
    assert shared.slice(90, 110) == numbers[90:110].tolist()
    assert shared.rows(4) == numbers.reshape(-1, 4).tolist()


def test_equal_numbers_are_one_object_beside_others_that_are_not():
    shared = SharedNumbers(numbers_of(1 / 3))
    several = [*shared.slice(0, 90), *shared.slice(200, 4000)]
    assert len({id(n) for n in several}) == len(set(several)) <= 501
    # In rows, numbers that cannot be shared stand beside those that are.
    rows = [n for row in shared.rows(4) for n in row]
    assert len({id(n) for n in rows}) == len(set(rows))
    assert 1 / 3 in rows


def test_few_numbers_are_not_worth_a_table():
    assert not SharedNumbers(np.array([600.25, 3.5])).is_shared
    assert SharedNumbers(np.zeros(0)).slice(0, 0) == []


def test_many_blocks_are_one(monkeypatch):
    monkeypatch.setattr("d2_seesaw.data.annotations.shared_numbers._BLOCK", 64)
    numbers = numbers_of(0.123, 4.567)
    shared = SharedNumbers(numbers)
    assert shared.slice(0, 4000) == numbers.tolist()
    assert shared.slice(96, 128) == numbers[96:128].tolist()
