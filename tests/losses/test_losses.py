"""损失的各份：名字、权重与目标数；猜词元的那个模型。"""

import pytest
import torch
import transformers

from companion.checkpoints.electra_pair import ElectraPair
from companion.checkpoints.running import model_options
from companion.checkpoints.tiny import tiny_model, tiny_tokenizer
from companion.losses.parts import DISCRIMINATOR_WEIGHT, word_logits, word_model
from companion.objectives import get_objective
from companion.objectives.replaced_token import DrawnFakesCollator

TOKENIZER = tiny_tokenizer("bert")
TEXT = "狡兔死，走狗烹；飞鸟尽，良弓藏。勿以恶小而为之，勿以善小而不为。"


def pair() -> ElectraPair:
    maker = tiny_model("electra")
    judge = transformers.AutoModelForPreTraining.from_config(maker.config)
    return ElectraPair(maker, judge).eval()


def two_headed():
    config = tiny_model("bert").config
    return transformers.AutoModelForPreTraining.from_config(config).eval()


def batch_for(key: str, model):
    goal = get_objective(key)
    collator = goal.make_collator(TOKENIZER, **model_options(model, goal))
    ids = TOKENIZER(TEXT).input_ids
    return collator([{"input_ids": ids, "example_id": n} for n in range(3)])


@pytest.mark.parametrize(
    ("key", "make", "names", "weights"),
    [
        ("masked_lm", lambda: tiny_model("bert"), ["words"], [1.0]),
        ("sentence_order", two_headed, ["words", "order"], [1.0, 1.0]),
        (
            "replaced_token",
            pair,
            ["words", "detection"],
            [1.0, DISCRIMINATOR_WEIGHT],
        ),
    ],
)
def test_every_part_counts_its_own_targets(key, make, names, weights):
    """各项的名字与权重照论文；第二项的目标数与批量里数得的相同。"""
    model = make()
    batch = batch_for(key, model)
    loss = get_objective(key).make_loss()
    parts = loss(model, batch)
    assert loss.names == tuple(names)
    assert [part.name for part in parts] == names
    assert [part.weight for part in parts] == weights
    for part in parts:
        torch.testing.assert_close(part.losses.total_nats, part.losses.nats.sum())
    counts = loss.other_targets(batch)
    assert list(counts) == names[1:]
    for part in parts[1:]:
        assert int(counts[part.name]) == len(part.losses.nats) > 0


def test_the_words_come_from_the_generator():
    """一对模型里猜词元的是生成器；两个头的模型给的是词元那个头。"""
    both = pair()
    assert word_model(both) is both.generator
    batch = batch_for("replaced_token", both)
    logits = word_logits(both, batch)
    assert logits.shape[-1] == len(TOKENIZER)
    alone = both.generator(batch["input_ids"], attention_mask=batch["attention_mask"])
    torch.testing.assert_close(logits, alone.logits)
    double = two_headed()
    batch = batch_for("sentence_order", double)
    assert word_logits(double, batch).shape == (*batch["input_ids"].shape, 233)


def test_drawn_fakes_are_tokens_of_the_same_row():
    """评估时的假都是这一行的词元；答案恰好标出换过的，特殊词元不判；数目不过 15%。"""
    ids = torch.tensor(TOKENIZER(TEXT).input_ids)
    collator = DrawnFakesCollator(TOKENIZER, seed=3)
    plain = ids[1:-1]
    replaced = 0
    for number in range(50):
        batch = collator([{"input_ids": ids, "example_id": number}])
        fakes, answers = batch["input_ids"][0], batch["labels"][0]
        assert torch.equal(answers[1:-1] == 1, fakes[1:-1] != plain)
        assert answers[[0, -1]].tolist() == [-100, -100]
        assert torch.isin(fakes[1:-1], plain).all()
        assert int((answers == 1).sum()) <= round(0.15 * len(ids))
        replaced += int((answers == 1).sum())
    assert replaced > 0.8 * 50 * round(0.15 * len(ids))
