"""Experiment 03: what is declared, arms that differ in positions alone, what each costs, longer rows, replay equals run."""

from dataclasses import replace

import numpy as np
import pytest

from bertcraft import check_grads
from bertcraft.bert import Config, encoder
from bertcraft.lab import architectures, flops, pretraining, statistics, verdicts
from bertcraft.lab.experiment import Context
from bertcraft.lab.experiments import deberta_disentangled_attention as module
from bertcraft.lab.figures import deberta_disentangled_attention as figures
from bertcraft.lab.runner import replay_arm, run_arm
from bertcraft.tensor import tree, value_and_grad

EXPERIMENT = module.EXPERIMENT
TRAINED = [arm.name for arm in EXPERIMENT.arms if not arm.trivial]
TINY = {
    "hidden": 64, "batch": 8, "shard": 8, "texts": 300, "held_out": 60, "warmup": 2, "rate": 2e-3, "tflop": 0.0008,
    "evaluations": 2,
}  # fmt: skip


def tiny(name: str, **changes):
    """An arm with all that makes it differ, smaller and for fewer steps."""
    arm = EXPERIMENT.arm(name)
    return replace(arm, settings=arm.settings | TINY | changes)


@pytest.fixture(scope="module")
def tasks():
    own = [name for name in TRAINED if not name.endswith("_packed")]
    return {name: architectures.task_of(tiny(name).settings, 0, module.build) for name in own}


# ------------------------------------------------------------------------------------------------------- declaration


def test_the_primary_comparison_is_disentangled_against_absolute_at_equal_operations_with_ten_seeds():
    primary = EXPERIMENT.primary
    assert (primary.treatment, primary.baseline, primary.metric, primary.better) == ("disentangled", "absolute", "loss", -1)
    assert primary.form == statistics.SUPERIOR
    a, b = (EXPERIMENT.arm(name).settings for name in ("disentangled", "absolute"))
    assert {key for key in a | b if a.get(key) != b.get(key)} == {"positions"} and a["tflop"] == b["tflop"]
    assert {arm.name for arm in EXPERIMENT.arms if EXPERIMENT.seeds_of(arm) == 10} == {"absolute", "disentangled"}
    for kind in ("absolute", "disentangled", "t5"):
        a, b = (EXPERIMENT.arm(name).settings for name in (kind, f"{kind}_packed"))
        assert {key for key in a | b if a.get(key) != b.get(key)} == {
            "packed", "vocab_size", "held_out", "batch", "shard", "tflop",
        }  # fmt: skip
    for name in ("absolute", "disentangled"):
        assert EXPERIMENT.arm(f"{name}_longer").settings == EXPERIMENT.arm(name).settings | {"tflop": 6.0}
    tuned = {*EXPERIMENT.tuning.grids, *EXPERIMENT.tuning.like}
    assert tuned == set(TRAINED) and set(EXPERIMENT.tuning.like.values()) <= set(EXPERIMENT.tuning.grids)


def test_a_baseline_on_the_plateau_is_not_testable():
    def runs(gap):
        return [
            {"arm": arm, "seed": seed, "figures": {"loss": loss + 0.01 * (seed % 3), "gap": own}}
            for arm, loss, own in (("absolute", 5.0, gap), ("disentangled", 4.5, -1.0))
            for seed in range(10)
        ]

    assert verdicts.primary(EXPERIMENT, runs(-0.6)).verdict == statistics.REPRODUCED
    outcome = verdicts.primary(EXPERIMENT, runs(-0.4))
    assert outcome.verdict == statistics.NOT_TESTABLE and outcome.failed[0].arm == "absolute"


# ------------------------------------------------------------------------------------------------------ architectures


def test_arms_start_from_the_same_numbers_but_for_what_they_know_of_positions(tasks):
    own = {name: dict(tree.items(task.architecture.start)) for name, task in tasks.items()}
    common = set.intersection(*(set(found) for found in own.values()))
    assert all(np.array_equal(own["absolute"][name], found[name]) for found in own.values() for name in common)
    assert common == set(own["none"])
    more = {name: {key.split(".")[-2] if "." in key else key for key in set(found) - common} for name, found in own.items()}
    assert more == {
        **{name: {"position_embeddings"} for name in ("absolute", "absolute_steps", "absolute_longer")},
        **{name: {"rel_embeddings", "pos_proj", "pos_q_proj"} for name in ("disentangled", "disentangled_longer")},
        "none": set(), "t5": {"t5"}, "c2p": {"rel_embeddings", "pos_proj"},
        "p2c": {"rel_embeddings", "pos_q_proj"}, "emd_without": {"rel_embeddings", "pos_proj", "pos_q_proj"},
        "emd": {"rel_embeddings", "pos_proj", "pos_q_proj", "places"},
    }  # fmt: skip
    batches = [task.make_batch(3) for task in tasks.values()]
    assert all(np.array_equal(batches[0][key], batch[key]) for batch in batches for key in batches[0])


