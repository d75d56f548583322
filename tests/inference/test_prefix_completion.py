"""双向地读开头再续写：与不用缓存、逐步整行重算的贪心相同；用不得的点名拒绝。"""

from functools import cache

import pytest
import torch

from companion.checkpoints.loading import Checkpoint
from companion.checkpoints.running import adapt_batch, special_edges
from companion.checkpoints.tiny import tiny_model, tiny_tokenizer
from companion.errors import ConfigError, ModelError, ObjectiveError
from companion.inference import complete
from companion.inference.reading import never_written, stop_ids
from companion.objectives.attention import additive_mask, visible_pairs

TEXT = "狡兔死，走狗烹"
tokenizer_of = cache(tiny_tokenizer)


def make(kind: str, **overrides) -> Checkpoint:
    """极小的检查点；权重放大，写出的词元才随上文而变。"""
    tokenizer = tokenizer_of(kind)
    model = tiny_model(kind, tokenizer, **overrides)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight *= 3
    return Checkpoint(model, tokenizer, f"tiny-{kind}")


def logits_at_end(checkpoint, row, prefix, **more):
    """整行一次前向，前 `prefix` 个互相可见；最后一个位置的 logits。"""
    ids = torch.tensor([row])
    documents = torch.zeros_like(ids)
    seen = (torch.arange(len(row)) < prefix)[None]
    batch = {
        "input_ids": ids,
        "attention_mask": additive_mask(visible_pairs(documents, seen)),
        "position_ids": torch.arange(len(row))[None],
        **more,
    }
    with torch.no_grad():
        return checkpoint.model(**adapt_batch(checkpoint.model, batch)).logits[0, -1]


def greedy(checkpoint, score, stops, count):
    """每写一个都整行重算：`score` 由写下的词元给出下一个的 logits。"""
    size = checkpoint.model.config.vocab_size
    banned = never_written(checkpoint.tokenizer, size)
    banned[list(stops)] = False
    ids: list[int] = []
    while len(ids) < count:
        best = int(score(ids).masked_fill(banned, -torch.inf).argmax())
        if best in stops:
            break
        ids.append(best)
    return ids


def text_of(checkpoint, ids) -> str:
    written = checkpoint.tokenizer.decode(ids, skip_special_tokens=True)
    return written.replace(" ", "").removeprefix("##").rstrip("\ufffd")


@pytest.mark.parametrize("kind", ["gpt2", "qwen3", "glm_two_row"])
def test_a_prefix_model_continues_as_it_was_trained(kind):
    """prefix_lm：开头互相可见，其后只看左边。"""
    model = make(kind)
    edges = special_edges(model.tokenizer)
    prefix = [*edges.prefix, *model.tokenizer(TEXT, add_special_tokens=False).input_ids]

    def score(ids):
        return logits_at_end(model, [*prefix, *ids], len(prefix))

    ids = greedy(model, score, stop_ids(model.model, model.tokenizer), 8)
    [written] = complete(model, TEXT, 8, objective="prefix_lm")
    assert written.text == TEXT + written.new_text
    assert written.new_text.replace(" ", "") == text_of(model, ids)


@pytest.mark.parametrize(("kind", "types"), [("bert", 2), ("bert", 6), ("roberta", 1)])
def test_unilm_continues_as_it_was_trained(kind, types):
    """unified_lm：源端是 [CLS] 开头 [SEP]，[MASK] 在末尾；片段编号 4/5、0/1 或没有。"""
    model = make(kind, type_vocab_size=types)
    tokenizer = model.tokenizer
    source = tokenizer(TEXT)["input_ids"]
    first, second = {6: (4, 5), 2: (0, 1), 1: (0, 0)}[types]

    def score(ids):
        row = [*source, *ids, tokenizer.mask_token_id]
        segments = [first] * len(source) + [second] * (len(ids) + 1)
        return logits_at_end(
            model, row, len(source), token_type_ids=torch.tensor([segments])
        )

    ids = greedy(model, score, {tokenizer.sep_token_id}, 6)
    [written] = complete(model, TEXT, 6, objective="unified_lm")
    assert written.new_text.replace(" ", "") == text_of(model, ids)
    assert written.text == TEXT + written.new_text


