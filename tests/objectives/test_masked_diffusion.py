"""掩码扩散：比例与权重的分布，上界是上界，谁看得见谁，一步步揭开。"""

import math
from functools import cache

import numpy as np
import pytest
import torch

from companion.batch import LOSS_WEIGHTS
from companion.checkpoints.loading import Checkpoint, load_checkpoint
from companion.checkpoints.running import adapt_batch, fitted_objective
from companion.checkpoints.saving import save_checkpoint
from companion.checkpoints.tiny import TINY_TEXT, tiny_model, tiny_tokenizer
from companion.corpus.document import Document
from companion.corpus.tokenization import text_ids
from companion.errors import ConfigError, ModelError, ObjectiveError
from companion.evaluation import build_targets
from companion.evaluation.answers import fill_tokens
from companion.evaluation.scoring import score_targets
from companion.evaluation.targets import merged_targets
from companion.inference import complete, infill
from companion.inference.decoding import Decoding
from companion.inference.unmasking import unmask
from companion.objectives import get_objective
from companion.objectives.masked_diffusion import draw_rate
from companion.preflight.visibility import measured_visibility
from companion.training.watching import front

GOAL = get_objective("masked_diffusion")
TEXT = "狡兔死，走狗烹；飞鸟尽，良弓藏。"
MANY = 2_000
KINDS = ("bert", "modernbert", "gpt2", "llama")
"""两种编码器，两种打开了的解码器。"""


@cache
def ready(kind: str):
    """掩码齐备的分词器。"""
    return form(kind).with_special_tokens(tiny_tokenizer(kind))


def form(kind: str):
    """目标用于这种模型时的样子。"""
    return fitted_objective(tiny_model(kind), GOAL)


def made(kind: str = "bert", **options):
    """整理器。"""
    return form(kind).make_collator(ready(kind), **options)


def model_of(kind: str = "bert"):
    """极小的模型，词表里有掩码。"""
    return tiny_model(kind, ready(kind))


def row_of(kind: str = "bert", text: str = TEXT, **others):
    """一段文字的一行，连同首尾。"""
    return {"input_ids": ready(kind)(text)["input_ids"], **others}


def many(collator, row, count: int = MANY, **others):
    """同一行破坏许多次，编号各不相同。"""
    return collator.examples([{**row, "example_id": n, **others} for n in range(count)])


def hidden_share(example) -> float:
    """遮住的占可遮的多少。"""
    maskable = example.extra[LOSS_WEIGHTS] > 0
    return float((example.labels != -100).sum() / maskable.sum())


@pytest.mark.parametrize("kind", KINDS)
def test_the_hidden_are_masks_and_the_rest_untouched(kind):
    """遮住的都换成掩码、标签是原文；别处原样、没有标签；特殊词元从不遮。"""
    tokenizer, row = ready(kind), row_of(kind)
    ids = torch.tensor(row["input_ids"])
    for example in many(made(kind), row, 50):
        chosen = example.labels != -100
        assert (example.input_ids[chosen] == tokenizer.mask_token_id).all()
        assert torch.equal(example.labels[chosen], ids[chosen])
        assert torch.equal(example.input_ids[~chosen], ids[~chosen])
        special = torch.isin(ids, torch.tensor(tokenizer.all_special_ids))
        assert not chosen[special].any()
        weights = example.extra[LOSS_WEIGHTS]
        assert (weights[special] == 0).all()
        assert len(set(weights[weights > 0].tolist())) == 1


def test_rates_are_uniform_and_masks_independent():
    """2,000 行：t 在十个区间里一样多；给定 t，遮住的个数是二项分布；权重恰是 1/t。"""
    row = row_of()
    examples = many(made(), row)
    size = len(row["input_ids"]) - 2
    weights = [each.extra[LOSS_WEIGHTS].max() for each in examples]
    rates = np.array([1 / float(weight) for weight in weights])
    assert rates.min() > 0
    assert rates.max() <= 1
    counts, _ = np.histogram(rates, bins=10, range=(0, 1))
    assert counts == pytest.approx(np.full(10, MANY / 10), abs=4)  # 摊得很匀
    hidden = np.array([hidden_share(each) * size for each in examples])
    for low in np.arange(0, 1, 0.25):
        here = (rates > low) & (rates <= low + 0.25)
        apart = hidden[here] - size * rates[here]
        spread = np.sqrt((size * rates[here] * (1 - rates[here])).sum())
        assert abs(apart.sum()) < 4 * spread
        expected = (size * rates[here] * (1 - rates[here])).mean()
        assert np.mean(apart**2) == pytest.approx(expected, rel=0.15)


