"""25: do initial parameters learnt over many small tasks beat a good encoder and the nearest mean of a class?

New intents from one or five examples each. MiniLM is frozen and its sentence vectors are computed once; what is learnt stands on
top: a linear map of the vector (384 x 384, at first the identity) and a head of five classes (at first zero). With these
starting values the first step of gradient descent makes of the head the nearest centroid by dot product: what fine-tuning and
MAML add is everything after that step.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np

from bertcraft.lab import episodes, flops, style
from bertcraft.lab.experiment import Arm, Claim, Comparison, Context, Experiment, Metric
from bertcraft.lab.statistics import mean
from bertcraft.techniques import meta_learning as technique
from bertcraft.tensor import functions as F
from bertcraft.tensor import value_and_grad
from bertcraft.tensor.parallel import one_blas_thread
from bertcraft.train import adamw, fit, sgd, warmup_linear

WAYS, SHOTS = 5, (1, 5)
TASKS, QUERIES = 4, 5  # of a meta-batch: four tasks of five classes, with five texts of each class to be judged on
JUDGED = 10  # texts of each class that a test episode asks about
TRAINING, VALIDATION = 90, 20  # classes of CLINC150; 40 are left to test on
LENGTH = 64  # tokens; longer texts are cut
TASK_OF = {"clinc": "clinc150", "hwu": "hwu64", "banking": "banking77"}
INNER_STEPS, MOST_STEPS = 5, 10  # of adaptation; the curve goes on to the second number
RATES = (0.01, 0.02, 0.05, 0.1, 0.2)  # of adaptation, from which each arm chooses on the validation classes ...
STRENGTHS = (1.0, 10.0, 100.0)  # ... and logistic regression its C
SCALE = 10.0  # of the unit vectors before the head
SHARPNESS = 5.0  # of the unit vectors before distances are taken
ADAPTING = ("fine_tune", "maml", "first_order", "anil", "reptile")

# ------------------------------------------------------------------------------------------------------ sentence vectors


@cache
def pool(data_set: str, most: int) -> episodes.Pool:
    from bertcraft.data import task

    return episodes.pool(task(TASK_OF[data_set]), most)


@cache
def _encoder():
    from bertcraft.bert.model import load
    from bertcraft.data import weights

    return load(weights("minilm"))


@cache
def vectors(data_set: str, most: int, number: int) -> dict[int, np.ndarray]:
    """The sentence vectors of a class's texts by number of layers: unit means over the tokens, float32 (texts, 384).

    A class is one pack, so a vector does not depend on which other classes have been asked for.
    """
    from bertcraft.bert import encoder, families, sentences

    model = _encoder()
    token_ids = sentences.tokenize(model, pool(data_set, most).texts[number], LENGTH)
    order = np.argsort([-len(ids) for ids in token_ids], kind="stable")
    lengths = [len(token_ids[i]) for i in order]
    ids = np.concatenate([token_ids[i] for i in order])[None]
    positions = np.concatenate([np.arange(n) for n in lengths])[None]
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    sockets = encoder.Sockets(attention=sentences.packed_attention(lengths))
    result = {}
    with one_blas_thread():
        x = encoder.embed(model.params, model.config, ids, position_ids=positions)
        for depth, layer in enumerate(families.layers(model.params, model.config), 1):
            x = sockets.wiring(layer, x, x, None, model.config, sockets)
            if depth in (3, 6):
                result[depth] = np.empty((len(order), x.shape[-1]), np.float32)
                result[depth][order] = F.normalize(np.add.reduceat(x[0], starts) / np.array(lengths, np.float32)[:, None])
    return result


class Source:
    """Episodes of some classes of one data set, as batches of vectors."""

    def __init__(self, data_set: str, most: int, depth: int, classes=None):
        self.data_set, self.most, self.depth = data_set, most, depth
        self.sizes = [len(texts) for texts in pool(data_set, most).texts]
        self.classes = np.arange(len(self.sizes)) if classes is None else classes
        self.place = {int(c): i for i, c in enumerate(self.classes)}

    def task(self, shots: int, queries: int, seed: int, stream: int, number: int, ways: int = WAYS) -> technique.Task:
        """Batches {"x" (n, 384), "labels" (n,) from 0 to ways - 1, "classes" (n,) places in the classes of this source}."""
        drawn = episodes.episode(self.sizes, self.classes, ways, shots, queries, seed, stream, number)
        rows = [vectors(self.data_set, self.most, int(c))[self.depth] for c in drawn.classes]
        places = np.array([self.place[int(c)] for c in drawn.classes])

        def batch(numbers):
            x = np.concatenate([own[n] for own, n in zip(rows, numbers, strict=True)])
            labels = np.repeat(np.arange(ways), numbers.shape[1])
            return {"x": x, "labels": labels, "classes": places[labels]}

        return technique.Task(batch(drawn.support), batch(drawn.query))


def cut(batch: dict, tasks: int) -> list[dict]:
    """One batch of many classes as batches of a few classes each, labelled from 0."""
    parts = [{name: np.split(array, tasks)[i] for name, array in batch.items()} for i in range(tasks)]
    return [{**part, "labels": part["labels"] - part["labels"][0]} for part in parts]


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
    """Cross-entropy over all training classes by cosine (Baseline++ of Chen et al. 2019), as sharp as the prototypes' here."""
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
    return lambda params, meta_batch, step: technique.over_tasks(
        of_a_task[method],
        params,
        [technique.Task(*parts) for parts in zip(cut(meta_batch.support, TASKS), cut(meta_batch.query, TASKS), strict=True)],
    )


