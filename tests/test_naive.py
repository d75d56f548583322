"""书里每一段“朴素写法”都与包里的核心函数逐格相等；代码就从章节的正文里取。"""

import re
from functools import cache
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from companion.checkpoints.electra_pair import sample_tokens
from companion.checkpoints.tiny import tiny_model
from companion.losses.target_head import target_losses
from companion.objectives.attention import visible_within_documents
from companion.objectives.noise import choose_ngrams
from companion.objectives.rows import shuffled

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
    stops = list(accumulate(sizes, initial=1))  # 第 0 个是 [CLS]
    words = list(pairwise(stops))
    documents = np.zeros(stops[-1] + 1, int)
    ours = choose_ngrams(words, documents, budget, (1.0,), np.random.default_rng(seed))
    order = shuffled(len(words), np.random.default_rng(seed))
    places = [list(range(*word)) for word in words]
    expected = naive("naive_words")(places, order, budget)
    assert np.flatnonzero(ours).tolist() == expected


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