def test_each_epoch_draws_another_rate_for_a_row():
    """同一行换一轮就换一个 t，许多轮合起来也均匀；轮次、种子、编号相同则逐位相同。"""
    row = row_of()
    collator = made()
    rates = []
    for epoch in range(400):
        [example] = collator.examples([{**row, "example_id": 7, "epoch": epoch}])
        rates.append(1 / float(example.extra[LOSS_WEIGHTS].max()))
    assert np.mean(rates) == pytest.approx(0.5, abs=0.06)
    assert np.quantile(rates, [0.25, 0.75]) == pytest.approx([0.25, 0.75], abs=0.09)
    [one], [other] = many(collator, row, 1, epoch=3), many(made(), row, 1, epoch=3)
    assert torch.equal(one.input_ids, other.input_ids)


def test_the_exam_hides_exactly_l_and_every_l_equally_often():
    """评估：恰好 l 个、权重 L/l，l 由 1 到 L 各一样多；每个位置遮住的机会相同。"""
    row = row_of()
    size = len(row["input_ids"]) - 2
    examples = many(made(exact=True), row)
    counts = np.array([int((each.labels != -100).sum()) for each in examples])
    weights = [float(each.extra[LOSS_WEIGHTS].max()) for each in examples]
    assert weights == pytest.approx(size / counts)
    each = np.bincount(counts, minlength=size + 1)
    assert each[0] == 0
    assert each[1:] == pytest.approx(np.full(size, MANY / size), abs=4)
    hidden = np.mean([(e.labels != -100).numpy() for e in examples], axis=0)[1:-1]
    assert hidden == pytest.approx(np.full(size, (size + 1) / 2 / size), abs=0.05)


@pytest.mark.parametrize("exact", [True, False])
def test_the_weighted_sum_is_unbiased(exact):
    """给每个词元定一个与遮法无关的损失，加权的和平均起来就是它们的和：不偏。

    一个也没有遮住的行算 0，也在平均之内。
    """
    row = row_of()
    size = len(row["input_ids"]) - 2
    cost = np.arange(1.0, size + 1)
    sums = []
    for example in many(made(exact=exact), row, 5 * MANY):
        chosen = (example.labels != -100).numpy()[1:-1]
        sums.append(float(example.extra[LOSS_WEIGHTS].max()) * cost[chosen].sum())
    error = np.std(sums) / len(sums) ** 0.5
    assert np.mean(sums) == pytest.approx(cost.sum(), abs=4 * error)
    assert error / cost.sum() < 0.02
    if not exact:
        assert 0.0 in sums


def test_rows_without_a_number_draw_their_own():
    """没有编号的样本各抽各的，由全局的随机状态定。"""
    collator, row = made(), row_of()
    with torch.random.fork_rng():
        torch.manual_seed(1)
        first = [draw_rate(collator.read(row), 0) for _ in range(3)]
        torch.manual_seed(1)
        again = [draw_rate(collator.read(row), 0) for _ in range(3)]
    assert first == again
    assert len(set(first)) == 3


def documents() -> list[Document]:
    """四句一篇。"""
    fours = [TINY_TEXT[n : n + 4] for n in range(0, len(TINY_TEXT), 4)]
    return [Document("".join(four), str(n), "") for n, four in enumerate(fours)]


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_a_uniform_model_scores_ln_v_at_any_rate(kind):
    """均匀的模型不论遮多少、遮哪些，每词元都是 ln V；几次遮法相同，标准误是 0。"""
    tokenizer, model = ready(kind), model_of(kind)
    with torch.no_grad():
        model.get_output_embeddings().weight.zero_()
        if model.get_output_embeddings().bias is not None:
            model.get_output_embeddings().bias.zero_()
    targets = build_targets(tokenizer, form(kind), documents(), block_size=24)
    scores = score_targets(model, targets).scores
    guess = math.log(len(tokenizer))
    assert scores.loss_nats_per_token == pytest.approx(guess, rel=1e-5)
    assert scores.standard_error == pytest.approx(0, abs=1e-4)
    if kind == "bert":  # 一字一词元
        assert scores.bits_per_char == pytest.approx(guess / math.log(2), rel=1e-5)


