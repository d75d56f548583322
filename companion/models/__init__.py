"""模型：打开、保存、体检、起步模型与只算目标处的输出头。

名字在第一次用到时才导入，`import companion.models` 因此不加载 torch。
"""

from companion.lazy import on_first_use

_HOMES = {
    "Checkpoint": "loading",
    "load_checkpoint": "loading",
    "load_tokenizer": "loading",
    "save_checkpoint": "saving",
    "StarterCard": "starters",
    "list_starters": "starters",
    "starter_path": "starters",
    "tiny_model": "tiny",
    "tiny_tokenizer": "tiny",
    "PackingVerdict": "leaks",
    "adapt_batch": "probing",
    "can_pack": "leaks",
    "packing_leak": "leaks",
    "packing_table": "leaks",
    "token_influence": "influence",
    "measured_visibility": "influence",
    "Finding": "findings",
    "check_checkpoint": "preflight",
    "Device": "device",
    "best_device": "device",
    "Extension": "vocabulary",
    "embeddings_only": "vocabulary",
    "extend_vocabulary": "vocabulary",
    "find_similar_words": "masking",
    "ElectraPair": "electra_pair",
    "load_pair": "electra_checkpoint",
    "save_pair": "electra_checkpoint",
    "SpanBoundaryHead": "span_boundary",
    "attach_boundary_head": "span_boundary",
    "make_boundary_head": "span_boundary",
    "Teacher": "distillation",
    "load_teacher": "distillation",
    "LossPart": "losses",
    "loss_parts": "losses",
    "TargetLosses": "target_head",
    "target_losses": "target_head",
}

__all__ = sorted(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll]

__getattr__, __dir__ = on_first_use(__name__, _HOMES)
