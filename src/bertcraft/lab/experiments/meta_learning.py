"""25: do initial parameters learnt over many small tasks beat an ordinary classifier of the same classes?

Twenty new intents at a time, one example of each. MiniLM is frozen and its sentence vectors are computed once; what is learnt
stands on top: a linear map of the vector (384 x 384, at first the identity) and a head of twenty classes (at first zero). With
these starting values one step of gradient descent makes the head the nearest mean: whatever fine-tuning and MAML add, they add
after that step.

Tried beforehand, on the validation classes, with one seed (1001): after 200 steps MAML had 83 to 84.5 % at inner rates of 0.1
to 3 (outer rates 1e-4 to 1e-3; at 3e-3, or an inner rate of 30, it diverges), the classifier 83.6 to 84.6 %, prototypes 83.9
to 85.0 %, fine-tuning 83.3 % at best, the nearest mean of the frozen vectors 82.7 %. The grids were laid around these; the
one of prototypes' rates was moved down once, when its trials had their best at the lower end (before any run was tested).
Reptile (at most 83.7 %), first-order MAML (84.4), ANIL (84.4) and vectors of the third layer (MAML 77.4, classifier 80.8,
nearest mean 66.7) were looked at in the same way; no time was left to give them their trials and seeds.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from bertcraft.lab import episodes, flops
from bertcraft.lab.experiment import Arm, Check, Claim, Comparison, Context, Experiment, Metric, Tuning, shorter
from bertcraft.techniques import meta_learning as technique
from bertcraft.tensor import functions as F
from bertcraft.tensor import value_and_grad
from bertcraft.train import adamw, fit, warmup_linear

WAYS, SHOTS, QUERIES = 20, 1, 5  # of a task to train on: classes, texts of each to learn from and to be judged on
JUDGED = 10  # texts of each class that a test task asks about
TRAINING, VALIDATION, TESTED = 90, 20, 40  # classes of CLINC150
DATA = "clinc150"
INNER_STEPS, MOST_STEPS = 5, 10  # of adaptation; the curve goes on to the second number
STRENGTH = 10.0  # C of logistic regression
_META, _TEST = 0, 1  # streams of tasks
SCALE = 10.0  # of the unit vectors before the head
ADAPTING = ("fine_tune", "maml")

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


def classifier_loss(params: dict, batch: dict, sharpness: float):
    """Cross-entropy over all training classes by the cosine times ``sharpness`` (Baseline++ of Chen et al. 2019)."""
    cosines = F.linear(features(params, batch), F.normalize(params["classes"]["weight"]))
    return F.cross_entropy(sharpness * cosines, batch["classes"])


def _joined(task: technique.Task) -> dict:
    return {name: np.concatenate([task.support[name], task.query[name]]) for name in task.support}


def gradient_function(settings: dict) -> Callable[[dict, technique.Task, int], tuple]:
    """``(params, task, step) -> (loss, gradient)``: every method learns from the same texts in each step."""
    method, rate, sharpness = (settings.get(name) for name in ("method", "inner_rate", "sharpness"))

    def gradient(params: dict, task: technique.Task, step: int) -> tuple:
        if method == "maml":
            return technique.maml(loss, params, task, INNER_STEPS, rate)
        if method == "classifier":
            return value_and_grad(classifier_loss)(params, _joined(task), sharpness)
        # minus the squared distance of vectors of length r is 2 r^2 times their cosine, less a constant
        long = lambda p, batch: (sharpness / 2) ** 0.5 * features(p, batch)  # noqa: E731
        return value_and_grad(lambda p: technique.prototypical_loss(long, p, task, WAYS))(params)

    return gradient


def split(settings: dict, seed: int) -> episodes.ClassSplit:
    return episodes.class_split(len(episodes.pool_of(DATA, settings["texts"]).classes), seed, TRAINING, VALIDATION)


def tasks_to_learn(settings: dict, seed: int) -> Callable[[int], technique.Task]:
    """``make_batch(step)``: a task of training classes."""
    source = episodes.Source(DATA, settings["texts"], settings["depth"], split(settings, seed).train)
    return lambda step: source.task(WAYS, SHOTS, QUERIES, seed, _META, step)


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
    make_batch, gradient = tasks_to_learn(settings, seed), gradient_function(settings)
    rate = warmup_linear(settings["rate"], 0, steps)
    fitted = fit(
        gradient, params, adamw(rate, weight_decay=0.0), make_batch, steps, seed=seed, folder=context.folder, signature=settings,
        report=lambda p: context.report(p.step, 2 * p.steps, f"step {p.step} loss {p.loss:.2f}"),
    )  # fmt: skip
    operations = flops.count(gradient, params, make_batch(0), 0)
    return fitted.params, {"gigaflops": operations * steps / 1e9, "last_loss": float(fitted.losses[-50:].mean())}


# ------------------------------------------------------------------------------------------------------------------ tests


def adapter(settings: dict, params: dict, task: technique.Task) -> Iterator[dict]:
    """Parameters after 0, 1, 2 ... steps on the support, one after another."""
    own = {name: params[name] for name in ("map", "head")}
    while True:
        yield own
        own = technique.adapt(loss, own, task.support, 1, settings["inner_rate"])


def right(scores, task: technique.Task) -> float:
    """The share of the query that is classified right, in %."""
    return 100 * float(np.mean(np.argmax(scores, axis=1) == task.query["labels"]))


def by_mean(params: dict, task: technique.Task) -> float:
    """The nearest mean of a class, by the map's vectors."""
    ways = int(task.support["labels"].max()) + 1
    centres = technique.prototypes(features(params, task.support), task.support["labels"], ways)
    return right(technique.prototypical_logits(features(params, task.query), centres), task)


