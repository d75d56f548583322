"""笔记本要用而别处用不着的：设置表、成绩表、对照表、翻译、练习的批改。

笔记本因此每格只调用一件事，不定义函数。名字在第一次用到时才导入，
`import companion.notebook` 不加载 torch，`setup` 来得及先把环境安静下来。
"""

from typing import TYPE_CHECKING

from companion.lazy import on_first_use

if TYPE_CHECKING:
    from companion.notebook.conditional import finetune_blank, write_after
    from companion.notebook.decoding import decoding_table
    from companion.notebook.exercises import EXERCISES, check
    from companion.notebook.families import (
        attention_table,
        claimed_masks,
        family_examples,
        masks_table,
        measured_masks,
        open_families,
        shift_table,
    )
    from companion.notebook.masking import (
        mask_by_collator,
        masked_counts,
        noise_shares,
    )
    from companion.notebook.prefixes import (
        blank_examples,
        mask_panels,
        prefix_example,
        seen_without_mask,
        unified_examples,
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
        infills_table,
        scores_table,
        verdict,
    )
    from companion.notebook.session import setup
    from companion.notebook.tables import (
        Table,
        label_rows,
        sides_table,
        targets_table,
    )
    from companion.notebook.tradeoff import (
        STUDY,
        tradeoff_points,
        tradeoff_table,
    )
    from companion.notebook.translation import (
        TRANSLATION,
        finetune,
        sentence_pairs,
        translations_table,
    )

_HOMES = {
    "EXERCISES": "exercises",
    "PROFILES": "profiles",
    "STUDY": "tradeoff",
    "TRANSLATION": "translation",
    "Table": "tables",
    "answers_table": "results",
    "attention_table": "families",
    "blank_examples": "prefixes",
    "check": "exercises",
    "claimed_masks": "families",
    "completions_table": "results",
    "decoding_table": "decoding",
    "family_examples": "families",
    "fills_table": "results",
    "finetune": "translation",
    "finetune_blank": "conditional",
    "get_corpus": "profiles",
    "infills_table": "results",
    "label_rows": "tables",
    "mask_by_collator": "masking",
    "mask_panels": "prefixes",
    "masked_counts": "masking",
    "masks_table": "families",
    "measured_masks": "families",
    "new_run": "profiles",
    "noise_shares": "masking",
    "open_families": "families",
    "prefix_example": "prefixes",
    "profile_config": "profiles",
    "scores_table": "results",
    "seen_without_mask": "prefixes",
    "sentence_pairs": "translation",
    "setup": "session",
    "shift_table": "families",
    "sides_table": "tables",
    "targets_table": "tables",
    "tradeoff_points": "tradeoff",
    "tradeoff_table": "tradeoff",
    "translations_table": "translation",
    "unified_examples": "prefixes",
    "verdict": "results",
    "write_after": "conditional",
}

__all__ = [
    "EXERCISES",
    "PROFILES",
    "STUDY",
    "TRANSLATION",
    "Table",
    "answers_table",
    "attention_table",
    "blank_examples",
    "check",
    "claimed_masks",
    "completions_table",
    "decoding_table",
    "family_examples",
    "fills_table",
    "finetune",
    "finetune_blank",
    "get_corpus",
    "infills_table",
    "label_rows",
    "mask_by_collator",
    "mask_panels",
    "masked_counts",
    "masks_table",
    "measured_masks",
    "new_run",
    "noise_shares",
    "open_families",
    "prefix_example",
    "profile_config",
    "scores_table",
    "seen_without_mask",
    "sentence_pairs",
    "setup",
    "shift_table",
    "sides_table",
    "targets_table",
    "tradeoff_points",
    "tradeoff_table",
    "translations_table",
    "unified_examples",
    "verdict",
    "write_after",
]

__getattr__, __dir__ = on_first_use(__name__, _HOMES)
