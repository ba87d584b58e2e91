"""Conditions that the tables put on their rows."""


def one_of(column: str, words: tuple[str, ...]) -> str:
    """Return the SQL condition that the column holds one of these words (NULL passes)."""
    return f"{column} IN ({', '.join(repr(word) for word in words)})"
