"""What a folder says of its tokenizer beside tokenizer.json, read and written as transformers does.

``tokenizer_config.json`` has case, accents and added tokens, and counts against tokenizer.json where the class is one of a model;
``added_tokens.json`` is its older form. Where they are silent, the defaults of transformers' classes count.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertcraft.errors import DataError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

LARGEST_FILE = 2**28  # bytes of a tokenizer.json or vocab.txt
CONFIG = "tokenizer_config.json"
_AS_STORED = ("PreTrainedTokenizerFast", "TokenizersBackend")  # classes that take tokenizer.json as it is
# Settings of a BERT's tokenizer: our normalizer's attribute, and what counts where the file is silent.
_OF_BERT: dict[str, tuple[str, bool | None]] = {
    "do_lower_case": ("lowercase", True),
    "strip_accents": ("strip_accents", None),
    "tokenize_chinese_chars": ("handle_chinese_chars", True),
}


def text_of(file: Path) -> str:
    """A file's text. Raises DataError where it is too large or no UTF-8."""
    try:
        if file.stat().st_size > LARGEST_FILE:
            raise DataError(f"{file} has {file.stat().st_size:,} bytes: expected at most {LARGEST_FILE:,}")
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read as UTF-8 text: {error}") from None


def _object(file: Path) -> dict[str, Any]:
    """A JSON object; empty where there is no such file."""
    if not file.exists():
        return {}
    try:
        found = json.loads(text_of(file))
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise DataError(f"{file} is not the JSON object it should be")
    return found


def configured(tokenizer: "Tokenizer", folder: Path) -> "Tokenizer":
    """A tokenizer with the added tokens that the folder names and, of a BERT or a RoBERTa, its case, accents and first space.

    Raises DataError for settings that are not what they should be.
    """
    from tokenizers import normalizers, pre_tokenizers

    file, settings = folder / CONFIG, _object(folder / CONFIG)
    _add_tokens(tokenizer, folder, settings)
    if settings.get("tokenizer_class") in _AS_STORED:
        return tokenizer

    def said(name: str, otherwise: bool | None):
        value = settings.get(name, otherwise)
        if not isinstance(value, bool) and not (value is None and name == "strip_accents"):
            raise DataError(f"{file}: {name} is {value!r}, expected true or false")
        return value

    if isinstance(tokenizer.normalizer, normalizers.BertNormalizer):
        normalizer = tokenizer.normalizer
        for name, (attribute, otherwise) in _OF_BERT.items():
            setattr(normalizer, attribute, said(name, otherwise))
        tokenizer.normalizer = normalizer
    if isinstance(tokenizer.pre_tokenizer, pre_tokenizers.ByteLevel):  # RoBERTa: is the first word cut as behind a space?
        tokenizer.pre_tokenizer.add_prefix_space = said("add_prefix_space", False)
    return tokenizer


def _add_tokens(tokenizer: "Tokenizer", folder: Path, settings: dict[str, Any]) -> None:
    """Add the tokens of added_tokens_decoder, else of added_tokens.json, that the tokenizer lacks."""
    from tokenizers import AddedToken

    file = folder / CONFIG
    if decoder := settings.get("added_tokens_decoder"):
        entries = decoder.items() if isinstance(decoder, dict) else ()
        listed = [(number, each) for number, each in entries if isinstance(each, dict)]
    else:
        file = folder / "added_tokens.json"
        decoder = _object(file)
        listed = [(number, {"content": content}) for content, number in decoder.items()]
    try:
        wanted = sorted((int(number), str(each["content"]), each) for number, each in listed)
    except (ValueError, TypeError, KeyError):
        wanted = []
    if len(wanted) < len(decoder or ()):
        raise DataError(f"{file}: the added tokens are not given by their ids, as texts")
    for number, content, each in wanted:
        if tokenizer.token_to_id(content) is not None:
            continue
        special = bool(each.get("special", False))
        named = {name: bool(each.get(name, False)) for name in ("lstrip", "rstrip", "single_word")}
        token = AddedToken(content, special=special, normalized=bool(each.get("normalized", not special)), **named)
        tokenizer.add_tokens([token])
        if (got := tokenizer.token_to_id(content)) != number:
            raise DataError(f"{file}: the added token {content!r:.40} has the id {number}, but the next free one is {got}")


def of_wordpiece(tokenizer: "Tokenizer", cls_token: str | None) -> dict[str, Any]:
    """The settings by which transformers makes the same tokenizer of WordPieces: a BERT's where it is one, else as stored."""
    from tokenizers import normalizers, pre_tokenizers

    normalizer, splits = tokenizer.normalizer, isinstance(tokenizer.pre_tokenizer, pre_tokenizers.BertPreTokenizer)
    if not (splits and isinstance(normalizer, normalizers.BertNormalizer)):
        return {"tokenizer_class": _AS_STORED[0]}
    of_mpnet = cls_token == "<s>"  # its words are BERT's, its special tokens RoBERTa's
    own = {name: getattr(normalizer, attribute) for name, (attribute, _) in _OF_BERT.items()}
    return {"tokenizer_class": "MPNetTokenizer" if of_mpnet else "BertTokenizer", **own}
