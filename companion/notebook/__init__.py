"""笔记本要用而别处用不着的：设置、表、做错与做对的对照、翻译、练习的批改。

笔记本因此每格只做一件事，不定义函数。名字在第一次用到时才导入，`import
companion.notebook` 不加载 torch，`setup` 来得及先把环境安静下来。
"""

from typing import TYPE_CHECKING

from companion.lazy import on_first_use

if TYPE_CHECKING:
    from companion.notebook.contrast import contrast, draw, fit, mean_loss, rows_of
    from companion.notebook.exercises import EXERCISES, check
    from companion.notebook.naive import (
        best_fit,
        longest_match,
        merge_bytes,
        most_likely,
        pieces_of,
        shared_characters,
        without_similar,
    )
    from companion.notebook.planning import plan_training
    from companion.notebook.profiles import (
        PROFILES,
        STUDY,
        fresh,
        get_corpus,
        new_run,
        open_families,
        prefix_example,
        profile_config,
    )
    from companion.notebook.session import setup
    from companion.notebook.tables import (
        Table,
        answers_table,
        fills_table,
        infills_table,
        replaced_table,
        scores_table,
        verdict,
    )
    from companion.notebook.tokenizers import (
        measure,
        public_tokenizers,
        train_tokenizers,
    )
    from companion.notebook.translation import (
        TRANSLATION,
        finetune,
        finetune_blank,
        sentence_pairs,
        translations_table,
        write_after,
    )

_HOMES = {
    "EXERCISES": "exercises",
    "PROFILES": "profiles",
    "STUDY": "profiles",
    "TRANSLATION": "translation",
    "Table": "tables",
    "answers_table": "tables",
    "best_fit": "naive",
    "check": "exercises",
    "contrast": "contrast",
    "draw": "contrast",
    "fills_table": "tables",
    "finetune": "translation",
    "finetune_blank": "translation",
    "fit": "contrast",
    "fresh": "profiles",
    "get_corpus": "profiles",
    "infills_table": "tables",
    "longest_match": "naive",
    "mean_loss": "contrast",
    "measure": "tokenizers",
    "merge_bytes": "naive",
    "most_likely": "naive",
    "new_run": "profiles",
    "open_families": "profiles",
    "pieces_of": "naive",
    "plan_training": "planning",
    "prefix_example": "profiles",
    "profile_config": "profiles",
    "public_tokenizers": "tokenizers",
    "replaced_table": "tables",
    "rows_of": "contrast",
    "scores_table": "tables",
    "sentence_pairs": "translation",
    "setup": "session",
    "shared_characters": "naive",
    "train_tokenizers": "tokenizers",
    "translations_table": "translation",
    "verdict": "tables",
    "without_similar": "naive",
    "write_after": "translation",
}

__all__ = [
    "EXERCISES",
    "PROFILES",
    "STUDY",
    "TRANSLATION",
    "Table",
    "answers_table",
    "best_fit",
    "check",
    "contrast",
    "draw",
    "fills_table",
    "finetune",
    "finetune_blank",
    "fit",
    "fresh",
    "get_corpus",
    "infills_table",
    "longest_match",
    "mean_loss",
    "measure",
    "merge_bytes",
    "most_likely",
    "new_run",
    "open_families",
    "pieces_of",
    "plan_training",
    "prefix_example",
    "profile_config",
    "public_tokenizers",
    "replaced_table",
    "rows_of",
    "scores_table",
    "sentence_pairs",
    "setup",
    "shared_characters",
    "train_tokenizers",
    "translations_table",
    "verdict",
    "without_similar",
    "write_after",
]

__getattr__, __dir__ = on_first_use(__name__, _HOMES)
