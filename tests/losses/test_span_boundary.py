"""边界头：损失与梯度逐个目标手算核对；挂上、摘下、存盘、读回。"""

import copy
import math

import pytest
import torch
import transformers

from companion.batch import IGNORE_INDEX
from companion.checkpoints.saving import (
    boundary_head,
    save_boundary_head,
    save_checkpoint,
    stock,
)
from companion.checkpoints.tiny import TINY_TEXT, tiny_model, tiny_tokenizer
from companion.errors import ModelError
from companion.losses.parts import BoundaryLoss, WordLoss
from companion.losses.span_boundary import (
    BOUNDARY_FILE,
    attach_boundary_head,
    make_boundary_head,
)
from companion.objectives.masked_lm import MAX_BORDER_TARGETS, MaskedLMCollator

TOKENIZER = tiny_tokenizer("bert")
LOSS = BoundaryLoss(WordLoss())


def batch_of(**changes) -> dict:
    """四行，其中一行装着两篇。"""
    collator = MaskedLMCollator(
        TOKENIZER, granularity="span", mlm_probability=0.3, span_boundary=True
    )
    rows = []
    for number in range(4):
        ids = TOKENIZER(TINY_TEXT[number]).input_ids
        starts = [0]
        if number == 3:
            starts.append(len(ids))
            ids = ids + TOKENIZER(TINY_TEXT[5]).input_ids
        special = torch.isin(torch.tensor(ids), torch.tensor(TOKENIZER.all_special_ids))
        words = torch.where(special, -1, torch.arange(len(ids)))
        rows.append(
            {
                "input_ids": ids,
                "word_ids": words,
                "document_starts": starts,
                "example_id": number,
            }
        )
    return collator(rows) | changes


def with_head(kind: str, tmp_path, **options):
    model = tiny_model(kind, TOKENIZER, **options)
    attach_boundary_head(model, make_boundary_head(model, tmp_path, seed=3))
    return model


def layer_norm(x, norm):
    centred = x - x.mean()
    return centred / (centred.pow(2).mean() + norm.eps).sqrt() * norm.weight + norm.bias


def gelu(x):
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def by_hand(model, batch):
    """一个目标一个目标地照公式算；返回损失之和与各目标的损失。"""
    head, table = boundary_head(model), model.get_input_embeddings().weight
    kept = ("input_ids", "attention_mask", "position_ids")
    inputs = {name: batch[name] for name in kept}
    base = model.base_model(**inputs).last_hidden_state
    losses = []
    for line, row in enumerate(batch["span_borders"].tolist()):
        for place, (left, right) in enumerate(row):
            if left == IGNORE_INDEX:
                continue
            inside = head.positions.weight[place - left - 1]
            h0 = torch.cat([base[line, left], base[line, right], inside])
            h1 = layer_norm(gelu(head.first.weight @ h0 + head.first.bias),
                            head.first_norm)  # fmt: skip
            y = layer_norm(gelu(head.second.weight @ h1 + head.second.bias),
                           head.second_norm)  # fmt: skip
            scores = table @ y + head.bias
            losses.append(scores.logsumexp(0) - scores[batch["labels"][line, place]])
    return torch.stack(losses)


def gradients(model) -> dict:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("kind", ["bert", "albert"])
def test_the_loss_and_its_gradients_are_those_of_the_formula(kind, tmp_path):
    """损失之和、各目标的损失与每个参数的梯度，都与手算的相等；ALBERT 的词嵌入窄些。"""
    batch, model = batch_of(), with_head(kind, tmp_path)
    twin = copy.deepcopy(model)
    words, boundary = LOSS(model, batch)
    assert (words.name, boundary.name, boundary.weight) == ("words", "boundary", 1.0)
    expected = by_hand(twin, batch)
    torch.testing.assert_close(boundary.losses.nats, expected.detach())
    assert len(expected) == int(LOSS.other_targets(batch)["boundary"]) > 5
    boundary.losses.total_nats.backward()
    expected.sum().backward()
    found, wanted = gradients(model), gradients(twin)
    assert found.keys() >= wanted.keys()
    assert any("word_embeddings" in name for name in wanted)
    for name, gradient in wanted.items():
        torch.testing.assert_close(
            found[name],
            gradient,
            rtol=1e-4,
            atol=2e-6,
            msg=name,
        )


