"""GLM 的填补：几个空从左到右逐个写，与逐步整行重算的贪心相同；看得见的原样不动。"""

from functools import cache

import pytest
import torch

from companion.checkpoints.loading import Checkpoint, load_checkpoint
from companion.checkpoints.locating import list_starters
from companion.checkpoints.tiny import tiny_model, tiny_tokenizer
from companion.errors import ModelError, ObjectiveError
from companion.inference import infill
from companion.inference.reading import never_written
from companion.objectives.attention import additive_mask, visible_pairs

TEXT = "狡兔死，[MASK]烹；飞鸟尽，[MASK]藏。"
MORE = ("[MASK]", "[sMASK]", "[gMASK]", "[sop]", "[eop]")
tokenizer_of = cache(tiny_tokenizer)


def make(kind: str = "glm_two_row") -> Checkpoint:
    """极小的检查点；权重放大，写出的词元才随上文而变。stock 的模型添上 GLM 的词元。"""
    tokenizer = tokenizer_of(kind)
    if kind != "glm_two_row":
        tokenizer.add_special_tokens({"extra_special_tokens": list(MORE)})
    model = tiny_model(kind, tokenizer)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight *= 3
    return Checkpoint(model, tokenizer, f"tiny-{kind}")


def by_hand(model: Checkpoint, part_a: list[int], places: list[int], count: int):
    """每写一个词元，都把 A 部分与写过的全部重算一遍。"""
    tokenizer, rows = model.tokenizer, getattr(model.model.config, "position_rows", 1)
    start, end = tokenizer.convert_tokens_to_ids(["[sop]", "[eop]"])
    banned = never_written(tokenizer, model.model.config.vocab_size)
    row = list(part_a)
    level, inside = list(range(len(part_a))), [0] * len(part_a)
    fills = []
    for place in places:
        row, level, inside = [*row, start], [*level, place], [*inside, 1]
        ids: list[int] = []
        while len(ids) < count:
            tokens = torch.tensor([row])
            seen = (torch.arange(len(row)) < len(part_a))[None]
            mask = additive_mask(visible_pairs(torch.zeros_like(tokens), seen))
            both = torch.tensor([[level, inside]])
            with torch.no_grad():
                logits = model.model(
                    tokens,
                    attention_mask=mask,
                    position_ids=both if rows == 2 else both[:, 0],
                ).logits[0, -1]
            forbidden = banned.clone()
            forbidden[end] = not ids
            best = int(logits.masked_fill(forbidden, -torch.inf).argmax())
            if best == end:
                break
            ids.append(best)
            row, level = [*row, best], [*level, place]
            inside = [*inside, inside[-1] + 1]
        fills.append(ids)
    return fills


@pytest.mark.parametrize("kind", ["glm_two_row", "glm", "llama"])
@pytest.mark.parametrize("mark", ["[MASK]", "[sMASK]", "[gMASK]"])
def test_every_blank_is_filled_as_it_was_trained(kind, mark):
    """几个空、三种空、两行与一行位置：与不用缓存的逐步重算一字不差。"""
    model = make(kind)
    tokenizer = model.tokenizer
    text = TEXT.replace("[MASK]", mark)
    part_a = tokenizer(text)["input_ids"]
    blank = tokenizer.convert_tokens_to_ids(mark)
    places = [at for at, token in enumerate(part_a) if token == blank]
    assert len(places) == 2
    expected = [tokenizer.decode(ids) for ids in by_hand(model, part_a, places, 5)]
    found = infill(model, text, 5)
    assert found.fills == expected
    one, two = found.fills
    assert found.text == f"狡兔死，{one}烹；飞鸟尽，{two}藏。"


def test_a_later_blank_sees_what_an_earlier_one_wrote():
    """先写的空变了，后写的空的 logits 随之而变：两个空不是各自独立的。"""
    model = make()
    whole = infill(model, TEXT, 6).fills
    alone = infill(model, TEXT.replace("[MASK]", "走狗", 1), 6).fills
    assert whole[1] != alone[0]


def test_beams_and_samples_fill_blanks_too():
    """束搜索与抽取都可以；种子定了，抽取就定了。"""
    model = make()
    greedy = infill(model, TEXT, 5)
    assert infill(model, TEXT, 5, num_beams=3).text.startswith("狡兔死，")
    drawn = [infill(model, TEXT, 5, do_sample=True, seed=seed) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert greedy == infill(model, TEXT, 5)


def test_adjacent_blanks_of_one_kind_count_as_one():
    """相连的几个 [MASK] 是一处；空在开头、在末尾都行。"""
    model = make()
    assert infill(model, "狡兔[MASK][MASK][MASK]死", 3) == infill(
        model, "狡兔[MASK]死", 3
    )
    found = infill(model, "[MASK]狡兔死[gMASK]", 3)
    assert found.text == found.fills[0] + "狡兔死" + found.fills[1]


def test_an_unfinished_blank_is_told():
    """写到 `max_new_tokens` 还没写完的，`finished` 为假；写了 [eop] 的为真。"""
    model = make()
    end = model.tokenizer.convert_tokens_to_ids("[eop]")

    def favour(amount):
        def add(_module, _args, logits):
            logits[..., end] += amount
            return logits

        return model.model.lm_head.register_forward_hook(add)

    with_hook = favour(-1e4)
    assert infill(model, TEXT, 3).finished == [False, False]
    with_hook.remove()
    favour(1e4)
    found = infill(model, TEXT, 3)
    assert found.finished == [True, True]
    assert all(found.fills)  # 至少写一个


@pytest.mark.parametrize(
    ("kind", "text", "error", "said"),
    [
        ("glm_two_row", "没有空", ObjectiveError, "文字里没有空"),
        ("glm_two_row", TEXT * 20, ModelError, "位置上限 128"),
        ("bert", TEXT, ModelError, "BertForMaskedLM"),
        ("gpt2", TEXT, ObjectiveError, r"没有 \[MASK\]、\[sop\]、\[eop\]"),
    ],
)
def test_what_cannot_be_filled_is_named(kind, text, error, said):
    """没有空、太长、不是解码器、缺词元的，点名拒绝。"""
    tokenizer = tiny_tokenizer(kind)
    model = Checkpoint(tiny_model(kind, tokenizer), tokenizer, f"tiny-{kind}")
    with pytest.raises(error, match=said):
        infill(model, text, 3, objective="blank_infilling")


def test_a_decoder_without_blanks_is_sent_elsewhere():
    """没有写明目标的因果模型不会填补：说出它是什么，指向别的办法。"""
    model = Checkpoint(tiny_model("bloom"), tiny_tokenizer("bloom"), "tiny-bloom")
    with pytest.raises(ModelError, match="complete 续写"):
        infill(model, TEXT)


@pytest.mark.skipif("glm" not in list_starters(), reason="本安装没有附带 starter:glm")
def test_the_starter_fills_and_continues():
    """starter:glm：填几个空，看得见的原样不动；续写从开头接着写。"""
    glm = load_checkpoint("starter:glm", "blank_infilling")
    found = infill(glm, TEXT)
    one, two = found.fills
    assert found.text == f"狡兔死，{one}烹；飞鸟尽，{two}藏。"
