"""03: are distances with vectors of their own better than places added to the words, for as much compute?

Six small encoders that differ in nothing but what they know of positions, and start from the same numbers: their other parameters
have the same names and seeds. All are a DeBERTa of :mod:`bertcraft.bert`; with absolute positions and no distances that is a BERT
(a test holds it to one). They read the requests packed into full rows, masked alike, and are judged at [MASK].

An absolute position says little in a row that was cut anywhere: what such a model needs it must take from pairs of positions. So
the arm with an enhanced mask decoder, which adds them late, is asked for what they bring there and for what its second pass
brings.
"""

from dataclasses import replace

import numpy as np

from bertcraft.bert import encoder
from bertcraft.bert.relative_positions import distance_buckets
from bertcraft.lab import architectures, flops, pretraining
from bertcraft.lab.architectures import Architecture
from bertcraft.lab.experiment import Arm, Check, Claim, Comparison, Context, Experiment, Metric, Tuning, shorter
from bertcraft.lab.pretraining import Setting, Texts
from bertcraft.pretrain import held_out as held_out_loss
from bertcraft.techniques import deberta_disentangled_attention as technique
from bertcraft.tensor import functions as F

LONGER = 64  # tokens of the rows that are read besides: twice those that were learnt from
REACH = 16  # k: half a row, so that the ends of the table, which stand for all that is farther, are learnt too
T5_BUCKETS = 32

# ------------------------------------------------------------------------------------------------------ architectures


def build(settings: dict, setting: Setting, texts: Texts, seed: int) -> Architecture:
    """The encoder of an arm: ``positions`` absolute, distances (in which ``terms``), t5 or none; perhaps a ``decoder``."""
    positions, decoder = settings["positions"], settings.get("decoder")
    distances = positions == "distances"
    encode = encode_t5 if positions == "t5" else _encode_with_decoder if decoder else encoder.encode
    found = architectures.built(
        setting, texts, seed, encode, family="deberta", type_vocab_size=0, max_position_embeddings=LONGER,
        position_biased_input=positions == "absolute", relative_attention=distances,
        pos_att_type=tuple(settings.get("terms", ("c2p", "p2c"))) if distances else (), max_relative_positions=REACH,
    )  # fmt: skip
    stream, scale = np.random.default_rng((seed, 3)), setting.hidden**-0.5
    if positions == "t5":
        heads = found.config.num_attention_heads
        found.start["t5"] = (scale * stream.standard_normal((T5_BUCKETS, heads))).astype(np.float32)
    if decoder == "places":
        found.start["places"] = (scale * stream.standard_normal((LONGER, setting.hidden))).astype(np.float32)
    return found


def encode_t5(params: dict, config, input_ids, attention_mask=None, *, at=None, rng=None):
    """The states where each score has a number added for the distance and the head (Raffel et al. 2020, section 2.1)."""

    def attention(layer: dict, x, source, bias, config, rng=None):
        buckets = distance_buckets(source.shape[1], T5_BUCKETS)
        buckets = buckets[None] if x is source else buckets[at]  # the last layer's queries stand at some places only
        relative = np.moveaxis(F.embedding(params["t5"], buckets), -1, 1)
        return encoder.self_attention(layer, x, source, relative if bias is None else relative + bias, config, rng)

    return encoder.encode(params, config, input_ids, attention_mask, at=at, rng=rng, sockets=encoder.Sockets(attention=attention))


def _encode_with_decoder(params: dict, config, input_ids, attention_mask=None, *, at=None, rng=None):
    """The enhanced mask decoder, with absolute positions where there are any, else with nothing in their place."""
    places = params.get("places", np.zeros((LONGER, config.hidden_size), np.float32))
    return technique.enhanced_mask_decoder(params, config, places, input_ids, attention_mask, at=at, rng=rng)


# --------------------------------------------------------------------------------------------------------------- runs


