"""笔记本 07 的练习：词组的长短、判别器的目标、猜中的假、只有一句的行。"""

from companion.notebook.exercise import Exercise

MASKED_EXERCISES: dict[str, Exercise] = {
    "family-ngram": Exercise(
        right=18 / 11,
        because="短的多，长的少，平均不到两个词。",
        wrong=[
            (2, "那是三种长度一样多时的平均；这里长度 1 占一半以上"),
            (11 / 6, "这是倒数之和；要的是长度乘概率再相加"),
        ],
        hint="把长度乘上它的概率，三项相加",
    ),
    "family-electra-targets": Exercise(
        right=98,
        because="处处有题，特殊词元除外；掩码语言建模在这一行只有 15 个。",
        wrong=[
            (15, "那是生成器的目标；判别器每个普通词元都要判断"),
            (100, "[CLS] 与 [SEP] 不判断，要去掉"),
            (83, "没遮的也要判断，遮过的也要"),
        ],
        hint="判别器判断哪些词元？没换过的也是题目",
    ),
    "family-lucky": Exercise(
        right=False,
        because="标签看的是词元变没变，不是有没有经过生成器的手。",
        wrong=[(True, "抽中的与原文一字不差，判别器没有道理说它换过")],
        hint="写 True 或 False，不加引号",
    ),
    "family-order": Exercise(
        right=-100,
        because="没有次序可言，这一行只练掩码。",
        wrong=[
            (0, "0 是“原来的次序”；只有一句，谈不上次序"),
            (1, "1 是“对调过”；只有一句，无从对调"),
        ],
        hint="不计损失的标签写作什么？",
    ),
}