def test_the_words_are_scored_as_without_the_head(tmp_path):
    """掩码语言建模那一份与没有边界头时逐位相等。"""
    batch = batch_of()
    plain = {name: value for name, value in batch.items() if name != "span_borders"}
    (alone,) = WordLoss()(tiny_model("bert", TOKENIZER), plain)
    words, _ = LOSS(with_head("bert", tmp_path), batch)
    assert torch.equal(words.losses.nats, alone.losses.nats)


def test_a_batch_without_borders_still_reaches_the_head(tmp_path):
    """一个边界也没有的批：损失为 0，头的梯度是 0 而不是没有（DDP 要人人都有）。"""
    batch, model = batch_of(), with_head("bert", tmp_path)
    batch["span_borders"] = torch.full_like(batch["span_borders"], IGNORE_INDEX)
    words, boundary = LOSS(model, batch)
    assert float(boundary.losses.total_nats.detach()) == 0
    (words.losses.total_nats + boundary.losses.total_nats).backward()
    for name, weight in boundary_head(model).named_parameters():
        assert weight.grad is not None, name
        assert not weight.grad.any(), name


def test_the_head_depends_on_the_seed_alone(tmp_path):
    """同一个种子同样的初值，全局随机状态不动；位置嵌入 15 个。"""
    model, before = tiny_model("bert", TOKENIZER), torch.get_rng_state()
    first, again, other = (make_boundary_head(model, tmp_path, s) for s in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first.second.weight, again.second.weight)
    assert not torch.equal(first.second.weight, other.second.weight)
    assert first.positions.num_embeddings == MAX_BORDER_TARGETS == 15


def test_a_saved_checkpoint_is_stock_and_keeps_the_head_beside_it(tmp_path):
    """标准的类打开，一个键不多不少；头在旁边的文件里，读回逐位相等，词表长了补 0。"""
    model = with_head("bert", tmp_path)
    torch.nn.init.normal_(boundary_head(model).bias)
    names = dict(model.named_parameters()).keys()
    folder = save_checkpoint(model, TOKENIZER, tmp_path / "model")
    assert dict(model.named_parameters()).keys() == names
    _, report = transformers.AutoModelForMaskedLM.from_pretrained(
        folder, output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    plain = tiny_model("bert", TOKENIZER)
    kept = make_boundary_head(plain, folder, seed=9)
    for name, weight in boundary_head(model).state_dict().items():
        assert torch.equal(kept.state_dict()[name], weight), name
    size = len(kept.bias)
    plain.resize_token_embeddings(size + 2)
    grown = make_boundary_head(plain, folder).bias
    assert torch.equal(grown[:size], kept.bias)
    assert grown[size:].tolist() == [0.0, 0.0]


def test_a_head_of_another_model_is_named(tmp_path):
    """宽度不合、文件坏了、批量里有边界而模型没有头：都说得清。"""
    save_boundary_head(with_head("bert", tmp_path), tmp_path)
    with pytest.raises(ModelError, match=r"span_boundary\.safetensors.*装不上"):
        make_boundary_head(tiny_model("bert", TOKENIZER, hidden_size=16), tmp_path)
    (tmp_path / BOUNDARY_FILE).write_bytes(b"broken")
    with pytest.raises(ModelError, match="从随机练起"):
        make_boundary_head(tiny_model("bert", TOKENIZER), tmp_path)
    with pytest.raises(ModelError, match="没有边界头"):
        LOSS(tiny_model("bert", TOKENIZER), batch_of())


def test_taking_the_head_off_is_undone_even_after_an_error(tmp_path):
    """摘下期间出错，头照样挂回去。"""
    model = with_head("bert", tmp_path)
    head = boundary_head(model)

    def fail() -> None:
        with stock(model):
            assert boundary_head(model) is None
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert boundary_head(model) is head