def by_regression(task: technique.Task) -> float:
    from sklearn.linear_model import LogisticRegression

    fitted = LogisticRegression(C=STRENGTH, max_iter=1000).fit(task.support["x"], task.support["labels"])
    return right(fitted.decision_function(task.query["x"]), task)


def judge(settings: dict, params: dict, tasks: list, steps: int = INNER_STEPS) -> np.ndarray:
    """Accuracy in % of each task, (tasks, 1); for methods that adapt, after 0 ... steps of adaptation, (tasks, steps + 1)."""
    if settings["method"] == "regression":
        return np.array([[by_regression(task)] for task in tasks])
    if settings["method"] == "tfidf":  # of one example a class the vector is its mean
        return np.array([[right(task.query["x"] @ task.support["x"].T, task)] for task in tasks])
    if settings["method"] in ADAPTING and settings.get("adapts", True):
        stages = (zip(range(steps + 1), adapter(settings, params, task), strict=False) for task in tasks)
        return np.array([[right(logits(p, task.query), task) for _, p in each] for task, each in zip(tasks, stages, strict=True)])
    return np.array([[by_mean(params, task)] for task in tasks])


def judged_on(settings: dict, seed: int) -> episodes.Source:
    part = split(settings, seed)
    classes = part.validation if settings.get("judged_on") == "validation" else part.test
    if settings["method"] == "tfidf":
        return episodes.Words(DATA, settings["texts"], classes, part.train)
    return episodes.Source(DATA, settings["texts"], settings["depth"], classes)


def run(arm: Arm, seed: int, context: Context) -> dict:
    """Meta-train, then test: mean accuracy over test tasks. A trial is tested on tasks of the validation classes."""
    settings = arm.settings
    params, figures = learn(settings, seed, context)
    source, is_trial = judged_on(settings, seed), settings.get("judged_on") == "validation"
    tasks = [source.task(WAYS, SHOTS, JUDGED, seed, _TEST, number) for number in range(settings["episodes"])]
    accuracy = judge(settings, params, tasks, INNER_STEPS if is_trial else MOST_STEPS).mean(axis=0).tolist()
    if len(accuracy) > 1:
        figures["curve"] = accuracy
    figures["validation" if is_trial else "accuracy"] = accuracy[INNER_STEPS] if len(accuracy) > 1 else accuracy[0]
    return figures | opening(settings, seed)


def opening(settings: dict, seed: int) -> dict:
    """The loss of the first task; for methods without meta-training, the accuracy in % on the first task of the test."""
    params = start(settings, seed)
    if settings.get("steps"):
        return {"first_loss": float(gradient_function(settings)(params, tasks_to_learn(settings, seed)(0), 0)[0])}
    task = judged_on(settings, seed).task(WAYS, SHOTS, JUDGED, seed, _TEST, 0)
    return {"first_episode": float(judge(settings, params, [task])[0, -1])}


def replay(arm: Arm, seed: int, context: Context) -> dict:
    """Where a run begins: see :func:`opening`."""
    return opening(arm.settings, seed)


# ------------------------------------------------------------------------------------------------------------ declaration

_STEPS = 200
CLASSIFIER = 2.04  # its steps that cost as many operations as one of MAML's; a test counts them
_FULL = {"texts": 50, "depth": 6, "episodes": 40}
_QUICK = {"texts": 15, "depth": 6, "episodes": 10, "rate": 1e-3, "inner_rate": 1.0, "sharpness": 10.0}


