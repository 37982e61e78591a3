"""25: do initial parameters learnt over many small tasks beat a good encoder and the nearest mean of a class?

New intents from one or five examples each. MiniLM is frozen and its sentence vectors are computed once; what is learnt stands on
top: a linear map of the vector (384 x 384, at first the identity) and a head of five classes (at first zero). With these
starting values one step of gradient descent on one example a class makes the head the nearest centroid: whatever fine-tuning and
MAML add, they add after that step.

All settings were chosen on the validation classes: rates of meta-training, SCALE and SHARPNESS in trials (three to ten for a
method), the rate of adaptation in each run anew. MAML and ANIL took over what was best for the first-order method.
"""

from collections.abc import Callable

import numpy as np

from bertcraft.lab import episodes, flops
from bertcraft.lab.experiment import Arm, Claim, Comparison, Context, Experiment, Metric
from bertcraft.lab.statistics import mean
from bertcraft.techniques import meta_learning as technique
from bertcraft.tensor import functions as F
from bertcraft.tensor import value_and_grad
from bertcraft.train import adamw, fit, sgd, warmup_linear

WAYS, SHOTS = 5, (1, 5)
TASKS, QUERIES = 4, 5  # of a meta-batch: four tasks of five classes, with five texts of each class to be judged on
JUDGED = 10  # texts of each class that a test episode asks about
TRAINING, VALIDATION = 90, 20  # classes of CLINC150; 40 are left to test on
DATA_SETS = {"clinc": "clinc150", "hwu": "hwu64", "banking": "banking77"}
INNER_STEPS, MOST_STEPS = 5, 10  # of adaptation; the curve goes on to the second number
RATES = (0.02, 0.05, 0.1, 0.2, 0.5)  # of adaptation, from which each arm chooses on the validation classes ...
STRENGTHS = (1.0, 10.0, 100.0)  # ... and logistic regression its C
_META, _CHOICE, _TEST = 0, 1, 2  # streams of episodes; the data sets to test on take the numbers from the last one on
SCALE = 10.0  # of the unit vectors before the head
SHARPNESS = 5**0.5  # of the unit vectors before distances are taken: minus the squared distance is 10 times the cosine
ADAPTING = ("fine_tune", "maml", "first_order", "anil", "reptile")

# ------------------------------------------------------------------------------------------------------------- the model


def initial(size: int = 384, ways: int = WAYS) -> dict:
    return {
        "map": {"weight": np.eye(size, dtype=np.float32), "bias": np.zeros(size, np.float32)},
        "head": {"weight": np.zeros((ways, size), np.float32), "bias": np.zeros(ways, np.float32)},
    }


def features(params: dict, batch: dict):
    """Unit vectors (n, 384)."""
    return F.normalize(F.linear(batch["x"], **params["map"]))


def logits(params: dict, batch: dict):
    return F.linear(SCALE * features(params, batch), **params["head"])


def loss(params: dict, batch: dict):
    return F.cross_entropy(logits(params, batch), batch["labels"])


def classifier_loss(params: dict, batch: dict):
    """Cross-entropy over all training classes by cosine (Baseline++ of Chen et al. 2019), as sharp as the prototypes are."""
    cosines = F.linear(features(params, batch), F.normalize(params["classes"]["weight"]))
    return F.cross_entropy(2 * SHARPNESS**2 * cosines, batch["classes"])


def _joined(task: technique.Task) -> dict:
    return {name: np.concatenate([task.support[name], task.query[name]]) for name in task.support}


def gradient_function(settings: dict) -> Callable[[dict, technique.Task, int], tuple]:
    """``(params, meta-batch, step) -> (loss, gradient)``: every method learns from the same texts in each step."""
    steps, rate = INNER_STEPS, settings.get("inner_rate")
    of_a_task = {
        "maml": lambda p, t: technique.maml(loss, p, t, steps, rate),
        "first_order": lambda p, t: technique.first_order_maml(loss, p, t, steps, rate),
        "anil": lambda p, t: technique.anil(loss, p, t, steps, rate),
        # the texts of support and query take turns as batches: five different ones would be too small
        "reptile": lambda p, t: technique.reptile(loss, p, [t.support, t.query, t.support, t.query, t.support], rate),
    }
    sharp = lambda p, batch: SHARPNESS * features(p, batch)  # noqa: E731
    of_a_batch = {
        "prototypes": lambda p, t: technique.prototypical_loss(sharp, p, t, TASKS * WAYS),
        "classifier": lambda p, t: classifier_loss(p, _joined(t)),
    }
    method = settings["method"]
    if method in of_a_batch:
        return lambda params, meta_batch, step: value_and_grad(of_a_batch[method])(params, meta_batch)
    return lambda params, meta_batch, step: technique.over_tasks(of_a_task[method], params, episodes.cut(meta_batch, TASKS))