def test_glm_continues_by_filling_a_blank_at_the_end():
    """blank_infilling：开头之后是 [gMASK]，写的是这一个空；两行位置的 GLM 缺省如此。"""
    model = make("glm_two_row")
    names = ["[gMASK]", "[sop]", "[eop]"]
    blank, start, end = model.tokenizer.convert_tokens_to_ids(names)
    head = model.tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    part_a = [2, *head, blank, 3]

    def score(ids):
        row = [*part_a, start, *ids]
        level = [*range(len(part_a)), *[len(head) + 1] * (len(ids) + 1)]
        inside = [0] * len(part_a) + list(range(1, len(ids) + 2))
        return logits_at_end(
            model, row, len(part_a), position_ids=torch.tensor([[level, inside]])
        )

    ids = greedy(model, score, {end}, 8)
    [written] = complete(model, TEXT, 8)
    assert written.new_text == text_of(model, ids)
    assert [written] == complete(model, TEXT, 8, objective="blank_infilling")


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_an_encoder_decoder_continues_after_its_encoder(kind):
    """prefix_lm 用于编码器–解码器：开头套上首尾进编码器，解码器逐个写。"""
    model = make(kind)
    tokenizer, edges = model.tokenizer, special_edges(model.tokenizer)
    source = torch.tensor([tokenizer(TEXT)["input_ids"]])
    forced = [model.model.config.decoder_start_token_id, *edges.prefix]

    def score(ids):
        with torch.no_grad():
            decoder = torch.tensor([[*forced, *ids]])
            return model.model(input_ids=source, decoder_input_ids=decoder).logits[
                0, -1
            ]

    ids = greedy(model, score, {*edges.suffix[:1]}, 6)
    [written] = complete(model, TEXT, 6, objective="prefix_lm")
    assert written.new_text.replace(" ", "") == text_of(model, ids)


@pytest.mark.parametrize(
    ("kind", "objective"),
    [("llama", "prefix_lm"), ("bert", "unified_lm"), ("glm_two_row", "blank_infilling"),
     ("t5", "prefix_lm")],
)  # fmt: skip
def test_sampling_and_beams_work_everywhere(kind, objective):
    """抽取由种子定，几段不全同；束搜索给出几段，第一段不比贪心差。"""
    model = make(kind)
    options = {"objective": objective, "max_new_tokens": 6}
    drawn = [
        complete(
            model, TEXT, do_sample=True, num_return_sequences=4, seed=seed, **options
        )
        for seed in (0, 0)
    ]
    assert drawn[0] == drawn[1]
    assert len({each.new_text for each in drawn[0]}) > 1
    beams = complete(model, TEXT, num_beams=3, num_return_sequences=3, **options)
    assert len({each.new_text for each in beams}) == 3


@pytest.mark.parametrize(
    ("kind", "objective"),
    [("gpt2", "prefix_lm"), ("bert", "unified_lm"), ("glm_two_row", "blank_infilling"),
     ("bart", "prefix_lm")],
)  # fmt: skip
def test_writing_stops_at_the_last_position(kind, objective):
    """写到位置上限为止，不越界；开头太长就点名拒绝。"""
    model = make(kind)
    [written] = complete(model, TEXT, 1000, objective=objective)
    assert written.finished or len(written.new_text) > 10
    with pytest.raises(ModelError, match="位置上限 128"):
        complete(model, TEXT * 40, objective=objective)


def test_the_model_goes_back_to_training_mode():
    """写的时候关掉随机失活，写完回到训练模式。"""
    model = make("glm_two_row")
    quiet = complete(model, TEXT, 6)
    model.model.train()
    assert complete(model, TEXT, 6) == quiet
    assert model.model.training


@pytest.mark.parametrize(
    ("kind", "objective", "error", "said"),
    [
        ("bert", "prefix_lm", ModelError, "BertForMaskedLM"),
        ("gpt2", "unified_lm", ModelError, "GPT2LMHeadModel"),
        ("modernbert", "unified_lm", ModelError, "用不得 seq2seq 掩码"),
        ("gpt2", "blank_infilling", ObjectiveError, r"没有 \[MASK\]、\[sop\]、\[eop\]"),
        ("t5", "blank_infilling", ModelError, "T5ForConditionalGeneration"),
        ("bert", "masked_lm", ObjectiveError, "masked_lm 不会续写"),
        ("bert", "mased_lm", ObjectiveError, "是不是想写 masked_lm"),
    ],
)
def test_what_cannot_continue_is_named(kind, objective, error, said):
    """模型、掩码、词元、目标不合的，点名拒绝。"""
    with pytest.raises(error, match=said):
        complete(make(kind), TEXT, objective=objective)


@pytest.mark.parametrize("objective", ["prefix_lm", "blank_infilling"])
def test_an_empty_prompt_is_refused(objective):
    """没有开头，无从写起。"""
    with pytest.raises(ObjectiveError, match="开头是空的"):
        complete(make("glm_two_row"), "", objective=objective)


def test_beams_of_a_causal_model_are_those_of_generate():
    """causal_lm 的束搜索交给 generate；抽取与束搜索一起给就拒绝。"""
    model = make("gpt2")
    written = complete(model, TEXT, 5, num_beams=3, num_return_sequences=2)
    assert len(written) == 2
    with pytest.raises(ConfigError, match="二者取一"):
        complete(model, TEXT, 5, num_beams=3, do_sample=True)
