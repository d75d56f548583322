// GLM 的自回归填空。
"use strict";
const playBlanks = (() => {
  const { generator } = playNoise;
  const { ids, words, sum, cumulative, searchRight, splitSentences, CLS, EOS } =
    playTokens;

  // ---- GLM 填空（blank_infilling.py）
  const blankInfilling = (body, seed) => {
    const random = generator(seed);
    const level = random.next();
    let spans = [];
    let mask = "[MASK]";
    if (level < 0.3) [spans, mask] = [tailSpan(body, random), "[gMASK]"];
    else if (level < 0.3 + 0.3) {
      spans = sentenceSpans(body, random);
      if (spans.length) mask = "[sMASK]";
    }
    if (!spans.length) spans = tokenSpans(body, random);
    const order = random.shuffled(spans.length);
    const hidden = body.map(() => false);
    const inputs = [...body];
    for (const { start, size } of spans) {
      hidden.fill(true, start, start + size);
      inputs[start] = ids.get(mask);
      inputs.fill(null, start + 1, start + size);
    }
    const decoder = [];
    const labels = [];
    const seen = [CLS, ...inputs.filter((id) => id !== null), EOS];
    // 位置两行：第一行是空在 A 部分的哪里，第二行是片段里的第几个
    const positions = { given: seen.map((_, at) => [at, 0]), written: [] };
    const places = seen.flatMap((id, at) => (id === ids.get(mask) ? [at] : []));
    for (const s of order) {
      const { start, size } = spans[s];
      const span = body.slice(start, start + size);
      for (let k = 0; k <= size; k++) positions.written.push([places[s], k + 1]);
      decoder.push(ids.get("[sop]"), ...span);
      labels.push(...span, ids.get("[eop]"));
    }
    return {
      tokens: words([CLS, ...body, EOS]),
      hidden: [false, ...hidden, false],
      inputs: words(seen),
      decoder: words(decoder),
      visible: decoder.map(() => true),
      labels: words(labels),
      sides: ["A 部分", "B 部分"],
      positions,
    };
  };

  const tailSpan = (body, random) => {
    const count = body.length;
    const least = Math.max(1, Math.min(Math.ceil(count / 2), count - 1));
    const size = least + random.below(Math.max(least, count - 1) - least + 1);
    return [{ start: count - size, size }];
  };

  const blankBudget = (body) => Math.max(1, Math.trunc(0.15 * body.length));

  const sentenceSpans = (body, random) => {
    const sentences = splitSentences(body);
    const chosen = [];
    let total = 0;
    for (const s of random.shuffled(sentences.length).slice(0, -1)) {
      if (total >= blankBudget(body)) break;
      chosen.push(sentences[s]);
      total += sentences[s].length;
    }
    return chosen
      .map((places) => ({ start: places[0], size: places.length }))
      .sort((a, b) => a.start - b.start);
  };

  // 去掉零、截到 39 的泊松分布的累积概率
  const truncated = (() => {
    let log = 0;
    const weights = [];
    for (let k = 1; k <= 39; k++) weights.push(Math.exp((log += Math.log(3 / k))));
    const table = cumulative(weights);
    return table.map((each) => each / table[38]);
  })();

  const tokenSpans = (body, random) => {
    const longest = Math.max(body.length - 1, 1);
    const drawn = [];
    while (sum(drawn) < blankBudget(body)) {
      const lot = random.next();
      const size = Math.min(1 + searchRight(truncated, lot), 39, longest);
      if (sum(drawn) + size + drawn.length > body.length) break;
      drawn.push(size);
    }
    const sizes = random.shuffled(drawn.length).map((i) => drawn[i]);
    const gaps = random
      .shuffled(body.length - sum(sizes) + 1)
      .slice(0, sizes.length)
      .sort((a, b) => a - b);
    return gaps.map((gap, i) => ({ start: gap + sum(sizes.slice(0, i)), size: sizes[i] }));
  };

  return { blankInfilling };
})();
