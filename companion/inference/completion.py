"""续写：模型接着开头往下写。

    狡兔死，走狗烹；飞鸟尽，良弓  →  藏……

缺省是贪心：每一步取概率最大的词元，没有随机性。`do_sample=True` 按概率抽取，随机数由
`seed` 定，torch 的全局随机状态不受影响；`num_beams` 大于 1 是束搜索。

怎样读开头，照训练时的样子（`Objective.completion`）：

| 续写 | 目标 | 读什么 | 写到哪里为止 |
|---|---|---|---|
| left_to_right | causal_lm | 开头，从左到右 | 文档结尾 |
| prefix | prefix_lm | 开头，双向；有编码器的进编码器 | 文档结尾 |
| source | unified_lm | [CLS] 开头 [SEP]，双向 | [SEP] |
| blank | blank_infilling | 开头 [gMASK]，双向 | [eop] |
| unmask | masked_diffusion | 开头与一串 [MASK]，双向 | 写满为止 |

从左到右的用 `model.generate`；检查点自带的生成设置（有的缺省就要采样）不起作用，写在参
数里的才算数。开头双向地读的，`generate` 做不到，由 `companion.inference.writers` 写；
掩码扩散不从左到右，由 `companion.inference.unmasking` 揭开。

形状字母：T 开头的词元数，V 词表。
"""

from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from companion.checkpoints.reading import quiet_transformers
from companion.checkpoints.running import (
    evaluation_mode,
    fitted_objective,
    inner_model,
    model_options,
    over_limit,
    position_limit,
    position_rows,
    special_edges,
    text_config,
)
from companion.corpus.tokenization import decoded
from companion.errors import ModelError, ObjectiveError, raised
from companion.inference.decoding import Decoding, Limits, Writer, Written, decode
from companion.inference.reading import (
    encode_prompt,
    never_written,
    require_causal,
    require_masked,
    stop_ids,
    without_added_spaces,
)
from companion.inference.unmasking import unmask
from companion.inference.writers import (
    BlankWriter,
    EncodedWriter,
    LeftWriter,
    MaskWriter,
    PrefixWriter,
    read_part_a,
)
from companion.objectives import OBJECTIVES, Objective, pretrained_by
from companion.objectives.blank_infilling import find_blank_tokens
from companion.objectives.unified_lm import SEGMENTS
from companion.preflight.visibility import require_mask

_BROKEN = "\ufffd"


@dataclass(frozen=True)
class Completion:
    """一段续写。"""

    text: str
    """开头加续写。"""
    new_text: str
    """只有续写；末尾写了一半的字（字节级分词器会这样）已删去。"""
    finished: bool
    """模型自己写了文档结尾（EOS），而不是写够了数目停下。"""