def test_with_absolute_positions_it_is_a_bert(tasks):
    """The same states, given BERT's names, a zero bias of its keys and no segments."""
    task = tasks["absolute"]
    params, config, batch = task.architecture.start, task.architecture.config, task.make_batch(0)
    bert = pretraining.config_of(
        task.setting, config.vocab_size, max_position_embeddings=64, layer_norm_eps=config.layer_norm_eps
    )
    flat = {}
    for i in range(2):
        own = params["deberta"]["encoder"]["layer"][str(i)]
        inner = encoder.families.layers(params, config)[i]["attention"]["self"]["content"]
        zero = np.zeros(config.hidden_size, np.float32)
        names = {
            part: {"weight": maps["weight"], "bias": zero if maps["bias"] is None else maps["bias"]}
            for part, maps in inner.items()
        }
        flat[str(i)] = own | {"attention": {"self": names, "output": own["attention"]["output"]}}
    segments = {"token_type_embeddings": {"weight": np.zeros((2, config.hidden_size), np.float32)}}
    renamed = {
        "bert": {"embeddings": params["deberta"]["embeddings"] | segments, "encoder": {"layer": flat}},
        "cls": params["cls"],
    }
    theirs = encoder.encode(renamed, bert, batch["input_ids"], batch["attention_mask"], at=batch["at"])
    ours = encoder.encode(params, config, batch["input_ids"], batch["attention_mask"], at=batch["at"])
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def t5_naive(params, config: Config, ids):
    """Softmax of q k / sqrt(D) and a number for the distance, word by word; positions nowhere else."""
    from bertcraft.bert.relative_positions import distance_buckets

    def attention(layer, x, source, bias, config, rng=None):
        heads_, size = config.num_attention_heads, config.head_size
        content = layer["attention"]["self"]["content"]
        q, k, v = (
            x @ content[part]["weight"].T + (0 if content[part]["bias"] is None else content[part]["bias"])
            for part in ("query", "key", "value")
        )
        out = np.zeros_like(x)
        buckets = distance_buckets(x.shape[1], 32)
        for b in range(len(x)):
            for h in range(heads_):
                own = slice(h * size, (h + 1) * size)
                scores = q[b, :, own] @ k[b, :, own].T / np.sqrt(size)
                for i in range(x.shape[1]):
                    for j in range(x.shape[1]):
                        scores[i, j] += params["t5"][buckets[i, j], h]
                weights = np.exp(scores - scores.max(axis=1, keepdims=True))
                out[b, :, own] = weights / weights.sum(axis=1, keepdims=True) @ v[b, :, own]
        output = layer["attention"]["output"]["dense"]
        return out @ output["weight"].T + output["bias"]

    return encoder.encode(params, config, ids, sockets=encoder.Sockets(attention=attention))


def test_a_number_for_each_distance_is_added_to_each_score(tasks):
    task = tasks["t5"]
    params, config, batch = task.architecture.start, task.architecture.config, task.make_batch(0)
    ids = batch["input_ids"][:2, :12]
    expected = t5_naive(params, config, ids)
    np.testing.assert_allclose(module.encode_t5(params, config, ids), expected, atol=1e-5)
    at = np.array([[3, 0, 11], [7, 7, 1]])
    np.testing.assert_allclose(
        module.encode_t5(params, config, ids, at=at), encoder.take_positions(expected, at), atol=1e-5
    )  # fmt: skip


def test_positions_cost_what_their_products_add_up_to(tasks):
    batch = tasks["none"].make_batch(0)
    rows, length = batch["input_ids"].shape
    distances, table, read = 2 * length - 1, 2 * module.REACH, batch["at"].size
    cost = {name: flops.count(task.architecture.loss, task.architecture.start, batch, None) for name, task in tasks.items()}
    assert cost["absolute"] == cost["t5"] == cost["none"]
    h = tasks["none"].architecture.config.hidden_size
    queries, keys = 2 * distances * h * (rows * length + read), 2 * distances * h * 2 * rows * length
    mapped = 2 * 2 * table * h * h  # the table through one map, in both layers
    assert cost["c2p"] - cost["none"] == queries + mapped
    assert cost["p2c"] - cost["none"] == keys + mapped
    assert cost["disentangled"] - cost["none"] == queries + keys + 2 * mapped
    assert cost["emd"] == cost["emd_without"] > cost["disentangled"]


