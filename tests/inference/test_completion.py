"""续写：等于 model.generate，随机数与模式都不外泄。"""

import pytest
import torch
from transformers import set_seed

from companion.checkpoints.loading import Checkpoint, load_checkpoint
from companion.checkpoints.locating import list_starters
from companion.checkpoints.tiny import tiny_model, tiny_tokenizer
from companion.errors import ConfigError, ModelError, ObjectiveError
from companion.inference import complete
from companion.inference.reading import stop_ids

EXAMPLES = ["狡兔死，走狗烹；飞鸟尽，良弓", "勿以善小而不为，"]


def make(kind: str = "bloom") -> Checkpoint:
    """极小的检查点。"""
    tokenizer = tiny_tokenizer(kind)
    return Checkpoint(tiny_model(kind, tokenizer), tokenizer, f"tiny-{kind}")


def generated(model: Checkpoint, text: str, **options) -> list[list[int]]:
    """库的 generate 写出的新词元。"""
    inputs = model.tokenizer(text, return_tensors="pt", return_token_type_ids=False)
    pad = model.tokenizer.pad_token_id
    outputs = model.model.generate(
        **inputs, pad_token_id=model.tokenizer.eos_token_id if pad is None else pad,
        **options,
    )  # fmt: skip
    return outputs[:, inputs["input_ids"].shape[1] :].tolist()


@pytest.mark.parametrize("kind", ["bloom", "gpt2", "qwen3", "llama"])
@pytest.mark.parametrize("text", EXAMPLES)
def test_greedy_completion_equals_generate(kind, text):
    """贪心：与 model.generate(do_sample=False) 的词元解码后相同。"""
    model = make(kind)
    [ids] = generated(model, text, max_new_tokens=12, do_sample=False)
    [written] = complete(model, text, max_new_tokens=12)
    expected = model.tokenizer.decode(ids, skip_special_tokens=True)
    assert written.new_text == expected.rstrip("\ufffd")
    assert written.text == text + written.new_text
    assert complete(model, text, max_new_tokens=12) == [written]


def test_sampling_equals_generate_under_the_same_seed():
    """抽取：同样的种子与参数，与 generate 写出的相同，几段各不相同。"""
    model = make()
    set_seed(7)
    options = {"do_sample": True, "temperature": 0.9, "top_p": 0.8}
    expected = generated(
        model,
        EXAMPLES[0],
        max_new_tokens=10,
        num_return_sequences=3,
        top_k=0,
        **options,
    )
    written = complete(
        model, EXAMPLES[0], 10, seed=7, num_return_sequences=3, **options
    )
    decode = model.tokenizer.decode
    assert [w.new_text for w in written] == [
        decode(ids, skip_special_tokens=True).rstrip("\ufffd") for ids in expected
    ]
    assert len({w.new_text for w in written}) > 1


def test_the_seed_decides_and_the_global_random_state_is_untouched():
    """同一种子同一段，不同种子不同段；全局随机状态原样。"""
    model = make()
    state = torch.get_rng_state()
    first, again, other = (
        complete(model, EXAMPLES[0], 20, do_sample=True, seed=seed)
        for seed in (0, 0, 1)
    )
    assert first == again != other
    assert torch.equal(state, torch.get_rng_state())


def test_the_settings_of_the_checkpoint_do_not_leak_in():
    """检查点自带的采样与重复惩罚不起作用，用后原样还在。"""
    model = make()
    plain = complete(model, EXAMPLES[0], 12)
    model.model.generation_config.update(
        do_sample=True, repetition_penalty=9.0, temperature=3.0, min_new_tokens=3
    )
    assert complete(model, EXAMPLES[0], 12) == plain
    assert model.model.generation_config.repetition_penalty == 9.0


