"""transformers 的每一种文字架构，体检与训练走不走得通：逐一试出来。

    python experiments/architectures.py [--only 名字 …] [--resume]

写 `results/architectures.json`，书末的支持表由它生成。名单是 transformers 自己的三张映
射表（`MODEL_FOR_CAUSAL_LM`、`MASKED_LM`、`SEQ_TO_SEQ_CAUSAL_LM`），一种架构在几张表里就
试几次。每一次由设置类造一个权重随机的极小模型，存成检查点，照用户的路走完：打开、体检、损失
与模型自己的相比、评估、写样张、训练两步。结果是四种之一：

    trains   走得通；`head` 说输出头怎样算，`rows` 说一行可以与哪些行同批
    refused  按名拒绝，`reason` 是拒绝的话
    unbuilt  搭不出来或自己就前向不了，`reason` 是缘由；不是文字的架构、缺了另装的包
    broken   别的异常：本包的错，应当一个也没有

全部约一刻钟；测试只试每一类的一个（`SAMPLE`）。
"""

import argparse
import json
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from by_hand import losses_by_hand
from recording import RESULTS, record
from transformers import CONFIG_MAPPING, PretrainedConfig
from transformers.models.auto import modeling_auto

from companion.batch import IGNORE_INDEX
from companion.checkpoints.loading import load_checkpoint
from companion.checkpoints.reading import quiet_transformers
from companion.checkpoints.running import (
    adapt_batch,
    fitted_objective,
    model_options,
    takes,
)
from companion.checkpoints.tiny import TINY_TEXT
from companion.config import TrainingConfig
from companion.corpus.document import Document
from companion.errors import CompanionError
from companion.evaluation import answers
from companion.evaluation.scoring import evaluate
from companion.losses.target_head import head_plan, target_losses
from companion.preflight.checking import check_checkpoint
from companion.preflight.visibility import neighbours
from companion.training.run import train

NAME = "architectures"
FAMILIES = {
    "causal_lm": ("AutoModelForCausalLM", "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES"),
    "masked_lm": ("AutoModelForMaskedLM", "MODEL_FOR_MASKED_LM_MAPPING_NAMES"),
    "span_corruption": (
        "AutoModelForSeq2SeqLM",
        "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES",
    ),
}
"""训练目标 → Auto 类与 transformers 的映射表。"""
SAMPLE = (
    ("causal_lm", "gemma2"),  # 压平 logits
    ("causal_lm", "granite"),  # 缩放 logits
    ("causal_lm", "gemma3"),  # 文字的设置套在里面
    ("causal_lm", "mamba"),  # 没有注意力头
    ("causal_lm", "blt"),  # 设置里没有层数，transformers 自己的 generate 出错
    ("masked_lm", "mobilebert"),  # 输出头从不当作线性层调用
    ("masked_lm", "fnet"),  # 不收掩码，看得见填充
    ("masked_lm", "perceiver"),  # 词嵌入不在该在的地方，logits 比文字长
    ("span_corruption", "t5gemma"),  # 套在里面，又压平 logits
    ("span_corruption", "qwen2_audio"),  # 名单里有，却不是编码器–解码器
)
"""测试试的：每一类毛病一个。"""
_VOCABULARY = 512
_DEPTH, _HEADS = 2, 4

