// 互动页：读句子、目标与种子，把破坏的结果画成一格一格的词元。没有网络，也不存任何东西。
"use strict";
document.addEventListener("DOMContentLoaded", () => {
  const form = document.getElementById("play");
  if (!form) return;
  const { objectives, complain } = playObjectives;
  const result = document.getElementById("play-result");
  const message = document.getElementById("play-message");
  const field = (name) => form.elements.namedItem(name);
  const sample = field("text").value;
  let python = false;

  for (const [key, { title }] of Object.entries(objectives)) {
    field("objective").add(new Option(title, key));
  }
  field("objective").value = "masked_lm";

  const make = (tag, className, text) => {
    const node = document.createElement(tag);
    if (className) node.className = className;
    if (text !== undefined) node.textContent = text;
    return node;
  };

  // 一格：几行字，每行给读屏软件一个名字
  const makeCell = (place, lines) => {
    const cell = make("li");
    cell.append(make("span", "play-place", String(place)));
    for (const { name, text, kind } of lines) {
      const line = make("span", `play-line ${kind ?? ""}`.trim());
      line.dataset.line = name;
      line.append(make("span", "visually-hidden", `${name}：`));
      line.append(make("span", "play-token", text));
      cell.append(line);
    }
    return cell;
  };

  const makeRow = (title, note, cells, legend) => {
    const section = make("section", "play-row");
    const heading = make("h3", "", title);
    const list = make("ol", "play-cells");
    const names = make("li", "play-legend");
    names.setAttribute("aria-hidden", "true");
    names.append(make("span", "play-place", "位置"));
    for (const name of legend) names.append(make("span", "play-line", name));
    list.append(names, ...cells);
    section.append(heading, make("p", "play-note", note), list);
    return section;
  };

  const drawSingle = ({ tokens, inputs, labels, prefix, warning }) => {
    const cells = tokens.map((token, at) =>
      makeCell(at, [
        { name: "词元", text: token },
        {
          name: "输入",
          text: inputs[at],
          kind: inputs[at] === token ? (prefix?.[at] ? "play-prefix" : "") : "play-noise",
        },
        {
          name: "标签",
          text: labels[at] ?? "−100",
          kind: labels[at] === null ? "play-ignored" : "play-target",
        },
      ]),
    );
    const count = labels.filter((label) => label !== null).length;
    const note = `${tokens.length} 个词元，其中 ${count} 个计损失，其余的标签是 −100。`;
    const seen = prefix ? `前 ${prefix.filter(Boolean).length} 格是前缀，互相可见。` : "";
    const said = note + seen + (warning ?? "");
    return [makeRow("词元 → 输入 → 标签", said, cells, ["词元", "输入", "标签"])];
  };

  // GLM 的两行位置；别的目标位置就是从 0 数起的那一行，不另写
  const placed = (pairs, at) =>
    pairs ? [{ name: "位置编号", text: pairs[at].join("，") }] : [];

  const drawPair = (rows) => {
    const { tokens, hidden, inputs, decoder, visible, labels, sides, positions } = rows;
    const more = positions ? ["位置编号"] : [];
    const original = tokens.map((token, at) =>
      makeCell(at, [{ name: "词元", text: token, kind: hidden[at] ? "play-hidden" : "" }]),
    );
    const known = new Set(tokens);
    const given = inputs.map((token, at) =>
      makeCell(at, [
        { name: "输入", text: token, kind: known.has(token) ? "" : "play-noise" },
        ...placed(positions?.given, at),
      ]),
    );
    const written = labels.map((label, at) =>
      makeCell(at, [
        {
          name: "解码器的输入",
          text: decoder[at],
          kind: visible[at] ? "" : "play-ignored",
        },
        {
          name: "标签",
          text: label ?? "−100",
          kind: label === null ? "play-ignored" : "play-target",
        },
        ...placed(positions?.written, at),
      ]),
    );
    const count = hidden.filter(Boolean).length;
    return [
      makeRow("词元", `原文。盖住的 ${count} 个带删除线。`, original, ["词元"]),
      makeRow(`${sides[0]}的输入`, "双向可见。", given, ["输入", ...more]),
      makeRow(
        `${sides[1]}的输入与标签`,
        "从左到右地写；灰的格子看不见，也不计损失。",
        written,
        ["输入", "标签", ...more],
      ),
    ];
  };

  const command = (key, text, seed) => {
    const quoted = `'${text.replaceAll("'", "'\\''")}'`;
    return `companion show ${key} ${quoted} --seed ${seed}`;
  };

  // 同一行在 Python 里；全词的切法也带得进去
  const program = (key, text, seed) => {
    const { words } = objectives[key];
    const cut = words ? words(text) : [text];
    const options = words
      ? `, granularity="whole_word", segmenter=lambda _: ${JSON.stringify(cut)}`
      : "";
    return [
      "from companion import load_tokenizer, show_example",
      "from companion.checkpoints.loading import load_model_options",
      "from companion.objectives import get_objective",
      "",
      `goal = get_objective("${words ? "masked_lm" : key}")`,
      "known = load_model_options(goal.starter, goal)",
      "row = show_example(",
      `    goal, ${JSON.stringify(cut.join(""))}, load_tokenizer(goal.starter), ${seed},`,
      `    model_options=known${options},`,
      ")",
      "print(row.rows, row.batch)",
    ].join("\n");
  };

  const draw = () => {
    const key = field("objective").value;
    const text = field("text").value;
    const seed = Number(field("seed").value);
    const { about, chapter, corrupt, words } = objectives[key];
    const link = document.getElementById("play-chapter");
    document.getElementById("play-about").textContent = about;
    link.href = chapter;
    const trouble = Number.isSafeInteger(seed) && seed >= 0
      ? complain(text)
      : "种子是一个不小于零的整数。";
    message.textContent = trouble ?? "";
    result.hidden = trouble !== null;
    if (trouble !== null) return;
    const rows = corrupt(text, seed);
    result.replaceChildren(...(rows.sides ? drawPair(rows) : drawSingle(rows)));
    const same = document.getElementById("play-command");
    // 全词的切法由读者给，命令行用 jieba 切，不一定相同：只写 Python 的
    const inPython = python || words !== undefined;
    const button = document.getElementById("play-language");
    button.hidden = words !== undefined;
    button.textContent = inPython ? "换成命令行" : "换成 Python";
    same.querySelector("code").textContent = (inPython ? program : command)(key, text, seed);
  };

  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", draw);
  // 没有改过的例句随目标换：全词的一句是切好了词的
  field("objective").addEventListener("change", () => {
    const samples = Object.values(objectives).map((each) => each.sample ?? sample);
    if (samples.includes(field("text").value)) {
      field("text").value = objectives[field("objective").value].sample ?? sample;
      draw();
    }
  });
  document.getElementById("play-language").addEventListener("click", () => {
    python = !python;
    draw();
  });
  document.getElementById("play-next").addEventListener("click", () => {
    field("seed").value = String(Number(field("seed").value) + 1);
    draw();
  });
  draw();
});
