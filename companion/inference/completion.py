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
from typing import Any

from companion.checkpoints.quiet import quiet_transformers
from companion.checkpoints.running import position_limit, position_rows
from companion.inference.decoding import Decoding
from companion.inference.prompt import (
    Completion,
    as_completion,
    encode_prompt,
    stop_ids,
)
from companion.inference.running import require_causal
from companion.losses.target_head import inner_model
from companion.preflight.probing import evaluation_mode


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


def _completion(
    tokenizer: Any, text: str, prompt: list[int], ids: list[int], stops: list[int]
) -> Completion:
    ends = [at for at, token_id in enumerate(ids) if token_id in stops]
    kept = ids[: ends[0]] if ends else ids
    return as_completion(tokenizer, text, prompt, kept, finished=bool(ends))


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