def meta_batches(settings: dict, seed: int) -> Callable[[int], technique.Task]:
    """``make_batch(step)``: twenty classes to train on, in turn with one and with five examples each."""
    source = Source("clinc", settings["texts"], settings["depth"], split(settings, seed).train)

    def make_batch(step: int) -> technique.Task:
        return source.task(SHOTS[step % 2], QUERIES, seed, 0, step, ways=TASKS * WAYS)

    return make_batch


def split(settings: dict, seed: int) -> episodes.ClassSplit:
    return episodes.class_split(len(pool("clinc", settings["texts"]).classes), seed, TRAINING, VALIDATION)


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
    return fitted.params, {
        "gigaflops": float(np.mean(operations)) * steps / 1e9,
        "first_loss": float(fitted.losses[0]),
        "last_loss": float(fitted.losses[-50:].mean()),
    }


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


def judge(settings: dict, params: dict, tasks: list[technique.Task], choice: float | None, steps: int = INNER_STEPS) -> np.ndarray:
    """Accuracy in % of each task, (tasks,); for methods that adapt after 0 ... steps, (tasks, steps + 1)."""
    if settings["method"] in ADAPTING:
        stages = (zip(range(steps + 1), adapter(settings, params, task, choice), strict=False) for task in tasks)
        return np.array(
            [[right(logits(p, task.query), task) for _, p in each] for task, each in zip(tasks, stages, strict=True)]
        )
    if settings["method"] == "regression":
        return np.array([by_regression(task, choice) for task in tasks])
    return np.array([by_centroid(params, task) for task in tasks])


def choose(settings: dict, params: dict, seed: int, shots: int) -> float | None:
    """The rate of adaptation, or C, that is best on episodes of the validation classes."""
    options = RATES if settings["method"] in ADAPTING else STRENGTHS if settings["method"] == "regression" else (None,)
    if len(options) == 1:
        return options[0]
    source = Source("clinc", settings["texts"], settings["depth"], split(settings, seed).validation)
    tasks = [source.task(shots, JUDGED, seed, 1, number) for number in range(settings["validation_episodes"])]
    accuracy = [_at_last(judge(settings, params, tasks, option)).mean() for option in options]
    return options[int(np.argmax(accuracy))]


def _at_last(accuracy: np.ndarray) -> np.ndarray:
    return accuracy if accuracy.ndim == 1 else accuracy[:, INNER_STEPS]


def test_source(settings: dict, seed: int, data_set: str) -> Source:
    own = data_set == "clinc"
    classes = split(settings, seed).test if own else None
    return Source(data_set, settings["texts" if own else "other_texts"], settings["depth"], classes)


def run(arm: Arm, seed: int, context: Context) -> dict:
    """Meta-train, choose a rate of adaptation, and test: mean accuracies over episodes with half their 95 % intervals."""
    settings = arm.settings
    params, figures = learn(settings, seed, context)
    for shots in SHOTS:
        choice = choose(settings, params, seed, shots)
        if choice is not None:
            figures[f"choice_{shots}"] = choice
        for place, data_set in enumerate(settings["data_sets"]):
            context.report(1 + place / len(settings["data_sets"]), 2, f"{data_set}, {shots} a class")
            source = test_source(settings, seed, data_set)
            tasks = [source.task(shots, JUDGED, seed, 2 + place, number) for number in range(settings["episodes"])]
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


def replay(arm: Arm, seed: int, context: Context) -> dict:
    """The loss of the first meta-batch; for methods without meta-training nothing is left but to run them."""
    settings = arm.settings
    if not settings.get("steps"):
        return {}
    value, _ = gradient_function(settings)(start(settings, seed), meta_batches(settings, seed)(0), 0)
    return {"first_loss": float(value)}