def complete(
    checkpoint: Any,
    text: str,
    max_new_tokens: int = 40,
    *,
    objective: str | None = None,
    do_sample: bool = False,
    temperature: float = 1.0,
    top_p: float = 1.0,
    num_beams: int = 1,
    seed: int = 0,
    num_return_sequences: int = 1,
) -> list[Completion]:
    """接着 `text` 往下写。

    Args:
        checkpoint: 检查点，用 `objective` 训练过的。
        text: 开头。
        max_new_tokens: 至多写多少词元；快到模型的位置上限时，写到上限为止。
        objective: 它是用哪个目标训练的；缺省看是怎样的模型，两行位置的 GLM 是
            blank_infilling，别的从左到右。
        do_sample: 按概率抽取，而不是每步取最大的。
        temperature: 抽取时的温度；小于 1 更稳，大于 1 更散。
        top_p: 抽取时只在概率之和刚够 `top_p` 的词元里选（Holtzman 等，2020）。
        num_beams: 大于 1 就是束搜索，每步留这么多串。
        seed: 抽取的随机种子。
        num_return_sequences: 写几段；贪心每次都一样，只能写一段，束搜索至多
            `num_beams` 段。

    Raises:
        ModelError: 模型与目标不合，不收这个目标的掩码，或开头已占满它的位置上限。
        ObjectiveError: 开头没有词元，分词器缺这个目标要的词元，或这个目标不会续写。
        ConfigError: 参数越界或互相矛盾。

    >>> from companion.checkpoints.loading import Checkpoint
    >>> from companion.checkpoints.tiny import tiny_model, tiny_tokenizer
    >>> tiny = Checkpoint(tiny_model("bloom"), tiny_tokenizer("bloom"), "tiny")
    >>> [written] = complete(tiny, "狡兔死，走狗烹；飞鸟尽，良弓", max_new_tokens=4)
    >>> written.text.startswith("狡兔死，走狗烹；飞鸟尽，良弓")
    True
    """
    how = Decoding(
        max_new_tokens=max_new_tokens,
        do_sample=do_sample,
        temperature=temperature,
        top_p=top_p,
        num_beams=num_beams,
        num_return_sequences=num_return_sequences,
        seed=seed,
    )
    model = inner_model(checkpoint.model)
    goal = None
    if objective is not None:
        goal = fitted_objective(model, objective)
    elif found := pretrained_by(model.config.model_type, type(model).__name__):
        goal = found if found.completion else None
    if goal is None or goal.left_to_right:  # 看不出来就从左到右，模型不合时自会说明
        return _generate(checkpoint, text, how)
    if goal.completion == "unmask":
        return _unmasked(checkpoint, goal, text, how)
    tokenizer = checkpoint.tokenizer
    with torch.no_grad(), evaluation_mode(model):
        opening = read_opening(checkpoint, goal, text)
        room, stops = opening.room, frozenset(opening.stops)
        banned = never_written(tokenizer, text_config(model).vocab_size)
        found = decode(
            opening.writer,
            how if room is None else how.at_most(room),
            Limits(stops, banned),
        )
    return [
        as_completion(tokenizer, text, opening.prompt, each.ids, each.finished)
        for each in found
    ]


def _unmasked(
    checkpoint: Any, goal: Objective, text: str, how: Decoding
) -> list[Completion]:
    """掩码扩散：开头之后接一串 [MASK]，一步步揭开；写满为止，从不自己停下。"""
    tokenizer = checkpoint.tokenizer
    prompt, suffix = encode_prompt(checkpoint, text), special_edges(tokenizer).suffix
    room = _room(checkpoint.model, len(prompt) + len(suffix))
    count = how.max_new_tokens if room is None else min(how.max_new_tokens, room)
    ids = [*prompt, *[tokenizer.mask_token_id] * count, *suffix]
    return [
        as_completion(tokenizer, text, prompt, each, False)
        for each in unmask(checkpoint, goal, ids, how)
    ]


def _generate(checkpoint: Any, text: str, how: Decoding) -> list[Completion]:
    """因果语言模型：交给 `model.generate`。"""
    require_causal(checkpoint)
    model, tokenizer = inner_model(checkpoint.model), checkpoint.tokenizer
    head = encode_prompt(checkpoint, text)
    written = write_after(checkpoint, head, how, stop_ids(model, tokenizer))
    return [
        as_completion(tokenizer, text, head, each.ids, each.finished)
        for each in written
    ]


