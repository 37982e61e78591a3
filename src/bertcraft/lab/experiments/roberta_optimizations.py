"""01: what do RoBERTa's choices buy, one at a time, at equal numbers of tokens read?

Two settings, and every comparison stays within one. *Requests*: short texts, a row each, from which a small encoder learns
most in a minute; here masks, batch and masking rate are compared. *Conversations*: documents of many messages, as the input
formats (segment pairs, full sentences) need them. Learning rates were chosen on ``dev`` with one seed; what was
tried stands beside them.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np

from bertcraft.bert import Config, encoder, heads
from bertcraft.lab import pretraining, probes
from bertcraft.lab.experiment import Arm, Claim, Comparison, Context, Experiment, Metric
from bertcraft.lab.pretraining import Setting, Texts
from bertcraft.pretrain import held_out as held_out_loss
from bertcraft.pretrain.held_out import HeldOut
from bertcraft.techniques import roberta_optimizations as technique

REPLAYED = 40  # first losses that are stored and can be replayed
SENTENCES = (
    "how do i activate my new [MASK] ?",
    "set an [MASK] for seven in the morning",
    "what is the exchange [MASK] for euros ?",
)


@dataclass(frozen=True)
class Task:
    """What an arm trains: its setting, texts and model, batches, objective, and the figures on held-out text."""

    setting: Setting
    texts: Texts
    config: Config
    make_batch: Callable[[int], dict]
    loss: Callable
    held_out: dict[str, HeldOut]  # "loss": what is followed through training; others: looked at once at the end


def task_of(arm: Arm, seed: int) -> Task:
    """The task that an arm's settings describe."""
    own = {field.name for field in fields(Setting)}
    setting = Setting(**{name: value for name, value in arm.settings.items() if name in own})
    return (_pairs if arm.settings.get("format") in PAIRS else _masked_texts)(arm, setting, seed)


def _masked_texts(arm: Arm, setting: Setting, seed: int) -> Task:
    """Rows of text alone: requests, or full sentences."""
    texts = pretraining.prepare(setting)
    config = pretraining.config_of(setting, len(texts.log_frequency))
    make_batch = pretraining.batch_maker(setting, texts, seed, arm.settings.get("copies"))
    if setting.packed:
        held_out = held_out_formats(setting, texts)
        held_out = {"loss": held_out["full"], "loss_other_format": held_out["pairs"]}
    else:
        held_out = {"loss": HeldOut(texts.held_out, texts)}
    loss = lambda params, batch, rng: technique.masked_lm_loss(params, batch, rng, config)  # noqa: E731
    return Task(setting, texts, config, make_batch, loss, held_out)


# ------------------------------------------------------------------------------------------------------ segment pairs

PAIRS = ("pairs", "pairs_nsp")


def segments(setting: Setting, part: str, most: int) -> list[list[np.ndarray]]:
    """Stretches of text in two segments each, the second the continuation of the first, so long that a row of [CLS] A [SEP] B
    [SEP] is full. No token is in two of them: the pairs read the text as often as full sentences do."""
    tokenizer, parts = pretraining.documents(setting.corpus, setting.vocab_size)
    size, found = (setting.length - 3) // 2, []
    for tokens in pretraining.tokenize_some(tokenizer, parts[part], None):
        for start in range(0, len(tokens) - 2 * size + 1, 2 * size):
            found.append([tokens[start : start + size], tokens[start + size : start + 2 * size]])
        if len(found) >= most:
            break
    return found[:most]


def pair_rows(setting: Setting, texts: Texts, part: str, most: int, seed: int) -> technique.SentencePairs:
    """Segment pairs, half of them with a second segment drawn from anywhere else."""
    ids = [texts.tokenizer.token_to_id(token) for token in ("[CLS]", "[SEP]", "[PAD]")]
    stretches = segments(setting, part, most)
    return technique.sentence_pairs(stretches, setting.length, *ids, np.random.default_rng((seed, 3)))


