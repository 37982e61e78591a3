"""03: are distances with vectors of their own better than places added to the words, for as much compute?

Small encoders that differ in nothing but what they know of positions, and start from the same numbers: their other parameters
have the same names and seeds. All are a DeBERTa of :mod:`bertcraft.bert`; with absolute positions and no distances that is a BERT
(a test holds it to one). Trained on short requests, a row each, masked alike, they are judged at [MASK].

The claim was to be tested on requests packed into full rows. Tried on development rows with seed 1000, 32 tokens a row, before
any reported run (loss at [MASK] less that of word frequencies, nats): absolute positions, batch 64, 4,096 pieces, 3 TFLOP, rate
2e-3: -0.05; batch 16, 2,048 pieces, 2.4 TFLOP: +0.01 at 2e-3, -0.04 at 1e-3; disentangled attention, the same, 2e-3: -1.04. There
the baseline has learnt nothing that a comparison could be about. With a request a row, batch 64, 4,096 pieces, 2 TFLOP, 2e-3:
absolute positions -0.99, disentangled attention -1.39. So the claim is tested there, on the baseline's own ground: a place in a
row is then a place in a sentence. The budget of 3 TFLOP is what an hour allows. Packed rows are further arms, each kind with
rates of its own, and so are rows twice as long as those that a model has learnt from, of which only packed text is full.
"""

from dataclasses import replace

import numpy as np

from bertcraft.bert import encoder
from bertcraft.bert.relative_positions import distance_buckets
from bertcraft.lab import architectures, flops, parts, pretraining
from bertcraft.lab.architectures import Architecture
from bertcraft.lab.experiment import Arm, Check, Claim, Comparison, Context, Experiment, Metric, Tuning, shorter
from bertcraft.lab.pretraining import Setting, Texts
from bertcraft.pretrain import held_out as held_out_loss
from bertcraft.techniques import deberta_disentangled_attention as technique
from bertcraft.tensor import functions as F

LONGER = 64  # tokens of the rows that are read besides: twice those that were learnt from
REACH = 16  # k: half a row, so that the ends of the table, which stand for all that is farther, are learnt too
T5_BUCKETS = 32
TRAINED = 46_453  # requests that are learnt from

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
    """One arm: trained, then judged on unread rows, packed ones also of twice the length; a trial on development rows alone."""
    settings = arm.settings
    task = architectures.task_of(settings, seed, build)
    if arm.trivial:
        return architectures.trivial(task, settings["method"])
    if "judged_on" in settings:
        found = architectures.run(task, settings, seed, context, settings["judged_on"])
        return {"dev": found["loss"], **{name: found[name] for name in ("curve", "steps", "first_losses")}}
    found = architectures.run(task, settings, seed, context, others=(LONGER,) if settings["packed"] else ())
    return found | ({"longer": found[f"gap_{LONGER}"] - found["gap"]} if settings["packed"] else {})


def replay(arm: Arm, seed: int, context: Context) -> dict:
    """The price of a step and the first training losses; all of an arm that is not trained."""
    task = architectures.task_of(arm.settings, seed, build)
    if arm.trivial:
        return architectures.trivial(task, arm.settings["method"])
    return architectures.replay(task, arm.settings, seed, context)


# -------------------------------------------------------------------------------------------------------- declaration

REQUESTS = {  # base T: a request a row
    "corpus": "utterances", "packed": False, "length": 32, "vocab_size": 4096, "held_out": 3000, "batch": 64, "shard": 32,
    "warmup": 60, "evaluations": 5, "tflop": 3.0,
}  # fmt: skip
PACKED = REQUESTS | {
    "packed": True, "vocab_size": 2048, "held_out": 1000, "batch": 16, "shard": 16, "tflop": 2.4,
}  # fmt: skip
ABSOLUTE, DISTANCES, T5 = ({"positions": name} for name in ("absolute", "distances", "t5"))

ARMS = (
    Arm("absolute", "absolute positions", REQUESTS | ABSOLUTE),
    Arm("disentangled", "disentangled attention", REQUESTS | DISTANCES),
    Arm(
        "absolute_steps", "absolute positions, as few steps", REQUESTS | ABSOLUTE | {"as_many_steps_as": DISTANCES},
        control="Equal operations give absolute positions more steps: how much do these make up for?",
    ),
    Arm(
        "absolute_longer", "absolute positions, twice as long", REQUESTS | ABSOLUTE | {"tflop": 6.0},
        control="Are absolute positions only slower? Here they have twice the operations.",
    ),
    Arm(
        "disentangled_longer", "disentangled attention, twice as long", REQUESTS | DISTANCES | {"tflop": 6.0},
        control="Does the difference close where both have twice the operations?",
    ),
    Arm(
        "t5", "a number for each distance (T5)", REQUESTS | T5,
        control="Is it the vectors that meet the words, or distance alone? Here each distance has one number a head.",
    ),
    Arm(
        "c2p", "content to position alone", REQUESTS | DISTANCES | {"terms": ["c2p"]},
        control="Without position to content: close to Shaw et al. 2018, whose keys have a vector for each distance.",
    ),
    Arm(
        "p2c", "position to content alone", REQUESTS | DISTANCES | {"terms": ["p2c"]},
        control="Without content to position.",
    ),
    Arm(
        "emd", "enhanced mask decoder", REQUESTS | DISTANCES | {"decoder": "places"},
        control="The other half of DeBERTa: absolute positions come in before the words are guessed.",
    ),
    Arm(
        "emd_without", "the decoder without positions", REQUESTS | DISTANCES | {"decoder": "nothing"},
        control="Are they the positions, or is it the last layer's second pass?",
    ),
    Arm(
        "none", "no positions", REQUESTS | {"positions": "none"},
        control="How much of the task can be done by a bag of words?",
    ),
    *(
        Arm(
            f"{name}_packed", f"{title}, packed rows", PACKED | own,
            control="Rows filled with requests end to end: a place says little, and most words near by are another's.",
        )
        for name, title, own in (
            ("absolute", "absolute positions", ABSOLUTE), ("disentangled", "disentangled attention", DISTANCES),
            ("t5", "a number for each distance", T5),
        )
    ),
    Arm("untrained", "untrained", REQUESTS | DISTANCES | {"method": "untrained"}, trivial=True),
    Arm("unigram", "word frequencies", REQUESTS | DISTANCES | {"method": "unigram"}, trivial=True),
    Arm("unigram_packed", "word frequencies, packed rows", PACKED | DISTANCES | {"method": "unigram"}, trivial=True),
)  # fmt: skip
LEARNT = tuple(arm.name for arm in ARMS if not arm.trivial and arm.name != "none")

