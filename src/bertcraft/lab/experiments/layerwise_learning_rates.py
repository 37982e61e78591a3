"""08: do rates that fall from the head to the embeddings fine-tune a better classifier than one rate, each tuned alike?

MiniLM (6 layers) learns from 500 labelled texts of TREC, HWU64 or BANKING77: a seed has one of the three tasks, in turn, texts
drawn from its training part, and a new head; every arm of a seed reads the same texts in the same batches, with dropout 0.1, 200
steps of 16 (each text six times). Every arm has the rate that was best for it on development texts, the mean over the three
tasks. All try five rates, each twice the one before. Where the best was the last, the grid was moved up: once for unfreezing and
a frozen lower half, twice for ULMFiT's decay, whose layers have 0.27 of the top one's rate in the mean.

A decay of 0.9 a layer leaves six layers' embeddings 0.53 of the rate, as 0.95 does with BERT-base's twelve, where Sun et al.
found it best: so 0.9 is the claim here, and 0.95 a control. ULMFiT's two other parts, its triangle and gradual unfreezing, come
on top of 0.9; a head that is ten times as fast as the body, and a frozen lower half, with and without its dropout, ask whether
depth is the point at all.

Known beforehand: full fine-tuning's best rate was near 2e-4 for 2,720 texts of TREC (experiment 12's trials).
"""

import functools
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from bertcraft.bert import Config
from bertcraft.bert.model import Model, load
from bertcraft.data import task, weights
from bertcraft.data.labelled import Labelled, Split
from bertcraft.lab import baselines, frozen, ruled
from bertcraft.lab import finetune as tuning
from bertcraft.lab.experiment import Arm, Check, Claim, Comparison, Context, Experiment, Metric, Tuning, shorter
from bertcraft.techniques import layerwise_learning_rates as technique
from bertcraft.train import Rule, adamw, chain, clip_by_global_norm, warmup_linear

TASKS = ("trec", "hwu64", "banking77")
TEXTS, TESTED, LONGEST = 500, 500, 32  # texts of a seed, questions it is judged by, tokens of a text
HOW = tuning.Settings(batch_size=16, shard_size=16, dropout=0.1, max_length=LONGEST)
WINDOW = 20  # steps whose losses are stored as one mean

# ------------------------------------------------------------------------------------------------------------------ texts


def task_of(seed: int) -> str:
    """A seed's task: in turn, those of tuning too."""
    return TASKS[(seed if seed < 1000 else seed - 1000) % len(TASKS)]


@functools.cache
def model() -> Model:
    return load(weights("minilm"))


@functools.cache
def data_of(name: str) -> tuple[Labelled, Split]:
    """All texts of a task, and the rows of its parts; of development and test at most TESTED, taken at random once."""
    found = task(name)
    parts = [found.train, found.dev, found.test]
    texts, numbers = [text for part in parts for text in part.texts], np.concatenate([part.labels for part in parts])
    train, dev, test = np.split(np.arange(len(texts)), np.cumsum([len(part) for part in parts])[:-1])
    rng = np.random.default_rng(0)
    dev, test = (np.sort(rng.permutation(rows)[:TESTED]) for rows in (dev, test))
    return Labelled(texts, list(found.labels), numbers, np.arange(len(texts)), []), Split(train, dev, test)


def split(texts: int, seed: int) -> Split:
    """A seed's training texts, some of every class as far as they go; its task's development and test texts."""
    data, known = data_of(task_of(seed))
    shuffled = np.random.default_rng((seed, 0)).permutation(known.train)
    return known._replace(train=np.sort(baselines.stratified(data, shuffled)[:texts]))


def some(name: str, rows: np.ndarray) -> tuning.Texts:
    data, _ = data_of(name)
    return tuning.Texts([data.texts[i] for i in rows], data.numbers[rows])


# ---------------------------------------------------------------------------------------------------------------- one run


