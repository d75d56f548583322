"""ELECTRA 的一对：损失与手算相等，梯度各走各的路，抽样可复现，存的是标准检查点。"""

import pytest
import torch
import torch.nn.functional as F
import transformers

from companion.batch import IGNORE_INDEX
from companion.checkpoints.electra_pair import (
    DISCRIMINATORS,
    ElectraPair,
    fresh_generator,
    sample_tokens,
)
from companion.checkpoints.loading import load_checkpoint
from companion.checkpoints.saving import save_checkpoint
from companion.checkpoints.tiny import tiny_model, tiny_tokenizer
from companion.errors import ModelError
from companion.losses.parts import PairLoss
from companion.objectives.replaced_token import NOISE_BITS, ReplacedTokenCollator

KINDS = list(DISCRIMINATORS)
TOKENIZER = tiny_tokenizer("bert")
TEXTS = [
    "臣光曰：臣闻天子之职莫大于礼，礼莫大于分，分莫大于名。",
    "三年春，大旱，民饥，令郡国开仓以振之。",
    "勿以善小而不为，勿以恶小而为之。",
    "王使人告于诸侯，诸侯皆来会，大夫以兵从之。",
]


def discriminator_of(kind: str):
    """极小的判别器，权重随机。"""
    config = tiny_model(kind).config
    if kind == "convbert":
        config.num_labels = 1
    with torch.random.fork_rng():
        torch.manual_seed(1)
        auto = getattr(transformers, DISCRIMINATORS[kind])
        return auto.from_config(config).eval()


def pair_of(kind: str) -> ElectraPair:
    return ElectraPair(tiny_model(kind), discriminator_of(kind)).eval()


def features(epoch: int = 0) -> list[dict]:
    return [
        {
            "input_ids": TOKENIZER(text)["input_ids"],
            "example_id": number,
            "epoch": epoch,
        }
        for number, text in enumerate(TEXTS)
    ]


def losses_of(pair, batch):
    """两个损失项：被遮的词元，普通词元的真假；与按权重相加的一个数。"""
    words, detection = PairLoss()(pair, batch)
    loss = sum(p.weight * p.losses.total_nats / max(1, len(p.losses.nats))
               for p in (words, detection))  # fmt: skip
    return words.losses, detection.losses, loss


def batch_of(**settings) -> dict:
    return ReplacedTokenCollator(TOKENIZER, **settings)(features())


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_that_of_a_hand(kind):
    """掩码损失的平均 + 50 × 普通词元上的 −log σ 的平均；Funnel 的 1 是“原文”。"""
    pair, batch = pair_of(kind), batch_of()
    targets, detected, loss = losses_of(pair, batch)
    mask, labels = batch["attention_mask"], batch["labels"]
    chosen = labels != IGNORE_INDEX

    logits = pair.generator(batch["input_ids"], attention_mask=mask).logits
    words = -F.log_softmax(logits[chosen], -1)
    words = words.gather(1, labels[chosen][:, None])[:, 0]
    torch.testing.assert_close(targets.nats, words.detach())

    # 手算抽样：累积概率里第一个超过随机数的
    original = torch.where(chosen, labels, batch["input_ids"])
    fakes = original.clone()
    cumulative = logits[chosen].double().softmax(-1).cumsum(-1)
    lots = batch["sampling_noise"][chosen] / 2**NOISE_BITS
    fakes[chosen] = (cumulative <= lots[:, None]).sum(-1)

    scores = pair.discriminator(fakes, attention_mask=mask).logits
    scores = scores.reshape(fakes.shape)
    detection, guesses = [], []
    for row in range(len(fakes)):
        for place in range(fakes.shape[1]):
            token = int(original[row, place])
            if token in TOKENIZER.all_special_ids:  # 填充也在内
                continue
            replaced = bool(fakes[row, place] != token)
            is_one = not replaced if kind == "funnel" else replaced
            score = scores[row, place]
            detection.append(-F.logsigmoid(score if is_one else -score))
            guesses.append(bool(score > 0) == is_one)
    torch.testing.assert_close(detected.nats, torch.stack(detection).detach())
    assert detected.correct.tolist() == guesses
    by_hand = words.mean() + 50 * torch.stack(detection).mean()
    torch.testing.assert_close(loss, by_hand)


