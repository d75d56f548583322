"""笔记本要用而别处用不着的：设置表、成绩表、对照表、翻译、练习的批改。

笔记本因此每格只调用一件事，不定义函数。名字在第一次用到时才导入，
`import companion.notebook` 不加载 torch，`setup` 来得及先把环境安静下来。
"""

from typing import TYPE_CHECKING

from companion.lazy import on_first_use

if TYPE_CHECKING:
    from companion.notebook.conditional import finetune_blank, write_after
    from companion.notebook.contrast import (
        contrast,
        draw,
        fit,
        mean_loss,
        rows_of,
    )
    from companion.notebook.corpora import (
        encodings_table,
        mojibake_table,
        packing_table,
        splits_table,
        with_reprints,
    )
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
    from companion.notebook.masked_family import (
        granularity_table,
        presets_table,
        replaced_table,
        run_lengths,
    )
    from companion.notebook.masking import (
        mask_by_collator,
        masked_counts,
        noise_shares,
    )
    from companion.notebook.naive_corpus import (
        best_fit,
        shared_characters,
        without_similar,
    )
    from companion.notebook.naive_tokenizers import (
        longest_match,
        merge_bytes,
        most_likely,
        pieces_of,
    )
    from companion.notebook.planning import plan_training
    from companion.notebook.prefixes import (
        blank_examples,
        mask_panels,
        prefix_example,
        seen_without_mask,
        unified_examples,
    )
    from companion.notebook.profiles import (
        PROFILES,
        fresh,
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
    from companion.notebook.tokenizers import (
        pieces_table,
        public_tokenizers,
        tokens_table,
        train_tokenizers,
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
    "best_fit": "naive_corpus",
    "blank_examples": "prefixes",
    "check": "exercises",
    "claimed_masks": "families",
    "completions_table": "results",
    "contrast": "contrast",
    "decoding_table": "decoding",
    "draw": "contrast",
    "encodings_table": "corpora",
    "family_examples": "families",
    "fills_table": "results",
    "finetune": "translation",
    "fit": "contrast",
    "finetune_blank": "conditional",
    "fresh": "profiles",
    "get_corpus": "profiles",
    "granularity_table": "masked_family",
    "infills_table": "results",
    "label_rows": "tables",
    "longest_match": "naive_tokenizers",
    "mask_by_collator": "masking",
    "mask_panels": "prefixes",
    "masked_counts": "masking",
    "masks_table": "families",
    "measured_masks": "families",
    "mean_loss": "contrast",
    "merge_bytes": "naive_tokenizers",
    "mojibake_table": "corpora",
    "most_likely": "naive_tokenizers",
    "new_run": "profiles",
    "noise_shares": "masking",
    "open_families": "families",
    "packing_table": "corpora",
    "pieces_of": "naive_tokenizers",
    "pieces_table": "tokenizers",
    "plan_training": "planning",
    "prefix_example": "prefixes",
    "presets_table": "masked_family",
    "profile_config": "profiles",
    "public_tokenizers": "tokenizers",
    "replaced_table": "masked_family",
    "rows_of": "contrast",
    "run_lengths": "masked_family",
    "scores_table": "results",
    "seen_without_mask": "prefixes",
    "sentence_pairs": "translation",
    "setup": "session",
    "shared_characters": "naive_corpus",
    "shift_table": "families",
    "sides_table": "tables",
    "splits_table": "corpora",
    "targets_table": "tables",
    "tokens_table": "tokenizers",
    "tradeoff_points": "tradeoff",
    "tradeoff_table": "tradeoff",
    "train_tokenizers": "tokenizers",
    "translations_table": "translation",
    "unified_examples": "prefixes",
    "verdict": "results",
    "with_reprints": "corpora",
    "without_similar": "naive_corpus",
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
    "best_fit",
    "blank_examples",
    "check",
    "claimed_masks",
    "completions_table",
    "contrast",
    "decoding_table",
    "draw",
    "encodings_table",
    "family_examples",
    "fills_table",
    "finetune",
    "finetune_blank",
    "fit",
    "fresh",
    "get_corpus",
    "granularity_table",
    "infills_table",
    "label_rows",
    "longest_match",
    "mask_by_collator",
    "mask_panels",
    "masked_counts",
    "masks_table",
    "mean_loss",
    "measured_masks",
    "merge_bytes",
    "mojibake_table",
    "most_likely",
    "new_run",
    "noise_shares",
    "open_families",
    "packing_table",
    "pieces_of",
    "pieces_table",
    "plan_training",
    "prefix_example",
    "presets_table",
    "profile_config",
    "public_tokenizers",
    "replaced_table",
    "rows_of",
    "run_lengths",
    "scores_table",
    "seen_without_mask",
    "sentence_pairs",
    "setup",
    "shared_characters",
    "shift_table",
    "sides_table",
    "splits_table",
    "targets_table",
    "tokens_table",
    "tradeoff_points",
    "tradeoff_table",
    "train_tokenizers",
    "translations_table",
    "unified_examples",
    "verdict",
    "with_reprints",
    "without_similar",
    "write_after",
]

__getattr__, __dir__ = on_first_use(__name__, _HOMES)