def write_after(
    checkpoint: Any,
    head: list[int],
    how: Decoding,
    stops: list[int],
    *,
    banned: Sequence[int] = (),
    least: int = 0,
) -> list[Written]:
    """因果语言模型接着 `head` 写，由 `model.generate` 来做。

    Args:
        checkpoint: 因果语言模型的检查点。
        head: 开头的编号，连同首部的特殊词元，T 项。
        how: 怎样选词元。
        stops: 写到其中之一就停。
        banned: 写不得的词元。
        least: 至少写几个才许停。

    Raises:
        ModelError: 这个架构 `generate` 不了。
    """
    max_new_tokens = how.max_new_tokens
    model, tokenizer = inner_model(checkpoint.model), checkpoint.tokenizer
    device = next(model.parameters()).device
    prompt = torch.tensor([head])  # (1, T)
    limit = position_limit(model)
    if limit is not None:
        max_new_tokens = min(max_new_tokens, limit - prompt.shape[1])
    sampling = (
        {"temperature": how.temperature, "top_p": how.top_p, "top_k": 0}
        if how.do_sample
        else {}
    )
    settings = _generation_config(
        do_sample=how.do_sample,
        max_new_tokens=max_new_tokens,
        num_beams=how.num_beams,
        num_return_sequences=how.num_return_sequences,
        eos_token_id=stops or None,
        pad_token_id=_pad_id(tokenizer, stops),
        use_cache=True,
        suppress_tokens=[each for each in banned if each not in stops] or None,
        min_new_tokens=least or None,
        **sampling,
    )
    with evaluation_mode(model), _seeded(device, how.seed), _own_settings(model):
        try:
            outputs = model.generate(
                prompt.to(device),
                attention_mask=prompt.new_ones(prompt.shape).to(device),
                generation_config=settings,
            )
        except Exception as error:  # 各架构各抛各的
            raise ModelError(
                found=f"{type(model).__name__} 续写不了：{raised(error)}",
                expected="transformers 的 generate 认得的模型",
                remedy="换一个检查点；只训练而不看样张，用 --set eval=false",
            ) from error
    return [_until(ids, stops) for ids in outputs[:, prompt.shape[1] :].tolist()]


def _until(ids: list[int], stops: list[int]) -> Written:
    """到结尾为止。"""
    ends = [at for at, token_id in enumerate(ids) if token_id in stops]
    return Written(ids[: ends[0]] if ends else ids, bool(ends))


def _generation_config(**options: Any) -> Any:
    from transformers import GenerationConfig

    return GenerationConfig(**options)


def _pad_id(tokenizer: Any, stops: list[int]) -> int:
    if tokenizer.pad_token_id is not None:
        return tokenizer.pad_token_id
    return stops[0] if stops else 0


@contextmanager
def _seeded(device: Any, seed: int) -> Generator[None]:
    """期间随机数由 `seed` 定；结束时全局随机状态原样不动。"""
    import torch

    cuda = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if cuda else []):
        torch.default_generator.manual_seed(seed)
        if cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


@contextmanager
def _own_settings(model: Any) -> Generator[None]:
    """期间检查点自带的生成设置不起作用：没写明的项，generate 会去那里找。

    Qwen2.5 带着 `repetition_penalty=1.05`，连贪心的结果都会因此改变。
    """
    own = model.generation_config
    model.generation_config = _generation_config()
    try:
        with quiet_transformers():
            yield
    finally:
        model.generation_config = own


class Opening(NamedTuple):
    """开头交给了模型，正要往下写。"""

    prompt: list[int]
    """开头的编号，连同首部的特殊词元。"""
    writer: Writer
    stops: Iterable[int]
    """写到其中之一就停。"""
    room: int | None
    """位置还够写多少词元；没有上限时为 None。"""


def read_opening(checkpoint: Any, goal: Objective, text: str) -> Opening:
    """照训练时的样子读开头。

    Args:
        checkpoint: 用 `goal` 训练过的检查点。
        goal: 训练目标。
        text: 开头。

    Raises:
        ModelError: 模型与目标不合，不收这个目标的掩码，或开头太长。
        ObjectiveError: 开头没有词元，分词器缺要用的词元，或这个目标不会续写。
    """
    ways = {
        "left_to_right": _from_the_left,
        "prefix": _after_prefix,
        "source": _after_source,
        "blank": _before_blank,
    }
    if goal.completion not in ways:
        able = [key for key, each in OBJECTIVES.items() if each.completion in ways]
        raise ObjectiveError(
            found=f"目标 {goal.key} 不会续写",
            expected=f"{'、'.join(able)} 之一",
            remedy="填空用 fill，填补用 infill",
        )
    return ways[goal.completion](checkpoint, goal, text)


def _from_the_left(checkpoint: Any, _: Objective, text: str) -> Opening:
    require_causal(checkpoint)
    model, prompt = checkpoint.model, encode_prompt(checkpoint, text)
    stops = stop_ids(inner_model(model), checkpoint.tokenizer)
    room = _room(model, len(prompt))
    return Opening(prompt, LeftWriter(model, prompt), stops, room)


