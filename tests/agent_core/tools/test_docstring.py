"""What docstrings say of functions and arguments, in the three styles in use."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_core.tools.docstring import Docstring, parse

GOOGLE = """Pay an order back,
    in cents.

    A long story.

    Args:
        order_id (str): The order's number,
            as printed.
        cents: How much: never more than was paid.
        **more: Anything.

    Returns:
        note: this is no argument.
    """

REST = """Pay an order back,
    in cents.

    :param str order_id: The order's number,
        as printed.
    :param cents: How much: never more than was paid.
    :type cents: int
    :keyword more: Anything.
    :returns: A note.
    """

NUMPY = """Pay an order back,
    in cents.

    A long story.

    Parameters
    ----------
    order_id : str
        The order's number,
        as printed.
    cents
        How much: never more than was paid.

    Other Parameters
    ----------------
    **more
        Anything.

    Returns
    -------
    note : str
        This is no argument.
    """

ARGUMENTS = {
    "order_id": "The order's number, as printed.",
    "cents": "How much: never more than was paid.",
    "more": "Anything.",
}


@pytest.mark.parametrize("text", [GOOGLE, REST, NUMPY], ids=["google", "rest", "numpy"])
def test_all_three_styles_say_the_same(text: str) -> None:
    assert parse(text) == Docstring("Pay an order back, in cents.", ARGUMENTS)


def test_numpy_names_may_share_words() -> None:
    assert parse("A.\n\nParameters\n----------\nx, y : float\n    Where.\n").arguments == {
        "x": "Where.",
        "y": "Where.",
    }


@pytest.mark.parametrize(
    ("text", "summary"),
    [
        (None, ""),
        ("", ""),
        ("One line.", "One line."),
        ("Args:\n    x: only this", ""),
        ("Look.\nArgs:\n    x: at once", "Look."),
        ("Look.\n:param x: at once", "Look."),
        ("Heading\n-------\nwords", ""),
        ("Note: this is prose.", "Note: this is prose."),
    ],
)
def test_summaries(text: str | None, summary: str) -> None:
    assert parse(text).summary == summary


@given(st.text(alphabet=st.sampled_from("ab :-\n()*") | st.characters(), max_size=80))
def test_no_docstring_breaks_it(text: str) -> None:
    parse(f"Args:\n{text}")
    parse(f"Parameters\n---\n{text}")
    parse(text)