def run(arm: Arm, seed: int, context: Context) -> dict:
    """One arm: trained, then judged on rows as long as those it has read and on longer ones; a trial on development rows."""
    settings = arm.settings
    task = architectures.task_of(settings, seed, build)
    if arm.trivial:
        return architectures.trivial(task, settings["method"], (LONGER,))
    if "judged_on" in settings:
        found = architectures.run(task, settings, seed, context, settings["judged_on"])
        return {"dev": found["loss"], **{name: found[name] for name in ("curve", "steps", "first_losses")}}
    return architectures.run(task, settings, seed, context, others=(LONGER,))


def replay(arm: Arm, seed: int, context: Context) -> dict:
    """The price of a step and the first training losses; all of an arm that is not trained."""
    task = architectures.task_of(arm.settings, seed, build)
    if arm.trivial:
        return architectures.trivial(task, arm.settings["method"], (LONGER,))
    return architectures.replay(task, arm.settings, seed, context)


# -------------------------------------------------------------------------------------------------------- declaration

SHARED = {
    "corpus": "utterances", "packed": True, "length": 32, "vocab_size": 2048, "held_out": 1000, "batch": 16, "shard": 16,
    "warmup": 100, "evaluations": 4, "tflop": 3.0,
}  # fmt: skip
ABSOLUTE = SHARED | {"positions": "absolute"}
DISTANCES = SHARED | {"positions": "distances"}

ARMS = (
    Arm("absolute", "absolute positions", ABSOLUTE),
    Arm("disentangled", "disentangled attention", DISTANCES),
    Arm(
        "absolute_steps",
        "absolute positions, as few steps",
        ABSOLUTE | {"as_many_steps_as": {"positions": "distances"}},
        control="Equal operations give absolute positions more steps: how much do these make up for?",
    ),
    Arm(
        "t5",
        "a number for each distance (T5)",
        SHARED | {"positions": "t5"},
        control="Is it the vectors that meet the words, or distance alone? Here each distance has one number a head.",
    ),
    Arm(
        "c2p",
        "content to position alone",
        DISTANCES | {"terms": ["c2p"]},
        control="Without position to content: close to Shaw et al. 2018, whose keys have a vector for each distance.",
    ),
    Arm("p2c", "position to content alone", DISTANCES | {"terms": ["p2c"]}, control="Without content to position."),
    Arm(
        "emd",
        "enhanced mask decoder",
        DISTANCES | {"decoder": "places"},
        control="The other half of DeBERTa: absolute positions come in before the words are guessed.",
    ),
    Arm(
        "emd_without",
        "the decoder without positions",
        DISTANCES | {"decoder": "nothing"},
        control="Are they the positions, or is it the last layer's second pass?",
    ),
    Arm("none", "no positions", SHARED | {"positions": "none"}, control="How much of the task can be done by a bag of words?"),
    Arm("untrained", "untrained", DISTANCES | {"method": "untrained"}, trivial=True),
    Arm("unigram", "word frequencies", DISTANCES | {"method": "unigram"}, trivial=True),
)
LEARNT = tuple(arm.name for arm in ARMS if not arm.trivial and arm.name != "none")

_OVERLAP = 1000 / 18_129  # rows tested over rows trained on, the same for all seeds
METRICS = {
    "loss": Metric("loss at [MASK]", "nats", overlap=_OVERLAP),
    "accuracy": Metric("words guessed at [MASK]", "%", 1, overlap=_OVERLAP),
    f"loss_{LONGER}": Metric(f"loss at [MASK], rows of {LONGER}", "nats", overlap=_OVERLAP),
    "time": Metric("a step", "ms", 1),
}

CHECKS = (Check("off the plateau at [MASK]", LEARNT, "gap", most=-0.5, unit="nats"),)

