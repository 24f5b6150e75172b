// Every row of the page: found, sorted and shown as the reader scrolls; what is asked for stands in the address, so that a
// view can be kept. The texts lie in compressed blocks, opened when they are needed; they enter the page as text alone.
(() => {
  const form = document.getElementById("find");
  if (!form) return;
  const STEP = 30;
  const FRESH = 12; // milliseconds of search between two looks at the reader
  const LONGEST = 600; // words of a text that are compared
  const body = document.querySelector("#rows tbody");
  const more = document.getElementById("more");
  const status = form.querySelector("output");
  const packed = [...document.querySelectorAll("data.block")];
  const fields = form.elements;

  const open = async (element) => {
    const bytes = Uint8Array.from(atob(element.textContent), (char) => char.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).json();
  };
  const opened = new Map(); // block -> its rows
  const block = (at) => {
    if (!opened.has(at)) opened.set(at, open(packed[at]));
    return opened.get(at);
  };
  let index;
  const row = async (at) => (await block(Math.floor(at / index.block)))[at % index.block];

  // ---- which rows, in which order
  const gain = (at) => {
    const [first, last] = [index.values[0][at], index.values.at(-1)[at]];
    return first === null || last === null ? null : last - first;
  };
  const failedRows = (name) => new Set(index.failures.flatMap((own) => own[name] ?? []));
  const outcomes = {
    wins: (at) => gain(at) > 0,
    losses: (at) => gain(at) < 0,
    ties: (at) => gain(at) === 0,
  };
  const orders = {
    fall: (at) => gain(at) ?? Infinity,
    rise: (at) => -(gain(at) ?? -Infinity),
    value: (at) => index.values.at(-1)[at] ?? Infinity,
  };
  const chosen = () => {
    const answer = fields.answer.value;
    const failed = answer.startsWith("failure:") ? failedRows(answer.slice(8)) : null;
    const fits = (at) =>
      (!fields.lang.value || index.lang[at] === fields.lang.value) &&
      (!failed || failed.has(at)) &&
      (!(answer in outcomes) || outcomes[answer](at));
    const found = [...index.lang.keys()].filter(fits);
    const order = orders[fields.sort.value];
    return order ? found.sort((a, b) => order(a) - order(b) || a - b) : found;
  };

  // ---- drawing
  const make = (tag, name, text) => {
    const element = document.createElement(tag);
    if (name) element.className = name;
    if (text !== undefined) element.textContent = text;
    return element;
  };
  const WORD = /[\p{sc=Han}\p{sc=Hiragana}\p{sc=Katakana}]|(?:(?![\p{sc=Han}\p{sc=Hiragana}\p{sc=Katakana}])[\p{L}\p{M}\p{N}])+|\s+|./gsu;
  const words = (text) => text.match(WORD) ?? [];
  // Which words of `a` lie in a longest common subsequence with `b`.
  const common = (a, b) => {
    const wide = b.length + 1;
    const table = new Uint16Array((a.length + 1) * wide);
    for (let i = a.length - 1; i >= 0; i--)
      for (let j = b.length - 1; j >= 0; j--)
        table[i * wide + j] = a[i] === b[j] ? table[(i + 1) * wide + j + 1] + 1 : Math.max(table[(i + 1) * wide + j], table[i * wide + j + 1]);
    const kept = new Array(a.length).fill(false);
    for (let i = 0, j = 0; i < a.length && j < b.length; ) {
      if (a[i] === b[j]) (kept[i++] = true), j++;
      else if (table[(i + 1) * wide + j] >= table[i * wide + j + 1]) i++;
      else j++;
    }
    return kept;
  };
  const marked = (element, text, reference) => {
    const [a, b] = [words(text), words(reference)];
    if (a.length > LONGEST || b.length > LONGEST || !reference) return element.append(text);
    const kept = common(a, b);
    for (let i = 0; i < a.length; ) {
      let end = i;
      while (end < a.length && kept[end] === kept[i]) end++;
      const part = a.slice(i, end).join("");
      element.append(kept[i] || !part.trim() ? part : make("mark", "", part));
      i = end;
    }
  };
  const both = (en, zh) => {
    const element = document.createDocumentFragment();
    element.append(make("span", "en", en), make("span", "zh", zh));
    element.lastChild.lang = "zh";
    return element;
  };
  const said = (text, lang, reference) => {
    if (!text.trim()) {
      const empty = make("div", "empty");
      empty.append(both("(empty)", "（空）"));
      return empty;
    }
    const element = make("div", "said");
    element.dir = "auto";
    if (/^[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*$/.test(lang)) element.lang = lang;
    if (reference === undefined) element.textContent = text;
    else marked(element, text, reference);
    if (text.length <= 300) return element;
    const folded = make("details");
    folded.append(make("summary", "", `${text.slice(0, 140)} …`), element);
    return folded;
  };
  const drawn = (at, [id, lang, input, references, answers]) => {
    const line = make("tr");
    line.dataset.row = at;
    const first = line.appendChild(make("td"));
    first.append(make("span", "who", `${id} · ${lang}`));
    for (const [field, text] of input) {
      if (input.length > 1) first.append(make("span", "field", field));
      first.append(said(text, lang));
    }
    const second = line.appendChild(make("td"));
    [second.dataset.label, second.dataset.zh] = ["reference", "参考答案"];
    for (const reference of references.length ? references : [""]) second.append(said(reference, lang));
    answers.forEach((answer, system) => {
      const cell = line.appendChild(make("td"));
      const heading = document.querySelectorAll("#rows thead th")[2 + system];
      cell.dataset.label = heading.querySelector(".en")?.textContent ?? heading.textContent;
      cell.dataset.zh = heading.querySelector(".zh")?.textContent ?? heading.textContent;
      cell.append(said(answer, lang, references[0] ?? ""));
      const value = index.values[system][at];
      if (value !== null) cell.append(make("span", "tag value", value.toFixed(1)), " ");
      for (const [name, places] of failing[system]) {
        if (!places.has(at)) continue;
        const tag = make("span", "tag fell");
        const known = [...fields.answer.options].find((option) => option.value === `failure:${name}`).dataset;
        tag.append(both(known.en ?? name, known.zh ?? name));
        cell.append(tag, " ");
      }
    });
    return line;
  };

  // ---- what is on the page
  let found = [];
  let shown = 0;
  let failing = [];
  let asked = 0; // a later question makes an earlier one void
  const tell = (n, done = true) => status.replaceChildren(both(`${n.toLocaleString("en")} of ${index.lang.length.toLocaleString("en")} rows${done ? "" : " …"}`, `${n} / ${index.lang.length} 行${done ? "" : " …"}`));
  const extend = async () => {
    const mine = asked;
    const part = found.slice(shown, shown + STEP);
    shown += part.length;
    const texts = await Promise.all(part.map(row));
    if (mine !== asked) return;
    body.append(...part.map((at, i) => drawn(at, texts[i])));
    more.hidden = shown >= found.length;
  };
  const matching = async (candidates, term, mine) => {
    const hits = [];
    let fresh = performance.now();
    for (const at of candidates) {
      const [id, , input, references, answers] = await row(at);
      const texts = [id, ...input.map(([, text]) => text), ...references, ...answers];
      if (texts.some((text) => text.toLowerCase().includes(term))) hits.push(at);
      if (performance.now() - fresh > FRESH) {
        tell(hits.length, false);
        await new Promise(requestAnimationFrame);
        if (mine !== asked) return hits;
        fresh = performance.now();
      }
    }
    return hits;
  };
  const show = async () => {
    const mine = ++asked;
    const term = fields.q.value.trim().toLowerCase();
    const candidates = chosen();
    const hits = term ? await matching(candidates, term, mine) : candidates;
    if (mine !== asked) return;
    [found, shown] = [hits, 0];
    body.replaceChildren();
    tell(found.length);
    await extend();
  };
  const read = () => {
    const wanted = new URLSearchParams(location.hash.slice(1));
    for (const name of ["q", "lang", "answer", "sort"]) {
      fields[name].value = wanted.get(name) ?? "";
      if (fields[name].value !== (wanted.get(name) ?? "")) fields[name].value = "";
    }
    return show();
  };
  const keep = () => {
    const kept = new URLSearchParams(location.hash.slice(1));
    for (const [name, value] of new FormData(form)) value ? kept.set(name, value) : kept.delete(name);
    history.replaceState(null, "", `#${kept}`);
    return show();
  };

  const begin = async () => {
    index = await open(document.querySelector("data.index"));
    failing = index.failures.map((own) => Object.entries(own).map(([name, places]) => [name, new Set(places)]));
    form.hidden = false;
    form.addEventListener("input", keep);
    form.addEventListener("submit", (event) => event.preventDefault());
    more.addEventListener("click", extend);
    new IntersectionObserver(([entry]) => entry.isIntersecting && !more.hidden && extend(), { rootMargin: "600px" }).observe(more);
    addEventListener("hashchange", read);
    await read();
    document.documentElement.dataset.ready = "yes";
  };
  begin();
})();
