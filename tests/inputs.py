"""What a table of inputs says of a message: its pieces, in order. The tables are shown in docs/inputs.md."""

READ = "read"
"""What a table says of an input that is taken."""


def says(message: str, words: str) -> bool:
    """Whether the message holds all the words; `…` in them stands for any text."""
    place = 0
    for piece in words.split("…"):
        place = message.find(piece.strip(), place)
        if place < 0:
            return False
        place += len(piece.strip())
    return True