_OVERLAP = 3000 / TRAINED  # texts tested over texts trained on, the same for all seeds; of packed rows it is a little less
METRICS = {
    "loss": Metric("loss at [MASK]", "nats", overlap=_OVERLAP),
    "loss_kept": Metric("loss at kept words", "nats", overlap=_OVERLAP),
    "loss_random": Metric("loss at random words", "nats", overlap=_OVERLAP),
    "accuracy": Metric("words guessed at [MASK]", "%", 1, overlap=_OVERLAP),
    "longer": Metric(f"what rows of {LONGER} cost", "nats", overlap=_OVERLAP),
    "time": Metric("a step", "ms", 1),
}

CHECKS = (Check("off the plateau at [MASK]", LEARNT, "gap", most=-0.5, unit="nats"),)


def _against(name: str, treatment: str, baseline: str, metric: str = "loss") -> Comparison:
    return Comparison(name, treatment, baseline, metric, better=-1)


COMPARISONS = (
    _against("disentangled attention against absolute positions, equal operations", "disentangled", "absolute"),
    _against("the same, as many steps", "disentangled", "absolute_steps"),
    _against("the same, each with twice the operations", "disentangled_longer", "absolute_longer"),
    _against("the same, twice the operations for absolute positions alone", "disentangled", "absolute_longer"),
    _against("disentangled attention against a number for each distance", "disentangled", "t5"),
    _against("both terms against content to position alone", "disentangled", "c2p"),
    _against("both terms against position to content alone", "disentangled", "p2c"),
    _against("the enhanced mask decoder against none", "emd", "disentangled"),
    _against("the decoder with absolute positions against without", "emd", "emd_without"),
    _against("absolute positions against none", "absolute", "none"),
    _against("disentangled against absolute in packed rows", "disentangled_packed", "absolute_packed"),
    _against("packed rows twice as long as learnt, against absolute", "disentangled_packed", "absolute_packed", "longer"),
    _against("the same, against a number for each distance", "disentangled_packed", "t5_packed", "longer"),
)

_RATES = {"rate": (5e-4, 1e-3, 2e-3, 4e-3, 8e-3)}
TUNING = Tuning(
    grids={name: _RATES for name in ("absolute", "disentangled", "t5", "absolute_packed", "disentangled_packed", "t5_packed")},
    settings={"judged_on": "dev"},
    figure="dev",
    better=-1,
    like={
        **{name: "absolute" for name in ("absolute_steps", "absolute_longer", "none")},
        **{name: "disentangled" for name in ("disentangled_longer", "c2p", "p2c", "emd", "emd_without")},
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
    "Encoders of 2 layers, 128 wide, that guess masked words of short requests; no dropout, no downstream task. The paper's have "
    "a hundred million parameters and more, and read rows of 512 tokens.",
    "Operations: those of all matrix products, forward and backward, softmax over words included. Moving numbers about is not "
    "among them: the column of a step's time says what it costs in NumPy.",
    "All seeds read the same training texts and are judged on the same held-out ones: intervals are widened (Nadeau & Bengio).",
    "Rates: the best of five for each kind of positions, in either kind of rows, on development texts, one seed not reported; "
    "the other arms take that of their kind.",
    f"Distances from {REACH} on share a vector. Packed rows: batch 16, 2,048 pieces, {PACKED['tflop']} TFLOP.",
    f"Rows of {LONGER}: positions from {PACKED['length']} on were never learnt from. What they cost is the loss there less that "
    f"in rows of {PACKED['length']}, each less that of word frequencies.",
)

WHOLE = Experiment(
    number=3,
    slug="deberta_disentangled_attention",
    title="DeBERTa's disentangled attention",
    scale="encoders of 2 layers, 128 wide, on short requests, 3 TFLOP each (twice as long: 6)",
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
    code=(architectures, parts, pretraining, flops, held_out_loss),
    notes=NOTES,
)

_SHORT = {"tflop": 0.8, "rate": 2e-3, "held_out": 1000}
_QUICK = {"tflop": 0.01, "rate": 2e-3, "warmup": 2, "held_out": 200, "evaluations": 2}


def _short(settings: dict, quick: Experiment | None) -> Experiment:
    names = ("absolute", "disentangled", "unigram")
    arms = tuple(replace(arm, settings=arm.settings | settings, control="") for arm in ARMS if arm.name in names)
    notes = ("Short: enough to see that all works and what a step costs, too little to learn much.",)
    return shorter(WHOLE, WHOLE.question, arms, notes, quick)


EXPERIMENT = replace(WHOLE, quick=_short(_SHORT, _short(_QUICK, None)))
