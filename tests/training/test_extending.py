"""扩充词表的训练：先只有新行动，旧的逐位不变；然后全部一起训练，断了也接得上。"""

import signal
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from companion.checkpoints.loading import load_checkpoint, load_tokenizer
from companion.corpus.document import Document
from companion.corpus.words import dictionary_segmenter
from companion.errors import ConfigError
from companion.training.arguments import check_means
from companion.training.preparing import extend_for_corpus, num_embedding_steps
from companion.training.run import train

RARE = "龘鱻靐"


@pytest.fixture
def rare(corpus, tmp_path):
    """每篇都有三个生字的语料；末一个只出现一次。"""
    texts = corpus.read_text("utf-8").split("\n\n")
    path = tmp_path / "生字.txt"
    lines = [f"{text}{RARE[n % 2]}曰。" for n, text in enumerate(texts)]
    path.write_text("\n\n".join([*lines, f"{texts[0]}靐"]), encoding="utf-8")
    return str(path)


def test_only_the_new_rows_move_at_first(
    tmp_path, configure, checkpoints, rare, no_curve
):
    """六步全只训练新行：旧行与其余参数逐位不变，新行动了；检查点认得生字。"""
    config = configure(
        tmp_path / "输出", corpus=rare, new_characters=9, embedding_steps=6
    )
    train(config, quiet=True)
    old = load_file(checkpoints / "bert" / "model.safetensors")
    new = load_file(tmp_path / "输出" / "model" / "model.safetensors")
    tokenizer = load_tokenizer(str(tmp_path / "输出" / "model"))
    size = len(load_tokenizer(str(checkpoints / "bert")))
    assert len(tokenizer) == size + 2  # 只出现一次的不添
    start = extend_for_corpus(
        load_checkpoint(str(checkpoints / "bert"), "masked_lm"),
        config,
        [Document(RARE[:2] * 2, "a#1", "a")],
    )
    assert start is not None
    begin = start.checkpoint.model.state_dict()
    moved = set()
    for name, tensor in new.items():
        assert torch.equal(tensor[: len(old[name])], old[name]), name
        if len(tensor) > len(old[name]):
            assert not torch.equal(tensor[size:], begin[name][size:]), name
            moved.add(name)
    assert "bert.embeddings.word_embeddings.weight" in moved
    assert tokenizer.convert_tokens_to_ids(RARE[0]) >= size
    assert tokenizer.convert_tokens_to_ids(RARE[2]) == tokenizer.unk_token_id


def test_everything_moves_afterwards(tmp_path, configure, checkpoints, rare, no_curve):
    """过了开头几步，旧行与其余参数也动，权重衰减照旧。"""
    config = configure(
        tmp_path / "输出", corpus=rare, new_characters=2, embedding_steps=2
    )
    train(config, quiet=True)
    old = load_file(checkpoints / "bert" / "model.safetensors")
    new = load_file(tmp_path / "输出" / "model" / "model.safetensors")
    still = [k for k, v in new.items() if torch.equal(v[: len(old[k])], old[k])]
    assert still == []


@pytest.mark.parametrize("stop", [2, 4])
def test_resuming_equals_not_having_stopped(
    stop, tmp_path, configure, rare, weights, no_curve, monkeypatch
):
    """停在只训新行的时候，或停在放开之后，接着训练都与不曾中断逐位相等。"""
    from companion.training import loop as callbacks
    from companion.training.loop import TrainingInterrupted

    settings = {"corpus": rare, "new_characters": 2, "embedding_steps": 3}
    train(configure(tmp_path / "一口气", **settings), quiet=True)
    config = configure(tmp_path / "断过", **settings)
    halted = callbacks.StopCallback.on_step_end

    def halt(self, args, state, control, **kept):
        if state.global_step == stop:
            self.received = signal.SIGTERM
        return halted(self, args, state, control, **kept)

    with monkeypatch.context() as patch:
        patch.setattr(callbacks.StopCallback, "on_step_end", halt)
        with pytest.raises(TrainingInterrupted):
            train(config, quiet=True)
    train(config, resume=True, quiet=True)
    one, two = (weights(tmp_path / name / "model") for name in ("一口气", "断过"))
    assert one == two


