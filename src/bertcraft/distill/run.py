"""A student of fewer layers, taught on a user's own texts, resumed where it was stopped, saved as a model and measured.

The teacher reads each text once; what it answers is kept, and the student learns to answer the same (Hinton et al. 2015; for
sentence vectors Reimers & Gurevych 2020, arXiv:2004.09813). It starts from layers of its teacher, first, last and evenly between
them (Sanh et al. 2019, section 3). No label is read. A tenth of the texts is held out and measured on.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bertcraft.bert.checkpoint_files import read_object
from bertcraft.bert.model import Model, load
from bertcraft.data import cache
from bertcraft.data.batches import batch_indices, pad
from bertcraft.data.text import counted, listed
from bertcraft.distill.goals import Goal, goal_of, over, trained_names
from bertcraft.distill.measure import INDEX, measured
from bertcraft.errors import InputError
from bertcraft.pretrain.objectives import merged
from bertcraft.pretrain.start import Start
from bertcraft.techniques import knowledge_distillation as technique
from bertcraft.techniques.roberta_optimizations import trimmed
from bertcraft.tensor import tree
from bertcraft.tensor.parallel import cpu_count, pool, sharded_value_and_grad
from bertcraft.train import adamw, chain, clip_by_global_norm, fit, warmup_linear
from bertcraft.train.loop import Progress

LONGEST = 128  # tokens of a text that training reads
TOKENS, READINGS = 2_000_000, 30  # that a run reads at most, and how often a text: 10 minutes of two cores for MiniLM's student
FEWEST, MOST_HELD_OUT = 100, 500  # different texts
SHARD = 16  # rows that a core works on at a time
WARMUP = 0.1  # of the steps
WORK, PLAN, DONE = ".distilling", "plan.json", "distillation.json"  # a run under way; what was measured, written last


@dataclass(frozen=True)
class Plan:
    """What decides a student, besides its teacher and the texts. ``steps`` None: as many as TOKENS and READINGS allow."""

    layers: int
    steps: int | None = None
    batch: int = 32
    rate: float = 5e-4
    seed: int = 0

    def check(self) -> None:
        """Raise InputError for numbers that no run can have."""
        for name, number in asdict(self).items():
            if name != "seed" and number is not None and not number > 0:
                raise InputError(f"{name}: got {number}, expected a number above 0")


def distill(
    folder: Path,
    texts: Sequence[str],
    plan: Plan,
    out: Path,
    *,
    labels: Sequence[str] | None = None,
    told: Callable[[str], None] = lambda text: None,
    report: Callable[[Progress], None] = lambda progress: None,
    planned: Callable[[int], None] = lambda steps: None,
) -> dict[str, Any]:
    """Teach a student of the model in ``folder`` on the texts and save it in ``out``; what ``out/distillation.json`` holds.

    ``labels``: the class of each text, "" where it is not known; only measured by. A run that was stopped goes on from what
    ``out`` holds, and one that is complete is not repeated. ``told`` hears what is being done, ``planned`` the number of steps.
    Raises InputError for a model that cannot be a teacher, more layers than it can give, too few texts, labels that are none of
    its classes, a folder that holds something else; DataError where another process works in it.
    """
    plan.check()
    goal = goal_of(load(folder))
    most = goal.teacher.config.num_hidden_layers
    if plan.layers >= most:
        raise InputError(f"--layers: got {plan.layers}, but the teacher has {most}: a student has fewer")
    read, held_out = _divided(texts, plan.seed)
    known = None if labels is None else _numbers(goal, labels)[held_out]
    read, held_out = [texts[i] for i in read], [texts[i] for i in held_out]
    digest = hashlib.blake2b("\0".join([*read, "", *held_out]).encode(), digest_size=16).hexdigest()
    signature = {**asdict(plan), "teacher": Start(goal.teacher, {}).digest, "texts": digest}
    if (found := _finished(out, signature)) is not None:
        told(f"{out} holds this student already: nothing was left to do")
        shutil.rmtree(out / WORK, ignore_errors=True)
        return found
    (out / WORK).mkdir(parents=True, exist_ok=True)
    with cache.lock(out / WORK / "lock", busy=f"{out} is in use: another process distills into it; wait for it or end it"):
        cache.write(out / WORK / PLAN, json.dumps(signature).encode())
        start, student, facts = _taught(goal, plan, read, out, signature, told, report, planned)
        student.save(out)
        told(f"measuring on {counted(len(held_out), 'text')}")
        table = measured(goal, start, load(out), held_out, read, known)
        facts |= {"kind": goal.kind, "held_out": len(held_out), "index": min(INDEX, len(read))}
        facts |= {"table": table, "signature": signature}
        if known is not None:
            facts["labelled"] = int(np.sum(known >= 0))
        cache.write(out / DONE, json.dumps(facts, indent=2).encode() + b"\n")
        shutil.rmtree(out / WORK)
    return facts


def _taught(
    goal: Goal, plan: Plan, read: list[str], out: Path, signature: dict, told: Callable, report: Callable, planned: Callable
) -> tuple[Model, Model, dict[str, Any]]:
    """The student as it starts, as it ends, and what there is to say of its training."""
    teacher = goal.teacher
    config, params = technique.start(
        teacher.config, teacher.params, technique.spread(teacher.config.num_hidden_layers, plan.layers)
    )
    token_ids = goal.read(read, min(goal.longest, LONGEST))
    lengths = np.array([len(ids) for ids in token_ids])
    steps = plan.steps or max(1, int(min(READINGS * len(read), TOKENS / lengths.mean()) / plan.batch))
    readings = steps * plan.batch / len(read)
    told(f"{counted(steps, 'step')} of {counted(plan.batch, 'text')}: each of {len(read):,} is read {readings:.1f} times")
    if cut := int(np.sum(lengths == LONGEST)) if goal.longest > LONGEST else 0:
        told(f"{counted(cut, 'text')} of {LONGEST} tokens or more: training reads the first {LONGEST}")
    planned(steps)
    wanted = over(token_ids, goal, teacher, "the teacher reads", shown=None)

    def make_batch(step: int) -> dict:
        rows = batch_indices(len(read), plan.batch, plan.seed, step)
        rows = rows[np.argsort(-lengths[rows], kind="stable")]  # a shard is of like length
        ids, mask = pad([token_ids[i] for i in rows], config.pad_token_id or 0)
        return {"input_ids": ids, "attention_mask": mask, "wanted": wanted[rows]}

    trained = trained_names(goal, config)
    flat = dict(tree.items(params))
    fixed = {name: leaf for name, leaf in flat.items() if name not in trained}

    def loss(own, batch, rng):
        return goal.loss(goal.answers(merged(own, fixed), config, batch), batch["wanted"])

    step = sharded_value_and_grad(loss, shard_size=SHARD, weight=lambda batch: len(batch["wanted"]), prepare=trimmed)
    schedule = warmup_linear(plan.rate, round(WARMUP * steps), steps)
    result = fit(
        step, {name: leaf for name, leaf in flat.items() if name in trained},
        chain(clip_by_global_norm(1.0), adamw(schedule, weight_decay=0.0)), make_batch, steps, seed=plan.seed,
        folder=out / WORK / "state", signature=signature, report=report, pool=pool(cpu_count()),
    )  # fmt: skip
    facts = {"steps": steps, "read": len(read), "readings": readings, "seconds": result.seconds}
    start = replace(teacher, config=config, params=params)
    return start, replace(start, params=merged(result.params, fixed)), facts


def _divided(texts: Sequence[str], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Which texts are read in training and which are held out: each different text once, at random. Raises InputError."""
    different = np.array(sorted({text: place for place, text in reversed(list(enumerate(texts)))}.values()), int)
    if len(different) < FEWEST:
        got = counted(len(different), "different text")
        raise InputError(f"got {got}, expected at least {FEWEST}: a student learns from texts alone; 5,000 are a good start")
    order = np.random.default_rng(seed).permutation(different)
    count = min(MOST_HELD_OUT, len(order) // 10)
    return order[count:], order[:count]


def _numbers(goal: Goal, labels: Sequence[str]) -> np.ndarray:
    """The class of each label, -1 where it is none of the teacher's. Raises InputError where none is one."""
    names = goal.teacher.config.labels if goal.kind == "classes" else ()
    if not names:
        raise InputError("--label: this model gives vectors, no classes; leave it out")
    known = {name: number for number, name in enumerate(names)}
    numbers = np.array([known.get(label, -1) for label in labels])
    if (numbers < 0).all():
        got, expected = listed(list(dict.fromkeys(labels)), 3), listed(list(names), 6)
        raise InputError(f"--label: no label is a class of this model; got {got}, expected {expected}")
    return numbers


def _finished(out: Path, signature: dict) -> dict | None:
    """What was measured where ``out`` holds this student. Raises InputError where it holds anything else but a run of its own."""
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file: --out names a folder to make")
    done, begun = out / DONE, out / WORK / PLAN
    others = [path.name for path in out.iterdir() if path.name != WORK] if out.is_dir() else []
    if others and not done.exists() and not begun.exists():
        raise InputError(f"{out} is in use: it holds {listed(sorted(others), 3)}; choose a folder that is new or empty")
    facts = read_object(done) if done.exists() else None
    saved = facts["signature"] if facts else read_object(begun) if begun.exists() else signature
    differing = [
        f"other {key}" if key in ("teacher", "texts") else f"{key} {saved.get(key)} there, {value} here"
        for key, value in signature.items()
        if saved.get(key) != value
    ]
    if differing:
        raise InputError(f"{out} holds another student ({'; '.join(differing)}); choose another folder or remove that one")
    return facts