# fmt: off
_NAMES: tuple[tuple[int, str], ...] = (
    (32, """
        hidden_size d_model n_embd dim emb_dim embedding_dim embedding_size
        attention_hidden_size input_embedding_size output_embedding_size
        true_hidden_size intra_bottleneck_size lru_width encoder_hidden_size embed_dim
        d_latents out_hidden_size output_dim pooler_hidden_size prediction_head_size
        ple_embed_dim embedding_rank word_embed_proj_dim hidden_size_global
        cross_attention_hidden_size entity_emb_size pronunciation_embed_dim
        shape_embed_dim router_hidden_size backbone_hidden_size audio_hidden_size
        adapter_out_dim adapter_in_dim vision_output_dim
        projector_input_dim
        projector_output_dim hidden_size_per_layer_input
    """),
    (_DEPTH, """
        encoder_layers decoder_layers num_encoder_layers num_decoder_layers
        speech_encoder_layers t2u_encoder_layers t2u_decoder_layers num_blocks depth
        num_global_layers conf_num_hidden_layers num_self_attends_per_block
        max_window_layers
    """),
    (_HEADS, """
        num_attention_heads n_head n_heads num_heads encoder_attention_heads
        decoder_attention_heads attention_heads num_encoder_attention_heads
        num_decoder_attention_heads speech_encoder_attention_heads
        t2u_encoder_attention_heads t2u_decoder_attention_heads
        num_self_attention_heads num_cross_attention_heads index_n_heads
        swa_num_attention_heads conf_num_attention_heads linear_num_key_heads
        linear_num_value_heads num_experts n_routed_experts num_local_experts
        moe_num_experts time_step_rank mamba_dt_rank
    """),
    (2, """
        num_key_value_heads num_kv_heads swa_num_key_value_heads num_query_groups
        num_experts_per_tok num_experts_per_token moe_k moe_topk n_group topk_group
        num_expert_group top_k_experts n_mamba_heads
    """),
    (8, """
        head_dim attention_head_size d_kv d_head dim_head qk_nope_head_dim
        qk_rope_head_dim v_head_dim swa_head_dim global_head_dim kv_channels
        linear_head_dim index_head_dim linear_key_head_dim linear_value_head_dim
        attention_head_dim rotary_dim mamba_d_head mamba_head_dim mamba_headdim
        query_pre_attn_scalar mamba_d_state state_size ssm_state_size mamba_n_heads
        mamba_num_heads
    """),
    (16, """
        kv_lora_rank q_lora_rank o_lora_rank gated_norm_rank hc_lowrank laurel_rank
        adapter_rank linear_num_heads qk_head_dim entity_vocab_size
    """),
    (64, """
        intermediate_size encoder_ffn_dim decoder_ffn_dim ffn_dim d_ff dff d_inner
        dim_ff hidden_dim ffn_hidden_size inner_dim n_inner feed_forward_size
        moe_intermediate_size shared_expert_intermediate_size shared_intermediate_size
        moe_shared_expert_intermediate_size dense_intermediate_size
        intermediate_size_mlp expert_ffn_hidden_size shared_experts_intermediate_size
        speech_encoder_intermediate_size t2u_encoder_ffn_dim t2u_decoder_ffn_dim
        mlp_dim prompt_mid_dim index_topk sliding_window
    """),
    (256, """
        max_position_embeddings n_positions n_ctx max_seq_len context_length
        max_source_positions max_target_positions max_encoder_position_embeddings
        max_decoder_position_embeddings
    """),
    (_VOCABULARY, """
        vocab_size vocab_size_per_layer_input src_vocab_size tgt_vocab_size
        decoder_vocab_size unpadded_vocab_size
    """),
)
# fmt: on
"""设置里名叫这些的，改成多大。"""
_SIZES: dict[str, Any] = {
    **{name: size for size, names in _NAMES for name in names.split()},
    "pad_token_id": 0,
    "bos_token_id": 1,
    "cls_token_id": 1,
    "eos_token_id": 2,
    "sep_token_id": 2,
    "forced_eos_token_id": 2,
    "decoder_start_token_id": 0,
    "unk_index": 3,
    "mask_token_id": 4,
    "mask_index": 4,
    "forced_bos_token_id": None,
}
"""设置里各项改成多大；没有列出的照缺省。"""
_DEPTHS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_HYBRID = ["linear_attention", "linear_attention", "hybrid"]
_BERT = {
    "vocab_size": _VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": _DEPTH,
    "num_attention_heads": _HEADS,
    "intermediate_size": 64,
}
_OWN: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1]},
    "blt": {"encoder_hash_byte_group_vocab": 64},
    "cohere_compass_text": {
        "layer_types": ["full_attention", "full_attention"],
        "rope_parameters": {
            "full_attention": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [2, 1, 1],
            }
        },
    },
    "cpmant": {"prompt_types": 4, "prompt_length": 4},
    "dbrx": {"attn_config": {"rope_theta": 10000.0, "clip_qkv": 8.0}},
    "deepseek_v2": {"topk_group": 1, "n_group": 1, "num_experts_per_tok": 2},
    "dots1": {
        "n_shared_experts": 1,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "n_group": 1,
        "topk_group": 1,
    },
    "encoder-decoder": {
        "encoder": {"model_type": "bert", **_BERT},
        "decoder": {
            "model_type": "bert",
            "is_decoder": True,
            "add_cross_attention": True,
            **_BERT,
        },
    },
    "esmc": {"num_key_value_heads": 4},
    "falcon_h1": {"mamba_d_ssm": 64},
    "gemma3n_text": {"num_kv_shared_layers": 0},
    "gemma4_assistant": {
        "text_config": {
            "hidden_size_per_layer_input": 0,
            "vocab_size_per_layer_input": 0,
            "num_kv_shared_layers": 0,
        }
    },
    "gemma4_unified_assistant": {"text_config": {"num_kv_shared_layers": 0}},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "num_layers": 2},
    "granite": {"logits_scaling": 3.0},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"]},
    "hunyuan_v1_dense": {"head_dim": 8},
    "hunyuan_v1_moe": {"head_dim": 8},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "led": {"attention_window": 8},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "mamba2": {"num_heads": 8, "head_dim": 8},
    "ministral": {"head_dim": 8},
    "mobilebert": {"embedding_size": 16},
    "nemotron": {"head_dim": 8},
    "neomme": {"head_dim": 32},
    "recurrent_gemma": {"num_hidden_layers": 3},
    "reformer": {"axial_pos_embds_dim": [16, 16], "axial_pos_shape": [8, 32]},
    "xlstm": {"num_heads": 4, "qk_dim_factor": 0.5},
    "xmod": {"default_language": "en_XX"},
    "zamba": {"num_hidden_layers": 3, "layers_block_type": _HYBRID},
    "zamba2": {
        "num_hidden_layers": 3,
        "layers_block_type": _HYBRID,
        "hybrid_layer_ids": [2],
    },
    "zaya": {"num_experts_per_tok": 1},
}
"""彼此牵连、一概缩小便不合的几项。"""


