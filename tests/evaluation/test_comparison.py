"""对照：前后同一份评估集，合成一张报告卡。"""

import json
from dataclasses import dataclass

import pytest
import torch

from companion.corpus.document import Document
from companion.errors import EvaluationError
from companion.evaluation.answers import (
    answer_clozes,
    build_samples,
    pair_clozes,
    pair_samples,
)
from companion.evaluation.comparison import (
    assemble,
    compare,
    pick_texts,
    prepare_exam,
    sit_exam,
)


@dataclass(frozen=True)
class Question:
    """一道题。"""

    text: str
    answer: str


MASKED = [
    Question("狡兔死，走狗烹；飞鸟尽，良弓[MASK]。", "藏"),
    Question("天[MASK][MASK]势，分久必合。", "下大"),
    Question("未若柳絮因[MASK]起", "龘"),
]
CAUSAL = [
    Question("狡兔死，走狗烹；飞鸟尽，良弓", "藏"),
    Question("[MASK]下大势", "天"),
]


@pytest.mark.parametrize(
    ("kind", "goal", "clozes"),
    [("bert", "masked_lm", MASKED), ("bloom", "causal_lm", CAUSAL)],
)
def test_two_checkpoints_make_a_report_card(
    kind, goal, clozes, checkpoint, documents, tmp_path
):
    """Compare 与 prepare_exam、sit_exam、assemble 分开做的结果相同，且可写成 JSON。"""
    before, after = checkpoint(kind, seed=0), checkpoint(kind, seed=1)
    state = torch.get_rng_state()
    card = compare(before, after, goal, documents, lambda: documents[:3], clozes=clozes)
    assert torch.equal(state, torch.get_rng_state())
    exam = prepare_exam(before, goal, documents, documents[:3], clozes=clozes)
    apart = assemble(sit_exam(before, exam), sit_exam(after, exam), curve=b"png")
    assert card.domain == apart.domain
    assert card.general == apart.general
    assert card.samples == apart.samples
    assert card.clozes == apart.clozes
    assert apart.curve == b"png"
    content = json.loads(json.dumps(card.as_dict()))
    assert content["before"]["model"] == before.name
    assert set(content["after"]) == {"model", "domain", "general"}
    change = content["change"]["domain"]
    assert change["bits_per_char"] == pytest.approx(
        content["after"]["domain"]["bits_per_char"]
        - content["before"]["domain"]["bits_per_char"]
    )
    low, high = change["interval"]
    assert low <= change["bits_per_char"] <= high
    assert content["cloze"]["num_questions"] == len(card.clozes) == len(clozes) - 1
    assert content["verdict"] == str(card.verdict)


def test_without_a_general_set_the_card_leaves_it_out(checkpoint, documents):
    """没有通用留出集：字典里也没有这一项。"""
    bert = checkpoint("bert")
    card = compare(bert, bert, "masked_lm", iter(documents), texts=[])
    assert card.general is None
    assert card.samples == []
    assert "general" not in card.as_dict()["before"]
    sitting = sit_exam(bert, prepare_exam(bert, "masked_lm", documents, texts=[]))
    assert set(sitting.as_dict()) == {"domain"}


def test_samples_with_fixed_seeds_are_the_same_every_time(checkpoint):
    """同样的检查点、文字、种子，样张相同；换了种子，抽取的不同，贪心的不变。"""
    bloom = checkpoint("bloom")
    first, again = (build_samples(bloom, "causal_lm", ["天下大势"]) for _ in range(2))
    other = build_samples(bloom, "causal_lm", ["天下大势"], seed=1)
    assert first == again
    assert first[0].outputs[0] == other[0].outputs[0]
    assert first[0].outputs[1][1] != other[0].outputs[1][1]


def test_masked_samples_keep_the_text_around_the_blanks(checkpoint):
    """填好的样张只动掩码处；没有掩码的题面随机遮两个字。"""
    bert = checkpoint("bert")
    given, masked = build_samples(
        bert, "masked_lm", ["天下大[MASK]，分久必合", "天下大势，分久必合"]
    )
    (how, whole), *guesses = given.outputs
    assert how == "填好"
    assert whole.startswith("天下大")
    assert whole.endswith("，分久必合")
    assert len(guesses) == 1
    assert masked.prompt.count("[MASK]") == 2


