"""扩充词表：新词元在文中切得出，旧行逐位不变，新行由旧行的平均起头。"""

import copy
import math

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from companion.checkpoints.loading import Checkpoint, load_checkpoint
from companion.checkpoints.reading import quiet_transformers
from companion.checkpoints.saving import save_checkpoint
from companion.checkpoints.tiny import TINY_KINDS, tiny_model, tiny_tokenizer
from companion.checkpoints.vocabulary import embeddings_only, extend_vocabulary
from companion.corpus.document import Document
from companion.errors import ModelError
from companion.evaluation.scoring import evaluate

NEW = ["龘", "鱻", "司马光", "天下"]
OLD_TEXT = "臣光曰：天子之职莫大于礼。"
NEW_TEXT = "臣龘曰鱻：司马光之职，天下之礼。"
# WordPiece、一字一元、字节 BPE、Unigram 两条路；共享与不共享的头；有偏置与没有的
SAVED = ["bert", "albert", "xlm", "gpt2", "llama", "glm_two_row"]
SAVED += ["xlm-roberta", "t5", "mt5", "bart", "pegasus", "mbart", "electra"]


def tiny(kind, **overrides):
    tokenizer = tiny_tokenizer(kind)
    return Checkpoint(tiny_model(kind, tokenizer, **overrides), tokenizer, kind)


def logits(model, tokenizer, text):
    ids = torch.tensor([tokenizer(text)["input_ids"]])
    extra = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
    with torch.no_grad():
        return model(input_ids=ids, **extra).logits


@pytest.mark.parametrize("kind", sorted(TINY_KINDS))
def test_every_architecture_is_extended_and_old_text_stays_the_same(kind):
    """旧文字编号相同，旧词元的 logits 逐位相同；旧行逐位不变，词表大小改写。"""
    before = tiny(kind)
    old = {k: v.clone() for k, v in before.model.state_dict().items()}
    old_logits = logits(before.model, before.tokenizer, OLD_TEXT)
    size = len(before.tokenizer)
    result = extend_vocabulary(before, NEW)
    model, tokenizer = result.checkpoint.model, result.checkpoint.tokenizer
    assert result.ids == tuple(range(size, size + len(NEW)))
    assert len(before.tokenizer) == size  # 原来的分词器不动
    assert tokenizer(OLD_TEXT)["input_ids"] == before.tokenizer(OLD_TEXT)["input_ids"]
    new_logits = logits(model, tokenizer, OLD_TEXT)
    assert torch.equal(new_logits[..., :size], old_logits)
    assert new_logits.shape[-1] == size + len(NEW) == model.config.vocab_size
    for name, tensor in model.state_dict().items():
        kept = old[name]
        cut = tensor[:, : kept.shape[1]] if name == "final_logits_bias" else tensor
        assert torch.equal(cut[: kept.shape[0]], kept), name
    assert "龘" in result.checkpoint.notices[-1]


@pytest.mark.parametrize("kind", sorted(TINY_KINDS))
def test_new_tokens_are_found_in_running_text_without_disturbing_neighbours(kind):
    """四个新词元依次切出；去掉它们，其余的字与原来逐段切的相同，没有多出 “▁”。"""
    before = tiny(kind)
    result = extend_vocabulary(before, NEW)
    tokenizer = result.checkpoint.tokenizer
    ids = tokenizer(NEW_TEXT, add_special_tokens=False)["input_ids"]
    assert [i for i in ids if i in result.ids] == list(result.ids)
    parts, rest = [], NEW_TEXT
    for token in NEW:
        part, rest = rest.split(token)
        parts.append(part)
    expected = []
    for part, new in zip([*parts, rest], [*result.ids, None], strict=True):
        pieces = before.tokenizer.tokenize(part)
        if expected and pieces[0].startswith("▁"):
            pieces[0] = pieces[0].removeprefix("▁")
        expected += [piece for piece in pieces if piece]
        if new is not None:
            expected.append(tokenizer.convert_ids_to_tokens(new))
    assert tokenizer.convert_ids_to_tokens(ids) == expected