def test_all_arms_spend_the_same_compute_but_the_one_that_takes_as_few_steps(tasks):
    for name, task in tasks.items():
        if name != "absolute_steps":
            assert task.setting.steps * task.step_flops == pytest.approx(TINY["tflop"] * 1e12, rel=0.1), name
    assert tasks["absolute_steps"].setting.steps == tasks["disentangled"].setting.steps < tasks["absolute"].setting.steps


def test_every_arm_reads_longer_rows_and_order_matters_to_all_but_one(tasks):
    ids = np.random.default_rng(0).integers(5, 2000, (2, module.LONGER))
    moved = ids.copy()
    moved[:, [5, 6]] = moved[:, [6, 5]]
    for name, task in tasks.items():
        at = np.full((2, 1), 20)
        one, other = (
            task.architecture.encode(task.architecture.start, task.architecture.config, each, at=at) for each in (ids, moved)
        )
        assert one.shape == (2, 1, TINY["hidden"]) and np.isfinite(one).all()
        assert (np.abs(one - other).max() > 1e-4) == (name != "none"), name


@pytest.mark.parametrize("name", ["t5", "emd", "emd_without"])
def test_gradients_are_those_of_differences(tasks, name):
    task = tasks[name]
    params = tree.map(lambda leaf: leaf.astype(np.float64), task.architecture.start)
    batch = {key: array[:2] for key, array in task.make_batch(0).items()}
    own = {"t5": "t5", "emd": "places"}.get(name)
    words = params["deberta"]["embeddings"]["LayerNorm"]["weight"]

    def loss(some):
        changed = params | {own: some} if own else params
        if not own:
            layers = params["deberta"]["embeddings"] | {
                "LayerNorm": params["deberta"]["embeddings"]["LayerNorm"] | {"weight": some}
            }
            changed = params | {"deberta": params["deberta"] | {"embeddings": layers}}
        return task.architecture.loss(changed, batch)

    check_grads(loss, params[own] if own else words)
    assert np.isfinite(value_and_grad(task.architecture.loss)(params, batch)[0])


# ---------------------------------------------------------------------------------------------------------------- runs


@pytest.mark.parametrize("name", ["absolute", "disentangled", "emd", "t5_packed"])
def test_a_run_gives_sane_figures_and_its_replay_is_its_beginning(name, tmp_path):
    arm = tiny(name)
    found = run_arm(EXPERIMENT, arm, 1, Context(folder=tmp_path))["figures"]
    packed = name.endswith("_packed")
    assert set(EXPERIMENT.metrics) - set(found) == (set() if packed else {"longer"})
    assert found["tflop"] == pytest.approx(TINY["tflop"], rel=0.1) and len(found["curve"]) == len(found["steps"])
    if packed:
        assert found["longer"] == found["gap_64"] - found["gap"] and found["gap"] == found["loss"] - found["unigram"]
        rows = architectures.judge(architectures.setting_of(arm.settings), "held_out", 64).batch
        assert rows["input_ids"].shape == (TINY["held_out"] // 2, 64) and rows["attention_mask"].all()
    again = replay_arm(EXPERIMENT, arm, 1, Context())
    assert again == {key: found[key] for key in again} and len(again["first_losses"]) > 2
    assert again["first_losses"] != replay_arm(EXPERIMENT, arm, 2, Context())["first_losses"]


def test_a_trial_is_judged_on_development_rows_alone():
    found = module.run(tiny("absolute", judged_on="dev"), 1000, Context())
    assert set(found) == {"dev", "curve", "steps", "first_losses"}
    judge = architectures.judge(architectures.setting_of(tiny("absolute").settings), "dev", 32)
    assert abs(found["dev"] - judge.unigram) < 2 and found["dev"] == found["curve"][-1]


def test_what_is_had_for_nothing():
    for name in ("untrained", "unigram"):
        found = module.run(tiny(name), 0, Context())
        assert set(found) == {"loss"} and found == replay_arm(EXPERIMENT, tiny(name), 0, Context())


def made_up_runs(experiment, seeds: int) -> list[dict]:
    rng = np.random.default_rng(0)
    return [
        {"arm": arm.name, "seed": seed, "figures": {
            "loss": 5 + rng.normal(), "gap": -1 + rng.normal(), "gap_64": -1.0, "curve": [6.0, 5.5, 5.0], "steps": [1, 2, 3],
            "step_gflops": 4.0, "unigram": 6.5,
        }}
        for arm in experiment.arms for seed in range(seeds)
    ]  # fmt: skip


@pytest.mark.parametrize("seeds", [1, 3])
def test_plots_are_drawn_for_any_number_of_seeds(seeds, tmp_path):
    for experiment in (EXPERIMENT, EXPERIMENT.quick):
        for path in figures.show(tmp_path, made_up_runs(experiment, seeds), experiment):
            assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