def rule_of(settings: dict, params: dict, config: Config) -> Rule:
    """Clipped AdamW with an arm's rates by depth, the layers that are frozen, and those that join late."""
    steps, layers = settings["steps"], config.num_hidden_layers
    slanted = settings["schedule"] == "slanted"
    schedule = (
        technique.slanted_triangle(settings["rate"], steps) if slanted else warmup_linear(settings["rate"], steps // 10, steps)
    )
    depth = technique.depths(params, config)
    starts = technique.unfreezing(layers, steps // (2 * layers + 2)) if settings["unfreezing"] else None  # all by half of it
    factors, clip = technique.factors(settings["decay"], layers, settings["head"]), clip_by_global_norm(1.0)
    if settings["frozen"]:
        learns = {name: int(d > settings["frozen"]) for name, d in depth.items()}
        return technique.by_group(learns, {0: technique.FROZEN, 1: chain(clip, adamw(schedule))})
    return chain(clip, technique.layerwise(schedule, factors, depth, adamw, starts))


def quiet(params: dict, config: Config, batch: dict, rng, lower: int):
    """The first token's states where the lower layers do not drop out."""
    ids, mask = batch["input_ids"], batch["attention_mask"]
    states = technique.below(params, config, ids, mask, frozen=lower)
    return technique.above(params, config, states, mask, frozen=lower, rng=rng)[:, :1]


def learnt(settings: dict, seed: int, context: Context, steps: int | None = None) -> tuple[tuning.Finetuned, np.ndarray]:
    texts = some(task_of(seed), split(settings["texts"], seed).train)
    more = {"first": functools.partial(quiet, lower=settings["frozen"])} if settings["quiet"] else {}
    return ruled.classifier(
        model(), texts, lambda params, config: rule_of(settings, params, config), replace(HOW, steps=settings["steps"]),
        classes=len(data_of(task_of(seed))[0].labels), seed=seed, context=context, steps=steps, **more,
    )  # fmt: skip


def _by_probe(data: Labelled, parts: Split) -> Callable:
    """Logistic regression on MiniLM's sentence vectors, its strength chosen on the development part."""
    vectors = frozen.Vectors(frozen.with_mean(model()), data.texts, LONGEST)
    right = lambda labels, found: float(np.mean(labels == found))  # noqa: E731
    known, on_dev = (data.numbers[rows] for rows in (parts.train, parts.dev))
    head, _ = frozen.chosen(vectors(parts.train), known, vectors(parts.dev), on_dev, right)
    return lambda rows: frozen.classify(head, vectors(rows))


TRIVIAL = {
    "probe": _by_probe,
    "tfidf": lambda data, parts: baselines.tfidf(data, parts).classify,
    "majority": lambda data, parts: baselines.majority(data, parts).classify,
}


def run(arm: Arm, seed: int, context: Context) -> dict:
    """Learn from a seed's texts, then answer its task's test texts; a trial answers development texts. In %."""
    settings, (data, _) = arm.settings, data_of(task_of(seed))
    parts, is_trial, figures = split(settings["texts"], seed), settings.get("judged_on") == "dev", {}
    if arm.trivial:
        classify = TRIVIAL[settings["method"]](data, parts)
    else:
        tuned, losses = learnt(settings, seed, context)
        figures = {"first_losses": losses[: ruled.REPLAYED].tolist()}
        figures["losses"] = [round(float(part.mean()), 4) for part in np.split(losses, range(WINDOW, len(losses), WINDOW))]
        classify = lambda rows: tuning.predict(tuned, some(task_of(seed), rows).texts, context.threads).argmax(axis=1)  # noqa: E731
    rows = parts.dev if is_trial else parts.test
    right = 100 * float(np.mean(classify(rows) == data.numbers[rows]))
    return {"dev": right} if is_trial else figures | {"accuracy": right, task_of(seed): right}


def replay(arm: Arm, seed: int, context: Context) -> dict:
    """The losses of the first steps; a trivial row is measured again."""
    if arm.trivial:
        return run(arm, seed, context)
    steps = min(ruled.REPLAYED, arm.settings["steps"])
    return {"first_losses": learnt(arm.settings, seed, context, steps)[1].tolist()}


# -------------------------------------------------------------------------------------------------------- declaration

_SHARED = {"texts": TEXTS, "steps": 200}


def _arms(shared: dict) -> tuple[Arm, ...]:
    def of(name: str, title: str, control: str = "", **more) -> Arm:
        own = {"decay": 1.0, "head": 1.0, "schedule": "linear", "unfreezing": False, "frozen": 0, "quiet": False}
        return Arm(name, title, {**shared, **own, **more}, control)

    titles = {"probe": "frozen probe", "tfidf": "TF-IDF", "majority": "most frequent class"}
    return (
        of("one", "one rate"),
        of("decay_90", "0.9 a layer", decay=0.9),
        of("decay_95", "0.95 a layer", "Is a gentler fall better? What BERT's twelve layers were given.", decay=0.95),
        of("decay_ulmfit", "1/2.6 a layer", "And ULMFiT's, made for three layers?", decay=technique.ULMFIT),
        of("slanted", "0.9, slanted triangle", "Is it ULMFiT's schedule?", decay=0.9, schedule="slanted"),
        of("unfreezing", "0.9, gradual unfreezing", "Is it that lower layers join late?", decay=0.9, unfreezing=True),
        of("apart", "head ten times the body", "Is it that a new head needs a higher rate?", head=10.0),
        of("frozen", "lower half frozen", "Or that the lower layers are left alone?", frozen=3),
        of("quiet", "frozen, without dropout", "Is it their dropout that hurts then?", frozen=3, quiet=True),
        *(Arm(name, title, {"texts": shared["texts"], "method": name}, trivial=True) for name, title in titles.items()),
    )


ARMS = (  # the last two were asked for afterwards, to break the result
    *_arms(_SHARED),
    *(
        replace(arm, name=f"few_{arm.name}", title=f"100 labels, {arm.title}", settings=arm.settings | {"texts": 100},
                control="With a fifth of the labels, is there more to gain? Asked afterwards, at the rate of 500.")
        for arm in _arms(_SHARED)[:2]
    ),
)  # fmt: skip
_TRAINED = tuple(arm.name for arm in ARMS if not arm.trivial)

METRICS = {"accuracy": Metric("accuracy", "%", 2, overlap=TESTED / TEXTS)}
METRICS |= {name: Metric(name.upper(), "%", 1, overlap=TESTED / TEXTS) for name in TASKS}

CHECKS = (Check("beats TF-IDF", _TRAINED[:9], "accuracy", least=0.0, against="tfidf", unit="points"),)

COMPARISONS = (
    Comparison("rates that fall by 0.9 a layer against one rate", "decay_90", "one", "accuracy"),
    Comparison("0.95 a layer against one rate", "decay_95", "one", "accuracy"),
    Comparison("ULMFiT's 1/2.6 a layer: costs accuracy", "decay_ulmfit", "one", "accuracy", better=-1),
    Comparison("a slanted triangle on top of 0.9", "slanted", "decay_90", "accuracy"),
    Comparison("gradual unfreezing on top of 0.9", "unfreezing", "decay_90", "accuracy"),
    Comparison("a head ten times as fast against one rate", "apart", "one", "accuracy"),
    Comparison("lower half frozen: costs accuracy", "frozen", "one", "accuracy", better=-1),
    Comparison("frozen layers without dropout against with", "quiet", "frozen", "accuracy"),
    Comparison("100 labels: 0.9 a layer against one rate", "few_decay_90", "few_one", "accuracy"),
)

TUNING = Tuning(
    grids={name: {"rate": (5e-5, 1e-4, 2e-4, 4e-4, 8e-4)} for name in _TRAINED[:9]}
    | {name: {"rate": (1e-4, 2e-4, 4e-4, 8e-4, 1.6e-3)} for name in ("unfreezing", "frozen", "quiet")}
    | {"decay_ulmfit": {"rate": (2e-4, 4e-4, 8e-4, 1.6e-3, 3.2e-3)}},
    settings={"judged_on": "dev"},
    figure="dev",
    seeds=(1000, 1001, 1002),
    like={"few_one": "one", "few_decay_90": "decay_90"},
)

CLAIM = Claim(
    collection="+1-2 points",
    paper=(
        "ULMFiT, an LSTM: validation error lower by 1.30 (IMDb), 0.65 (TREC-6), 0.19 (AG) points by rates alone; with gradual "
        "unfreezing AG gets worse. BERT-base on IMDb: 0.95 a layer lowers the test error from 5.42 to 5.40, by 0.02 points"
    ),
    source="Howard & Ruder 2018, table 7, arXiv:1801.06146; Sun et al. 2019, arXiv:1905.05583",
)

NOTES = (
    "MiniLM has 6 layers: 0.9 a layer is what 0.95 is over twelve. 500 labelled texts, 200 steps of 16.",
    "Seeds take the three tasks in turn, so a mean over ten has 4, 3 and 3 of TREC, HWU64 and BANKING77, one over five 2, 2 and "
    "1: compare the paired differences.",
    "A seed's texts are drawn from one pool for each task, and are judged by the same 500 texts: intervals are widened for it.",
    "A head ten times as fast, and a decay of 1/2.6, have grids of their own rate, that of the top layer.",
)

WHOLE = Experiment(
    number=8,
    slug="layerwise_learning_rates",
    title="Layer-wise learning rates",
    question="With few labels, is fine-tuning better when lower layers learn more slowly, at the best rate of each?",
    scale="MiniLM, 500 labelled texts of TREC, HWU64 or BANKING77",
    claim=CLAIM,
    arms=ARMS,
    metrics=METRICS,
    comparisons=COMPARISONS,
    checks=CHECKS,
    tuning=TUNING,
    run=run,
    replay=replay,
    minutes=100,
    code=(ruled, tuning, frozen, baselines),
    notes=NOTES,
)


def _short(steps: int, names: tuple[str, ...], quick: Experiment | None = None) -> Experiment:
    arms = tuple(
        arm if arm.trivial else replace(arm, settings=arm.settings | {"rate": 2e-4})
        for arm in _arms(_SHARED | {"steps": steps})
        if arm.name in names
    )
    notes = ("Quick: one seed, TREC alone, too short to judge by; every arm has the same rate.",)
    short = shorter(WHOLE, WHOLE.question, arms, notes, quick)
    return replace(short, metrics={"accuracy": METRICS["accuracy"]})


EXPERIMENT = replace(WHOLE, quick=_short(60, ("one", "decay_90", "tfidf"), _short(6, ("one", "decay_90"))))
