"""极小模型与极小分词器：测试用的替身，行为要与真的一样。"""

import pytest
import torch
from transformers import AutoTokenizer

from companion.checkpoints.tiny import TINY_KINDS, TINY_TEXT, tiny_model, tiny_tokenizer
from companion.errors import ModelError

EVERY_KIND = pytest.mark.parametrize("kind", TINY_KINDS)
BYTE_LEVEL = ("roberta", "modernbert", "gpt2", "bloom", "llama", "qwen3", "glm", "bart")
SENTENCE = "狡兔死，走狗烹；飞鸟尽，良弓藏。"


@EVERY_KIND
def test_a_model_and_its_tokenizer_survive_saving_and_reloading(kind, tmp_path):
    """存盘后由 AutoTokenizer 与同一个类读回，编号与权重都不变。"""
    tokenizer = tiny_tokenizer(kind)
    model = tiny_model(kind, tokenizer)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    reloaded = type(model).from_pretrained(tmp_path)
    assert (
        again(list(TINY_TEXT))["input_ids"] == tokenizer(list(TINY_TEXT))["input_ids"]
    )
    assert again.all_special_ids == tokenizer.all_special_ids
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, reloaded.state_dict()[name]), name


@EVERY_KIND
def test_every_id_fits_the_embedding(kind):
    """分词器的编号与词嵌入的行数恰好相等。"""
    tokenizer = tiny_tokenizer(kind)
    rows = tiny_model(kind, tokenizer).get_input_embeddings().weight.shape[0]
    assert sorted(tokenizer.get_vocab().values()) == list(range(rows))


@EVERY_KIND
def test_the_weights_depend_on_the_seed_alone(kind):
    """同一种子同样的权重，不同种子不同；全局随机状态不动。"""
    torch.manual_seed(11)
    before = torch.get_rng_state()
    first, second, other = (tiny_model(kind, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    same = zip(first.parameters(), second.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in same)
    different = zip(first.parameters(), other.parameters(), strict=True)
    assert any(not torch.equal(a, b) for a, b in different)


@EVERY_KIND
def test_a_tiny_tokenizer_reads_its_own_text_without_unknowns(kind):
    """内置的句子里没有认不得的字。"""
    tokenizer = tiny_tokenizer(kind)
    ids = tokenizer(list(TINY_TEXT), add_special_tokens=False)["input_ids"]
    if kind != "gpt2":  # GPT-2 的未知、开头、结尾是同一个词元
        assert tokenizer.unk_token_id not in {i for row in ids for i in row}


@pytest.mark.parametrize("kind", BYTE_LEVEL)
def test_byte_level_tokenizers_write_any_character(kind):
    """字节级 BPE 写得出词表外的字：来回不变。"""
    tokenizer = tiny_tokenizer(kind)
    ids = tokenizer("龘🐉", add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == "龘🐉"


def test_word_piece_gives_one_token_per_character():
    """BERT 类一字一元，两头是 [CLS] 与 [SEP]。"""
    tokens = tiny_tokenizer("bert")(SENTENCE).tokens()
    assert tokens == ["[CLS]", *SENTENCE, "[SEP]"]


def test_t5_keeps_its_sentinels_whole():
    """哨兵词元不被拆开，也不带空格。"""
    tokenizer = tiny_tokenizer("t5")
    assert tokenizer.tokenize("良<extra_id_0>藏")[1:3] == ["良", "<extra_id_0>"]


def test_mt5_has_its_sentinels_inside_the_vocabulary():
    """真 mT5 如此：带 ▁，编号递减，其后还有别的词元，不算特殊词元。"""
    tokenizer = tiny_tokenizer("mt5")
    ids = [tokenizer.convert_tokens_to_ids(f"▁<extra_id_{n}>") for n in range(10)]
    assert ids == list(range(ids[0], ids[0] - 10, -1))
    assert ids[0] + 1 < len(tokenizer)
    assert not set(ids) & set(tokenizer.all_special_ids)


def test_mt5_has_a_head_of_its_own(tmp_path):
    """输出头与词嵌入是两份，存盘读回仍是。"""
    model = tiny_model("mt5")
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    for each in (model, again):
        assert not torch.equal(each.lm_head.weight, each.shared.weight)


def test_encoder_decoders_start_where_the_real_ones_do():
    """T5、Pegasus 从填充词元起头，BART 从结尾词元，mBART 从语言代码。"""
    starts = {
        "t5": "<pad>", "mt5": "<pad>", "pegasus": "<pad>", "bart": "</s>",
        "bart-chinese": "[SEP]", "mbart": "zh_CN",
    }  # fmt: skip
    for kind, token in starts.items():
        tokenizer = tiny_tokenizer(kind)
        start = tiny_model(kind, tokenizer).config.decoder_start_token_id
        assert tokenizer.convert_ids_to_tokens(start) == token


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_the_attention_implementation_can_be_chosen(implementation):
    """Eager 与 sdpa 都能指定。"""
    model = tiny_model("bert", attn_implementation=implementation)
    assert model.config._attn_implementation == implementation


def test_any_field_of_the_config_can_be_overridden():
    """多余的关键字参数直接进配置。"""
    assert tiny_model("bert", hidden_size=16).config.hidden_size == 16


def test_an_unknown_kind_lists_the_known_ones():
    """写错架构名，消息里有全部名字。"""
    with pytest.raises(ModelError, match=r"'brt'.*bert.*xlm"):
        tiny_model("brt")
