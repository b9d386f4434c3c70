"""Errors: one line, and whole after a journey between processes."""

import pickle

from clipmill import errors


def test_an_error_is_one_line_of_got_wanted_and_what_to_do() -> None:
    error = errors.DataError("got\n this", "that", "do so")
    assert str(error) == "got this; wanted that; do so"
    assert isinstance(error, ValueError)


def test_errors_survive_pickling() -> None:
    error = pickle.loads(pickle.dumps(errors.RecipeError("a", "b", "c")))
    assert (type(error), str(error), error.exit_code) == (errors.RecipeError, "a; wanted b; c", 2)


def test_wrong_use_and_failure_have_their_exit_codes() -> None:
    assert errors.UsageError.exit_code == 2
    assert errors.VideoError.exit_code == 1
