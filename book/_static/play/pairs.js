// 编码器–解码器的目标：片段破坏、文本填补、掩码序列到序列。
"use strict";
const playPairs = (() => {
  const { generator, round } = playNoise;
  const { ids, words, range, sum, cumulative, searchRight, splitSentences } = playTokens;
  const { replaceTokens, MASK, BOS, EOS, PAD } = playTokens;

  // 编码器–解码器：解码器的输入是目标右移一格
  const pair = (tokens, hidden, inputs, targets, start) => ({
    tokens: words(tokens),
    hidden,
    inputs: words(inputs),
    decoder: words([start, ...targets.slice(0, -1)]),
    visible: targets.map(() => true),
    labels: words(targets),
    sides: ["编码器", "解码器"],
  });

  // ---- 片段破坏（span_corruption.py）
  const spanCorruption = (body, seed) => {
    const random = generator(seed);
    const full = Math.max(body.length, 2);
    const clip = (value, low, high) => Math.min(Math.max(value, low), high);
    const noise = clip(round(full * 0.15), 1, full - 1);
    const spans = clip(round(noise / 3), 1, Math.min(noise, full - noise));
    const kept = partition(full - noise, spans, random);
    const hidden = partition(noise, spans, random);
    const flags = kept
      .flatMap((size, i) => [
        ...Array(size).fill(false),
        ...Array(hidden[i]).fill(true),
      ])
      .slice(0, body.length);
    const inputs = [];
    const targets = [];
    let used = 0;
    body.forEach((id, at) => {
      if (!flags[at]) return inputs.push(id);
      if (at === 0 || !flags[at - 1]) {
        const sentinel = ids.get(`<extra_id_${used++}>`);
        inputs.push(sentinel);
        targets.push(sentinel);
      }
      return targets.push(id);
    });
    if (used === 0) targets.push(ids.get("<extra_id_0>"));
    return pair(
      [...body, EOS],
      [...flags, false],
      [...inputs, EOS],
      [...targets, EOS],
      PAD,
    );
  };

  // 从 0 到 slots − 1 里不放回地选 count 个，从小到大
  const chooseFrom = (slots, count, random) =>
    random
      .shuffled(slots)
      .slice(0, count)
      .sort((a, b) => a - b);

  // total 分成 parts 个正整数，一切分法机会相等
  const partition = (total, parts, random) => {
    const cuts = chooseFrom(total - 1, parts - 1, random).map((gap) => gap + 1);
    return [0, ...cuts].map((cut, i) => (cuts[i] ?? total) - cut);
  };

  // ---- 文本填补（text_infilling.py）
  const textInfilling = (body, seed) => {
    const random = generator(seed);
    const sentences = splitSentences(body);
    const order = random.shuffled(sentences.length).flatMap((s) => sentences[s]);
    const { sizes, inserts } = drawSpans(Math.ceil(body.length * 0.3 - 1e-9), random);
    const { heads, covered } = placeDisjoint(body.length, sizes, random);
    const shown = [];
    order.forEach((at, i) => {
      if (heads[i]) shown.push(MASK);
      else if (!covered[i]) shown.push(body[at]);
    });
    const extra = Math.min(inserts, body.length - shown.length);
    const gaps = range(extra).map(() => random.below(shown.length + 1));
    const inputs = [];
    for (let gap = 0; gap <= shown.length; gap++) {
      for (const each of gaps) if (each === gap) inputs.push(MASK);
      if (gap < shown.length) inputs.push(shown[gap]);
    }
    const hidden = body.map(() => false);
    order.forEach((at, i) => (hidden[at] = covered[i]));
    const wrap = (row, edge) => [edge ?? BOS, ...row, edge ?? EOS];
    return pair(wrap(body), wrap(hidden, false), wrap(inputs), wrap(body), EOS);
  };

  // 泊松分布（λ = 3）的累积概率
  const poisson = (() => {
    let log = -3;
    const terms = [Math.exp(-3)];
    for (let k = 1; k < 47; k++) terms.push(Math.exp((log += Math.log(3 / k))));
    return cumulative(terms);
  })();

  const drawSpans = (budget, random) => {
    const sizes = [];
    let inserts = 0;
    for (let left = budget; left > 0; ) {
      const size = Math.min(searchRight(poisson, random.next()), left);
      if (size) sizes.push(size);
      else inserts++;
      left -= size;
    }
    return { sizes: random.shuffled(sizes.length).map((i) => sizes[i]), inserts };
  };

  const placeDisjoint = (length, sizes, random) => {
    const slots = length - sum(sizes) + sizes.length;
    const places = chooseFrom(slots, sizes.length, random);
    const turn = random.below(length);
    const heads = Array(length).fill(false);
    const covered = Array(length).fill(false);
    let before = 0;
    places.forEach((place, i) => {
      range(sizes[i]).forEach((inside) => {
        const at = (place + before + turn + inside) % length;
        covered[at] = true;
        heads[at] = inside === 0 || at === 0; // 转断了的一段，后半另有一个掩码
      });
      before += sizes[i] - 1;
    });
    return { heads, covered };
  };

  // ---- 掩码序列到序列（masked_seq2seq.py）
  const maskedSeq2seq = (body, seed) => {
    const random = generator(seed);
    const size = Math.max(round(body.length * 0.5), 1);
    const slots = body.length - size + 1;
    const lot = random.next();
    const anywhere = random.below(slots);
    const start = lot < 0.2 ? 0 : lot < 0.4 ? slots - 1 : anywhere;
    const hidden = body.map((_, at) => start <= at && at < start + size);
    const tokens = [BOS, ...body, EOS];
    const seen = [false, ...hidden, false];
    const shifted = [EOS, ...tokens.slice(0, -1)];
    return {
      tokens: words(tokens),
      hidden: seen,
      inputs: words(replaceTokens(tokens, seen, random)),
      decoder: words(shifted.map((id, at) => (seen[at] ? id : MASK))),
      visible: seen,
      labels: words(tokens.map((id, at) => (seen[at] ? id : null))),
      sides: ["编码器", "解码器"],
    };
  };

  return { spanCorruption, textInfilling, maskedSeq2seq };
})();
