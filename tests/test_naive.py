"""书里每一段“朴素写法”都与包里的核心函数逐格相等；代码就从章节的正文里取。"""

import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from companion.checkpoints.electra_pair import sample_tokens
from companion.checkpoints.tiny import tiny_model, tiny_tokenizer
from companion.losses.target_head import target_losses
from companion.objectives.attention import visible_within_documents
from companion.objectives.blank_infilling import BlankInfillingCollator, blank_documents
from companion.objectives.blanks import Spans
from companion.objectives.noise import choose_words
from companion.objectives.ragged import Ragged
from companion.objectives.span_corruption import replace_spans

BOOK = Path(__file__).parents[1] / "book"
BLOCK = re.compile(r"```\{code-block\} python\n:caption: 朴素写法\n(.*?)```", re.DOTALL)


@cache
def model_of(kind: str) -> Any:
    """随机权重的极小模型，造一次。"""
    return tiny_model(kind).eval()


@cache
def naive(name: str) -> Any:
    """章节里名叫 `name` 的那一段，执行之后的函数。"""
    found = [
        block
        for path in sorted(BOOK.glob("[0-9][0-9]_*.md"))
        for block in BLOCK.findall(path.read_text("utf-8"))
        if block.startswith(f"def {name}(")
    ]
    assert len(found) == 1, f"{name} 在书里有 {len(found)} 处"
    space: dict[str, Any] = {}
    exec(found[0], space)
    return space[name]


@given(st.lists(st.integers(1, 4), max_size=5), st.integers(0, 3))
def test_the_naive_mask_is_the_mask(sizes: list[int], padding: int) -> None:
    """同一文档之内只看自己与左边；填充只看自己。"""
    documents = [number for number, size in enumerate(sizes) for _ in range(size)]
    documents += [-1] * padding
    if documents:
        ours = visible_within_documents(torch.tensor([documents]), causal=True)
        assert ours[0].tolist() == naive("naive_visible")(documents)


@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=8),
    st.integers(1, 12),
    st.integers(0, 99),
)
def test_the_naive_choice_of_words_is_the_choice(
    sizes: list[int], budget: int, seed: int
) -> None:
    """试词的次序相同，选中的就相同。"""
    ids = [number for number, size in enumerate(sizes) for _ in range(size)]
    word_ids = torch.tensor([-1, *ids, -1])
    candidates = word_ids >= 0
    ours = choose_words(
        word_ids, candidates, budget, torch.Generator().manual_seed(seed)
    )
    order = torch.randperm(len(sizes), generator=torch.Generator().manual_seed(seed))
    places = [(word_ids == number).nonzero()[:, 0].tolist() for number in set(ids)]
    expected = naive("naive_words")(places, order.tolist(), budget)
    assert ours.nonzero()[:, 0].tolist() == expected


@given(st.lists(st.booleans(), min_size=1, max_size=20))
def test_the_naive_spans_are_the_spans(noise: list[bool]) -> None:
    """一段也没有盖住时，包里的目标仍写一个哨兵；别处两种写法相等。"""
    tokens = list(range(1000, 1000 + len(noise)))
    sentinels = list(range(50, 80))
    inputs, targets = naive("naive_spans")(tokens, noise, sentinels)
    ours = replace_spans(
        Ragged(np.array(tokens), np.array([len(tokens)])),
        np.array(noise),
        np.array(sentinels),
    )
    assert ours.inputs.values.tolist() == inputs
    assert ours.targets.values.tolist() == (targets if any(noise) else sentinels[:1])


@st.composite
def blanked(draw: Any) -> tuple[int, list[tuple[int, int]]]:
    """词元数，与打乱了次序、互不相邻的几段。"""
    spans, at = [], 0
    for _ in range(draw(st.integers(1, 4))):
        first = at + draw(st.integers(0, 3)) + (1 if spans else 0)
        at = first + draw(st.integers(1, 4))
        spans.append((first, at))
    return at + draw(st.integers(0, 3)), draw(st.permutations(spans))


@cache
def glm_collator() -> BlankInfillingCollator:
    return BlankInfillingCollator(tiny_tokenizer("glm_two_row"))


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=9), st.integers(0, 2**53 - 1))
def test_the_naive_draw_is_the_draw(logits: list[float], noise: int) -> None:
    """同样的概率、同样的随机数，抽出同一个词元。"""
    scores = torch.tensor([logits], dtype=torch.float64)
    chances = scores.softmax(-1)[0].tolist()
    ours = int(sample_tokens(scores, torch.tensor([noise]))[0])
    expected = naive("naive_sample")(chances, noise / 2**53)
    if ours != expected:  # 随机数恰在两个词元的交界，只差舍入
        border = sum(chances[: max(ours, expected)])
        assert abs(border - noise / 2**53) < 1e-12


@given(blanked())
def test_the_naive_blanks_are_the_blanks(case: tuple[int, Any]) -> None:
    """输入、标签、两行位置，四列都相等；段的次序也是。"""
    length, spans = case
    collator = glm_collator()
    tokens = list(range(100, 100 + length))
    documents = collator.read([{"input_ids": tokens, "example_id": 0}])
    by_place = sorted(spans)
    ours = blank_documents(
        documents,
        Spans(
            np.zeros(len(spans), np.int64),
            np.array([first for first, _ in by_place]),
            np.array([stop - first for first, stop in by_place]),
        ),
        np.array([float(spans.index(span)) for span in by_place]),
        np.array([collator.tokens.mask]),
        collator.tokens,
    )[0]
    found = [ours.input_ids, ours.labels, *ours.position_ids]
    expected = naive("naive_blanks")(
        tokens, spans, collator.tokens.mask, collator.tokens.start, collator.tokens.end
    )
    assert [column.tolist() for column in found] == expected


@given(
    st.lists(st.sampled_from([-100, 5, 6, 7, 8]), min_size=2, max_size=8),
    st.sampled_from(["gpt2", "bert"]),
)
def test_the_naive_losses_are_the_losses(labels: list[int], kind: str) -> None:
    """因果模型由前一行的输出猜这一格，掩码模型由同一行；−100 处不计。"""
    model, causal = model_of(kind), kind == "gpt2"
    batch = {"input_ids": torch.arange(5, 5 + len(labels))[None]}
    with torch.no_grad():
        scores = model(**batch).logits[0].tolist()
        batch["labels"] = torch.tensor([labels])
        ours = target_losses(model, batch, causal=causal).nats
    expected = naive("naive_nats")(scores, labels, causal)
    torch.testing.assert_close(ours, torch.tensor(expected), rtol=1e-4, atol=1e-5)