def test_writing_stops_at_the_end_of_the_document():
    """写出文档结尾就停，结尾本身不写进文字；没写出就是没写完。"""
    model = make()
    set_seed(0)
    [ids] = generated(model, EXAMPLES[0], max_new_tokens=8, do_sample=True, top_k=0)
    assert complete(model, EXAMPLES[0], 8, do_sample=True)[0].finished is False
    at = next(n for n in range(1, 8) if ids[n] not in ids[:n])
    model.model.generation_config.eos_token_id = [ids[at], 2]
    [written] = complete(model, EXAMPLES[0], 8, do_sample=True)
    assert written.finished is True
    assert written.new_text == model.tokenizer.decode(
        ids[:at], skip_special_tokens=True
    )
    assert set(stop_ids(model.model, model.tokenizer)) >= {ids[at], 2}


def test_a_character_cut_in_half_at_the_end_is_dropped():
    """字节级分词器停在半个字上时，那半个字不留。"""
    model = make()
    for count in range(1, 12):
        [written] = complete(model, "天下大势", count)
        assert not written.new_text.endswith("\ufffd")


def test_a_model_in_training_mode_writes_without_dropout():
    """刚训练完的模型：写的时候是评估模式，写完回到训练模式。"""
    model = make()
    quiet = complete(model, EXAMPLES[0], 12)
    model.model.train()
    model.model.config.use_cache = False  # Trainer 会关掉它
    assert complete(model, EXAMPLES[0], 12) == quiet
    assert model.model.training
    assert model.model.config.use_cache is False


def test_writing_stops_at_the_last_position():
    """GPT-2 只有 128 个位置：写到上限为止；开头占满就拒绝。"""
    model = make("gpt2")
    text = "天下大势"
    length = len(model.tokenizer(text)["input_ids"])
    [written] = complete(model, text, max_new_tokens=1000)
    [exact] = complete(model, text, max_new_tokens=128 - length)
    assert written == exact
    with pytest.raises(ModelError, match="128"):
        complete(model, text * 100)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"temperature": 0.0, "do_sample": True}, "temperature"),
        ({"top_p": 1.5, "do_sample": True}, "top_p"),
        ({"top_p": 0.0, "do_sample": True}, "top_p"),
        ({"num_return_sequences": 0}, "num_return_sequences"),
        ({"num_return_sequences": 2}, "do_sample=True"),
    ],
)
def test_settings_out_of_range_are_refused(options, message):
    """越界的参数在生成之前就说出来。"""
    with pytest.raises(ConfigError, match=message):
        complete(make(), EXAMPLES[0], **options)


def test_an_empty_prompt_is_refused():
    """没有开头，模型无从写起。"""
    with pytest.raises(ObjectiveError, match="开头是空的"):
        complete(make(), "")


def test_a_masked_model_is_refused():
    """掩码模型不会续写，指给它 fill。"""
    with pytest.raises(ModelError, match="fill"):
        complete(make("bert"), EXAMPLES[0])


def test_the_public_names_are_functions_whatever_was_imported_first():
    """companion.inference.fill 与 complete 是函数，不会被同名的模块盖住。"""
    import companion.inference as package

    for name in package.__all__:
        assert callable(getattr(package, name))
        assert callable(getattr(package, name))


@pytest.mark.skipif(
    "bloom" not in list_starters(), reason="本安装没有附带 starter:bloom"
)
def test_the_starter_completes_the_examples_of_the_book():
    """starter:bloom 续写书里的例子。"""
    bloom = load_checkpoint("starter:bloom", "causal_lm")
    for text in EXAMPLES:
        [written] = complete(bloom, text)
        assert written.text.startswith(text)


def test_a_model_that_transformers_cannot_continue_is_refused_by_name():
    """库自己的 generate 出错（BLT）：点名，并说训练怎样绕过。"""
    model = make()

    def generate(*args, **kwargs):
        raise AttributeError("no attribute 'num_hidden_layers'")

    model.model.generate = generate
    with pytest.raises(ModelError, match=r"Bloom\w+ 续写不了.*eval=false"):
        complete(model, EXAMPLES[0])