def test_the_rates_of_unknown_characters_are_told(configure, checkpoints, tmp_path):
    """添两个，剩一个只出现一次的：说出前后各几个。"""
    config = configure(tmp_path, new_characters=5)
    text = f"{RARE[0] * 3}{RARE[1] * 2}{RARE[2]}曰曰曰曰"
    checkpoint = load_checkpoint(str(checkpoints / "bert"), "masked_lm")
    extension = extend_for_corpus(checkpoint, config, [Document(text, "a#1", "a")])
    assert extension is not None
    assert extension.tokens == tuple(RARE[:2])
    notice = extension.checkpoint.notices[-1]
    assert "由 6 个（60.000%）减到 1 个（10.000%）" in notice


def test_words_alone_say_nothing_of_unknown_characters(
    configure, checkpoints, tmp_path, monkeypatch
):
    """字都认得、只添词：不说认不得的字。"""
    monkeypatch.setattr(
        "companion.training.preparing.jieba_segmenter",
        lambda _dictionary: dictionary_segmenter(["天子"]),
    )
    checkpoint = load_checkpoint(str(checkpoints / "bert"), "masked_lm")
    documents = [Document("天子之职，天子之礼。", "a#1", "a")]
    config = configure(tmp_path, new_words=5)
    extension = extend_for_corpus(checkpoint, config, documents)
    assert extension is not None
    assert extension.tokens == ("天子",)
    assert "认不得" not in "".join(extension.checkpoint.notices)


def test_nothing_missing_is_said_by_name(configure, checkpoints, tmp_path):
    """没有缺字却要扩充：说该去掉哪一项；没要扩充就什么也不做。"""
    checkpoint = load_checkpoint(str(checkpoints / "bert"), "masked_lm")
    documents = [Document("曰曰", "a#1", "a")]
    assert extend_for_corpus(checkpoint, configure(tmp_path), documents) is None
    with pytest.raises(ConfigError, match="new_characters"):
        extend_for_corpus(checkpoint, configure(tmp_path, new_characters=5), documents)


def test_a_pair_of_models_is_refused(configure, checkpoints, tmp_path):
    """ELECTRA 是两个模型合用一份词嵌入，没有扩充的办法：按名拒绝。"""
    checkpoint = replace(
        load_checkpoint(str(checkpoints / "bert"), "masked_lm"),
        model=torch.nn.Linear(1, 1),
    )
    config = configure(tmp_path, objective="replaced_token", new_characters=5)
    with pytest.raises(ConfigError, match="replaced_token 训练一对模型"):
        extend_for_corpus(checkpoint, config, [Document(RARE, "a#1", "a")])


@pytest.mark.parametrize(
    ("given", "total", "steps"), [(0, 9, 0), (0.1, 200, 20), (5, 9, 5), (50, 9, 9)]
)
def test_the_first_steps_are_a_count_or_a_share(
    given, total, steps, configure, tmp_path
):
    """小于 1 是比例，否则是步数，不超过总步数。"""
    config = configure(tmp_path, embedding_steps=given)
    assert num_embedding_steps(config, total) == steps


def test_several_processes_cannot_begin_with_the_new_rows(
    configure, checkpoints, tmp_path
):
    """几个进程一同训练时先只训新行：开训之前就拒绝；不先训则可以。"""
    model = load_checkpoint(str(checkpoints / "bert"), "masked_lm").model
    with pytest.raises(ConfigError, match="embedding_steps=0"):
        check_means(configure(tmp_path, new_characters=5), model, "cpu", 2)
    config = configure(tmp_path, new_characters=5, embedding_steps=0)
    check_means(config, model, "cpu", 2)
