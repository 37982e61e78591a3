"""Parts of a corpus: what seeds share, and which losses are stored beside that at [MASK]."""

from bertcraft.lab import parts, pretraining
from bertcraft.lab.pretraining import Setting


def test_no_text_is_in_two_seeds_and_none_is_read_and_tested():
    texts = {seed: parts.texts_of(Setting(texts=parts.TRAINED, held_out=parts.TESTED, length=64), seed) for seed in (0, 1, 9)}
    trial = parts.texts_of(Setting(texts=parts.TRAINED, held_out=0, length=64), 1000)
    assert len(trial.held_out) == 0 and len({parts.part_of(seed) for seed in (*range(10), 1000, 1001)}) == parts.PARTS
    _, found = pretraining.documents(parts.CORPUS, 4096)
    assert parts.PARTS * parts.TRAINED <= len(found["train"]) and parts.PARTS * parts.DEVELOPED <= len(found["dev"])
    assert 10 * parts.TESTED <= len(found["held_out"])

    def rows(array):  # short texts can be equal by chance once they are cut into pieces
        return {row.tobytes() for row in array if (row != 0).sum() > 12}

    known = [rows(each.train) for each in (*texts.values(), trial)]
    known += [rows(each.dev) for each in (*texts.values(), trial)] + [rows(each.held_out) for each in texts.values()]
    assert all(known) and sum(map(len, known)) == len(set().union(*known))


def test_beside_the_loss_at_mask_stand_those_that_copying_moves():
    found = {"loss": 5.0, "accuracy": 0.2, "loss_kept": 1.0, "loss_random": 7.0, "loss_all": 4.8, "accuracy_all": 0.3}
    assert parts.beside(found) == {"loss_kept": 1.0, "loss_random": 7.0, "loss_all": 4.8}
