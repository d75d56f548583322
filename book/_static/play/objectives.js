// 名册：各训练目标怎样破坏一行，与 companion show 逐个词元相同（tests/test_play.py 核对）。
// corrupt(文字, 种子) 给出给人看的几行；标签为 null 处不计损失。
"use strict";
const playObjectives = (() => {
  const { specials, encode } = playTokens;
  const { causal, middle, masked, diffusion, prefix } = playRows;
  const { spanCorruption, textInfilling, maskedSeq2seq } = playPairs;
  const { blankInfilling } = playBlanks;

  // 词由空格或 / 隔开；隔开的记号不算文字
  const cutWords = (text) => text.split(/[\s/]+/u).filter(Boolean);
  const readWords = (text) => {
    const parts = cutWords(text);
    return {
      body: parts.flatMap(encode),
      groups: parts.flatMap((part, i) => encode(part).map(() => i)),
    };
  };

  const plainText = (corrupt) => (text, seed) => corrupt(encode(text), seed);

  // 键、名字、一句话、讲它的那一页；whole_word 在命令行里是 masked_lm 的一种粒度，
  // 它的 sample 是切好了词的例句，words 是读者的切法
  const objectives = {
    causal_lm: {
      title: "因果语言建模",
      about: "每个词元由它左边的词元预测；标签与输入相同，只有第一个没有上文。",
      chapter: "03_causal_lm.html",
      corrupt: plainText(causal),
    },
    fill_in_the_middle: {
      title: "中间填补（FIM）",
      about: "一半的文字切成前、中、后三段，中段挪到末尾；换几个种子，看 PSM 与 SPM 两种次序。",
      chapter: "13_fill_and_diffusion.html",
      corrupt: plainText(middle),
    },
    masked_lm: {
      title: "掩码语言建模（逐个词元）",
      about: "选 15%，其中八成换成 [MASK]，一成换成随机的字，一成不动；只有选中的计损失。",
      chapter: "04_masked_lm.html",
      corrupt: plainText(masked),
    },
    whole_word: {
      title: "掩码语言建模（全词）",
      about: "同一个词的字一同选中。词由你用空格或 / 隔开，例如：司马光/曰。",
      chapter: "04_masked_lm.html",
      sample: "臣光/曰/：/才者/，/德之资/也/；/德者/，/才之帅/也/。",
      words: cutWords,
      corrupt: (text, seed) => {
        const { body, groups } = readWords(text);
        const rows = masked(body, seed, groups);
        if (body.length > 1 && !groups.at(-1)) {
          rows.warning = "没有隔开：整句是一个词，一选就全遮住了。用空格或 / 隔开各个词。";
        }
        return rows;
      },
    },
    masked_diffusion: {
      title: "掩码扩散",
      about: "每行抽一个比例，照它逐个遮住，全换成 [MASK]；遮得越少，遮住的权重越大。",
      chapter: "13_fill_and_diffusion.html",
      corrupt: plainText(diffusion),
    },
    span_corruption: {
      title: "片段破坏（T5）",
      about: "盖住几段，每段在输入里换成一个哨兵；解码器只写盖住的几段。",
      chapter: "05_seq2seq.html",
      corrupt: plainText(spanCorruption),
    },
    text_infilling: {
      title: "文本填补（BART）",
      about: "打乱句子，再把约三成的字盖住，一段只留一个掩码；解码器从头写出原文。",
      chapter: "05_seq2seq.html",
      corrupt: plainText(textInfilling),
    },
    masked_seq2seq: {
      title: "掩码序列到序列（MASS）",
      about: "遮住连续的一半，由解码器写出这一段。",
      chapter: "05_seq2seq.html",
      corrupt: plainText(maskedSeq2seq),
    },
    prefix_lm: {
      title: "前缀语言建模",
      about: "随机切一刀：前一段双向地读，不计损失；后一段从左到右地写。",
      chapter: "06_prefix_lm.html",
      corrupt: plainText(prefix),
    },
    blank_infilling: {
      title: "自回归填空（GLM）",
      about: "挖去几段留在 A 部分外面，打乱次序，在 B 部分里逐段写出。",
      chapter: "06_prefix_lm.html",
      corrupt: plainText(blankInfilling),
    },
  };

  // 不能破坏的文字：说明为什么；可以的，返回 null
  const complain = (text) => {
    if (!text.replace(/[\s/]/gu, "")) return "写一句话，至少一个字。";
    const special = specials.find((token) => text.includes(token));
    if (special) return `${special} 是模型自己用的记号，从句子里去掉它。`;
    return null;
  };

  return { objectives, complain };
})();
