"""What subcommands make of the words that a person types."""

from training.commands.options import names_in, those_given


def test_names_are_parted_by_commas_and_empty_ones_left_out() -> None:
    assert names_in(" books, games,,films ,") == ("books", "games", "films")
    assert names_in("") == names_in(" , ") == ()


def test_what_was_not_given_is_left_to_the_configuration() -> None:
    assert those_given(seed=0, threads=None, items=[], domains=(), name="") == {"seed": 0, "domains": (), "name": ""}