def _arms(shared: dict, steps: int) -> tuple[Arm, ...]:
    def arm(name: str, title: str, method: str, control: str = "", trivial: bool = False, **settings) -> Arm:
        return Arm(name, title, {**shared, "method": method, **settings}, control, trivial)

    return (
        arm("maml", "MAML", "maml", steps=steps),
        arm(
            "classifier", "classifier", "classifier",
            "does it need episodes? An ordinary classifier of the 90 training classes, on the same texts; then the nearest mean "
            "(Chen et al. 2019).", steps=steps,
        ),
        arm(
            "maml_still", "MAML unadapted", "maml",
            "does the adaptation do it, or the map? MAML's map, and the nearest mean without any step.",
            steps=steps, adapts=False,
        ),
        arm(
            "fine_tune", "fine-tuning", "fine_tune",
            "does the initialisation do it, or the steps? MAML's steps from where MAML started.",
        ),
        arm("prototypes", "prototypes", "prototypes", steps=steps),
        arm(
            "classifier_long", "classifier long", "classifier", "the classifier with as many operations as MAML.",
            steps=round(CLASSIFIER * steps),
        ),
        arm("centroid", "nearest mean", "centroid", trivial=True),
        arm("regression", "regression", "regression", trivial=True),
        arm("tfidf", "TF-IDF", "tfidf", trivial=True),
    )  # fmt: skip


ARMS = _arms(_FULL, _STEPS)

METRICS = {  # all seeds test on 40 of the same 130 classes and train on 90 of them
    "accuracy": Metric("accuracy on unseen classes", "%", 2, overlap=TESTED / TRAINING),
    "gigaflops": Metric("operations of meta-training", "GFLOP", 0),
}

CHECKS = (
    Check("no ceiling", tuple(arm.name for arm in ARMS if not arm.trivial), "accuracy", most=95.0, unit="%"),
    Check("has learnt", ("maml", "classifier"), "accuracy", least=0.5, against="centroid", unit="points"),
    Check("above TF-IDF", ("maml", "classifier"), "accuracy", least=0.0, against="tfidf", unit="points"),
)

COMPARISONS = (
    Comparison("MAML against a classifier of the training classes, equal steps", "maml", "classifier", "accuracy"),
    Comparison("MAML's map adapted against unadapted", "maml", "maml_still", "accuracy"),
    Comparison("MAML against the nearest mean of frozen vectors", "maml", "centroid", "accuracy"),
    Comparison("MAML against fine-tuning", "maml", "fine_tune", "accuracy"),
    Comparison("MAML against the classifier at equal operations", "maml", "classifier_long", "accuracy"),
    Comparison("prototypes against MAML", "prototypes", "maml", "accuracy"),
)

TUNING = Tuning(
    grids={
        "maml": {"rate": (1e-4, 3e-4, 1e-3, 3e-3), "inner_rate": (1.0, 3.0, 10.0)},
        "classifier": {"rate": (3e-4, 1e-3, 3e-3), "sharpness": (2.5, 5.0, 10.0, 20.0)},
        "fine_tune": {"inner_rate": (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0)},
        "prototypes": {"rate": (1e-4, 3e-4, 1e-3), "sharpness": (2.5, 5.0, 10.0, 20.0)},
    },
    settings={"judged_on": "validation"},
    figure="validation",
    like={"maml_still": "maml", "classifier_long": "classifier"},
)

CLAIM = Claim(
    collection="parameters that adapt to a new task within a few gradient steps",
    paper="miniImageNet, 5 classes, 1 / 5 examples: MAML 48.70 / 63.11 %, first-order MAML 48.07 / 63.15 %, fine-tuning 28.86 / "
    "49.79 %. Nothing about BERT. Prototypical networks with a wider net report 49.42 / 68.20 %.",
    source="Finn et al. 2017, table 1, arXiv:1703.03400; Snell et al. 2017, arXiv:1703.05175",
)

NOTES = (
    "Adapted are a linear map of MiniLM's frozen sentence vector and the head, not the encoder; one example a class only.",
    "All methods meta-train on the same texts. 90 training and 40 test classes of CLINC150 are dealt out anew for each seed from "
    "the same 130, so the intervals are widened (Nadeau & Bengio). The 20 validation classes are the same for all seeds, never "
    "tested, and choose all rates.",
    "Operations are those of matrix products; in time, second order costs more than these say.",
)

WHOLE = Experiment(
    number=25,
    slug="meta_learning",
    title="Meta-learning",
    question="Do initial parameters learnt over many small tasks learn twenty new intents, one example each, better than an "
    "ordinary classifier of the training classes?",
    scale="a map of frozen MiniLM vectors, 20 unseen intents at a time, one example each",
    claim=CLAIM,
    arms=ARMS,
    metrics=METRICS,
    comparisons=COMPARISONS,
    checks=CHECKS,
    tuning=TUNING,
    run=run,
    replay=replay,
    minutes=6,
    code=(episodes,),
    notes=NOTES,
    beside=("MAML's map adapted against unadapted", "MAML against the classifier at equal operations"),
)

_SHORT = ("maml", "classifier", "prototypes", "fine_tune", "centroid")
EXPERIMENT = replace(
    WHOLE,
    quick=shorter(
        WHOLE,
        "The same on 15 texts a class: 60 steps of meta-training, ten test tasks, one seed.",
        tuple(arm for arm in _arms(_QUICK, 60) if arm.name in _SHORT),
        ("The rates are not tuned; the full experiment's are.",),
    ),
)