def meta_batches(settings: dict, seed: int) -> Callable[[int], technique.Task]:
    """``make_batch(step)``: twenty classes to train on, in turn with one and with five examples each."""
    source = episodes.Source("clinc150", settings["texts"], settings["depth"], split(settings, seed).train)

    def make_batch(step: int) -> technique.Task:
        return source.task(TASKS * WAYS, SHOTS[step % 2], QUERIES, seed, _META, step)

    return make_batch


def split(settings: dict, seed: int) -> episodes.ClassSplit:
    return episodes.class_split(len(episodes.pool_of("clinc150", settings["texts"]).classes), seed, TRAINING, VALIDATION)


def start(settings: dict, seed: int) -> dict:
    params = initial()
    if settings["method"] == "classifier":
        weight = np.random.default_rng((seed, 2)).standard_normal((TRAINING, 384), np.float32)
        params["classes"] = {"weight": weight * np.float32(384**-0.5)}
    return params


def learn(settings: dict, seed: int, context: Context) -> tuple[dict, dict]:
    """Meta-trained parameters (the initial ones for methods that learn nothing before the test) and figures on the way."""
    params, steps = start(settings, seed), settings.get("steps", 0)
    if not steps:
        return params, {}
    make_batch, gradient = meta_batches(settings, seed), gradient_function(settings)
    rate = warmup_linear(settings["rate"], 0, steps)
    rule = sgd(rate) if settings["method"] == "reptile" else adamw(rate, weight_decay=0.0)
    fitted = fit(
        gradient, params, rule, make_batch, steps, seed=seed, folder=context.folder, signature=settings,
        report=lambda p: context.report(p.step, 2 * p.steps, f"step {p.step} loss {p.loss:.2f}"),
    )  # fmt: skip
    operations = [flops.count(gradient, params, make_batch(step), step) for step in range(len(SHOTS))]
    last = float(fitted.losses[-50:].mean())
    return fitted.params, {"gigaflops": float(np.mean(operations)) * steps / 1e9, "last_loss": last}


# ------------------------------------------------------------------------------------------------------------------ tests


def adapter(settings: dict, params: dict, task: technique.Task, rate: float):
    """Parameters after 0, 1, 2 ... steps on the support, one after another."""
    moves = technique.in_branch("head") if settings["method"] == "anil" else lambda name: True
    own = {name: params[name] for name in ("map", "head")}
    while True:
        yield own
        own = technique.adapt(loss, own, task.support, 1, rate, moves)


def right(scores, task: technique.Task) -> float:
    """The share of the query that is classified right, in %."""
    return 100 * float(np.mean(np.argmax(scores, axis=1) == task.query["labels"]))


def by_centroid(params: dict, task: technique.Task) -> float:
    centres = technique.prototypes(features(params, task.support), task.support["labels"], WAYS)
    return right(technique.prototypical_logits(features(params, task.query), centres), task)


def by_regression(task: technique.Task, strength: float) -> float:
    from sklearn.linear_model import LogisticRegression

    fitted = LogisticRegression(C=strength, max_iter=1000).fit(task.support["x"], task.support["labels"])
    return right(fitted.decision_function(task.query["x"]), task)


def judge(settings: dict, params: dict, tasks: list, choice: float | None, steps: int = INNER_STEPS) -> np.ndarray:
    """Accuracy in % of each task, (tasks,); for methods that adapt, after 0 ... steps of adaptation, (tasks, steps + 1)."""
    if settings["method"] in ADAPTING:
        stages = (zip(range(steps + 1), adapter(settings, params, task, choice), strict=False) for task in tasks)
        return np.array([[right(logits(p, task.query), task) for _, p in each] for task, each in zip(tasks, stages, strict=True)])
    if settings["method"] == "regression":
        return np.array([by_regression(task, choice) for task in tasks])
    return np.array([by_centroid(params, task) for task in tasks])


def choose(settings: dict, params: dict, seed: int, shots: int) -> float | None:
    """The rate of adaptation, or C, that is best on episodes of the validation classes."""
    options = RATES if settings["method"] in ADAPTING else STRENGTHS if settings["method"] == "regression" else (None,)
    if len(options) == 1:
        return options[0]
    source = episodes.Source("clinc150", settings["texts"], settings["depth"], split(settings, seed).validation)
    tasks = [source.task(WAYS, shots, JUDGED, seed, _CHOICE, number) for number in range(settings["validation_episodes"])]
    accuracy = [_at_last(judge(settings, params, tasks, option)).mean() for option in options]
    return options[int(np.argmax(accuracy))]


def _at_last(accuracy: np.ndarray) -> np.ndarray:
    return accuracy if accuracy.ndim == 1 else accuracy[:, INNER_STEPS]


