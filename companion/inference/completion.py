"""续写：模型接着开头往下写。

    狡兔死，走狗烹；飞鸟尽，良弓  →  藏……

缺省是贪心：每一步取概率最大的词元，没有随机性。`do_sample=True` 按概率抽取，随机数由
`seed` 定，torch 的全局随机状态不受影响；`num_beams` 大于 1 是束搜索。

因果语言模型的生成用 `model.generate`；检查点自带的生成设置（有的缺省就要采样）不起作
用，写在参数里的才算数。前缀语言模型、UniLM 与 GLM 的开头是双向地读的，`generate` 做不
到，另见 `companion.inference.prefix_completion`。
"""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from companion.errors import ModelError, ObjectiveError
from companion.inference.decoding import Decoding
from companion.inference.filling import without_added_spaces
from companion.inference.running import require_causal
from companion.models.probing import evaluation_mode
from companion.models.running import position_limit, position_rows, special_edges
from companion.models.target_head import inner_model

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
        objective: 它是怎样训练的：causal_lm、prefix_lm、unified_lm 或
            blank_infilling；缺省是 causal_lm，两行位置的 GLM 是 blank_infilling。
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

    >>> from companion.models.loading import Checkpoint
    >>> from companion.models.tiny import tiny_model, tiny_tokenizer
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
    if objective is None:
        two_rows = position_rows(checkpoint.model) > 1
        objective = "blank_infilling" if two_rows else "causal_lm"
    if objective == "causal_lm":
        return _generate(checkpoint, text, how)
    from companion.inference.prefix_completion import complete_after_prefix

    return complete_after_prefix(checkpoint, text, objective, how)


def _generate(checkpoint: Any, text: str, how: Decoding) -> list[Completion]:
    """因果语言模型：交给 `model.generate`。"""
    require_causal(checkpoint)
    max_new_tokens = how.max_new_tokens
    import torch

    model, tokenizer = inner_model(checkpoint.model), checkpoint.tokenizer
    device = next(model.parameters()).device
    prompt = torch.tensor([encode_prompt(checkpoint, text)])  # (1, T)
    limit = position_limit(model)
    if limit is not None:
        max_new_tokens = min(max_new_tokens, limit - prompt.shape[1])
    stops = stop_ids(model, tokenizer)
    sampling = (
        {"temperature": how.temperature, "top_p": how.top_p, "top_k": 0}
        if how.do_sample
        else {}
    )
    with evaluation_mode(model), _seeded(device, how.seed), _own_settings(model):
        outputs = model.generate(
            prompt.to(device),
            attention_mask=prompt.new_ones(prompt.shape).to(device),
            generation_config=_generation_config(
                do_sample=how.do_sample,
                max_new_tokens=max_new_tokens,
                num_beams=how.num_beams,
                num_return_sequences=how.num_return_sequences,
                eos_token_id=stops or None,
                pad_token_id=_pad_id(tokenizer, stops),
                use_cache=True,
                **sampling,
            ),
        )
    new_ids = outputs[:, prompt.shape[1] :].tolist()
    head = prompt[0].tolist()
    return [_completion(tokenizer, text, head, ids, stops) for ids in new_ids]


def stop_ids(model: Any, tokenizer: Any) -> list[int]:
    """文档结尾的编号：生成设置里的（可能有几个）与分词器的。"""
    found: list[int] = []
    for source in (getattr(model, "generation_config", None), tokenizer):
        value = getattr(source, "eos_token_id", None)
        found += [] if value is None else [value] if isinstance(value, int) else value
    return sorted(set(found))


def encode_prompt(checkpoint: Any, text: str) -> list[int]:
    """开头的编号；分词器若自动加文档结尾，这里不要。

    Raises:
        ObjectiveError: 开头没有词元。
        ModelError: 开头已占满位置上限。
    """
    tokenizer = checkpoint.tokenizer
    bare = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    if not bare:
        raise ObjectiveError(
            found="开头是空的",
            expected="至少一个字，模型好接着写",
            remedy="给一个开头，例如 狡兔死，走狗烹；飞鸟尽，良弓",
        )
    ids = [*special_edges(tokenizer).prefix, *bare]
    limit = position_limit(checkpoint.model)
    if limit is not None and len(ids) >= limit:
        raise ModelError(
            found=f"开头有 {len(ids)} 个词元",
            expected=f"少于 {checkpoint.name} 的位置上限 {limit}，才有地方续写",
            remedy="截短开头，只留最后几句",
        )
    return ids


def _completion(
    tokenizer: Any, text: str, prompt: list[int], ids: list[int], stops: list[int]
) -> Completion:
    ends = [at for at, token_id in enumerate(ids) if token_id in stops]
    kept = ids[: ends[0]] if ends else ids
    return as_completion(tokenizer, text, prompt, kept, finished=bool(ends))


def as_completion(
    tokenizer: Any, text: str, prompt: list[int], kept: list[int], *, finished: bool
) -> Completion:
    """写下的词元 `kept`（不含结尾）→ 文字。"""
    # 连着开头一起解码再减去开头：SentencePiece 单独解码会丢掉词首的空格
    whole = tokenizer.decode([*prompt, *kept], skip_special_tokens=True)
    head = tokenizer.decode(prompt, skip_special_tokens=True)
    if whole.startswith(head):
        new_text = whole[len(head) :]
    else:
        new_text = tokenizer.decode(kept, skip_special_tokens=True)
    new_text = without_added_spaces(tokenizer, new_text)
    if not finished:
        new_text = new_text.rstrip(_BROKEN)
    return Completion(text + new_text, new_text, finished)


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
    from companion.models.loading import quiet_transformers

    own = model.generation_config
    model.generation_config = _generation_config()
    try:
        with quiet_transformers():
            yield
    finally:
        model.generation_config = own
