// The search page. A number (9.10, Figure 9.1) jumps to its target; words are weighed by BM25, over sections and over
// pages. The index is written by book/_ext/search_index.py, in pieces that are scripts and so load from file://, too.
(function () {
  "use strict";
  const here = document.currentScript.src.replace(/search\.js.*$/, "search/");
  const top = document.documentElement.dataset.content_root || "./";
  const KIND = {
    chapter: ["Chapter", 1], guide: ["Guide", 1], solution: ["Solutions", 0.4], api: ["API reference", 0.3],
    reference: ["Bibliography", 0.6],
  };
  const PREFIX = { eq: "eq", fig: "fig", tab: "tab", sec: "sec", "§": "sec", cha: "sec", app: "sec" };
  const NAME = { eq: "Equation", fig: "Figure", tab: "Table", sec: "Section" };
  const SYNONYM = 0.8, MEANT = 2.5, SATURATION = 1.2, LENGTH = 0.5, PAGES = 12, EXCERPTS = 6, MORE = 3, EXCERPT = 220;

  // --- the index ------------------------------------------------------------------------------------------------
  const pieces = {}, waiting = {};
  window.bookSearch = { put: (name, data) => { pieces[name] = data; } };
  function load(name) {
    waiting[name] = waiting[name] || new Promise((done, failed) => {
      const script = document.createElement("script");
      script.src = here + name + ".js";
      script.onload = () => done(pieces[name]);
      script.onerror = () => failed(new Error(`${name} could not be loaded`));
      document.head.append(script);
    });
    return waiting[name];
  }
  let book = null, sections = [];
  async function open() {
    if (book) return;
    book = await load("book");
    book.pages.forEach((page, number) => {
      page.file = "page-" + number;
      page.lengths.forEach((length, place) => sections.push({ page: number, place, length }));
      page.length = page.lengths.reduce((sum, length) => sum + length, 0);
      page.phrases = page.hints.map(hint => terms(hint).sort().join(" "));
    });
    book.labels = new Map(book.pages.flatMap(page => page.labels.split(" ").map(label => [label, page])));
    book.groups = book.same.map(group => group.map(name => terms(name)));
  }
  // Anchors and titles of the sections of a page.
  async function named(page) {
    if (!page.named) {
      let anchor = "";
      page.named = (await load(page.file)).map(([shared, rest, title], place) => {
        anchor = anchor.slice(0, shared) + rest;
        return { anchor: place ? anchor : "", title: typeof title === "number" ? anchor.slice(title) : title };
      });
    }
    return page.named;
  }
  const address = (page, anchor) => `${top}${page.name}.html${anchor ? "#" + anchor : ""}`;

  // --- numbers --------------------------------------------------------------------------------------------------
  const NUMBER = new RegExp("^\\s*(?:(eq|fig|tab|sec|§|cha|app)[a-z]*\\.?\\s*)?(\\(?)((?:\\d+|[A-C])(?:\\.(?:\\d+|[a-z]))*)" +
                            "(\\)?)\\.?\\s*$", "i");
  // The places that a query such as "9.10", "(9.10)" or "Figure 9.1" names.
  function targets(query) {
    const match = NUMBER.exec(query);
    if (!match) return [];
    const kinds = match[1] ? [PREFIX[match[1].toLowerCase()]] : match[2] ? ["eq"] : Object.keys(NAME);
    return kinds.map(kind => [kind, `${kind}-${match[3].toLowerCase().replaceAll(".", "-")}`])
      .filter(([, label]) => book.labels.has(label))
      .map(([kind, label]) => {
        const page = book.labels.get(label), whole = /^sec-[^-]+$/.test(label);
        const name = whole ? (/[a-c]$/.test(label) ? "Appendix" : "Chapter") : NAME[kind];
        return { text: `${name} ${kind === "eq" ? `(${match[3]})` : match[3]}`, page, anchor: whole ? "" : label };
      });
  }

  // --- words ----------------------------------------------------------------------------------------------------
  const stemmer = new Stemmer();
  function term(word) {
    word = word.toLowerCase();
    if (stopwords.includes(word) || book.ignored.includes(word) || (word.length < 2 && !/\d/.test(word))) return null;
    for (const [spelling, kept] of Object.entries(book.spellings)) word = word.replaceAll(spelling, kept);
    return stemmer.stemWord(word);
  }
  // As `Words.terms` in search_index.py: one list of alternatives, [parts or whole], for each word of the text.
  function words(text) {
    const plain = text.normalize("NFKD").replace(/\p{M}/gu, "");
    return [...plain.matchAll(/[\p{L}\p{N}]+(?:[-_][\p{L}\p{N}]+)*/gu)].map(([word]) => {
      const parts = word.replace(/[-_]/g, " ").replace(/([a-z0-9])([A-Z])/g, "$1 $2").split(" ");
      const whole = parts.length > 1 ? term(parts.join("")) : null;
      return { parts: parts.map(term).filter(Boolean), whole, text: word };
    }).filter(word => word.parts.length || word.whole);
  }
  const terms = text => words(text).flatMap(word => word.parts);

  window.bookSearch.terms = terms;

  // What must be found: concepts, each with alternatives [terms, weight].
  function concepts(query) {
    const asked = words(query), all = asked.flatMap(word => word.parts);
    const found = asked.map(word => ({
      alternatives: [[word.parts, 1], ...(word.whole ? [[[word.whole], 1]] : [])], covers: word.parts,
    }));
    // Words written apart that others write as one: "d separation", "warm up".
    const raw = query.toLowerCase().match(/[\p{L}\p{N}]+/gu) || [];
    const joined = raw.slice(1).map((word, i) => [term(raw[i] + word), term(raw[i]), term(word)]).filter(pair => pair[0]);
    for (const [whole, ...parts] of joined)
      for (const concept of found)
        if (concept.covers.length === 1 && parts.includes(concept.covers[0])) concept.alternatives.push([[whole], 1]);
    const extra = [];
    for (const group of book.groups)
      for (const name of group)
        if (name.length && contains(all, name))
          extra.push({ name, others: group.filter(other => other !== name && other.length) });
    for (const { name, others } of extra) {
      const inside = found.filter(concept => concept.covers.length && concept.covers.every(one => name.includes(one)));
      for (const concept of inside)
        for (const other of others) concept.alternatives.push([other, SYNONYM / inside.length]);
    }
    return found.map(concept => concept.alternatives.filter(([list]) => list.length)).filter(list => list.length);
  }
  const contains = (list, part) => list.some((_, start) => part.every((word, i) => list[start + i] === word));

  // --- ranking --------------------------------------------------------------------------------------------------
  // Words stand in files by their first two letters, or by three where the file would be large.
  const shard = word => book.shards.includes(word.slice(0, 3)) ? word.slice(0, 3)
    : /^[a-z0-9]{2}/.test(word) ? word.slice(0, 2) : "other";
  // Where a term stands, section -> count; a term that stands nowhere is taken as the beginning of others, or as
  // another with a slip in it.
  function postings(word) {
    const piece = pieces["words-" + shard(word)] || {};
    let names = [word];
    if (!Object.hasOwn(piece, word)) {
      const all = Object.keys(piece).filter(name => name[0] !== "=");
      names = word.length > 2 ? all.filter(name => name.startsWith(word)) : [];
      if (!names.length && word.length > 4) names = all.filter(name => oneSlip(word, name));
    }
    const found = new Map();
    for (const name of names.slice(0, 20)) {
      const list = piece[name];
      for (let i = 0; i < list.length; i += 2) found.set(list[i], (found.get(list[i]) || 0) + list[i + 1]);
    }
    return found;
  }
  // Whether two words differ by one letter more, fewer or other, or by two neighbours exchanged.
  function oneSlip(a, b) {
    if (Math.abs(a.length - b.length) > 1) return false;
    let i = 0;
    while (i < a.length && a[i] === b[i]) i++;
    const rest = (x, y) => a.slice(i + x) === b.slice(i + y);
    return rest(1, 1) || rest(1, 0) || rest(0, 1) || (a[i] === b[i + 1] && a[i + 1] === b[i] && rest(2, 2));
  }
  function bm25(counts, lengths, total) {
    const mean = lengths.reduce((sum, length) => sum + length, 0) / total;
    const rarity = Math.log(1 + (total - counts.size + 0.5) / (counts.size + 0.5));
    return new Map([...counts].map(([place, count]) => [place, rarity * count * (SATURATION + 1) /
      (count + SATURATION * (1 - LENGTH + LENGTH * lengths[place] / mean))]));
  }
  function add(scores, place, value) { scores.set(place, (scores.get(place) || 0) + value); }
  // Scores of all places for a query: for each concept the best alternative; squared is the share of concepts found.
  function scored(wanted, counted, lengths, total) {
    const scores = new Map(), covered = new Map(), known = new Map();
    const one = word => known.get(word) || known.set(word, bm25(counted(word), lengths, total)).get(word);
    for (const alternatives of wanted) {
      const best = new Map();
      for (const [list, weight] of alternatives) {
        const sums = new Map(), hits = new Map();
        for (const word of list)
          for (const [place, value] of one(word)) { add(sums, place, value); add(hits, place, 1); }
        for (const [place, value] of sums) {
          const whole = hits.get(place) === list.length ? weight : 0;
          best.set(place, Math.max(best.get(place) || 0, value * whole));
        }
      }
      for (const [place, value] of best) if (value > 0) { add(scores, place, value); add(covered, place, 1); }
    }
    for (const [place, value] of scores) scores.set(place, value * (covered.get(place) / wanted.length) ** 2);
    return scores;
  }
  async function find(query) {
    await open();
    const wanted = concepts(query);
    const looksLikeCode = /[a-z][A-Z]|\w_\w|\w\.\w|\(\)/.test(query);
    const asName = query.trim().replace(/\(\)$/, "").split(".").pop().toLowerCase();
    const needed = new Set([...wanted.flat().flatMap(([list]) => list), ...(looksLikeCode ? [asName] : [])].map(shard));
    await Promise.all([...needed].filter(name => book.shards.includes(name)).map(name => load("words-" + name)));
    const memory = new Map();
    const inSections = word => memory.get(word) || memory.set(word, postings(word)).get(word);
    const inPages = word => {
      const counts = new Map();
      for (const [section, count] of inSections(word)) add(counts, sections[section].page, count);
      return counts;
    };
    const lengths = book.pages.map(page => page.length), phrase = terms(query).sort().join(" ");
    const bySection = scored(wanted, inSections, sections.map(section => section.length), sections.length);
    const byPage = scored(wanted, inPages, lengths, book.pages.length);
    const documented = new Set(looksLikeCode ? (pieces["words-" + shard(asName)] || {})["=" + asName] : []);
    const best = new Map();
    for (const [number, score] of [...bySection].sort((a, b) => b[1] - a[1])) {
      const page = sections[number].page;
      if (!best.has(page)) best.set(page, []);
      best.get(page).push({ number, score, ...sections[number] });
    }
    const results = [...byPage].map(([number, score]) => {
      const page = book.pages[number], hits = best.get(number) || [];
      const exact = hits.find(hit => documented.has(hit.number));
      if (exact) hits.sort((a, b) => (b === exact) - (a === exact));
      const weight = exact ? 3 : looksLikeCode && page.kind === "api" ? 1 : KIND[page.kind][1];
      const meant = page.phrases.includes(phrase) ? MEANT : 1;
      return { page, hits, score: weight * meant * (score + (hits.length ? hits[0].score : 0)) };
    });
    const first = results.sort((a, b) => b.score - a.score).slice(0, PAGES);
    await Promise.all(first.map(async ({ page, hits }) => {
      const titles = await named(page);
      for (const hit of hits) Object.assign(hit, titles[hit.place]);
    }));
    return first;
  }

  // --- the page -------------------------------------------------------------------------------------------------
  const field = document.querySelector(".bd-search-container input[name=q]");
  const list = document.getElementById("search-results"), status = document.getElementById("search-status");
  function make(tag, attributes, ...children) {
    const element = Object.assign(document.createElement(tag), attributes);
    element.append(...children);
    return element;
  }
  // A piece of text around the first of the words, which are marked.
  function excerpt(text, stems) {
    const found = [...text.matchAll(/[\p{L}\p{N}]+(?:[-_][\p{L}\p{N}]+)*/gu)]
      .filter(match => words(match[0]).some(word => [...word.parts, word.whole].some(one => stems.has(one))));
    let start = found.length ? Math.max(0, found[0].index - 60) : 0;
    if (start) start = text.indexOf(" ", start) + 1;
    const end = start + EXCERPT >= text.length ? text.length : text.lastIndexOf(" ", start + EXCERPT);
    const line = make("p", { className: "search-excerpt" }, start ? "… " : "");
    let position = start;
    for (const match of found.filter(one => one.index >= start && one.index + one[0].length <= end)) {
      line.append(text.slice(position, match.index), make("mark", {}, match[0]));
      position = match.index + match[0].length;
    }
    line.append(text.slice(position, end), end < text.length ? " …" : "");
    return line;
  }
  async function addExcerpt(hit, place, stems) {
    const block = book.blocks.findLastIndex(first => first <= hit.number);
    const text = (await load("text-" + block))[hit.number - book.blocks[block]];
    if (text) place.append(excerpt(text, stems));
  }
  function jumpEntry(target) {
    return make("li", { className: "search-jump" }, make("a", { href: address(target.page, target.anchor) }, target.text),
      make("span", { className: "search-kind" }, target.page.title));
  }
  function entry({ page, hits }, position, stems) {
    const first = hits[0], place = make("div", {});
    const item = make("li", {},
      make("a", { href: address(page, first && page.kind === "api" ? first.anchor : "") },
        first && page.kind === "api" && first.anchor ? first.title : page.title),
      make("span", { className: "search-kind" }, KIND[page.kind][0]));
    const inside = hits.filter(hit => hit.anchor && (page.kind !== "api" || hit !== first)).slice(0, MORE);
    if (inside.length)
      item.append(make("ul", {}, ...inside.map(hit =>
        make("li", {}, make("a", { href: address(page, hit.anchor) }, hit.title)))));
    item.insertBefore(place, item.querySelector("ul"));
    if (first && position < EXCERPTS) addExcerpt(first, place, stems).catch(failed);
    return item;
  }
  let latest = 0;
  async function show(query, mayJump) {
    const mine = ++latest;
    if (!query.trim()) { list.replaceChildren(); status.textContent = ""; return; }
    await open();
    const jumps = targets(query);
    if (mayJump && jumps.length === 1) return location.replace(address(jumps[0].page, jumps[0].anchor));
    const results = jumps.length ? [] : await find(query);
    if (mine !== latest) return;
    const stems = new Set(concepts(query).flat().flatMap(([words]) => words));
    list.replaceChildren(...jumps.map(jumpEntry), ...results.map((result, position) => entry(result, position, stems)));
    const count = jumps.length + results.length;
    status.textContent = jumps.length ? "Goes to:" : count ? `${count} page${count > 1 ? "s" : ""}, the best first` :
      `Nothing in the book has “${query}”. Try fewer or other words, or a number such as 9.10 or Figure 9.1.`;
    document.body.dataset.searched = query;
  }
  function failed(error) { status.textContent = `The search does not work: ${error.message}.`; throw error; }
  const query = new URLSearchParams(location.search).get("q") || "";
  field.value = query;
  field.focus();
  show(query, true).catch(failed);
  field.addEventListener("input", () => {
    if (location.protocol !== "file:")  // where browsers allow no other address
      history.replaceState(null, "", field.value ? "?q=" + encodeURIComponent(field.value) : location.pathname);
    show(field.value, false).catch(failed);
  });
  field.form.addEventListener("submit", event => {
    event.preventDefault();
    show(field.value, true).catch(failed);
  });
  // Arrows go through the results; up from the first leads back to the field.
  document.querySelector(".bd-search-container").addEventListener("keydown", event => {
    if (event.key !== "ArrowDown" && event.key !== "ArrowUp") return;
    const stops = [field, ...list.querySelectorAll("a")], at = stops.indexOf(document.activeElement);
    const next = stops[at + (event.key === "ArrowDown" ? 1 : -1)];
    if (at >= 0 && next) { next.focus(); event.preventDefault(); }
  });
})();