def _pairs(arm: Arm, setting: Setting, seed: int) -> Task:
    """BERT's input format, with or without its second objective."""
    from bertcraft.data.batches import batch_indices

    texts = pretraining.prepare(setting)
    next_sentence = arm.settings["format"] == "pairs_nsp"
    config = pretraining.config_of(setting, len(texts.log_frequency), head="pretraining" if next_sentence else "masked_lm")
    rows = pair_rows(setting, texts, "train", setting.steps * setting.batch, seed)

    def make_batch(step: int) -> dict:
        chosen = batch_indices(len(rows.input_ids), setting.batch, seed, step)
        reading = np.arange(step * setting.batch, (step + 1) * setting.batch) // len(rows.input_ids)
        batch = pretraining.mask(rows.input_ids[chosen], chosen, reading, seed, setting.mask_rate, texts.vocabulary)
        batch["token_type_ids"] = rows.token_type_ids[chosen]
        return {**batch, "next_sentence": rows.labels[chosen]} if next_sentence else batch

    objective = technique.masked_lm_and_next_sentence_loss if next_sentence else technique.masked_lm_loss
    loss = lambda params, batch, rng: objective(params, batch, rng, config)  # noqa: E731
    held_out = held_out_formats(setting, texts)
    held_out = {"loss": held_out["pairs"], "loss_other_format": held_out["full"]}
    return Task(setting, texts, config, make_batch, loss, held_out)


def held_out_formats(setting: Setting, texts: Texts) -> dict[str, HeldOut]:
    """The same held-out text with the same words masked, once as true segment pairs, once without a [SEP] between the two."""
    cls_id, sep_id = (texts.tokenizer.token_to_id(token) for token in ("[CLS]", "[SEP]"))
    stretches = segments(setting, "held_out", setting.held_out)
    rows = np.array([[cls_id, *first, sep_id, *second, sep_id] for first, second in stretches], np.int32)
    middle = 1 + len(stretches[0][0])
    pairs, full = HeldOut(rows, texts), HeldOut(rows, texts)
    pairs.batch["token_type_ids"] = np.repeat([(np.arange(rows.shape[1]) > middle).astype(np.int32)], len(rows), axis=0)
    full.batch = {
        **{name: np.delete(full.batch[name], middle, axis=1) for name in ("input_ids", "attention_mask")},
        "at": np.where(full.batch["at"] > middle, full.batch["at"] - 1, full.batch["at"]),
        "labels": full.batch["labels"],
    }
    return {"pairs": pairs, "full": full}


def next_sentence_accuracy(params: dict, task: Task) -> float:
    """How often the second objective is met on held-out text, in %; 50 by chance."""
    rows = pair_rows(task.setting, task.texts, "held_out", task.setting.held_out, 0)
    hidden = encoder.encode(params, task.config, rows.input_ids, None, rows.token_type_ids, at=np.zeros((len(rows[0]), 1), int))
    logits = heads.next_sentence_logits(params, task.config, hidden)
    return 100 * float((logits.argmax(axis=1) == rows.labels).mean())


# --------------------------------------------------------------------------------------------------------------- runs


def fitted(arm: Arm, seed: int, context: Context, task: Task, steps: int | None = None):
    """Train an arm, wholly or for its first steps; a ``FitResult``."""
    params = pretraining.initial(task.config, task.texts, seed)
    return pretraining.train(
        task.setting, params, task.loss, task.make_batch, seed=seed, context=context,
        signature={"arm": arm.name, **arm.settings}, steps=steps,
        evaluate=None if steps else lambda params: task.held_out["loss"](params, task.config),
    )  # fmt: skip


def figures(task: Task, result) -> dict:
    """What training left behind: losses at its start, held-out loss on the way and at its end."""
    last = result.evaluations[-1][1]
    return {
        "loss": last["loss"], "gain": task.held_out["loss"].unigram - last["loss"], "accuracy": 100 * last["accuracy"],
        "unigram": task.held_out["loss"].unigram, "first_losses": result.losses[:REPLAYED].tolist(),
        "rows_read": [step * task.setting.batch for step, _ in result.evaluations],
        "curve": [found["loss"] for _, found in result.evaluations],
    }  # fmt: skip


def run(arm: Arm, seed: int, context: Context) -> dict:
    """One arm of the whole experiment: trained, then probed."""
    task = task_of(arm, seed)
    result = fitted(arm, seed, context, task)
    found = figures(task, result)
    if "loss_other_format" in task.held_out:
        found["loss_other_format"] = task.held_out["loss_other_format"](result.params, task.config)["loss"]
    if arm.settings.get("format") == "pairs_nsp":
        found["next_sentence"] = next_sentence_accuracy(result.params, task)
    probe = probes.Probes(task.setting, task.texts)
    found["untrained"] = probe(pretraining.initial(task.config, task.texts, seed), task.config)
    return found | probe(result.params, task.config)


