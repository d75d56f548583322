"""填补：与不用缓存、逐步重算的贪心循环一字不差，看得见的文字原样不动。"""

import itertools
from functools import cache

import pytest
import torch

from companion.checkpoints.loading import Checkpoint
from companion.checkpoints.running import special_edges
from companion.checkpoints.tiny import tiny_model, tiny_tokenizer
from companion.errors import ConfigError, ModelError, ObjectiveError
from companion.inference import infill
from companion.objectives.seq2seq import sentinel_ids_of

tokenizer_of = cache(tiny_tokenizer)

SENTINEL_KINDS = ("t5", "mt5")
COPYING_KINDS = ("bart", "bart-chinese", "mbart")
TEXT = "良弓[MASK]藏，狡兔[MASK]死"


def make(kind: str, *, louder: float = 2.0) -> Checkpoint:
    """极小的检查点；权重放大，写出的词元才随上文而变。"""
    tokenizer = tokenizer_of(kind)
    model = tiny_model(kind, tokenizer)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() > 1 and "position" not in name:
                weight *= louder
    return Checkpoint(model, tokenizer, f"tiny-{kind}")


def favour(model, token_ids, amount: float) -> None:
    """给几个词元的 logits 加上一个数。"""

    def add(_module, _args, logits):
        logits[..., token_ids] += amount
        return logits

    model.lm_head.register_forward_hook(add)


def body(kind: str, text: str) -> list[int]:
    """一段文字的词元，不带 SentencePiece 添在开头的 ▁。"""
    tokenizer = tokenizer_of(kind)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids[tokenizer.convert_ids_to_tokens(ids)[0] == "▁" :]


def by_hand(checkpoint, source, forced, stops, max_new_tokens):
    """每写一个词元，都从头把编码器与解码器各跑一遍。"""
    model, tokenizer = checkpoint.model, checkpoint.tokenizer
    never = set(tokenizer.all_special_ids)
    never |= {i for t, i in tokenizer.get_vocab().items() if "extra_id" in t}
    decoder = [model.config.decoder_start_token_id]
    fills = []
    for before, after in itertools.pairwise(forced):
        decoder += before
        ends, filled = stops | set(after[:1]), []
        while len(filled) < max_new_tokens:
            with torch.no_grad():
                logits = model(
                    input_ids=torch.tensor([source]),
                    decoder_input_ids=torch.tensor([decoder]),
                    use_cache=False,
                ).logits[0, -1]
            ranked = logits.argsort(descending=True).tolist()
            best = next(
                token
                for token in ranked
                if (token in ends and filled)
                or (token not in ends and token not in never)
            )
            if best in ends:
                break
            filled.append(best)
            decoder.append(best)
        fills.append((filled, len(filled) < max_new_tokens))
    return fills


def assert_equals_by_hand(checkpoint, source, forced, stops) -> list[bool]:
    tokenizer = checkpoint.tokenizer
    expected = by_hand(checkpoint, source, forced, stops, 8)
    written = infill(checkpoint, TEXT, 8)
    decoded = [tokenizer.decode(ids).strip() for ids, _ in expected]
    if checkpoint.name == "tiny-bart-chinese":
        decoded = [fill.replace(" ", "") for fill in decoded]
    assert written.fills == decoded
    assert written.finished == [done for _, done in expected]
    one, two = written.fills
    assert written.text == f"良弓{one}藏，狡兔{two}死"
    return written.finished


@pytest.mark.parametrize("amount", [-5.0, 0.5, 30.0])
@pytest.mark.parametrize("kind", SENTINEL_KINDS)
def test_t5_writes_what_a_loop_without_a_cache_writes(kind, amount):
    """解码器只写缺的：<extra_id_0> 第一处 <extra_id_1> 第二处。"""
    checkpoint = make(kind)
    tokenizer = checkpoint.tokenizer
    ids = tokenizer.get_vocab()
    marks = sentinel_ids_of(tokenizer).tolist()
    ends = {tokenizer.eos_token_id, *marks}
    favour(checkpoint.model, [tokenizer.eos_token_id, marks[1]], amount)
    first, second = marks[:2]
    source = [ids["▁"], *body(kind, "良弓"), first, *body(kind, "藏，狡兔"), second,
              *body(kind, "死"), tokenizer.eos_token_id]  # fmt: skip
    forced = [[first], [second], [tokenizer.eos_token_id]]
    finished = assert_equals_by_hand(checkpoint, source, forced, ends)
    if abs(amount) > 1:  # 总是停，或从不停
        assert finished == [amount > 0] * 2