@pytest.mark.parametrize("kind", SAVED)
def test_the_extended_checkpoint_reopens_in_stock_transformers(kind, tmp_path):
    """存盘后由 Auto 类打开：没有缺的键，切法与 logits 相同。"""
    result = extend_vocabulary(tiny(kind), NEW)
    model, tokenizer = result.checkpoint.model, result.checkpoint.tokenizer
    save_checkpoint(model, tokenizer, tmp_path / "model")
    auto = getattr(transformers, TINY_KINDS[kind].auto_class)
    with quiet_transformers():
        again, report = auto.from_pretrained(
            tmp_path / "model", output_loading_info=True
        )
        reread = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
    assert not report["missing_keys"]
    assert not report["mismatched_keys"]
    assert reread(NEW_TEXT)["input_ids"] == tokenizer(NEW_TEXT)["input_ids"]
    assert reread.get_vocab() == tokenizer.get_vocab()
    assert torch.equal(
        logits(again.eval(), reread, NEW_TEXT), logits(model, tokenizer, NEW_TEXT)
    )


@pytest.mark.parametrize("kind", ["bert", "mt5", "gpt2"])
def test_a_new_row_is_the_mean_of_its_old_pieces(kind):
    """天下 = 天 与 下：输入行、输出行、偏置都是两行的平均。"""
    before = tiny(kind)
    bias = getattr(before.model.get_output_embeddings(), "bias", None)
    if bias is not None:
        with torch.no_grad():
            bias.copy_(torch.linspace(-1, 1, len(bias)))
    skipped = {before.tokenizer.convert_tokens_to_ids("▁")}
    pieces = before.tokenizer("天下", add_special_tokens=False)["input_ids"]
    pieces = [piece for piece in pieces if piece not in skipped]
    if kind == "mt5":
        assert len(pieces) == 2
    result = extend_vocabulary(before, ["天下"])
    model = result.checkpoint.model
    head = model.get_output_embeddings()
    for rows in (model.get_input_embeddings().weight, head.weight, head.bias):
        if rows is not None:
            assert torch.equal(rows[result.ids[0]], rows[pieces].mean(0))
    assert len(result.pieces[0]) == 2


def test_unknown_tokens_start_near_the_mean_and_apart_from_each_other():
    """全为 [UNK] 的：离总平均不远，彼此不同；与次序、别的词元无关，随种子变。"""

    def rows(tokens, seed=0):
        result = extend_vocabulary(tiny("bert"), tokens, seed=seed)
        weight = result.checkpoint.model.get_input_embeddings().weight.detach()
        return dict(zip(tokens, weight[list(result.ids)], strict=True)), weight

    found, weight = rows(["龘", "鱻", "司马光"])
    tokenizer = tiny_tokenizer("bert")
    ordinary = sorted(set(range(len(tokenizer))) - set(tokenizer.all_special_ids))
    mean, deviation = weight[ordinary].mean(0), weight[ordinary].std(0)
    distance = ((found["龘"] - mean) / deviation).square().mean().sqrt()
    assert 0.05 < distance < 0.2
    assert not torch.allclose(found["龘"], found["鱻"], atol=1e-3)
    again, _ = rows(["鱻", "龘"])
    assert torch.equal(again["龘"], found["龘"])
    other, _ = rows(["龘"], seed=1)
    assert not torch.equal(other["龘"], found["龘"])


def test_the_library_makes_all_new_rows_alike():
    """库的 mean_resizing：新行之间的差别不到一行长度的千分之一。

    我们的新行两两相距都远大于此，模型因此分得清它们。
    """

    def spread(rows):
        return torch.pdist(rows).min().item() / rows.norm(dim=1).mean().item()

    model = tiny_model("bert")
    size = model.config.vocab_size
    with quiet_transformers():
        model.resize_token_embeddings(size + 4, mean_resizing=True)
    theirs = model.get_input_embeddings().weight.detach()[size:]
    result = extend_vocabulary(tiny("bert"), NEW)
    weight = result.checkpoint.model.get_input_embeddings().weight.detach()
    assert torch.pdist(theirs).max() / theirs.norm(dim=1).mean() < 1e-3
    assert spread(weight[list(result.ids)]) > 0.1