@pytest.mark.parametrize("kind", KINDS)
def test_detection_gradients_reach_the_generator_only_through_the_embeddings(kind):
    """判别器的损失：生成器除共用的嵌入外没有梯度；掩码的损失：判别器同样。"""
    pair, batch = pair_of(kind), batch_of()
    shared = {id(each) for each in pair.generator.parameters()} & {
        id(each) for each in pair.discriminator.parameters()
    }
    assert len(shared) == len(pair.tied)

    def trained(loss: torch.Tensor, model) -> set[str]:
        pair.zero_grad(set_to_none=True)
        loss.backward()
        return {
            name
            for name, each in model.named_parameters()
            if each.grad is not None and each.grad.any() and id(each) not in shared
        }

    assert not trained(losses_of(pair, batch)[1].total_nats, pair.generator)
    words = pair.discriminator.get_input_embeddings().weight
    assert words.grad is not None
    assert trained(losses_of(pair, batch)[0].total_nats, pair.generator)
    assert not trained(losses_of(pair, batch)[0].total_nats, pair.discriminator)
    assert trained(losses_of(pair, batch)[1].total_nats, pair.discriminator)


@pytest.mark.parametrize("kind", KINDS)
def test_fakes_differ_from_the_text_only_where_it_was_hidden(kind):
    """换过的都在遮住的位置上、且不同于原文；别处一字不动。"""
    pair, batch = pair_of(kind), batch_of()
    fakes, _ = pair.make_fakes(batch)
    chosen = batch["labels"] != IGNORE_INDEX
    original = torch.where(chosen, batch["labels"], batch["input_ids"])
    assert torch.equal(fakes[~chosen], original[~chosen])
    found = pair(**batch)
    assert found.replaced.sum() == (fakes != original).sum()
    scored = batch["original_ids"] != IGNORE_INDEX
    assert len(found.replaced) == scored.sum()


def test_a_lucky_generator_makes_no_fakes():
    """生成器十拿九稳时，抽出的就是原文：没有一个算“换过”。"""
    targets = torch.tensor([5, 9, 3])
    logits = F.one_hot(targets, 20) * 100.0
    noise = torch.randint(
        1 << NOISE_BITS, (3,), generator=torch.Generator().manual_seed(0)
    )
    assert torch.equal(sample_tokens(logits, noise), targets)


def test_tokens_are_drawn_with_the_probability_of_the_softmax():
    """四万次：各词元的频率是 softmax 的概率；概率为零的从不抽到，两端也不越界。"""
    shares = torch.tensor([0.5, 0.0, 0.3, 0.15, 0.05])
    logits = shares.log().expand(40_000, 5)
    noise = torch.randint(
        1 << NOISE_BITS, (40_000,), generator=torch.Generator().manual_seed(0)
    )
    counts = torch.bincount(sample_tokens(logits, noise), minlength=5)
    sigma = (shares * (1 - shares) * 40_000).sqrt()
    assert ((counts - 40_000 * shares).abs() <= 5 * sigma).all()
    ends = torch.tensor([0, (1 << NOISE_BITS) - 1])
    assert sample_tokens(logits[:2], ends).tolist() == [0, 4]


def test_nothing_hidden_draws_nothing():
    """整批只有特殊词元：两份损失都是 0。"""
    rows = [{"input_ids": TOKENIZER("")["input_ids"], "example_id": 0}]
    batch = ReplacedTokenCollator(TOKENIZER)(rows)
    words, detection, loss = losses_of(pair_of("electra"), batch)
    assert loss == 0
    assert len(words.nats) == len(detection.nats) == 0