def test_the_bound_is_a_bound():
    """两个词元的全部四种遮法逐一算：上界等于两种次序的平均，不小于真的 −ln p。"""
    tokenizer, model = ready("bert"), model_of("bert")
    mask = tokenizer.mask_token_id
    cls, a, b, sep = tokenizer("狡兔")["input_ids"]

    def told(first: int, second: int):
        ids = torch.tensor([[cls, first, second, sep]])
        return model(ids).logits[0, 1:3].double().log_softmax(-1)

    with torch.no_grad():
        both, only_a, only_b = told(mask, mask), told(mask, b), told(a, mask)
        # l = 1 两种、l = 2 一种，各照 L/l 加权，l 各半
        one = 2 * (-only_a[0, a] - only_b[1, b]) / 2
        two = -both[0, a] - both[1, b]
        bound = float((one + two) / 2)
        orders = [both[0, a] + only_b[1, b], both[1, b] + only_a[0, a]]
        assert bound == pytest.approx(-float(sum(orders)) / 2)
        # 次序随机的模型：p = 两种次序的平均
        likelihood = torch.logsumexp(torch.stack(orders), 0) - math.log(2)
    assert bound >= -float(likelihood)
    collator = made(exact=True)
    rows = many(collator, {"input_ids": [cls, a, b, sep]}, 400)
    nats = []
    with torch.no_grad():
        for row in rows:
            at = (row.labels != -100).nonzero()[:, 0]
            logits = model(row.input_ids[None]).logits[0].double().log_softmax(-1)
            lost = -float(logits[at, row.labels[at]].sum())
            nats.append(lost * float(row.extra[LOSS_WEIGHTS].max()))
    error = np.std(nats) / len(nats) ** 0.5
    assert np.mean(nats) == pytest.approx(bound, abs=4 * error)