@dataclass(frozen=True)
class Row:
    """一种架构的一个目标试出来的结果。"""

    model_type: str
    objective: str
    outcome: str
    reason: str = ""
    head: str = ""
    """fused 合在一起算，rows 挑行而 logits 整块，whole 整行都算。"""
    rows: str = ""
    """一行可以与哪些行同批：any、same_length、none。"""
    own_loss: float | None = None
    """与模型自己的损失的相对差；它不给损失，或读不了这些标签时为 None。"""
    own_reason: str = ""
    """模型自己的损失为什么没有，或为什么不同。"""


def shrunk(kind: type[PretrainedConfig], own: dict[str, Any] | None = None) -> Any:
    """一个设置类的极小的样子，套着的几层也缩小。

    Args:
        kind: 设置类。
        own: 这种架构另定的几项。
    """
    own = dict(own or {})
    usual = _usual(kind)
    names = {
        name for each in kind.__mro__ for name in vars(each).get("__annotations__", {})
    }
    deep = next((d for name in _DEPTHS if isinstance(d := _get(usual, name), int)), 0)
    fields: dict[str, Any] = {}
    count = own.get("num_hidden_layers", _DEPTH)
    layers = _get(usual, "layer_types")
    if "layer_types" in own:
        count = len(own["layer_types"])
    elif isinstance(layers, list) and "layer_types" in names:
        each = list(dict.fromkeys(layers))  # 每一种层至少一层
        count = max(count, len(each))
        fields["layer_types"] = _stretched(each, count)
    for name in names - {"layer_types"}:
        value = _get(usual, name)
        if isinstance(value, PretrainedConfig):
            fields[name] = shrunk(type(value), own.pop(name, None))
        elif isinstance(value, list) and len(value) == deep > 1:
            words = all(isinstance(each, str) for each in value)
            each = list(dict.fromkeys(value)) if words else value
            fields[name] = _stretched(each, count)
        elif name in _DEPTHS and value == deep:
            fields[name] = count
        elif name in _SIZES:
            token = name.endswith("token_id")
            wanted = token or not (
                isinstance(value, list | tuple) or value in (None, 0)
            )
            if wanted or name == "vocab_size":
                fields[name] = _SIZES[name]
        elif name.endswith(("token_id", "token_index")) and isinstance(value, int):
            fields[name] = min(value, _VOCABULARY - 1)
    if "kv_lora_rank" in names and "num_key_value_heads" in fields:
        fields["num_key_value_heads"] = _HEADS
    return kind(**(fields | own))