def replay(arm: Arm, seed: int, context: Context) -> dict:
    """The training losses of an arm's first steps."""
    result = fitted(arm, seed, context, task_of(arm, seed), REPLAYED)
    return {"first_losses": result.losses.tolist()}


def run_short(arm: Arm, seed: int, context: Context) -> dict:
    """One arm of the short form: trained; the technique's model fills in some sentences and is kept."""
    from bertcraft.bert import Model

    task = task_of(arm, seed)
    result = fitted(arm, seed, context, task)
    found = figures(task, result)
    if arm.settings.get("kept"):
        model = Model(task.config, result.params)
        model.tokenizer = task.texts.tokenizer
        found["told"] = []
        for sentence in SENTENCES:
            words = ", ".join(f"{word} {p:.0%}" for word, p in model.fill(sentence, top=3)[0])
            found["told"].append(f"{sentence} -> {words}")
        if context.folder:
            model.save(context.folder / "model")
            found["told"].append(f"model  {context.folder / 'model'}")
            found["told"].append("opens with transformers.AutoModelForMaskedLM.from_pretrained and bertcraft fill")
    return found


# -------------------------------------------------------------------------------------------------------- declaration

# Tried on ``dev``, one seed, loss after 76,800 rows. Batch of 64: rate 1e-3 5.32, 2e-3 5.25 (83,200 rows), 4e-3 6.31; batch of
# 256: 1e-3 5.81, 2e-3 5.51, 4e-3 5.61, 8e-3 6.37. Conversations, 25,600 rows: 1e-3 5.85, 2e-3 5.84.
REQUESTS = {"corpus": "utterances", "length": 32, "vocab_size": 4096, "batch": 64, "steps": 1600, "rate": 2e-3, "warmup": 80}
FEW = REQUESTS | {"texts": 2560}  # 1,600 x 64 / 2,560 = 40 readings, as often as BERT read its text
BATCH = REQUESTS | {"batch": 256, "steps": 400, "warmup": 20}
CONVERSATIONS = {
    "corpus": "chitchat", "packed": True, "length": 31, "vocab_size": 2048, "held_out": 1700, "batch": 32, "shard": 32,
    "steps": 2400, "rate": 2e-3, "warmup": 100,
}  # fmt: skip

METRICS = {
    "loss": Metric("held-out loss at [MASK]", "nats"),
    "unigram": Metric("word frequencies alone", "nats"),
    "accuracy": Metric("words guessed", "%", 1),
}
SHORT = REQUESTS | {"texts": 20_800, "steps": 1300, "warmup": 50}  # four readings: as often as BERT read each of its masks
QUICK = SHORT | {"texts": 4480, "steps": 280, "batch": 32, "rate": 1e-3, "warmup": 20, "evaluations": 2, "held_out": 600}


def _comparisons() -> tuple[Comparison, ...]:
    """Each question by the held-out loss, and by those probes that it should show in."""
    asked = (
        ("dynamic masks against 10 static ones", "dynamic", "static10", ("bigram_shift", "intents")),
        ("10 static masks against a single one", "static10", "static1", ()),
        ("full sentences without NSP against segment pairs with it", "full", "pairs_nsp", ("bigram_shift", "intents")),
        ("NSP dropped, segment pairs kept", "pairs", "pairs_nsp", ("bigram_shift", "intents")),
        ("full sentences against segment pairs, both without NSP", "full", "pairs", ()),
        ("batch of 256 against 64, equal tokens", "batch256", "base", ("bigram_shift",)),
        ("40 % masked against 15 %", "mask40", "base", ("bigram_shift", "intents")),
        ("18 times as much text, equal compute", "base", "dynamic", ("bigram_shift", "intents")),
    )
    found = [Comparison(name, treatment, baseline, "loss", better=-1) for name, treatment, baseline, _ in asked]
    for name, treatment, baseline, metrics in asked:
        found += [Comparison(f"{name}: {probes.TITLES[m]}", treatment, baseline, m, better=1) for m in metrics]
    return tuple(found)