@given(
    tokens=st.lists(
        st.text("臣光曰天子之职礼龘鱻", min_size=2, max_size=4), min_size=1, unique=True
    )
)
@settings(max_examples=10)
def test_no_two_rows_are_alike_and_each_token_is_one_piece(tokens):
    """任意添一批词，次序颠倒的“光臣”“臣光”也在内：各成一个词元，没有两行相同。"""
    result = extend_vocabulary(tiny("glm_two_row"), tokens)
    checkpoint = result.checkpoint
    weight = checkpoint.model.get_input_embeddings().weight.detach()
    assert len(torch.unique(weight, dim=0)) == len(weight)
    for token, index in zip(tokens, result.ids, strict=True):
        ids = checkpoint.tokenizer(token, add_special_tokens=False)["input_ids"]
        assert ids == [index]


def test_spare_rows_of_a_longer_embedding_are_used_first():
    """词嵌入本来比词表长（BLOOM、T5）：不扩，用空着的行，config.vocab_size 不变。"""
    tokenizer = tiny_tokenizer("bert")
    size = len(tokenizer)
    model = tiny_model("bert", tokenizer)
    with quiet_transformers():
        model.resize_token_embeddings(size + 10, mean_resizing=False)
    before = model.get_input_embeddings().weight.detach().clone()
    result = extend_vocabulary(Checkpoint(model, tokenizer, "bert"), ["天下"])
    assert result.ids == (size,)
    assert model.config.vocab_size == size + 10
    after = model.get_input_embeddings().weight.detach()
    changed = (after != before).any(1).nonzero().flatten().tolist()
    assert changed == [size]


def test_the_starter_scores_old_text_as_before():
    """starter:bert 添三个生造的字：旧文字评估目标相同，损失只多出新词元分去的一点。

    多出的不超过 ln(1 + 3/V) 的几倍：exp(平均) ≤ 平均的 exp，三个字都以总平均起头。
    """
    checkpoint = load_checkpoint("starter:bert", "masked_lm")
    documents = [Document("初，魏文侯以乐羊为将，使伐中山，克之。" * 3, "a#1", "a")]
    before = evaluate(checkpoint, "masked_lm", documents)
    size = checkpoint.model.config.vocab_size
    unseen = ["\U00030eda", "\U0002ebf0", "\U00031350"]
    result = extend_vocabulary(checkpoint, unseen)
    after = evaluate(result.checkpoint, "masked_lm", documents)
    assert after.coverage == before.coverage
    assert after.scores.num_targets == before.scores.num_targets
    assert after.scores.accuracy == before.scores.accuracy
    more = after.scores.loss_nats_per_token - before.scores.loss_nats_per_token
    assert 0 <= more <= 3 * math.log1p(3 / size) + 1e-6


def test_the_loss_grows_by_exactly_the_share_of_the_new_tokens():
    """添“天下”之后，旧目标的损失多出 ln(1 + e^新 / Σe^旧)，新词元不超过旧平均。"""
    before = tiny("gpt2")
    old = logits(before.model, before.tokenizer, OLD_TEXT)[0].double()
    pieces = before.tokenizer("天下")["input_ids"]
    result = extend_vocabulary(before, ["天下"])
    checkpoint = result.checkpoint
    new = logits(checkpoint.model, checkpoint.tokenizer, OLD_TEXT)[0].double()
    share = new[:, -1].exp() / old.exp().sum(-1)
    more = new.logsumexp(-1) - old.logsumexp(-1)
    torch.testing.assert_close(more, share.log1p())
    assert (share <= old.softmax(-1)[:, pieces].mean(-1) + 1e-9).all()


def train(model, tokenizer, steps=3, **settings):
    """几步 AdamW，只收能训练的参数。"""
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=1e-2, **settings)
    ids = torch.tensor([tokenizer(NEW_TEXT)["input_ids"]])
    for _ in range(steps):
        optimizer.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()


