"""A real BERT with dropout, trained in shards over threads, for test_kill.py: the arguments of small_run.py."""

import sys

import numpy as np

from bertcraft.bert import Config, initial_params
from bertcraft.techniques import roberta_optimizations as technique
from bertcraft.tensor import tree
from bertcraft.tensor.parallel import pool, sharded_value_and_grad
from bertcraft.train import adamw, chain, clip_by_global_norm, fit, generator, warmup_linear

SEED, STEPS = 5, 400
CONFIG = Config(
    family="bert", head="masked_lm", vocab_size=90, hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
    intermediate_size=64, max_position_embeddings=12,
)  # fmt: skip


def make_batch(step):
    rng = generator(SEED, step)
    ids = rng.integers(5, 90, (8, 12)).astype(np.int32)
    masked = technique.mask_tokens(ids, rng.random((8, 36)), mask_id=4, vocab_size=90, first_word_id=5)
    return {**masked._asdict(), "attention_mask": np.ones_like(ids)}


def main(folder, result, save_every_seconds, threads=2):
    step = sharded_value_and_grad(
        lambda p, batch, rng: technique.masked_lm_loss(p, batch, rng, CONFIG),
        shard_size=4, weight=technique.predicted, threads=int(threads), seed=SEED,
    )  # fmt: skip
    run = fit(
        step, initial_params(CONFIG, SEED), chain(clip_by_global_norm(1.0), adamw(warmup_linear(1e-3, 20, STEPS))),
        make_batch, STEPS, seed=SEED, folder=folder, save_every_seconds=float(save_every_seconds),
        signature=CONFIG.to_dict(), report=lambda progress: print(progress.step, flush=True), pool=pool(int(threads)),
    )  # fmt: skip
    np.savez(result, losses=run.losses, **dict(tree.items(run.params)))


if __name__ == "__main__":
    main(*sys.argv[1:])
