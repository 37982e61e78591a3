"""What a learner is told: every kind of wrong answer in words, and her own exceptions as hers."""

import numpy as np
import pytest

from bertcraft.course.exercises import Exercise, Wrong, decision, judge, same

X = np.arange(6.0).reshape(2, 3)


def _check_double(function):
    same(function(X), 2 * X, "the double")
    same(function(X.astype(np.float32)), (2 * X).astype(np.float32), "the double")


DOUBLE = Exercise("double", "Double it", 1, _check_double, ("Multiply.",))


def told(function) -> str:
    outcome = judge(DOUBLE, function)
    assert outcome.state == "wrong"
    assert "\n" not in outcome.text
    return outcome.text


def test_a_right_answer_is_solved_with_nothing_to_say():
    outcome = judge(DOUBLE, lambda x: x + x)
    assert (outcome.state, outcome.text) == ("solved", "")


@pytest.mark.parametrize("nothing", [None, ...])
def test_a_stub_is_not_started_and_a_later_nothing_is_wrong(nothing):
    assert judge(DOUBLE, lambda x: nothing).state == "not started"
    assert "nothing was returned" in told(lambda x: 2 * x if x.dtype == np.float64 else nothing)


def test_an_exception_is_told_with_its_line_and_the_call():
    def double(x):
        rows = len(x)
        return x[rows] * 2

    text = told(double)
    assert text.startswith("double raises IndexError: index 2 is out of bounds")
    assert "in the line `return x[rows] * 2`" in text
    assert text.endswith("when it is called as double(x=array([[0., 1., 2.], [3., 4., 5.]]))")


def test_a_function_with_other_arguments_is_told_how_it_is_called():
    assert "called as <lambda>(array(" in told(lambda x, y: x)


def test_what_the_function_changes_in_place_is_not_the_checker_s():
    def double(x):
        x *= 2
        return x

    assert judge(DOUBLE, double).state == "solved"
    assert X[1, 2] == 5


@pytest.mark.parametrize("given", [X, 3, "double"])
def test_the_function_called_is_not_the_function(given):
    assert "wants the function itself" in told(given)


def test_a_checker_that_cannot_use_an_answer_says_what_it_got():
    exercise = Exercise("f", "F", 1, lambda function: function(1).sum())
    outcome = judge(exercise, lambda x: "text")
    assert outcome.state == "wrong" and "could not use what <lambda> returned, 'text'" in outcome.text


def test_a_decision_is_told_what_is_wrong_with_it():
    exercise = Exercise("f", "F", 1, decision({"arm": {"x": "", "y": "its interval holds 0"}, "because": {"a": ""}}))
    assert judge(exercise, lambda: {"arm": "x", "because": "a"}).state == "solved"
    for answer, message in (
        ({"arm": "y", "because": "a"}, "'arm', 'y': its interval holds 0"),
        ({"arm": "z", "because": "a"}, "'arm' is 'z', expected one of 'x', 'y'"),
        ({"arm": ["x"], "because": "a"}, "'arm' is ['x'], expected"),
        ({"arm": "x"}, "return a dict with 'arm', 'because'"),
        ("x", "return a dict with 'arm', 'because'; it got 'x'"),
    ):
        outcome = judge(exercise, lambda answer=answer: answer)
        assert outcome.state == "wrong" and message in outcome.text
    assert judge(exercise, lambda: None).state == "not started"


def test_a_bug_of_the_checker_itself_is_raised():
    with pytest.raises(ZeroDivisionError):
        judge(Exercise("f", "F", 1, lambda function: 1 / 0), lambda x: x)


@pytest.mark.parametrize(
    ("got", "expected", "message"),
    [
        (X.T, X, "x has shape (3, 2), expected (2, 3): transposed?"),
        (X[None], X, "x has shape (1, 2, 3), expected (2, 3)"),
        (X.tolist(), X, "x: expected an array of shape (2, 3), got [[0, 1, 2], [3, 4, 5]] (np.array(...) makes one of a list)"),
        (X, X.astype(np.float32), "x is float64, expected float32: a float64 array among what you combine promotes the rest"),
        (X.astype(int), X, "x is int64, expected float64"),
        (-X, X, "x is -1 at [0, 1], expected 1 (5 of 6 values are wrong): the sign is wrong"),
        (X / 4, X, "x is 0.25 at [0, 1], expected 1 (5 of 6 values are wrong): 0.25 times the right value"),
        (X + 0.5, X, "x is 0.5 at [0, 0], expected 0 (6 of 6 values are wrong): everywhere 0.5 too large"),
        (X - 0.5, X, "x is -0.5 at [0, 0], expected 0 (6 of 6 values are wrong): everywhere 0.5 too small"),
        (X + np.eye(2, 3), X, "x is 1 at [0, 0], expected 0 (2 of 6 values are wrong)"),
        (np.where(X == 4, np.nan, X), X, "x is NaN at [1, 1], expected 4"),
        (np.array([1, 2]), np.array([1, 3]), "x is 2 at [1], expected 3 (1 of 2 values are wrong)"),
        (np.array([1.0]), 1.0, "x has shape (1,), expected a single number"),
        ("1", 1.0, "x: expected a number, got '1'"),
        (3.0, 1.5, "x is 3, expected 1.5: 2 times the right value"),
        (np.float64(np.inf), 1.5, "x is inf, expected 1.5"),
        (1, True, "x: expected True or False, got 1"),
        (False, True, "x is False, expected True"),
        ("a", "b", "x is 'a', expected 'b'"),
        ((1.0, 2.0), (1.0, 2.0, 3.0), "x has 2 parts, expected 3"),
        ((1.0, -2.0), (1.0, 2.0), "x[1] is -2, expected 2: the sign is wrong"),
        (1.0, (1.0, 2.0), "x: expected a tuple of 2, got 1"),
        ({"a": 1.0}, {"a": 1.0, "b": 2.0}, "x lacks 'b'"),
        ({"a": 1.0, "c": 2.0}, {"a": 1.0}, "x holds 'c', which does not belong there"),
        ({"a": 1.5}, {"a": 1.0}, "x['a'] is 1.5, expected 1: 1.5 times the right value"),
        (None, X, "x: nothing was returned; is a `return` missing on some path?"),
    ],
)
def test_same_says_how_an_answer_differs(got, expected, message):
    with pytest.raises(Wrong) as caught:
        same(got, expected, "x")
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("got", "expected"),
    [
        (X + 1e-9, X),
        ((X * (1 + 3e-5)).astype(np.float32), X.astype(np.float32)),
        (np.array([1, 2], np.int32), np.array([1, 2])),
        (np.float32(1.5), 1.5),
        (np.array(1.5), 1.5),
        (2, 2.0),
        (np.True_, True),
        ([1.0, X], (1.0, X)),
        ({"a": {"b": X}}, {"a": {"b": X}}),
        (np.array([np.inf, np.nan]), np.array([np.inf, np.nan])),
        (np.zeros((0, 3)), np.zeros((0, 3))),
    ],
)
def test_same_accepts_what_is_the_same(got, expected):
    same(got, expected, "x")


def test_same_is_as_strict_as_it_is_told():
    same(1.05, 1.0, "x", rtol=0.1)
    same(0.05, 0.0, "x", atol=0.1)
    with pytest.raises(Wrong):
        same(1.0 + 1e-7, 1.0, "x")