@pytest.mark.parametrize("kind", ["bert", "llama", "t5"])
def test_only_the_embeddings_move(kind):
    """期间别的参数没有梯度、逐位不变；词嵌入与输出头变了；出来时恢复能训练。"""
    checkpoint = extend_vocabulary(tiny(kind), NEW).checkpoint
    model = checkpoint.model
    frozen = next(p for n, p in model.named_parameters() if "norm" in n.lower())
    frozen.requires_grad_(False)  # 原本就不训的，出来也不训
    before = copy.deepcopy(model.state_dict())
    with embeddings_only(model):
        train(model, checkpoint.tokenizer)
        rows = {id(model.get_input_embeddings().weight)}
        head = model.get_output_embeddings()
        rows |= {id(head.weight), id(head.bias)}
        for weight in model.parameters():
            assert (weight.grad is not None) == (id(weight) in rows)
    changed = {k for k, v in model.state_dict().items() if not v.equal(before[k])}
    assert changed
    size = model.config.vocab_size
    assert all(size in before[name].shape for name in changed)
    assert [p.requires_grad for p in model.parameters()].count(False) == 1


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_only_the_new_rows_move_without_weight_decay(kind):
    """给了 ids：旧行逐位不变，新行变了；有权重衰减时旧行会缩，须设为 0。"""
    result = extend_vocabulary(tiny(kind), NEW)
    model, tokenizer = result.checkpoint.model, result.checkpoint.tokenizer
    before = model.get_input_embeddings().weight.detach().clone()
    fixed = before.shape[0] - len(NEW)
    with embeddings_only(model, result.ids):
        train(model, tokenizer, weight_decay=0.0)
    after = model.get_input_embeddings().weight.detach().clone()
    assert torch.equal(after[:fixed], before[:fixed])
    assert (after[fixed:] != before[fixed:]).any(1).all()
    with embeddings_only(model, result.ids):
        train(model, tokenizer, weight_decay=0.1)
    assert not torch.equal(model.get_input_embeddings().weight[:fixed], after[:fixed])
    model.zero_grad()
    train(model, tokenizer, steps=1)  # 出来之后钩子已撤，旧行重新有梯度
    assert model.get_input_embeddings().weight.grad[:fixed].any()


@pytest.mark.parametrize(
    ("kind", "tokens", "message"),
    [
        ("bert", ["龘", "天"], "'天' 已在词表里"),
        ("bloom", ["天"], "'天' 已在词表里"),  # 词表里写成字节
        ("bert", [""], "'' 是空的"),
        ("bert", ["天 下"], "'天 下' 是空的或带有空白"),
        ("bert", ["[MASK]"], "MASK.*是特殊词元"),
        ("t5", ["<extra_id_0>"], "extra_id_0.*是特殊词元"),
        ("bert", ["龘", "龘"], "'龘' 重复了"),
        ("bert", [], "要添的词元是"),
        ("bert", "龘", "要添的词元是 '龘'"),
    ],
)
def test_bad_tokens_are_refused_by_name_and_nothing_changes(kind, tokens, message):
    """第一个不合格的词元点名；模型与分词器都没有动。"""
    before = tiny(kind)
    size = before.model.config.vocab_size
    with pytest.raises(ModelError, match=message):
        extend_vocabulary(before, tokens)
    assert len(before.tokenizer) == before.model.config.vocab_size == size


def test_a_tokenizer_without_a_fast_backend_is_refused():
    """纯 Python 的分词器添不了。"""
    from built_tokenizers import Slow

    checkpoint = Checkpoint(tiny_model("bert"), Slow(), "slow")
    with pytest.raises(ModelError, match="没有快速后端"):
        extend_vocabulary(checkpoint, ["龘"])


def test_a_tokenizer_that_puts_a_space_before_every_segment_is_refused():
    """字节 BPE 若给每段开头加空格，添的词元后面会多出 “Ġ”：开训之前就说。"""
    from tokenizers import pre_tokenizers

    before = tiny("bloom")
    backend = before.tokenizer.backend_tokenizer
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    with pytest.raises(ModelError, match="后面不多出空白的记号"):
        extend_vocabulary(before, ["龘"])


def test_rows_outside_the_embedding_are_refused():
    """embeddings_only 的 ids 要在词嵌入之内。"""
    model = tiny_model("bert")
    with (
        pytest.raises(ModelError, match="编号 9999 不在"),
        embeddings_only(model, [9999]),
    ):
        pass
    assert all(weight.requires_grad for weight in model.parameters())
