"""掩码的四种粒度，同样多的词元：逐词元、整词、词组、片段，各三个种子。

    python experiments/mask_granularity.py --steps 120
    python experiments/mask_granularity.py --quick

都从 starter:bert 起，读《资治通鉴》文言，考同一份卷子：留出集里冻结的 15% 词元，逐个换
成 [MASK]。卷子与逐词元的练法最像，所以量到的是“换了练法，逐词元的题还答得多好”，不是哪
一种粒度练出的模型更好用。整词、词组、片段遮住的题更难，训练损失之间不可比。
"""

import functools

from runs import parser_of, run_all, settings_of, train_once

GRANULARITIES = ("token", "whole_word", "ngram", "span")


def main() -> None:
    """一个种子一个种子地跑，四种粒度轮着来。"""
    parser = parser_of(__doc__ or "")
    parser.add_argument("--steps", type=int, default=120)
    args = parser.parse_args()
    steps, seeds = (5, [0]) if args.quick else (args.steps, args.seeds)
    settings = {**settings_of("bert", args), "max_steps": steps}
    jobs = (
        (
            {"granularity": granularity},
            functools.partial(
                train_once, {**settings, "granularity": granularity, "seed": seed}
            ),
        )
        for seed in seeds
        for granularity in GRANULARITIES
    )
    hidden = {name: None for name in ("corpus", "valid", "general")}
    run_all(
        "mask_granularity",
        "同样多的词元，四种掩码粒度在冻结的逐词元考题上相差多少",
        jobs,
        {"settings": {**settings, **hidden}},
        keys=("granularity",),
        measures=("domain", "general"),
        save=not args.quick,
    )


if __name__ == "__main__":
    main()
