"""逐个词元地填：概率与名次等于亲手算的，前面猜的作后面的上文。"""

import math

import pytest
import torch

from companion.checkpoints.loading import Checkpoint
from companion.checkpoints.running import model_options
from companion.checkpoints.tiny import tiny_model, tiny_tokenizer
from companion.evaluation.answers import fill_tokens
from companion.objectives import get_objective

CASES = [
    ("t5", "span_corruption"),
    ("t5", "masked_seq2seq"),
    ("bart-chinese", "text_infilling"),
    ("bart-chinese", "masked_seq2seq"),
]
TEXT = "狡兔死，走狗烹；飞鸟尽，良弓藏。"


@pytest.mark.parametrize(("kind", "goal"), CASES)
def test_probabilities_are_those_of_the_batch_made_by_hand(kind, goal):
    """遮住“走狗烹”：编码器与解码器的输入亲手拼出，每步重算。"""
    tokenizer = tiny_tokenizer(kind)
    model = tiny_model(kind, tokenizer)
    checkpoint = Checkpoint(model, tokenizer, kind)
    objective = get_objective(goal)
    collator = objective.make_collator(tokenizer, **model_options(model, objective))
    ids = tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    first = ids.index(tokenizer.convert_tokens_to_ids("走"))
    wanted, n = ids[first : first + 3], len(ids)
    found = fill_tokens(
        checkpoint, collator, ids, [first <= at < first + 3 for at in range(n)]
    )
    source, head, start = by_hand(kind, goal, tokenizer, model, ids, first)

    def step(written: list[int]) -> torch.Tensor:
        """已写几个词元之后，下一个的概率，(V,)。"""
        decoder = torch.tensor([[*head, *written]])
        inputs = {"input_ids": torch.tensor([source]), "decoder_input_ids": decoder}
        if start:  # MASS 留在原来的位置：前面的格子填什么都一样
            visible = torch.arange(decoder.shape[1])[None] >= start
            inputs["decoder_attention_mask"] = visible.long()
        with torch.no_grad():
            return model(**inputs, use_cache=False).logits[0, -1].softmax(-1)

    told = [step(wanted[:done]) for done in range(3)]
    chosen = [float(told[at][wanted[at]]) for at in range(3)]
    assert found.answer_probability == pytest.approx(math.prod(chosen), rel=1e-4)
    ranks = [int((told[at] > told[at][wanted[at]]).sum()) + 1 for at in range(3)]
    assert found.rank == max(ranks)
    guess, probability = [], 1.0
    for _ in range(3):
        best = step(guess).max(0)
        guess.append(int(best.indices))
        probability *= float(best.values)
    assert found.guess == guess
    assert found.guess_probability == pytest.approx(probability, rel=1e-4)


def by_hand(kind, goal, tokenizer, model, ids, first):
    """编码器的输入，解码器在第一个要写的词元之前的输入，以及它从第几格起有内容。"""
    begin = model.config.decoder_start_token_id
    before, after = ids[:first], ids[first + 3 :]
    if kind == "t5":
        sentinel = tokenizer.convert_tokens_to_ids("<extra_id_0>")
        end = tokenizer.eos_token_id
        if goal == "span_corruption":
            return [*before, sentinel, *after, end], [begin, sentinel], 0
        return [*before, *[sentinel] * 3, *after, end], [ids[first - 1]], 0
    mask, cls, sep = (
        tokenizer.mask_token_id, tokenizer.cls_token_id, tokenizer.sep_token_id
    )  # fmt: skip
    if goal == "text_infilling":
        return [cls, *before, mask, *after, sep], [begin, cls, *before], 0
    source = [cls, *before, *[mask] * 3, *after, sep]
    return source, [*[mask] * (first + 1), ids[first - 1]], first + 1