def test_samples_of_other_texts_are_not_paired(checkpoint):
    """题面不同的样张不能并排。"""
    bert = checkpoint("bert")
    samples = [
        build_samples(bert, "masked_lm", [f"{text}[MASK]"]) for text in ("天", "王")
    ]
    with pytest.raises(EvaluationError, match="题面不同"):
        pair_samples(*samples)


def test_prompts_come_from_several_documents(documents):
    """样张的题面散在各处：掩码取整句，因果取开头，断在标点之后。"""
    assert pick_texts(documents, causal=False, count=2) == [
        "臣光曰：臣闻天子之职莫大于礼，礼莫大于分，分莫大于名。",
        "天下大势，分久必合，合久必分。",
    ]
    assert pick_texts(documents, causal=True, count=1) == [
        "臣光曰：臣闻天子之职莫大于礼，"
    ]
    assert pick_texts([], causal=True) == []


def test_an_answer_says_the_guess_the_probability_and_the_rank(checkpoint):
    """逐空作答：名次数的是概率更大的词元，答案的概率是各空之积。"""
    bert = checkpoint("bert")
    one, two, unknown = answer_clozes(bert, "masked_lm", MASKED)
    assert unknown is None  # 答案是词表外的字
    ids = bert.tokenizer(MASKED[0].text, return_tensors="pt")
    with torch.no_grad():
        logits = bert.model(**ids).logits[0]
    where = int((ids["input_ids"][0] == bert.tokenizer.mask_token_id).nonzero())
    probabilities = logits[where].softmax(-1)
    answer = bert.tokenizer.convert_tokens_to_ids("藏")
    ranking = probabilities.argsort(descending=True).tolist()
    assert one.rank == ranking.index(answer) + 1
    assert one.answer_probability == pytest.approx(float(probabilities[answer]))
    assert one.guess == bert.tokenizer.convert_ids_to_tokens(ranking[0]).removeprefix(
        "##"
    )
    assert one.correct == (ranking[0] == answer)
    assert 0 < two.answer_probability <= two.guess_probability


def test_a_causal_model_answers_from_the_left(checkpoint):
    """因果：答案的概率是逐词元之积；空在开头的题没有上文，不答。"""
    bloom = checkpoint("bloom")
    first, second = answer_clozes(bloom, "causal_lm", CAUSAL)
    assert second is None
    head = bloom.tokenizer(CAUSAL[0].text)["input_ids"]
    whole = bloom.tokenizer(CAUSAL[0].text + "藏")["input_ids"]
    assert whole[: len(head)] == head
    with torch.no_grad():
        logits = bloom.model(torch.tensor([whole])).logits[0].log_softmax(-1)
    logp = sum(float(logits[t - 1, whole[t]]) for t in range(len(head), len(whole)))
    assert first.answer_probability == pytest.approx(
        torch.tensor(logp).exp().item(), rel=1e-4
    )
    chosen = logits[range(len(head) - 1, len(whole) - 1)]  # (N, V)
    own = chosen.gather(1, torch.tensor(whole[len(head) :])[:, None])
    assert first.rank == int((chosen > own).sum(-1).max()) + 1
    assert len(first.guess) <= 1
    products, ids = [1.0], list(head)  # 所猜的概率：写下几个词元，就是几个之积
    for _ in range(8):
        with torch.no_grad():
            best = bloom.model(torch.tensor([ids])).logits[0, -1].softmax(-1).max(0)
        products.append(products[-1] * float(best.values))
        ids.append(int(best.indices))
    assert any(
        first.guess_probability == pytest.approx(each, rel=1e-4)
        for each in products[1:]
    )


def test_answers_to_other_questions_are_not_paired():
    """两份评估结果题数不同，不是同一份题。"""
    with pytest.raises(EvaluationError, match="同样的题目"):
        pair_clozes([None], [])


def test_compare_uses_the_shorter_block_of_two_models(checkpoint, documents):
    """两边位置上限不同时，行长取小的，评估目标才相同。"""
    long = [Document("".join(d.text for d in documents) * 4, "l#1", "l"), *documents]
    bert, small = checkpoint("bert"), checkpoint("bert")
    embeddings = small.model.bert.embeddings
    embeddings.position_embeddings.weight.data = (
        embeddings.position_embeddings.weight.data[:64]
    )
    embeddings.position_embeddings.num_embeddings = 64
    card = compare(bert, small, "masked_lm", long, texts=[])
    assert card.domain.difference.paired
