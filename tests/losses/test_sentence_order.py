"""句序的损失：与手算、与标准类自己的相等；检查点仍是标准的。"""

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForMaskedLM, AutoModelForPreTraining

from companion.batch import IGNORE_INDEX
from companion.checkpoints.running import order_label
from companion.checkpoints.saving import save_checkpoint
from companion.checkpoints.tiny import tiny_model, tiny_tokenizer
from companion.errors import ModelError
from companion.losses.parts import OrderLoss
from companion.objectives.sentence_order import SentenceOrderCollator

TEXTS = [
    "天下大势，分久必合，合久必分。狡兔死，走狗烹；飞鸟尽，良弓藏。",
    "三年春，大旱，民饥。",
    "王使人告于诸侯。诸侯皆来会。大夫以兵从之。",
]
KINDS = ["albert", "bert", "ernie"]


def pretraining_model(kind: str):
    """极小的预训练类，权重随机。"""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModelForPreTraining.from_config(tiny_model(kind).config).eval()


def batch_for(model, texts=TEXTS):
    tokenizer = tiny_tokenizer("bert")
    collator = SentenceOrderCollator(tokenizer, order_label=order_label(model))
    return collator(
        [
            {"input_ids": tokenizer(text)["input_ids"], "example_id": number}
            for number, text in enumerate(texts)
        ]
    )


def losses_of(model, batch):
    """两个损失项：被遮的词元，句序；与它们之和。"""
    words, order = (part.losses for part in OrderLoss()(model, batch))
    means = [part.total_nats / max(1, len(part.nats)) for part in (words, order)]
    return words, order, sum(means)


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_that_of_the_library_and_of_a_hand(kind):
    """与标准类的 loss 相等；与逐个目标、逐行手算相等；一句的行数过、不计。"""
    model = pretraining_model(kind)
    batch = batch_for(model)
    _, order_losses, loss = losses_of(model, batch)
    outputs = model(**batch)
    torch.testing.assert_close(loss, outputs.loss)

    order = batch[order_label(model)]
    assert order.tolist()[1] == IGNORE_INDEX
    scores = outputs.sop_logits if kind == "albert" else outputs.seq_relationship_logits
    by_hand = -F.log_softmax(scores, -1)[[0, 2], order[[0, 2]]]
    torch.testing.assert_close(order_losses.nats, by_hand.detach())
    chosen = batch["labels"] != IGNORE_INDEX
    words = -F.log_softmax(outputs.prediction_logits[chosen], -1)
    words = words.gather(1, batch["labels"][chosen][:, None]).mean()
    torch.testing.assert_close(loss, words + by_hand.mean())


@pytest.mark.parametrize("kind", KINDS)
def test_both_losses_train_the_model(kind):
    """几步之后两份损失都降了，句序全对。"""
    model = pretraining_model(kind)
    batch = batch_for(model)
    before = losses_of(model, batch)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(15):
        optimizer.zero_grad()
        losses_of(model, batch)[2].backward()
        optimizer.step()
    after = losses_of(model, batch)
    assert after[0].total_nats < 0.8 * before[0].total_nats
    assert after[1].total_nats < before[1].total_nats
    assert after[1].correct.all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_checkpoint_is_a_stock_one(kind, tmp_path):
    """`AutoModelForPreTraining` 与 `AutoModelForMaskedLM` 打开，一个键不缺。"""
    model = pretraining_model(kind)
    save_checkpoint(model, tiny_tokenizer("bert"), tmp_path / "model")
    for auto in (AutoModelForPreTraining, AutoModelForMaskedLM):
        again, report = auto.from_pretrained(
            tmp_path / "model", output_loading_info=True
        )
        assert not report["missing_keys"]
    batch = batch_for(model)
    again = AutoModelForPreTraining.from_pretrained(tmp_path / "model").eval()
    first, second = (losses_of(each, batch)[2] for each in (model, again))
    torch.testing.assert_close(first, second)


def test_a_batch_of_single_sentences_trains_the_masks_only():
    """整批都只有一句：库的损失是 NaN，这里只有掩码的那一份。"""
    model = pretraining_model("albert")
    batch = batch_for(model, ["三年春，大旱，民饥", "天子之职"])
    words, order, loss = losses_of(model, batch)
    assert model(**batch).loss.isnan()
    assert len(order.nats) == order.total_nats == 0
    torch.testing.assert_close(loss, words.total_nats / len(words.nats))


def test_models_and_batches_without_an_order_are_refused():
    """掩码语言模型类没有句序的头；普通的批量没有标签。"""
    with pytest.raises(ModelError, match=r"BertForMaskedLM.*AutoModelForPreTraining"):
        order_label(tiny_model("bert"))
    model = pretraining_model("bert")
    batch = batch_for(model)
    with pytest.raises(ModelError, match="没有判断句序的头"):
        OrderLoss()(tiny_model("bert"), batch)
    del batch["next_sentence_label"]
    with pytest.raises(ModelError, match="SentenceOrderCollator"):
        OrderLoss()(model, batch)