@pytest.mark.parametrize("kind", SENTINEL_KINDS)
def test_any_sentinel_ends_a_gap(kind):
    """原来的 T5 写完末一处，再写一个哨兵（论文图 2 的 <Z>）：到此为止，不当作文字。"""
    checkpoint = make(kind)
    favour(checkpoint.model, [int(sentinel_ids_of(checkpoint.tokenizer)[7])], 30.0)
    written = infill(checkpoint, TEXT, 6)
    assert written.finished == [True, True]
    for fill in written.fills:
        assert len(body(kind, fill)) == 1
        assert "extra_id" not in fill


@pytest.mark.parametrize("amount", [-5.0, 0.5, 30.0])
@pytest.mark.parametrize("kind", COPYING_KINDS)
def test_bart_writes_what_a_loop_without_a_cache_writes(kind, amount):
    """解码器照抄看得见的，写到后文的第一个词元为止。"""
    checkpoint = make(kind)
    tokenizer = checkpoint.tokenizer
    prefix, suffix = map(list, special_edges(tokenizer))
    start = [] if kind != "mbart" else [tokenizer.convert_tokens_to_ids("▁")]
    parts = [
        [*prefix, *start, *body(kind, "良弓")],
        body(kind, "藏，狡兔"),
        [*body(kind, "死"), *suffix],
    ]
    end = checkpoint.model.config.eos_token_id
    after = [parts[1][0], parts[2][0]] if amount < 1 else []
    favour(checkpoint.model, [end, *after], amount)
    mask = tokenizer.mask_token_id
    source = [*parts[0], mask, *parts[1], mask, *parts[2]]
    finished = assert_equals_by_hand(checkpoint, source, parts, {end})
    if abs(amount) > 1:
        assert finished == [amount > 0] * 2


def test_pegasus_writes_one_missing_sentence():
    """Pegasus 只写缺的那句：编码器里是 <mask_1>，解码器从头写起。"""
    checkpoint = make("pegasus")
    tokenizer = checkpoint.tokenizer
    ids = tokenizer.get_vocab()
    source = [ids["▁"], *body("pegasus", "良弓"), ids["<mask_1>"],
              *body("pegasus", "藏"), tokenizer.eos_token_id]  # fmt: skip
    stop = tokenizer.eos_token_id
    [(expected, done)] = by_hand(checkpoint, source, [[], [stop]], {stop}, 9)
    written = infill(checkpoint, "良弓[MASK]藏", 9)
    assert written.fills == [tokenizer.decode(expected).strip()]
    assert written.finished == [done]
    with pytest.raises(ModelError, match="至多写 1 处"):
        infill(checkpoint, TEXT)


@pytest.mark.parametrize("kind", [*SENTINEL_KINDS, *COPYING_KINDS])
def test_the_visible_text_is_left_as_it_was(kind):
    """生字、空格、半角标点都照原样；相连的几个掩码算一处，首尾也可以缺。"""
    text = "[MASK]龘 A,b[MASK][MASK]智伯 \u3000靐[MASK]"
    written = infill(make(kind), text, 3)
    assert len(written.fills) == len(written.finished) == 3
    assert all(written.fills)
    one, two, three = written.fills
    assert written.text == f"{one}龘 A,b{two}智伯 \u3000靐{three}"


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_gaps_may_be_written_in_any_of_the_usual_ways(kind):
    """[MASK]、<extra_id_3>、分词器自己的掩码，是一回事。"""
    checkpoint = make(kind)
    plain = infill(checkpoint, TEXT, 4)
    own = checkpoint.tokenizer.mask_token or "<extra_id_3>"
    assert infill(checkpoint, TEXT.replace("[MASK]", own), 4) == plain
    assert infill(checkpoint, TEXT.replace("[MASK]", "<extra_id_0>"), 4) == plain


def test_sentinels_win_over_a_mask_token_only_where_positions_are_relative():
    """两样都有时：T5 一族（相对位置）用哨兵，BART 照抄全文。"""
    tokenizer = tiny_tokenizer("bert")
    tokenizer.add_tokens(["extra0", "extra1"])  # UER 的中文 T5 如此
    first = tokenizer.convert_tokens_to_ids("extra0")
    seen = []
    for kind in ("t5", "bart"):
        model = tiny_model(kind, tokenizer)
        model.get_encoder().register_forward_pre_hook(
            lambda _module, args: seen.append(args[0][0].tolist())
        )
        infill(Checkpoint(model, tokenizer, kind), "良[MASK]藏", 2)
    assert first in seen[0]
    assert tokenizer.mask_token_id not in seen[0]
    assert first not in seen[1]
    assert tokenizer.mask_token_id in seen[1]