def _usual(kind: type[PretrainedConfig]) -> Any:
    try:
        return kind()
    except Exception:  # 有的设置类没有合法的缺省值
        return None


def _get(config: Any, name: str) -> Any:
    try:
        return getattr(config, name, None)
    except Exception:  # 逐层不同的一项，读总的会报错
        return _SIZES.get(name)


def _stretched(values: list[Any], count: int) -> list[Any]:
    return (values + [values[-1]] * count)[:count]


def tiny_architecture(model_type: str, objective: str) -> Any:
    """权重随机的极小模型；输出头放大，压平 logits 的才看得出。"""
    config = shrunk(CONFIG_MAPPING[model_type], _OWN.get(model_type))
    if objective == "causal_lm" and hasattr(config, "is_decoder"):
        config.is_decoder = True  # BERT 一类只看左边，才是因果语言模型
    if config.is_encoder_decoder and _get(config, "decoder_start_token_id") is None:
        config.decoder_start_token_id = 0  # 真的检查点都写着
    torch.manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        model = getattr(transformers, FAMILIES[objective][0]).from_config(config)
    head = model.get_output_embeddings()
    if hasattr(head, "weight"):
        with torch.no_grad():
            head.weight *= 20
    return model.eval()


def byte_tokenizer() -> Any:
    """各架构共用的分词器：字节级 BPE，编号与 `_SIZES` 里的相合。"""
    from companion.checkpoints.tiny import _byte_bpe

    sentinels = [f"<extra_id_{number}>" for number in range(10)]
    specials = ("<pad>", "<s>", "</s>", "<unk>", "<mask>", *sentinels)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=_byte_bpe(specials),
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        mask_token="<mask>",
        extra_special_tokens=sentinels,
    )


def measure(model_type: str, objective: str, folder: Path) -> Row:
    """试一种架构的一个目标。

    Args:
        model_type: transformers 的 `model_type`。
        objective: `FAMILIES` 的键。
        folder: 空文件夹，存检查点与训练的输出。
    """

    def row(outcome: str, reason: str = "", **more: Any) -> Row:
        return Row(model_type, objective, outcome, reason, **more)

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # 各架构各有弃用的话
            model = tiny_architecture(model_type, objective)
        model.save_pretrained(folder / "model")
    except Exception as error:  # transformers 自己抛的，各式各样
        return row("unbuilt", _first_line(error))
    byte_tokenizer().save_pretrained(folder / "model")
    try:
        return row("trains", **_whole_way(str(folder / "model"), objective, folder))
    except CompanionError as error:
        return row("refused", error.found.replace(str(folder / "model"), "检查点"))
    except Exception as error:
        return row("broken", _first_line(error))