def _after_prefix(checkpoint: Any, goal: Objective, text: str) -> Opening:
    model, tokenizer = inner_model(checkpoint.model), checkpoint.tokenizer
    stops = stop_ids(model, tokenizer)
    prompt = encode_prompt(checkpoint, text)
    if not model.config.is_encoder_decoder:
        require_causal(checkpoint)
        require_mask(model, "prefix")
        room = _room(model, len(prompt))
        return Opening(prompt, PrefixWriter(model, prompt), stops, room)
    edges = special_edges(tokenizer)
    source = [*prompt, *edges.suffix]
    forced = [model_options(model, goal)["decoder_start_token_id"], *edges.prefix]
    _require_room(checkpoint, len(source))
    writer = EncodedWriter(model, source, forced)
    room = _room(model, len(forced))
    return Opening(prompt, writer, {*stops, *edges.suffix[:1]}, room)


def _after_source(checkpoint: Any, _: Objective, text: str) -> Opening:
    model, tokenizer = inner_model(checkpoint.model), checkpoint.tokenizer
    require_masked(checkpoint)
    require_mask(model, "seq2seq")
    if tokenizer.sep_token_id is None:
        raise ObjectiveError(
            found=f"分词器 {type(tokenizer).__name__} 没有 sep_token（[SEP]）",
            expected="UniLM 的分词器有 [SEP]，用它隔开源端与目标端、结束目标端",
            remedy="换一个 BERT 类的检查点",
        )
    prompt = encode_prompt(checkpoint, text)
    source = [*prompt, *special_edges(tokenizer).suffix]
    _require_room(checkpoint, len(source) + 2)
    kinds = getattr(model.config, "type_vocab_size", 0) or 0
    segments = SEGMENTS["seq2seq"] if kinds >= 6 else (0, 1) if kinds >= 2 else (0, 0)
    writer = MaskWriter(model, source, tokenizer.mask_token_id, segments)
    return Opening(prompt, writer, [tokenizer.sep_token_id], _room(model, len(source)))


def _before_blank(checkpoint: Any, _: Objective, text: str) -> Opening:
    model, tokenizer = inner_model(checkpoint.model), checkpoint.tokenizer
    require_causal(checkpoint)
    require_mask(model, "prefix")
    tokens = find_blank_tokens(tokenizer, sentences=False, documents=False)
    mask = tokens.mask if tokens.document_mask < 0 else tokens.document_mask
    prompt = encode_prompt(checkpoint, text)
    part_a = [*prompt, mask, *special_edges(tokenizer).suffix]
    _require_room(checkpoint, len(part_a))
    rows = position_rows(model)
    writer = BlankWriter(read_part_a(model, part_a), tokens.start, len(prompt), rows)
    # 第二行从 1 数起，[S] 也占一个；只有一行时，写的都在空的那一个位置上
    room = _room(model, 2) if rows == 2 else None
    return Opening(prompt, writer, [tokens.end], room)


def _room(model: Any, used: int) -> int | None:
    limit = position_limit(model)
    return None if limit is None else limit - used


def _require_room(checkpoint: Any, used: int) -> None:
    if (limit := over_limit(checkpoint.model, used)) is not None:
        raise ModelError(
            found=f"开头连同特殊词元有 {used} 个词元",
            expected=f"不超过 {checkpoint.name} 的位置上限 {limit}",
            remedy="截短开头，只留最后几句",
        )


def as_completion(
    tokenizer: Any, text: str, prompt: list[int], kept: list[int], finished: bool
) -> Completion:
    """写下的词元 `kept`（不含结尾）→ 文字。"""
    # 连着开头一起解码再减去开头：SentencePiece 单独解码会丢掉词首的空格
    whole = decoded([*prompt, *kept], tokenizer)
    head = decoded(prompt, tokenizer)
    apart = not whole.startswith(head)
    new_text = decoded(kept, tokenizer) if apart else whole[len(head) :]
    new_text = without_added_spaces(tokenizer, new_text)
    if not finished:
        new_text = new_text.rstrip(_BROKEN)
    return Completion(text + new_text, new_text, finished)