def test_the_same_example_gets_the_same_fakes_in_any_batch():
    """独自一批、与别的样本一批、倒过来：同一个样本的假相同；换一轮就不同。"""
    pair = pair_of("electra")
    collator = ReplacedTokenCollator(TOKENIZER)
    rows = features()
    together, _ = pair.make_fakes(collator(rows))
    reverse, _ = pair.make_fakes(collator(rows[::-1]))
    later, _ = pair.make_fakes(collator(features(epoch=1)))
    for number, row in enumerate(rows):
        alone, _ = pair.make_fakes(collator([row]))
        size = alone.shape[1]
        assert torch.equal(together[number, :size], alone[0])
        assert torch.equal(reverse[-1 - number, :size], alone[0])
    assert not torch.equal(together, later)


@pytest.mark.parametrize(("kind", "replaced"), [("electra", True), ("funnel", False)])
def test_a_discriminator_that_always_says_one(kind, replaced):
    """判别头的偏置很大，总答 1：ELECTRA 是“换过”，Funnel 是“原文”。"""
    pair = pair_of(kind)
    with torch.no_grad():
        pair.discriminator.discriminator_predictions.dense_prediction.bias.fill_(50)
    assert ((pair(**batch_of()).scores > 0) == replaced).all()


def test_the_library_counts_minus_one_hundred_as_a_target():
    """对照：ElectraForPreTraining 把 −100 当作目标值，损失竟是几十上百。"""
    model, batch = discriminator_of("electra"), batch_of()
    with torch.no_grad():
        model.discriminator_predictions.dense_prediction.bias.fill_(3)
    labels = torch.where(batch["original_ids"] == IGNORE_INDEX, IGNORE_INDEX, 0)
    logits = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    ours = F.softplus(logits[labels == 0]).mean()
    theirs = model(
        batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels
    ).loss
    assert (theirs - ours).abs() > 10


def test_packed_documents_need_no_help():
    """一行两篇文档、四维掩码：库的损失会报错，这里照算。"""
    first, second = features()[:2]
    packed = {
        "input_ids": first["input_ids"] + second["input_ids"],
        "document_starts": [0, len(first["input_ids"])],
        "example_id": 0,
    }
    batch = ReplacedTokenCollator(TOKENIZER)([packed])
    assert batch["attention_mask"].dim() == 4
    _, detection, loss = losses_of(pair_of("electra"), batch)
    assert loss.isfinite()
    assert len(detection.nats) == len(TEXTS[0]) + len(TEXTS[1])


@pytest.mark.parametrize("kind", KINDS)
def test_both_models_learn_together(kind):
    """二十步之后，生成器猜得准了，判别器的损失也降了。"""
    pair, batch = pair_of(kind), batch_of()
    before = losses_of(pair, batch)
    optimizer = torch.optim.AdamW(pair.parameters(), 3e-3)
    for _ in range(20):
        optimizer.zero_grad()
        losses_of(pair, batch)[2].backward()
        optimizer.step()
    after = losses_of(pair, batch)
    for now, then in zip(after[:2], before[:2], strict=True):
        assert now.total_nats < 0.9 * then.total_nats