def _whole_way(name: str, objective: str, folder: Path) -> dict[str, Any]:
    """打开、体检、比损失、评估、写样张、训练两步。"""
    checkpoint = load_checkpoint(name, objective)
    model, goal = checkpoint.model, fitted_objective(checkpoint.model, objective)
    for finding in check_checkpoint(checkpoint, objective, block_size=64):
        if finding.severity == "error":
            raise CompanionError(
                found=finding.message, expected=finding.cause, remedy=finding.remedy
            )
    plan = head_plan(model)
    collator = goal.make_collator(checkpoint.tokenizer, **model_options(model, goal))
    texts = [TINY_TEXT[0], TINY_TEXT[6] + TINY_TEXT[7]]
    rows = [
        {"input_ids": checkpoint.tokenizer(text)["input_ids"], "example_id": number}
        for number, text in enumerate(texts)
    ]
    batch = adapt_batch(model, collator(rows))
    with torch.no_grad():
        ours = target_losses(model, batch, causal=goal.causal)
        hand = losses_by_hand(model, batch, causal=goal.causal)[0]
    mean = float(ours.total_nats) / len(ours.nats)
    if abs(mean - float(hand.mean)) > 1e-4 * abs(mean):
        raise AssertionError(f"损失 {mean}，逐位置算 {float(hand.mean)}")
    own, reason = _own_loss(model, batch, mean)
    answers.MAX_NEW_TOKENS = 4  # 样张只要写得出
    answers.build_samples(checkpoint, objective, [f"撒盐{answers.MASK}，未若柳絮。"])
    documents = [Document(text, str(n), "") for n, text in enumerate(TINY_TEXT[:3])]
    evaluate(checkpoint, objective, documents, block_size=64)
    corpus = folder / "corpus.txt"
    corpus.write_text("\n\n".join(TINY_TEXT * 2), encoding="utf-8")
    train(
        TrainingConfig(
            objective=objective,
            model=name,
            corpus=str(corpus),
            valid=str(corpus),
            output=str(folder / "output"),
            max_steps=2,
            block_size=64,
            tokens_per_batch=128,
            precision="fp32",
            eval=False,
            deduplicate=False,
        ),
        quiet=True,
    )
    head = "fused" if plan.fused else "whole" if plan.entry is None else "rows"
    return {
        "head": head,
        "rows": neighbours(model),
        "own_loss": own,
        "own_reason": reason,
    }


def _own_loss(model: Any, batch: Any, mean: float) -> tuple[float | None, str]:
    """模型自己的损失与我们的相对差；要自己移好位的（BART 的解码器）另说。"""
    labels = batch["labels"]
    cache = {"use_cache": False} if takes(model, "use_cache") else {}
    gaps: list[float] = []
    moved = labels.roll(-1, dims=1)
    moved[:, -1] = IGNORE_INDEX
    for given in (labels, moved):
        try:
            with torch.no_grad():
                loss = model(**{**batch, "labels": given}, **cache).loss
        except Exception as error:
            return None, _first_line(error)
        if loss is None:
            return None, "模型不给损失"
        gaps.append(abs(float(loss) - mean) / abs(mean))
        if gaps[-1] <= 1e-4:
            return gaps[-1], "" if len(gaps) == 1 else "模型自己的损失不移位"
    return gaps[0], f"模型自己的损失与逐位置的交叉熵差 {gaps[0]:.0%}"


def _first_line(error: Exception) -> str:
    text = str(error).strip() or "没有说明"
    return f"{type(error).__name__}：{' '.join(text.splitlines()[:3])[:200]}"


def every() -> Iterator[tuple[str, str]]:
    """三张映射表的全部（目标，架构）。"""
    for objective, (_, table) in FAMILIES.items():
        for model_type in getattr(modeling_auto, table):
            yield objective, model_type


def main() -> None:
    """逐一试，每十行存一次。"""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", help="只试这几种架构，不存")
    parser.add_argument("--resume", action="store_true", help="表里已有的不再试")
    given = parser.parse_args()
    known: dict[tuple[str, str], dict[str, Any]] = {}
    if given.resume:
        written = json.loads((RESULTS / f"{NAME}.json").read_text("utf-8"))
        known = {(r["objective"], r["model_type"]): r for r in written["rows"]}
    rows = []
    warnings.simplefilter("ignore")
    for key in every():
        if given.only and key[1] not in given.only:
            continue
        start = time.perf_counter()
        if key not in known:
            with tempfile.TemporaryDirectory() as folder, quiet_transformers():
                known[key] = asdict(measure(key[1], key[0], Path(folder)))
            shown = {name: value for name, value in known[key].items() if value}
            print(f"{time.perf_counter() - start:.1f} 秒 {shown}", flush=True)
        rows.append(known[key])
        if not given.only and len(rows) % 10 == 0:
            record(NAME, {"rows": rows})
    if not given.only:
        record(NAME, {"rows": rows})


if __name__ == "__main__":
    main()