COMPARISONS = (
    Comparison(
        "disentangled attention against absolute positions, equal operations", "disentangled", "absolute", "loss", better=-1
    ),
    Comparison("the same, as many steps", "disentangled", "absolute_steps", "loss", better=-1),
    Comparison("disentangled attention against a number for each distance", "disentangled", "t5", "loss", better=-1),
    Comparison("both terms against content to position alone", "disentangled", "c2p", "loss", better=-1),
    Comparison("both terms against position to content alone", "disentangled", "p2c", "loss", better=-1),
    Comparison("with the enhanced mask decoder against without", "emd", "disentangled", "loss", better=-1),
    Comparison("the decoder with absolute positions against without", "emd", "emd_without", "loss", better=-1),
    Comparison("absolute positions against none", "absolute", "none", "loss", better=-1),
    Comparison(f"rows of {LONGER}, twice as long as learnt", "disentangled", "absolute", f"loss_{LONGER}", better=-1),
)

_RATES = {"rate": (1e-3, 2e-3, 4e-3, 8e-3)}
TUNING = Tuning(
    grids={"absolute": _RATES, "disentangled": _RATES, "t5": _RATES},
    settings={"judged_on": "dev"},
    figure="dev",
    better=-1,
    like={
        "absolute_steps": "absolute", "none": "absolute",
        **{name: "disentangled" for name in ("c2p", "p2c", "emd", "emd_without")},
    },
)  # fmt: skip

CLAIM = Claim(
    collection="Human-level SuperGLUE",
    paper=(
        "SuperGLUE 89.9 (1.5 billion parameters), 90.3 (ensemble) against 89.8 for people, who stay ahead on five of eight "
        "tasks. Large model against RoBERTa-large, on half the data: MNLI +0.9, SQuAD 2.0 +2.3. Base model, SQuAD 2.0 F1: 82.5; "
        "without content to position 81.3, without position to content 80.8, without the enhanced mask decoder 81.3"
    ),
    source="He et al. 2021, tables 1, 4 and 5, arXiv:2006.03654",
)

NOTES = (
    "Encoders of 2 layers, 128 wide, that guess masked words of short requests, packed into rows of 32 tokens; no dropout, no "
    "downstream task: the paper's models have a hundred million parameters and more.",
    "Operations: those of all matrix products, forward and backward, softmax over words included. Moving numbers about is not "
    "among them: the column of a step's time says what it costs in NumPy.",
    "All seeds read the same training rows and are judged on the same held-out rows, so intervals are widened (Nadeau & Bengio).",
    "Rates: the best of four for each of three kinds of positions, on development rows, one seed not reported; the other arms "
    "take that of their kind.",
    f"Distances from {REACH} on share a vector. Rows are cut anywhere in a stream of requests, so an absolute place says little "
    "by itself; a text that begins where a row does would give the enhanced mask decoder more to know.",
    f"Rows of {LONGER}: positions from 32 on were never learnt from.",
)

WHOLE = Experiment(
    number=3,
    slug="deberta_disentangled_attention",
    title="DeBERTa's disentangled attention",
    scale="encoders of 2 layers, 128 wide, on packed requests, 3 TFLOP each",
    question="For as much compute, does a model guess words better when distances have vectors of their own?",
    claim=CLAIM,
    arms=ARMS,
    metrics=METRICS,
    comparisons=COMPARISONS,
    checks=CHECKS,
    tuning=TUNING,
    run=run,
    replay=replay,
    minutes=60,
    code=(architectures, pretraining, flops, held_out_loss),
    notes=NOTES,
)

_SHORT = {"tflop": 0.6, "rate": 2e-3}
_QUICK = {"tflop": 0.01, "rate": 2e-3, "warmup": 2, "held_out": 200, "evaluations": 2}


def _short(settings: dict, quick: Experiment | None) -> Experiment:
    names = ("absolute", "disentangled", "unigram")
    arms = tuple(replace(arm, settings=arm.settings | settings, control="") for arm in ARMS if arm.name in names)
    notes = ("Short: enough to see that all works and what a step costs, too little to learn much.",)
    return shorter(WHOLE, WHOLE.question, arms, notes, quick)


EXPERIMENT = replace(WHOLE, quick=_short(_SHORT, _short(_QUICK, None)))