def judged_on(settings: dict, seed: int, data_set: str) -> episodes.Source:
    own = data_set == "clinc"
    classes = split(settings, seed).test if own else None
    return episodes.Source(DATA_SETS[data_set], settings["texts" if own else "other_texts"], settings["depth"], classes)


def run(arm: Arm, seed: int, context: Context) -> dict:
    """Meta-train, choose a rate of adaptation, and test: mean accuracies over episodes with half their 95 % intervals."""
    settings = arm.settings
    params, figures = learn(settings, seed, context)
    figures |= opening(settings, seed)
    for shots in SHOTS:
        choice = choose(settings, params, seed, shots)
        if choice is not None:
            figures[f"choice_{shots}"] = choice
        for place, data_set in enumerate(settings["data_sets"]):
            context.report(1 + place / len(settings["data_sets"]), 2, f"{data_set}, {shots} a class")
            source = judged_on(settings, seed, data_set)
            tasks = [source.task(WAYS, shots, JUDGED, seed, _TEST + place, number) for number in range(settings["episodes"])]
            curve = data_set == "clinc"
            accuracy = judge(settings, params, tasks, choice, MOST_STEPS if curve else INNER_STEPS)
            if curve and accuracy.ndim == 2:
                figures[f"curve_{shots}"] = accuracy.mean(axis=0).tolist()
            if curve and "steps" in settings and settings["method"] in ADAPTING:
                figures[f"unadapted_{shots}"] = float(np.mean([by_centroid(params, task) for task in tasks]))
            interval = mean(_at_last(accuracy))
            figures[f"{data_set}_{shots}"] = interval.mean
            figures[f"half_{data_set}_{shots}"] = interval.high - interval.mean
    return figures


def opening(settings: dict, seed: int) -> dict:
    """The loss of the first meta-batch; for methods without meta-training, the accuracy in % on the first test episode."""
    params = start(settings, seed)
    if settings.get("steps"):
        return {"first_loss": float(gradient_function(settings)(params, meta_batches(settings, seed)(0), 0)[0])}
    task = judged_on(settings, seed, "clinc").task(WAYS, 1, JUDGED, seed, _TEST, 0)
    return {"first_episode": float(_at_last(judge(settings, params, [task], RATES[0]))[0])}


def replay(arm: Arm, seed: int, context: Context) -> dict:
    """Where a run begins: see :func:`opening`."""
    return opening(arm.settings, seed)


# ------------------------------------------------------------------------------------------------------------ declaration

_FULL = {
    "texts": 50, "other_texts": 25, "episodes": 300, "validation_episodes": 100, "data_sets": ["clinc", "hwu", "banking"],
}  # fmt: skip
_QUICK = {"texts": 15, "other_texts": 15, "episodes": 60, "validation_episodes": 20, "data_sets": ["clinc"]}


