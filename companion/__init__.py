"""预训练模型的继续预训练：语料、训练目标、训练、评估、推理与图。

    from companion import TrainingConfig, train

    result = train(TrainingConfig(objective="masked_lm", model="starter:bert",
                                  corpus="sample:classical", output="out"))

公开的名字都在这里，第一次用到时才导入它所在的模块，所以 `import companion` 不加载
torch、transformers 与 matplotlib。它之后，transformers 的 Auto 类打得开 `glm_two_row`
（两行位置的 GLM，如 `starter:glm`）的检查点。
"""

from typing import TYPE_CHECKING

from companion.lazy import after_import, on_first_use

if TYPE_CHECKING:
    from companion.checkpoints import (
        list_starters,
        load_checkpoint,
        load_tokenizer,
        save_checkpoint,
        tiny_model,
        tiny_tokenizer,
    )
    from companion.config import TrainingConfig
    from companion.corpus import (
        BlockDataset,
        Document,
        TokenLedger,
        TokenStore,
        clean_documents,
        corpus_stats,
        deduplicate,
        dictionary_segmenter,
        fetch,
        jieba_segmenter,
        list_sources,
        overlap,
        plan_packing,
        read_cloze,
        read_corpus,
        read_documents,
        split_corpus,
        tokenize_documents,
        write_documents,
    )
    from companion.errors import (
        CompanionError,
        ConfigError,
        CorpusError,
        EvaluationError,
        ModelError,
        ObjectiveError,
        TrainingError,
    )
    from companion.evaluation import compare, evaluate, write_report
    from companion.inference import complete, fill, infill
    from companion.objectives import OBJECTIVES, get_objective
    from companion.objectives.causal_lm import CausalLMCollator
    from companion.objectives.masked_lm import MaskedLMCollator
    from companion.plots import (
        LabelRows,
        labels_table,
        plot_attention,
        plot_curve,
        plot_labels,
        save_figure,
        use_chinese_font,
    )
    from companion.preflight import check_checkpoint
    from companion.show import example_rows, show_example
    from companion.training import train
    from companion.training.run import run_demo

__version__ = "0.1.0"

_HOMES = {
    "BlockDataset": "corpus",
    "CausalLMCollator": "objectives.causal_lm",
    "CompanionError": "errors",
    "ConfigError": "errors",
    "CorpusError": "errors",
    "Document": "corpus",
    "EvaluationError": "errors",
    "LabelRows": "plots",
    "MaskedLMCollator": "objectives.masked_lm",
    "ModelError": "errors",
    "OBJECTIVES": "objectives",
    "ObjectiveError": "errors",
    "TokenLedger": "corpus",
    "TokenStore": "corpus",
    "TrainingConfig": "config",
    "TrainingError": "errors",
    "check_checkpoint": "preflight",
    "clean_documents": "corpus",
    "compare": "evaluation",
    "complete": "inference",
    "corpus_stats": "corpus",
    "deduplicate": "corpus",
    "dictionary_segmenter": "corpus",
    "evaluate": "evaluation",
    "example_rows": "show",
    "fetch": "corpus",
    "fill": "inference",
    "get_objective": "objectives",
    "infill": "inference",
    "jieba_segmenter": "corpus",
    "labels_table": "plots",
    "list_sources": "corpus",
    "list_starters": "checkpoints",
    "load_checkpoint": "checkpoints",
    "load_tokenizer": "checkpoints",
    "overlap": "corpus",
    "plan_packing": "corpus",
    "plot_attention": "plots",
    "plot_curve": "plots",
    "plot_labels": "plots",
    "read_cloze": "corpus",
    "read_corpus": "corpus",
    "read_documents": "corpus",
    "run_demo": "training.run",
    "save_checkpoint": "checkpoints",
    "save_figure": "plots",
    "show_example": "show",
    "split_corpus": "corpus",
    "tiny_model": "checkpoints",
    "tiny_tokenizer": "checkpoints",
    "tokenize_documents": "corpus",
    "train": "training",
    "use_chinese_font": "plots",
    "write_documents": "corpus",
    "write_report": "evaluation",
}
"""公开的名字 → 它所在的模块。"""

__all__ = [
    "OBJECTIVES",
    "BlockDataset",
    "CausalLMCollator",
    "CompanionError",
    "ConfigError",
    "CorpusError",
    "Document",
    "EvaluationError",
    "LabelRows",
    "MaskedLMCollator",
    "ModelError",
    "ObjectiveError",
    "TokenLedger",
    "TokenStore",
    "TrainingConfig",
    "TrainingError",
    "check_checkpoint",
    "clean_documents",
    "compare",
    "complete",
    "corpus_stats",
    "deduplicate",
    "dictionary_segmenter",
    "evaluate",
    "example_rows",
    "fetch",
    "fill",
    "get_objective",
    "infill",
    "jieba_segmenter",
    "labels_table",
    "list_sources",
    "list_starters",
    "load_checkpoint",
    "load_tokenizer",
    "overlap",
    "plan_packing",
    "plot_attention",
    "plot_curve",
    "plot_labels",
    "read_cloze",
    "read_corpus",
    "read_documents",
    "run_demo",
    "save_checkpoint",
    "save_figure",
    "show_example",
    "split_corpus",
    "tiny_model",
    "tiny_tokenizer",
    "tokenize_documents",
    "train",
    "use_chinese_font",
    "write_documents",
    "write_report",
]

__getattr__, __dir__ = on_first_use(__name__, _HOMES)

# 我们自己的架构：从此 transformers 的 Auto 类打得开它的检查点
after_import(
    "transformers.models.auto.configuration_auto",
    "companion.checkpoints.two_row_config",
)
