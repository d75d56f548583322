"""笔记本要用而别处用不着的：设置表、成绩表、对照表、练习的批改。

笔记本因此每格只调用一件事，不定义函数。名字在第一次用到时才导入，
`import companion.notebook` 不加载 torch，`setup` 来得及先把环境安静下来。
"""

from typing import TYPE_CHECKING

from companion.lazy import on_first_use

if TYPE_CHECKING:
    from companion.notebook.exercises import EXERCISES, check
    from companion.notebook.masking import (
        mask_by_collator,
        masked_counts,
        noise_shares,
    )
    from companion.notebook.profiles import (
        PROFILES,
        get_corpus,
        new_run,
        profile_config,
    )
    from companion.notebook.results import (
        answers_table,
        completions_table,
        fills_table,
        scores_table,
        verdict,
    )
    from companion.notebook.session import setup
    from companion.notebook.tables import Table, label_rows, targets_table

_HOMES = {
    "EXERCISES": "exercises",
    "PROFILES": "profiles",
    "Table": "tables",
    "answers_table": "results",
    "check": "exercises",
    "completions_table": "results",
    "fills_table": "results",
    "get_corpus": "profiles",
    "label_rows": "tables",
    "mask_by_collator": "masking",
    "masked_counts": "masking",
    "new_run": "profiles",
    "noise_shares": "masking",
    "profile_config": "profiles",
    "scores_table": "results",
    "setup": "session",
    "targets_table": "tables",
    "verdict": "results",
}

__all__ = [
    "EXERCISES",
    "PROFILES",
    "Table",
    "answers_table",
    "check",
    "completions_table",
    "fills_table",
    "get_corpus",
    "label_rows",
    "mask_by_collator",
    "masked_counts",
    "new_run",
    "noise_shares",
    "profile_config",
    "scores_table",
    "setup",
    "targets_table",
    "verdict",
]

__getattr__, __dir__ = on_first_use(__name__, _HOMES)
