"""What every reader does to text: decode it, make its quotes and spaces ordinary, say when two texts are one; name and count
in messages.
"""

import re

_ORDINARY = str.maketrans(
    {"‘": "'", "’": "'", "‚": "'", "“": '"', "”": '"', "„": '"', "–": "-", "…": "...", "\xa0": " "}
    | dict.fromkeys("\u2010\u2011", "-")
    | dict.fromkeys("\u200b\u200c\u200d\u200e\u200f\u2060\ufeff\xad", "")
)


def decode(content: bytes) -> str:
    """UTF-8 if it is, else Latin-1 (a few files of the collections are)."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def plain(text: str) -> str:
    """The same text with ordinary quotes and single spaces, so that ``don’t`` and ``don't`` are one word."""
    text = text.translate(_ORDINARY).replace("``", '"').replace("''", '"')
    text = re.sub(r" ?--+ ?", "—", text)
    return " ".join(text.split())


def signature(text: str) -> str:
    """The letters and digits of a text in lower case: two texts that agree in them count as one."""
    return re.sub(r"[\W_]+", " ", text.casefold()).strip()


def listed(names: list[str], most: int = 12) -> str:
    """Names in quotes, with commas between them, those beyond ``most`` counted."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(repr(shortened(name, 40)) for name in names[:most]) + more


def shortened(text: str, width: int) -> str:
    """The text in one line of at most ``width`` characters."""
    text = " ".join(text.split())
    return text if len(text) <= width else text[: width - 3].rstrip() + "..."


def counted(number: int, one: str, many: str = "") -> str:
    """ "1 row", "1,200 rows"."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"
