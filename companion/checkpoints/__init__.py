"""检查点：找、开、存、扩充词表；起步模型、极小模型与两行位置的 GLM。

名字在第一次用到时才导入，`import companion.checkpoints` 因此不加载 torch。
"""

from companion.lazy import on_first_use

_HOMES = {
    "Checkpoint": "loading",
    "ElectraPair": "electra_pair",
    "Extension": "vocabulary",
    "StarterCard": "starters",
    "embeddings_only": "vocabulary",
    "extend_vocabulary": "vocabulary",
    "list_starters": "starters",
    "load_checkpoint": "loading",
    "load_pair": "electra_checkpoint",
    "load_tokenizer": "loading",
    "save_checkpoint": "saving",
    "save_pair": "electra_checkpoint",
    "starter_path": "starters",
    "tiny_model": "tiny",
    "tiny_tokenizer": "tiny",
}

__all__ = sorted(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll]

__getattr__, __dir__ = on_first_use(__name__, _HOMES)