CLAIM = Claim(
    collection="+3-5 points over BERT",
    paper=(
        "GLUE dev, large models: +4.9 points on average over eight tasks (0.9 on QQP to 16.2 on RTE), with ten times the data "
        "and 16 times the compute. By itself (base model, SQuAD 2.0 F1 / MNLI / SST-2): dynamic masking +0.4 / -0.3 / +0.4; full "
        "sentences without NSP +0.4 / +0.7 / -0.4; batch 2K instead of 256: perplexity 3.68 instead of 3.99"
    ),
    source="Liu et al. 2019, sections 4 and 5, arXiv:1907.11692; 40 % masking: Wettig et al. 2023, arXiv:2202.08005",
)

_SHORT_ARMS = {"static": {"copies": 1}, "dynamic": {"kept": True}}


def _short(settings: dict, question: str, quick: Experiment | None) -> Experiment:
    arms = tuple(Arm(name, f"{name} masks", settings | own) for name, own in _SHORT_ARMS.items())
    return Experiment(
        number=1, slug="roberta_optimizations", title="RoBERTa's optimisations", question=question, claim=CLAIM, arms=arms,
        scale="models of 2 layers, 128 wide, 2,560 short texts",
        metrics=METRICS, comparisons=(Comparison("dynamic masks against static ones", "dynamic", "static", "loss", better=-1),),
        run=run_short, replay=replay, minutes=1.2, seeds=1, quick=quick,
        notes=() if quick else ("Quick: enough to see that all works, too short to learn much.",),
    )  # fmt: skip


EXPERIMENT = Experiment(
    number=1,
    slug="roberta_optimizations",
    title="RoBERTa's optimisations",
    scale="models of 2 layers, 128 wide, 2,560 short texts",
    question="Which of RoBERTa's changes to BERT's pretraining pay off by themselves, with as many tokens read?",
    claim=CLAIM,
    arms=(
        Arm("static10", "10 static masks", FEW | {"copies": 10}),
        Arm("dynamic", "dynamic masks", FEW),
        Arm(
            "static1", "one static mask", FEW | {"copies": 1},
            control="Ten masks may be as good as new ones: what repeating masks costs must show where there is only one.",
        ),
        Arm(
            "base", "all requests, batch 64, 15 %", REQUESTS,
            control="The same steps on all the text: more text against more readings, at equal compute.",
        ),
        Arm("batch256", "batch of 256", BATCH),
        Arm("mask40", "40 % masked", REQUESTS | {"mask_rate": 0.4}),
        Arm("pairs_nsp", "segment pairs with NSP", CONVERSATIONS | {"format": "pairs_nsp"}),
        Arm("full", "full sentences, no NSP", CONVERSATIONS | {"format": "full"}),
        Arm(
            "pairs", "segment pairs, no NSP", CONVERSATIONS | {"format": "pairs"},
            control="The paper changes objective and input format at once; here the objective goes and the pairs stay.",
        ),
    ),
    metrics={
        "loss": Metric("held-out loss", "nats"),
        "loss_other_format": Metric("in the other format", "nats"),
        "bigram_shift": Metric(probes.TITLES["bigram_shift"], "%", 1),
        "replaced_word": Metric(probes.TITLES["replaced_word"], "%", 1),
        "intents": Metric(probes.TITLES["intents"], "%", 1),
    },
    comparisons=_comparisons(),
    run=run,
    replay=replay,
        minutes=55,
    code=(pretraining, probes, held_out_loss),
    quick=_short(
        SHORT, "Are masks drawn anew at each reading (dynamic) better than one mask for all four readings (static)?",
        _short(QUICK, "Are masks drawn anew at each reading (dynamic) better than one mask for both readings (static)?", None),
    ),
    notes=(
        "A BERT of 2 layers, 128 wide, minutes of training: what pays off after days on 16 GB of text may differ.",
        "Requests and conversations are two settings with vocabularies of their own: losses compare within one only.",
        "Held-out loss is taken at masks that all arms and seeds share, 15 % of the words; segment pairs and full sentences are "
        "each tested in the format they were trained in, on the same text and masks, and once in the other's.",
        "With 40 % masked, a step predicts 2.7 times as many words and takes somewhat longer; texts read are equal.",
        "Intervals are those of training (seeds), not of the choice of texts, and not corrected for the number of comparisons.",
    ),
)  # fmt: skip