def _arms(shared: dict, steps: int) -> tuple[Arm, ...]:
    def arm(name: str, title: str, method: str, depth: int = 6, control: str = "", **settings) -> Arm:
        return Arm(name, title, {**shared, "method": method, "depth": depth, **settings}, control)

    inner = {"steps": steps, "rate": 1e-4, "inner_rate": 0.2}
    half = {"steps": steps, "rate": 3e-4, "inner_rate": 0.1}
    return (
        arm("centroid", "centroid", "centroid"),
        arm("maml", "MAML", "maml", **inner),
        arm("first_order", "1st order", "first_order", **inner),
        arm(
            "first_order_long", "1st order long", "first_order", **{**inner, "steps": steps * 53 // 30},
            control="are second derivatives worth it? As many operations as MAML, spent on more meta-batches.",
        ),
        arm("anil", "ANIL", "anil", **inner),
        arm("reptile", "Reptile", "reptile", steps=steps, rate=0.03, inner_rate=0.2),
        arm("prototypes", "prototypes", "prototypes", steps=steps, rate=3e-4),
        arm(
            "classifier", "classifier", "classifier", steps=steps, rate=1e-3,
            control="does it need episodes? An ordinary classifier of the 90 training classes, on the same texts; then the "
            "nearest centroid (Chen et al. 2019).",
        ),
        arm(
            "classifier_long", "classifier long", "classifier", steps=steps * 10 // 3, rate=1e-3,
            control="the same with as many operations as MAML.",
        ),
        arm(
            "fine_tune", "fine-tuning", "fine_tune",
            control="does the initialisation do it, or the adaptation? MAML's steps from where MAML started, rate chosen alike.",
        ),
        arm(
            "regression", "regression", "regression",
            control="what would anyone do first? Logistic regression on the frozen vectors.",
        ),
        arm(
            "centroid_3", "centroid (3)", "centroid", 3,
            control="is there nothing left to learn? Vectors of the third layer, which were not made to be compared.",
        ),
        arm("maml_3", "MAML (3)", "maml", 3, **half),
        arm("prototypes_3", "prototypes (3)", "prototypes", 3, steps=steps, rate=1e-3),
        arm("classifier_3", "classifier (3)", "classifier", 3, steps=steps, rate=1e-3),
        arm("fine_tune_3", "fine-tuning (3)", "fine_tune", 3),
    )  # fmt: skip


_METRICS = {  # one example a class, or five; all six accuracies are in the plot, those here fit 80 columns
    "clinc_1": Metric("CLINC", "%", 2),
    "clinc_5": Metric("CLINC 5", "%", 2),
    "hwu_1": Metric("HWU", "%", 2),
    "banking_1": Metric("BANK", "%", 2),
    "gigaflops": Metric("GFLOP", "", 0),
}

_COMPARISONS = tuple(
    Comparison(name, treatment, baseline, metric, better=1)
    for name, treatment, baseline, metric in (
        ("MAML against nearest centroid, 1 example", "maml", "centroid", "clinc_1"),
        ("the same, 5 examples", "maml", "centroid", "clinc_5"),
        ("the same on HWU64, 1 example", "maml", "centroid", "hwu_1"),
        ("the same on BANKING77, 1 example", "maml", "centroid", "banking_1"),
        ("MAML against fine-tuning", "maml", "fine_tune", "clinc_1"),
        ("MAML against logistic regression", "maml", "regression", "clinc_1"),
        ("MAML against a classifier, then centroid", "maml", "classifier", "clinc_1"),
        ("second order against first, equal steps", "maml", "first_order", "clinc_1"),
        ("second order against first, equal operations", "maml", "first_order_long", "clinc_1"),
        ("ANIL against MAML (claimed: equal)", "anil", "maml", "clinc_1"),
        ("Reptile against MAML", "reptile", "maml", "clinc_1"),
        ("prototypical network against centroid", "prototypes", "centroid", "clinc_1"),
        ("prototypical network against MAML", "prototypes", "maml", "clinc_1"),
        ("3 layers: MAML against centroid", "maml_3", "centroid_3", "clinc_1"),
        ("3 layers: MAML against fine-tuning", "maml_3", "fine_tune_3", "clinc_1"),
        ("3 layers: MAML against a classifier", "maml_3", "classifier_3", "clinc_1"),
    )
)

_CLAIM = Claim(
    collection="parameters that adapt to a new task within a few gradient steps",
    paper="miniImageNet, 5 classes, 1 / 5 examples: MAML 48.70 / 63.11 %, first-order MAML 48.07 / 63.15 %, fine-tuning 28.86 / "
    "49.79 %. Nothing about BERT. Prototypical networks with a wider net report 49.42 / 68.20 %.",
    source="Finn et al. 2017, table 1, arXiv:1703.03400; Snell et al. 2017, arXiv:1703.05175",
)

_NOTES = (
    "Adapted are a linear map of MiniLM's frozen sentence vector and the head, not the encoder: MAML on its last layer took "
    "0.4 s a task of one example a class and 1.5 s of five, the map 0.03 s.",
    "(3) marks the vectors after MiniLM's third layer in place of its sixth and last, which was trained to compare sentences.",
    "All methods meta-train on the same texts; 90 training and 40 test classes of CLINC150 are dealt out anew for each seed, so "
    "the intervals take in which classes are tested. The 20 validation classes are the same for all seeds and never tested.",
    "Classes of HWU64 and BANKING77 may mean the same as a training class of CLINC150: a new data set, not always a new intent.",
    "One initialisation serves 1 and 5 examples: meta-batches of both take turns. MAML's papers train one for each.",
    "Operations are those of matrix products; in time, second order costs more than these say.",
)


def _experiment(arms: tuple[Arm, ...], quick: Experiment | None = None) -> Experiment:
    names = {arm.name for arm in arms}
    return Experiment(
        number=25,
        slug="meta_learning",
        title="Meta-learning",
        scale="maps of frozen MiniLM vectors, intents of CLINC150",
        question="Do initial parameters learnt over many small tasks learn new intents better from one or five examples?",
        claim=_CLAIM,
        arms=arms,
        metrics=_METRICS,
        comparisons=tuple(c for c in _COMPARISONS if {c.treatment, c.baseline} <= names),
        run=run,
        replay=replay,
        minutes=22,
        quick=quick,
        code=(episodes,),
        notes=_NOTES,
    )


_QUICK_ARMS = ("centroid", "maml", "prototypes", "classifier", "fine_tune")
EXPERIMENT = _experiment(_arms(_FULL, 300), _experiment(tuple(arm for arm in _arms(_QUICK, 60) if arm.name in _QUICK_ARMS)))