@pytest.mark.parametrize("kind", KINDS)
def test_the_score_and_its_error_are_worked_out_by_hand(kind):
    """每字比特数 = 各片几次平均之和 / 全部可遮的字，标准误由几次的离散；都等于手算。"""
    model, goal = model_of(kind).eval(), form(kind)
    targets = build_targets(ready(kind), goal, documents(), block_size=24)
    scores = score_targets(model, targets).scores
    bits, chars, tokens = [], [], []
    for row in targets.rows:
        batch = adapt_batch(model, targets.collate([row.example]))
        del batch["labels"], batch[LOSS_WEIGHTS]
        with torch.no_grad():
            told = model(**batch).logits[0].log_softmax(-1)
        at = (row.labels != -100).nonzero()[:, 0]
        lost = -float(told[at - int(goal.causal), row.labels[at]].sum())
        size = row.whole[1]
        bits.append(lost * size / len(at) / math.log(2))
        chars.append(row.whole[0])
        tokens.append(size)
    draws = goal.exam_draws
    bits, chars = np.array(bits).reshape(-1, draws), np.array(chars)[::draws]
    ratio = bits.mean(1).sum() / chars.sum()
    assert scores.bits_per_char == pytest.approx(ratio, rel=1e-4)
    nats = bits.mean(1).sum() * math.log(2) / sum(tokens[::draws])
    assert scores.loss_nats_per_token == pytest.approx(nats, rel=1e-4)
    spread = sum(np.var(row, ddof=1) / draws for row in bits)
    assert scores.standard_error == pytest.approx(spread**0.5 / chars.sum(), rel=1e-4)
    assert scores.num_chars == chars.sum()
    assert len({row.document for row in targets.rows[:draws]}) == 1
    again = build_targets(ready(kind), goal, documents(), block_size=24)
    assert again.fingerprint == targets.fingerprint


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_the_training_loss_divides_by_the_maskable_tokens(kind):
    """损失项是 Σ 1/t·交叉熵，除数是整批可遮的词元；梯度也各乘 1/t。"""
    model, goal = model_of(kind), form(kind)
    collator = made(kind)
    batch = collator.collate(many(collator, row_of(kind), 6))
    loss = goal.make_loss()
    [part] = loss(model, dict(batch))
    [count] = loss.other_targets(batch).values()
    assert int(count) == int((batch[LOSS_WEIGHTS] > 0).sum())
    part.losses.total_nats.backward()
    weight = model.get_input_embeddings().weight
    ours = weight.grad.clone()
    weight.grad = None
    adapted = adapt_batch(model, batch)
    weights, labels = adapted.pop(LOSS_WEIGHTS), adapted.pop("labels")
    logits = model(**adapted).logits
    if goal.causal:
        logits, labels, weights = logits[:, :-1], labels[:, 1:], weights[:, 1:]
    nats = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), reduction="none"
    )
    total = (nats * weights.flatten()).sum()
    torch.testing.assert_close(part.losses.total_nats, total, rtol=1e-4, atol=1e-4)
    total.backward()
    torch.testing.assert_close(ours, weight.grad, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_everyone_in_a_document_sees_everyone(kind):
    """改动一个词元试出来：一篇之内两边都看得见，打包的另一篇看不见。"""
    ids = row_of(kind)["input_ids"][:7]
    feature = {"input_ids": [*ids, *ids], "document_starts": [0, 7], "example_id": 1}
    collator = made(kind)
    batch = collator.collate(collator.examples([feature]))
    [seen] = measured_visibility(model_of(kind), batch)
    wanted = torch.zeros(14, 14, dtype=torch.bool)
    wanted[:7, :7] = wanted[7:, 7:] = True
    assert torch.equal(seen, wanted)


def test_the_masked_token_is_not_in_the_input():
    """遮住处原来是什么，模型的输出一点也不随它变；看得见的变了，它就变。"""
    model, collator = model_of("gpt2"), made("gpt2", exact=True)
    row = row_of("gpt2")
    [example] = many(collator, row, 1)
    at = int((example.labels != -100).nonzero()[0, 0])
    other = list(row["input_ids"])
    other[at] = row["input_ids"][at] + 1
    [changed] = many(collator, {"input_ids": other}, 1)
    batches = [collator.collate([each]) for each in (example, changed)]
    outputs = [
        model(**{k: v for k, v in b.items() if k not in ("labels", LOSS_WEIGHTS)})
        for b in batches
    ]
    assert batches[0]["labels"][0, at] != batches[1]["labels"][0, at]
    torch.testing.assert_close(outputs[0].logits, outputs[1].logits, rtol=0, atol=0)


def test_a_decoder_keeps_its_shift_and_its_first_token():
    """解码器的标签由损失移位，所以每篇的首个词元不遮，编码器的遮。"""
    assert form("gpt2").causal
    assert not form("bert").causal
    ids = text_ids(TEXT, ready("gpt2"))
    feature = {"input_ids": [*ids, *ids], "document_starts": [0, len(ids)]}
    for example in many(made("gpt2"), feature, 200):
        assert (example.labels[[0, len(ids)]] == -100).all()
        assert (example.extra[LOSS_WEIGHTS][[0, len(ids)]] == 0).all()


def test_a_mask_is_added_to_a_decoder_and_said(tmp_path):
    """没有掩码词元的解码器，打开时添一个并说出来；整理器自己不添。"""
    save_checkpoint(tiny_model("gpt2"), tiny_tokenizer("gpt2"), tmp_path)
    opened = load_checkpoint(str(tmp_path), "masked_diffusion")
    assert opened.tokenizer.mask_token == "<|mask|>"
    assert any("<|mask|>" in each for each in opened.notices)
    assert opened.model.get_input_embeddings().weight.shape[0] == len(opened.tokenizer)
    with pytest.raises(ObjectiveError, match="没有掩码词元"):
        form("gpt2").make_collator(tiny_tokenizer("gpt2"))


def test_a_model_that_cannot_be_opened_is_refused():
    """编码器–解码器没有这个目标；不收四维掩码的开训之前就点名。"""
    with pytest.raises(ModelError, match="编码器"):
        load_checkpoint("starter:t5", "masked_diffusion")


def by_hand(kind: str, ids: list[int], block: int) -> list[int]:
    """逐步重算：块内每步留最有把握的一个。"""
    model, tokenizer, goal = model_of(kind), ready(kind), form(kind)
    banned = [*tokenizer.all_special_ids]
    ids = list(ids)
    spots = [at for at, each in enumerate(ids) if each == tokenizer.mask_token_id]
    for first in range(0, len(spots), block):
        here = spots[first : first + block]
        while left := [at for at in here if ids[at] == tokenizer.mask_token_id]:
            row = torch.tensor([ids])
            mask = torch.ones_like(row)
            if goal.masks:
                mask = torch.zeros(1, 1, len(ids), len(ids))
            with torch.no_grad():
                logits = model(input_ids=row, attention_mask=mask).logits[0]
            logits[:, banned] = -torch.inf
            chances = logits.softmax(-1)
            best = max(left, key=lambda at: float(chances[at - goal.causal].max()))
            ids[best] = int(chances[best - goal.causal].argmax())
    return [ids[at] for at in spots]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("block", [2, 32])
def test_unmasking_equals_unmasking_by_hand(kind, block):
    """揭开的次序与写下的词元，和逐步重算的一致；块的大小改变次序。"""
    mask = ready(kind).mask_token_id
    ids = list(row_of(kind)["input_ids"])
    for at in (3, 4, 6, 8, 9):
        ids[at] = mask
    checkpoint = Checkpoint(model_of(kind), ready(kind), "tiny")
    [found] = unmask(checkpoint, form(kind), ids, Decoding(), block=block)
    assert found == by_hand(kind, ids, block)


def test_more_tokens_a_step_take_fewer_readings():
    """一步留几个，就读总数除以几遍（进位）。"""
    model, mask = model_of(), ready("bert").mask_token_id
    reads: list[int] = []
    model.register_forward_pre_hook(lambda *_: reads.append(1))
    ids = [*row_of()["input_ids"][:4], *[mask] * 7, row_of()["input_ids"][-1]]
    checkpoint = Checkpoint(model, ready("bert"), "tiny")
    [found] = unmask(checkpoint, GOAL, ids, Decoding(), tokens_per_step=3)
    assert len(found) == 7
    assert len(reads) == 3
    assert not set(found) & set(ready("bert").all_special_ids)


@pytest.mark.parametrize("kind", KINDS)
def test_complete_and_infill_write_as_many_as_asked(kind):
    """续写写满；填补一个 [MASK] 一个词元，看得见的原样；种子相同，抽到的相同。"""
    checkpoint = Checkpoint(model_of(kind), ready(kind), "tiny")
    [written] = complete(checkpoint, "狡兔死，", 6, objective=GOAL.key)
    assert written.text.startswith("狡兔死，")
    assert not written.finished
    assert [written] == complete(checkpoint, "狡兔死，", 6, objective=GOAL.key)
    text = "狡[MASK][MASK]，走狗[MASK]；飞鸟"
    found = infill(checkpoint, text, objective=GOAL.key)
    assert len(found.fills) == 2
    between = [found.text.index(each) for each in ("，走狗", "；飞鸟")]
    assert between == sorted(between)
    options = {"objective": GOAL.key, "do_sample": True, "seed": 3}
    drawn = [infill(checkpoint, text, **options) for _ in range(2)]
    assert drawn[0] == drawn[1]
    three = complete(checkpoint, "狡兔", 5, **options, num_return_sequences=3)
    assert len(three) == 3


def test_beams_are_refused():
    """不从左到右写，没有束可搜。"""
    checkpoint = Checkpoint(model_of(), ready("bert"), "tiny")
    with pytest.raises(ConfigError, match="num_beams"):
        complete(checkpoint, "狡兔", 3, objective=GOAL.key, num_beams=2)


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_a_cloze_is_filled_in_place(kind):
    """填空题逐个作答，猜的写回原处；答案的概率是各处条件概率之积，等于手算。"""
    model, goal = model_of(kind), form(kind)
    checkpoint = Checkpoint(model, ready(kind), "tiny")
    ids = text_ids(TEXT, ready(kind))
    noise = [3 <= at < 5 for at in range(len(ids))]
    read: list[list[int]] = []
    model.register_forward_pre_hook(
        lambda _m, _a, given: read.append(given["input_ids"][0].tolist()),
        with_kwargs=True,
    )
    found = fill_tokens(checkpoint, made(kind), ids, noise, causal=goal.causal)
    first = 1 if kind == "bert" else 0
    mask = ready(kind).mask_token_id
    assert read[0][first + 3 : first + 5] == [mask, mask]
    assert read[-1][first + 3 : first + 5] == [found.guess[0], mask]
    assert read[-1][first : first + 3] == ids[:3]


def test_the_standard_error_tells_how_far_another_plan_would_be():
    """同样的文字换十几套遮法，成绩的标准差与报的标准误相当（摊匀了，所以不大于它多少）。"""
    model, goal = model_of("bert"), form("bert")
    scores = [
        score_targets(
            model,
            build_targets(ready("bert"), goal, documents(), block_size=24, seed=seed),
        ).scores
        for seed in range(16)
    ]
    told = np.mean([each.standard_error for each in scores])
    seen = np.std([each.bits_per_char for each in scores], ddof=1)
    assert seen < 1.3 * told


def test_a_front_of_the_exam_keeps_the_draws_together():
    """途中的评估只考靠前的几片，一片的几次遮法都在；几份语料相间时也不分开。"""
    targets = build_targets(ready("bert"), GOAL, documents(), block_size=24)
    short = front(targets, 30)
    assert len(short.rows) == GOAL.exam_draws
    both = merged_targets({"甲": targets, "乙": targets})
    for at in range(0, len(both.rows), GOAL.exam_draws):
        piece = both.rows[at : at + GOAL.exam_draws]
        assert len({row.document for row in piece}) == 1
        assert len(set(both.sources[at : at + GOAL.exam_draws])) == 1
    scores = score_targets(model_of("bert"), both).scores
    assert scores.sources["甲"] == pytest.approx(scores.sources["乙"])