def test_what_is_written_stays_within_the_position_table():
    """BART 只有 128 个位置：快满时写到放不下为止，满了就拒绝。"""
    checkpoint = make("bart-chinese")
    head = "良" * 120  # 连同 [CLS]、[SEP]、起始词元共 123
    written = infill(checkpoint, head + "[MASK]", 40)
    assert len(written.fills[0]) <= 5
    assert written.finished == [False]
    assert written.text == head + written.fills[0]
    with pytest.raises(ModelError, match="位置上限 128"):
        infill(checkpoint, "良" * 126 + "[MASK]")
    with pytest.raises(ModelError, match="位置上限 128"):
        infill(checkpoint, "良" * 124 + "[MASK]弓[MASK]")


def average_log_probability(checkpoint, source, forced, ids, finished) -> float:
    """写下 `ids`（自己停的连同结尾），平均每个词元的对数概率，一次前向算出。"""
    tokenizer = checkpoint.tokenizer
    ends = {tokenizer.eos_token_id, *sentinel_ids_of(tokenizer).tolist()}
    never = set(tokenizer.all_special_ids) | ends
    with torch.no_grad():
        logits = checkpoint.model(
            input_ids=torch.tensor([source]),
            decoder_input_ids=torch.tensor([[*forced, *ids]]),
        ).logits[0, len(forced) - 1 :]
    total = 0.0
    for step in range(len(ids) + finished):
        scores = logits[step].clone()
        scores[list(never if step == 0 else never - ends)] = -torch.inf
        chances = scores.log_softmax(-1)
        last = step == len(ids)
        total += float(chances[list(ends)].max() if last else chances[ids[step]])
    return total / (len(ids) + finished)


def test_beams_find_a_likelier_fill_than_greedy():
    """束搜索不保证次次更好；这几句里，平均对数概率多半比贪心的高。"""
    checkpoint = make("t5")
    tokenizer = checkpoint.tokenizer
    favour(checkpoint.model, [tokenizer.eos_token_id], 3.0)
    mark = int(sentinel_ids_of(tokenizer)[0])
    forced = [checkpoint.model.config.decoder_start_token_id, mark]
    gains = []
    for before in "良弓藏狡兔死走狗烹":
        source = [tokenizer.get_vocab()["▁"], *body("t5", before), mark,
                  *body("t5", "藏"), tokenizer.eos_token_id]  # fmt: skip
        scores = []
        for beams in (1, 8):
            written = infill(checkpoint, f"{before}[MASK]藏", 8, num_beams=beams)
            ids, [finished] = body("t5", written.fills[0]), written.finished
            scores.append(
                average_log_probability(checkpoint, source, forced, ids, finished)
            )
        gains.append(scores[1] - scores[0])
    assert sum(gain > 0.01 for gain in gains) > len(gains) / 2
    assert sum(gains) > 0


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_sampling_is_decided_by_the_seed(kind):
    """同一种子同一结果，换一个种子换一种写法；看得见的文字不动。"""
    checkpoint = make(kind)
    drawn = [infill(checkpoint, TEXT, 5, do_sample=True, seed=n) for n in (0, 0, 1)]
    assert drawn[0] == drawn[1]
    assert drawn[0].fills != drawn[2].fills
    for each in drawn:
        one, two = each.fills
        assert each.text == f"良弓{one}藏，狡兔{two}死"


def test_the_model_returns_to_the_mode_it_came_in():
    """训练模式下也照评估模式写，用后复原，不留缓存设置。"""
    checkpoint = make("t5")
    quiet = infill(checkpoint, TEXT, 5)
    checkpoint.model.train()
    assert infill(checkpoint, TEXT, 5) == quiet
    assert checkpoint.model.training


@pytest.mark.parametrize(
    ("kind", "text", "said"),
    [
        ("t5", "没有缺处", "没有缺处"),
        ("bart", "", "没有缺处"),
        ("bert", TEXT, "编码器–解码器"),
        ("gpt2", TEXT, "编码器–解码器"),
        ("t5", "良[MASK]弓" * 11, "至多写 10 处"),
    ],
)
def test_what_cannot_be_filled_is_refused_by_name(kind, text, said):
    """没有缺处、不是编码器–解码器、哨兵不够：各有各的话。"""
    with pytest.raises((ModelError, ObjectiveError), match=said):
        infill(make(kind, louder=1.0), text)


def test_a_tokenizer_without_any_mark_is_refused():
    """BART 配了 GPT-2 的分词器：没有东西可以标缺处。"""
    tokenizer = tokenizer_of("gpt2")
    fields = {"pad_token_id": 0, "decoder_start_token_id": 0}
    model = tiny_model("bart", tokenizer_of("bart"), **fields)
    with pytest.raises(ModelError, match="既没有掩码词元，也没有哨兵"):
        infill(Checkpoint(model, tokenizer, "错配"), TEXT)


def test_zero_tokens_are_refused():
    """`max_new_tokens` 至少为 1。"""
    with pytest.raises(ConfigError, match="max_new_tokens"):
        infill(make("t5", louder=1.0), TEXT, 0)