@pytest.mark.parametrize("kind", KINDS)
def test_both_are_saved_as_stock_checkpoints(kind, tmp_path):
    """标准的 Auto 类打开，一个键不缺，输出相同；读回来仍共用嵌入，损失相同。"""
    pair, batch = pair_of(kind), batch_of()
    save_checkpoint(pair, TOKENIZER, tmp_path / "pair")
    save_checkpoint(pair, TOKENIZER, tmp_path / "pair")  # 顶替旧的
    for name, auto in (
        ("discriminator", DISCRIMINATORS[kind]),
        ("generator", "AutoModelForMaskedLM"),
    ):
        model, report = getattr(transformers, auto).from_pretrained(
            tmp_path / "pair" / name, output_loading_info=True
        )
        assert not report["missing_keys"]
        assert not report["mismatched_keys"]
        ids, mask = batch["input_ids"], batch["attention_mask"]
        torch.testing.assert_close(
            model.eval()(ids, attention_mask=mask).logits,
            getattr(pair, name)(ids, attention_mask=mask).logits,
        )
    again = load_checkpoint(str(tmp_path / "pair"), "replaced_token")
    assert again.model.tied == pair.tied
    assert not again.notices
    losses = [losses_of(each, batch)[2] for each in (again.model, pair)]
    torch.testing.assert_close(*losses)


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_generator_is_made_and_said_aloud(kind, tmp_path):
    """没有生成器：新建一个小的，共用嵌入，说出来；同样的种子造出同一个，能训练。"""
    judge = discriminator_of(kind)
    save_checkpoint(judge, TOKENIZER, tmp_path / "judge")
    state = torch.get_rng_state()
    opened = load_checkpoint(str(tmp_path / "judge"), "replaced_token")
    assert torch.equal(torch.get_rng_state(), state)
    assert any("没有给生成器" in notice for notice in opened.notices)
    pair = opened.model
    count = sum(each.numel() for each in pair.generator.parameters())
    assert count < sum(each.numel() for each in judge.parameters())
    assert "word_embeddings" in pair.tied
    again = fresh_generator(judge)
    name, weight = list(again.named_parameters())[-1]
    torch.testing.assert_close(dict(pair.generator.named_parameters())[name], weight)
    loss = losses_of(pair, batch_of())[2]
    loss.backward()
    assert loss.isfinite()


def test_a_convbert_without_a_detection_head_gets_one(tmp_path):
    """别处来的 ConvBERT 没有判别头：新建一个标签的头，并提醒它是随机的。"""
    save_checkpoint(tiny_model("convbert"), TOKENIZER, tmp_path / "body")
    opened = load_checkpoint(str(tmp_path / "body"), "replaced_token")
    assert opened.model.discriminator.classifier.out_features == 1
    assert any("没有输出头" in notice for notice in opened.notices)
    assert losses_of(opened.model, batch_of())[2].isfinite()


def test_an_electra_generator_of_its_own_is_used(tmp_path):
    """给了生成器就用它；两份词嵌入不同，以判别器的为准，并说出来。"""
    save_checkpoint(discriminator_of("electra"), TOKENIZER, tmp_path / "judge")
    save_checkpoint(tiny_model("electra", seed=5), TOKENIZER, tmp_path / "maker")
    opened = load_checkpoint(
        str(tmp_path / "judge"), "replaced_token", generator=str(tmp_path / "maker")
    )
    assert any("以判别器的为准" in notice for notice in opened.notices)
    assert not any("没有给生成器" in notice for notice in opened.notices)
    words = opened.model.discriminator.get_input_embeddings().weight
    assert opened.model.generator.get_input_embeddings().weight is words
    assert opened.model.generator.get_output_embeddings().weight is words


def test_models_that_do_not_fit_are_refused(tmp_path):
    """BERT 不是判别器；嵌入宽度、词表不同的生成器配不上。"""
    judge = discriminator_of("electra")
    with pytest.raises(ModelError, match=r"bert.*不能作判别器"):
        ElectraPair(tiny_model("electra"), tiny_model("bert"))
    wide = discriminator_of("convbert")
    with pytest.raises(ModelError, match=r"词嵌入是.*16.*判别器的是"):
        ElectraPair(tiny_model("electra"), wide)
    save_checkpoint(judge, TOKENIZER, tmp_path / "judge")
    save_checkpoint(tiny_model("bert"), TOKENIZER, tmp_path / "bert")
    with pytest.raises(ModelError, match="不能作判别器"):
        load_checkpoint(str(tmp_path / "bert"), "replaced_token")
    other = tiny_tokenizer("roberta")
    save_checkpoint(tiny_model("electra", other), other, tmp_path / "other")
    with pytest.raises(ModelError, match="词表不同"):
        load_checkpoint(
            str(tmp_path / "judge"), "replaced_token", generator=str(tmp_path / "other")
        )
