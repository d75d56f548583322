"""笔记本 01 的练习：四个家族的掩码、标签与选择。"""

from companion.notebook.exercise import Exercise

FAMILY_EXERCISES: dict[str, Exercise] = {
    "families-causal": Exercise(
        right=36,
        because="第 i 个看得见 i 个，1 + 2 + … + 8。",
        wrong=[
            (64, "这是编码器：处处看得见"),
            (28, "自己也看得见自己，对角线要算上"),
        ],
        hint="第 1 个看得见 1 个，第 2 个看得见 2 个，依次相加",
    ),
    "families-prefix": Exercise(
        right=46,
        because="前缀 5 个互相可见，25 格；后 3 个各看得见 6、7、8 个。",
        wrong=[
            (36, "这是因果的；前缀里还看得见右边"),
            (64, "前缀看不见后缀"),
            (25, "后缀的 3 行也要算"),
        ],
        hint="前缀的每一行看得见 5 个，后缀的每一行看得见自己与左边",
    ),
    "families-cross": Exercise(
        right=40,
        because="解码器每一步都看得见编码器的全部位置，没有先后。",
        wrong=[
            (10, "交叉注意力不是因果的；解码器的第 1 步就看得见整个输入"),
            (34, "交叉注意力不是因果的，没有要去掉的三角"),
        ],
        hint="交叉注意力的行是解码器，列是编码器，处处看得见",
    ),
    "families-shift": Exercise(
        right="A",
        because="只有因果的损失自己移一位；另两类的标签与输出同列。",
        wrong=[
            ("B", "掩码模型的标签与输出同列，猜的就是自己那一格"),
            ("C", "编码器–解码器右移的是解码器的输入，标签不移"),
        ],
        hint="写 A、B、C 三个字母之一，加引号",
    ),
    "families-choose": Exercise(
        right="masked_lm",
        because="断句要同时看左右，又不用写出新的字。",
        wrong=[
            ("causal_lm", "因果模型只看左边，句读常要看下文"),
            ("text_infilling", "做得到，但不写新字的任务用不着解码器"),
        ],
        hint="写训练目标的键，加引号；companion objectives 列出全部",
    ),
}
